package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// Gossip is the membership of one node. It is safe for concurrent use.
type Gossip struct {
	cfg       Config
	timing    timing
	name      string // our own in memberlist
	log       *logWriter
	stats     counters
	transport *transport
	list      *memberlist.Memberlist
	hints     *hints
	clocks    *clocks

	done chan struct{} // closed by Close; ends the goroutines of wg
	wg   sync.WaitGroup

	events      chan struct{} // memberlist has something new
	metaChanged chan struct{}
	lonely      chan struct{} // nobody else is there any more
	changed     chan struct{} // for the owner
	members     atomic.Pointer[[]Member]

	// lifecycle keeps Leave and UpdateNode out of a memberlist that was shut
	// down.
	lifecycle struct {
		sync.RWMutex
		closed bool
		left   bool
	}
	// refreshing guards what only refresh uses.
	refreshing struct {
		sync.Mutex
		roster roster
		alone  bool
	}
	meta struct {
		sync.Mutex
		Meta
	}
}

// Start makes the node a member, of itself at first, and looks for others in
// the background. ctx bounds the start only. Close must be called.
func Start(ctx context.Context, cfg Config) (*Gossip, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	g := &Gossip{
		cfg: cfg, timing: newTiming(cfg.Fast), log: newLogWriter(cfg.Logger),
		name:   name{id: cfg.NodeID, epoch: cfg.BootEpoch, addr: cfg.Advertise}.String(),
		clocks: &clocks{now: cfg.Clock, offsets: map[string]Offset{}},
		events: make(chan struct{}, 1), metaChanged: make(chan struct{}, 1),
		lonely: make(chan struct{}, 1), changed: make(chan struct{}, 1), done: make(chan struct{}),
	}
	g.meta.Meta = cfg.Meta
	g.members.Store(&[]Member{})
	g.hints = newHints(func() int { return len(*g.members.Load()) })
	g.refreshing.roster.records = map[string]record{}
	g.refreshing.alone = true
	if err := g.start(); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *Gossip) start() (err error) {
	if g.transport, err = newTransport(&g.cfg, g.log, &g.stats); err != nil {
		return err
	}
	if g.list, err = memberlist.Create(g.memberlistConfig()); err != nil {
		g.transport.shutdown()
		return fmt.Errorf("gossip: %w", err)
	}
	if err := g.refresh(); err != nil {
		return errors.Join(err, g.shutdown())
	}
	g.wg.Go(g.watch)
	g.wg.Go(g.seek)
	g.wg.Go(g.announce)
	g.wg.Go(g.deliver)
	return nil
}

// Members returns who is known, this node included, ordered by id. It is the
// caller's.
func (g *Gossip) Members() []Member { return slices.Clone(*g.members.Load()) }

// Changed returns a channel that has a value after Members has changed. Many
// changes may be one value. There is one channel, for one receiver; it is
// never closed.
func (g *Gossip) Changed() <-chan struct{} { return g.changed }

// Offsets returns how far the clocks of other nodes are ahead of ours, by node
// id. It is the caller's.
func (g *Gossip) Offsets() map[string]Offset { return g.clocks.all() }

// Stats returns the counters.
func (g *Gossip) Stats() Stats { return g.stats.stats() }

// SetMeta changes what the node tells about itself. The change is spread in
// the background, together with others that come within a quarter of a second.
// change is called under a lock and must not call g.
func (g *Gossip) SetMeta(change func(*Meta)) {
	g.meta.Lock()
	before := g.meta.Meta
	change(&g.meta.Meta)
	same := before == g.meta.Meta
	g.meta.Unlock()
	if !same {
		poke(g.metaChanged)
	}
}

// BroadcastLeaders spreads hints that this node has at first hand. Those that
// are older than what is known are ignored. It does not block.
func (g *Gossip) BroadcastLeaders(list []LeaderHint) { g.hints.add(list, false) }

// announced returns the metadata of this node as it travels.
func (g *Gossip) announced() []byte {
	g.meta.Lock()
	defer g.meta.Unlock()
	a := announcement{
		cluster: clusterHash(g.cfg.ClusterID), id: g.cfg.NodeID,
		protocolMin: g.cfg.ProtocolMin, protocolMax: g.cfg.ProtocolMax, Meta: g.meta.Meta,
	}
	return a.append(nil)
}

// Leave tells the others that this node goes, so that they do not take it for
// dead, and returns when at least one of them knows, or there is nobody. The
// node keeps listening until Close, and is not a member again before it is
// started with a higher epoch.
func (g *Gossip) Leave(ctx context.Context) error {
	var peers []string
	for _, m := range g.Members() {
		if m.ID != g.cfg.NodeID && (m.State == Alive || m.State == Suspect) {
			peers = append(peers, m.Addr)
		}
	}
	if err := g.setLeft(); err != nil {
		return err
	}
	if len(peers) == 0 {
		return nil
	}
	return g.tell(ctx, peers)
}

// setLeft makes memberlist spread that the node has left.
func (g *Gossip) setLeft() error {
	g.lifecycle.Lock()
	defer g.lifecycle.Unlock()
	if g.lifecycle.closed {
		return errClosed
	}
	g.lifecycle.left = true
	// It only waits for the message to have been sent often enough, which
	// does not say that anybody got it.
	_ = g.list.Leave(time.Nanosecond)
	return nil
}

// tell exchanges states with peers until one of them has ours. The others hear
// of it from that one, and from the messages that memberlist still sends.
func (g *Gossip) tell(ctx context.Context, peers []string) error {
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	told := make(chan error, len(peers))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tell := func(addr string) {
		err := ctx.Err()
		if err == nil {
			_, err = g.list.Join([]string{joinTarget(addr)})
		}
		told <- err
	}
	if !g.spawn(func() { each(peers, tell) }) {
		return errClosed
	}
	var failed error
	for range peers {
		select {
		case err := <-told:
			if err == nil {
				return nil
			}
			failed = err
		case <-ctx.Done():
			return fmt.Errorf("gossip: leave: %w", ctx.Err())
		case <-g.done:
			return errClosed
		}
	}
	return fmt.Errorf("gossip: leave: nobody was reached: %w", failed)
}

// spawn runs f on a goroutine that Close waits for.
func (g *Gossip) spawn(f func()) bool {
	g.lifecycle.RLock()
	defer g.lifecycle.RUnlock()
	if g.lifecycle.closed {
		return false
	}
	g.wg.Go(f)
	return true
}

// closing reports whether Close was called.
func (g *Gossip) closing() bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

// Close ends the membership without telling anybody: without a Leave before,
// the others take the node for dead. Nothing runs any more when it returns, and
// no callback is called. Further calls do nothing.
func (g *Gossip) Close() error {
	g.lifecycle.Lock()
	closed := g.lifecycle.closed
	g.lifecycle.closed = true
	g.lifecycle.Unlock()
	if closed {
		return nil
	}
	close(g.done)
	return g.shutdown()
}

func (g *Gossip) shutdown() error {
	g.log.close()
	g.transport.shutdown()
	err := g.list.Shutdown()
	g.wg.Wait()
	return err
}
