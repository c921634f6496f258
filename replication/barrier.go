package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/rafthost"
)

// barrier lets readers of one shard share read barriers. Whoever comes while one
// is on its way waits for the next, because the one on its way may have begun
// before what the reader must see.
type barrier struct {
	mu struct {
		sync.Mutex
		next    *round // the one that gathers readers
		queued  bool   // the confirmer will begin it
		running int
	}
	// confirmed is the newest successful round; nil if there was none.
	confirmed atomic.Pointer[confirmation]
	// shown is an entry up to which a replica of this node shows all. The machine of
	// the replica may know of a later one, but does not hear of entries that are raft's
	// own.
	shown atomic.Pointer[position]
}

// position is how far a replica is.
type position struct{ replica, index uint64 }

// shows notes that a replica shows all up to an entry.
func (b *barrier) shows(r *replica, index uint64) {
	next := &position{r.id, index}
	for {
		old := b.shown.Load()
		if (old != nil && old.replica == r.id && index <= old.index) || b.shown.CompareAndSwap(old, next) {
			return
		}
	}
}

// upTo returns an entry up to which a replica shows all.
func (b *barrier) upTo(r *replica) uint64 {
	index := r.machine.Shown()
	if p := b.shown.Load(); p != nil && p.replica == r.id {
		index = max(index, p.index)
	}
	return index
}

// confirmation says that all that was answered before some time, counted from the
// opening of the log, is on a replica of this node.
type confirmation struct {
	replica uint64
	at      time.Duration
}

// maxRounds is how many barriers of one shard may be on their way.
const maxRounds = 2

// confirm moves the confirmed time forward.
func (b *barrier) confirm(r *replica, at time.Duration) {
	next := &confirmation{r.id, at}
	for {
		old := b.confirmed.Load()
		if (old != nil && old.replica == r.id && at <= old.at) || b.confirmed.CompareAndSwap(old, next) {
			return
		}
	}
}

// recent reports whether a replica is known to be at most so far behind.
func (g *raftGroup) recent(r *replica, within time.Duration) bool {
	c := g.barrier.confirmed.Load()
	return c != nil && c.replica == r.id && time.Since(g.log.opened)-c.at <= within
}

// round is one barrier and its outcome.
type round struct {
	started time.Time
	done    chan struct{} // closed after err was set
	err     error
}

func (r *round) wait(ctx context.Context) error {
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return unavailable(ctx)
	}
}

// pass returns after a barrier that began after the call.
func (g *raftGroup) pass(ctx context.Context) error {
	r, queue := g.join()
	if queue {
		g.log.confirmer.enqueue(g)
	}
	return r.wait(ctx)
}

// join returns a round that is yet to begin. The caller has to queue the group if it
// says so.
func (g *raftGroup) join() (r *round, queue bool) {
	b := &g.barrier
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.next == nil {
		b.mu.next = &round{done: make(chan struct{})}
	}
	queue = !b.mu.queued && b.mu.running < maxRounds
	b.mu.queued = b.mu.queued || queue
	return b.mu.next, queue
}

// begin starts the round that has gathered readers. leave must follow.
func (g *raftGroup) begin() *round {
	b := &g.barrier
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.mu.next
	r.started = time.Now()
	b.mu.next, b.mu.queued = nil, false
	b.mu.running++
	return r
}

// end answers the readers of a round: by is the replica that has arrived; nil if it
// was another node that can serve them.
func (g *raftGroup) end(r *round, by *replica, err error) {
	if by != nil && err == nil {
		g.barrier.confirm(by, r.started.Sub(g.log.opened))
	}
	r.err = err
	close(r.done)
}

// leave makes room for the next round.
func (g *raftGroup) leave() {
	b := &g.barrier
	b.mu.Lock()
	b.mu.running--
	queue := b.mu.next != nil && !b.mu.queued
	b.mu.queued = b.mu.queued || queue
	b.mu.Unlock()
	if queue {
		g.log.confirmer.enqueue(g)
	}
}

// confirmSlowly runs a round on its own. It takes part in raft, and so needs no more
// of this node than that it can do that.
func (g *raftGroup) confirmSlowly(r *round) {
	told := g.log.host.Told(g.id)
	by, err := g.confirm(r.started)
	if by != nil && err == nil {
		g.barrier.shows(by, told)
	}
	g.end(r, by, err)
	g.leave()
	if err == nil && by != nil {
		g.learnTenure(by)
	}
}

// confirm makes sure that this node's replica has arrived where the leader was at
// the start, and returns it; or, if it cannot be asked, that there is a leader.
func (g *raftGroup) confirm(started time.Time) (*replica, error) {
	if !g.log.far.Any() {
		r := g.replica.Load()
		if err := g.readIndex(started, nil); err != nil {
			return nil, err
		}
		return r, nil
	}
	if r := g.log.here(g); r != nil {
		err := g.readIndex(started, r)
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, errOutOfTouch) {
			return nil, err
		}
		g.lose(r)
	}
	ctx, cancel := context.WithTimeout(g.log.ending, g.log.giveUp)
	defer cancel()
	return nil, g.log.far.Barrier(ctx, g.id)
}

// errOutOfTouch says that a replica cannot tell whether it is current, though
// others may be able to serve.
var errOutOfTouch = errors.New("the replica is out of touch")

// lose makes readers ask other nodes until the replica has caught up again.
func (g *raftGroup) lose(r *replica) {
	if g.renew(r, false) != nil {
		g.log.tasks.Spawn(g.catchUp)
	}
}

// catchUp waits until this node's replica is current, and lets it be read then.
func (g *raftGroup) catchUp() {
	for !g.log.stopped() && !g.log.fence.Down() {
		r := g.replica.Load()
		if r == nil || r.current {
			return
		}
		if g.readIndex(time.Now(), r) == nil && g.renew(r, true) != nil {
			return
		}
		timer := time.NewTimer(g.log.attempt)
		g.pause(timer)
		timer.Stop()
	}
}

// readIndex runs the read barrier of raft (dissertation, 6.4) until it succeeds.
// Of a replica that others can stand in for it does not wait for long: it may have
// been removed without knowing.
func (g *raftGroup) readIndex(started time.Time, r *replica) error {
	patience := g.log.attempt
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		switch waited := time.Since(started); {
		case g.log.fence.Down():
			return fmt.Errorf("%w: this node has failed: %v", base.ErrUnavailable, g.log.fence.Err())
		case g.log.stopped():
			return base.ErrClosed
		case r != nil && (waited > 2*g.log.attempt || g.replica.Load() != r):
			return errOutOfTouch
		case waited > g.log.giveUp:
			return fmt.Errorf("%w: shard %d has had no leader for %v", base.ErrUnavailable, g.id, g.log.giveUp)
		}
		term := g.term()
		rs, err := g.log.raft.ReadIndex(rafthost.GroupID(g.id), patience)
		if err == nil {
			if _, ok := g.wait(context.Background(), rs, timer, term, patience); ok {
				return nil
			}
			continue
		}
		if gone := errors.Is(err, dragonboat.ErrShardClosed) || errors.Is(err, dragonboat.ErrShardNotFound); gone && r != nil {
			return errOutOfTouch
		}
		if errors.Is(err, dragonboat.ErrClosed) || errors.Is(err, dragonboat.ErrShardClosed) {
			return base.ErrClosed
		}
		g.pause(timer)
	}
}
