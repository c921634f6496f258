package faultnet

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// KindMessages is the kind of connections whose frames are messages of their
// own, which a network may lose, repeat and reorder.
const KindMessages byte = 1

// ErrRefused is returned by Dial for a node that is not there, does not serve
// the kind, refuses, or is on the other side of a partition.
var ErrRefused = errors.New("faultnet: connection refused")

// errCut is what both sides of a connection see that was cut.
var errCut = fmt.Errorf("faultnet: connection cut: %w", syscall.ECONNRESET)

// Faults says what happens to frames. The probabilities are of each frame.
type Faults struct {
	Drop      float64 // it is lost; messages only
	Delay     float64 // it and all that follow arrive up to MaxDelay later
	Duplicate float64 // it arrives once more within MaxDelay; messages only
	Reorder   float64 // it alone arrives up to MaxDelay later; messages only
	Cut       float64 // its connection is cut
	MaxDelay  time.Duration
}

// Stats counts frames and what happened to them.
type Stats struct {
	Frames, Delivered                            uint64
	Dropped, Delayed, Duplicated, Reordered, Cut uint64
	Blocked                                      uint64 // dropped by a partition
	Dials, Refused                               uint64
	FramesOfKind                                 map[byte]uint64
}

// pair is a direction between two nodes.
type pair struct{ from, to string }

// Net is a network of nodes. It is safe for concurrent use.
type Net struct {
	seed uint64
	wg   sync.WaitGroup // of all goroutines

	mu struct {
		sync.Mutex
		closed  bool
		nodes   map[string]*Endpoint
		faults  Faults
		special map[pair]Faults
		rands   map[pair]*rand.Rand
		blocked map[pair]bool
		groups  map[string]int // of Partition; nil is none
		refuse  map[string]bool
		conns   map[*conn]struct{} // one side of each
		healed  chan struct{}      // closed and replaced when less is blocked
		stats   Stats
	}
}

// New returns a network without nodes and without faults. Close must be
// called.
func New(seed uint64) *Net {
	n := &Net{seed: seed}
	n.mu.nodes = map[string]*Endpoint{}
	n.mu.special = map[pair]Faults{}
	n.mu.rands = map[pair]*rand.Rand{}
	n.mu.blocked = map[pair]bool{}
	n.mu.refuse = map[string]bool{}
	n.mu.conns = map[*conn]struct{}{}
	n.mu.healed = make(chan struct{})
	n.mu.stats.FramesOfKind = map[byte]uint64{}
	return n
}

// Close closes all nodes and returns after everything has stopped.
func (n *Net) Close() {
	n.mu.Lock()
	n.mu.closed = true
	var nodes []*Endpoint
	for _, e := range n.mu.nodes {
		nodes = append(nodes, e)
	}
	n.mu.Unlock()
	for _, e := range nodes {
		e.Close()
	}
	n.wg.Wait()
}

// Node returns the node at addr, a new one if there is none that is open.
func (n *Net) Node(addr string) *Endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e := n.mu.nodes[addr]; e != nil {
		return e
	}
	e := &Endpoint{net: n, addr: addr, services: map[byte]*service{}, closed: n.mu.closed}
	n.mu.nodes[addr] = e
	return e
}

// SetFaults sets what happens to frames from now on, except where SetFaultsOf
// says something else.
func (n *Net) SetFaults(f Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.faults = f
}

// SetFaultsOf sets what happens to frames from one node to another.
func (n *Net) SetFaultsOf(from, to string, f Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.special[pair{from, to}] = f
}

// Partition divides the nodes: only those of the same group reach one another.
// Nodes of no group form one together. It takes the place of an earlier one.
func (n *Net) Partition(groups ...[]string) {
	n.changeBlocks(func() {
		n.mu.groups = map[string]int{}
		for i, g := range groups {
			for _, addr := range g {
				n.mu.groups[addr] = i + 1
			}
		}
	})
}

// Isolate cuts a node off from all others. It is a Partition.
func (n *Net) Isolate(addr string) { n.Partition([]string{addr}) }

// OneWay blocks what one node sends to another.
func (n *Net) OneWay(from, to string) {
	n.changeBlocks(func() { n.mu.blocked[pair{from, to}] = true })
}

// Ring lets each of the nodes reach its two neighbours only, so that no two
// of them see the same part of the others.
func (n *Net) Ring(addrs ...string) {
	n.changeBlocks(func() {
		for i, a := range addrs {
			for j, b := range addrs {
				if d := (j - i + len(addrs)) % len(addrs); d != 0 && d != 1 && d != len(addrs)-1 {
					n.mu.blocked[pair{a, b}] = true
				}
			}
		}
	})
}

// RefuseDials makes a node refuse new connections. Those that are open stay.
func (n *Net) RefuseDials(addr string) {
	n.changeBlocks(func() { n.mu.refuse[addr] = true })
}

// Heal ends all partitions and refusals. Faults stay as they were set.
func (n *Net) Heal() {
	n.changeBlocks(func() {
		n.mu.groups = nil
		clear(n.mu.blocked)
		clear(n.mu.refuse)
	})
}

func (n *Net) changeBlocks(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.mu.healed)
	n.mu.healed = make(chan struct{})
}

// Cut breaks all connections between two nodes.
func (n *Net) Cut(a, b string) {
	n.cutIf(func(c *conn) bool {
		ends := []string{string(c.local), string(c.peer)}
		return slices.Contains(ends, a) && slices.Contains(ends, b)
	})
}

// CutAll breaks all connections.
func (n *Net) CutAll() { n.cutIf(func(*conn) bool { return true }) }

func (n *Net) cutIf(which func(*conn) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.mu.conns {
		if which(c) {
			c.cut(errCut)
			n.mu.stats.Cut++
		}
	}
}

// Stats returns the counters.
func (n *Net) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.mu.stats
	s.FramesOfKind = map[byte]uint64{}
	for k, v := range n.mu.stats.FramesOfKind {
		s.FramesOfKind[k] = v
	}
	return s
}

func (n *Net) count(f func(*Stats)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&n.mu.stats)
}

// blockedLocked reports whether nothing gets from one node to another.
func (n *Net) blockedLocked(p pair) bool {
	return n.mu.blocked[p] || (n.mu.groups != nil && p.from != p.to && n.mu.groups[p.from] != n.mu.groups[p.to])
}

// randLocked returns the random source of a direction.
func (n *Net) randLocked(p pair) *rand.Rand {
	r := n.mu.rands[p]
	if r == nil {
		h := fnv.New64a()
		h.Write([]byte(p.from + "\x00" + p.to))
		r = rand.New(rand.NewPCG(n.seed, h.Sum64()))
		n.mu.rands[p] = r
	}
	return r
}

// dial connects two nodes.
func (n *Net) dial(ctx context.Context, from *Endpoint, to string, kind byte) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.stats.Dials++
	peer := n.mu.nodes[to]
	there, back := pair{from.addr, to}, pair{to, from.addr}
	if from.closed || peer == nil || peer.services[kind] == nil || n.mu.refuse[to] || n.blockedLocked(there) || n.blockedLocked(back) {
		n.mu.stats.Refused++
		return nil, ErrRefused
	}
	a := &conn{in: newBuffer(), out: newBuffer(), local: Addr(from.addr), peer: Addr(to)}
	b := &conn{in: newBuffer(), out: newBuffer(), local: Addr(to), peer: Addr(from.addr)}
	a.counterparty, b.counterparty = b, a
	n.mu.conns[a] = struct{}{}

	var pipes sync.WaitGroup
	for _, l := range []*link{
		{net: n, pair: there, kind: kind, src: a.out, dst: b.in, cut: func() { a.cut(errCut) }},
		{net: n, pair: back, kind: kind, src: b.out, dst: a.in, cut: func() { a.cut(errCut) }},
	} {
		pipes.Go(l.run)
	}
	n.wg.Go(func() {
		pipes.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.mu.conns, a)
	})
	peer.acceptLocked(b, peer.services[kind])
	return a, nil
}
