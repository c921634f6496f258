package replication

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
)

var faultRounds = flag.Int("txnfaultrounds", 1, "how often every step of a transaction meets every fault")

// Shards and nodes of a faultBench. The coordinator has no replicas, so that each
// of its steps is a request to another node, which can be stopped.
const (
	anchorShard      base.ShardID = 0
	participantShard base.ShardID = 1
	coordinatorNode               = 3
	faultTxns                     = 7                      // in a cell
	leastHeld                     = 4                      // of them must be at the step when the fault comes,
	heldAlone                     = 300 * time.Millisecond // unless the others share an entry that is held

	// askPatience is after what time a node that does not answer is not waited for,
	// and the next is asked.
	askPatience = 100 * time.Millisecond
)

// stopPoint is a step of a transaction, on its anchor or on another shard.
type stopPoint struct {
	name     string
	kind     command.StepKind
	onAnchor bool
	refused  bool // only of transactions that are refused
}

func stopPoints() []stopPoint {
	return []stopPoint{
		{name: "prepare", kind: command.StepPrepare},
		{name: "decide", kind: command.StepDecide, onAnchor: true},
		{name: "commit on a participant", kind: command.StepCommit},
		{name: "forget", kind: command.StepForget, onAnchor: true},
		{name: "refuse", kind: command.StepRefuse, onAnchor: true, refused: true},
		{name: "abort on a participant", kind: command.StepAbort, refused: true},
	}
}

type faultKind string

const (
	killed faultKind = "killed"
	paused faultKind = "paused past the deadline"
	cutOff faultKind = "cut off"
)

type victim string

const (
	theCoordinator victim = "coordinator"
	theParticipant victim = "participant"
	theAnchor      victim = "anchor"
)

// TestEveryStepMeetsEveryFault stops transactions at each of their steps, before it
// reaches its shard or before the answer comes back, and then kills, pauses or cuts
// off the coordinator, or the leader of a participant or of the anchor. Whatever a
// caller was told must be true, and everything must be over once the deadline is.
func TestEveryStepMeetsEveryFault(t *testing.T) {
	for _, fault := range []faultKind{killed, paused, cutOff} {
		t.Run(string(fault), func(t *testing.T) {
			t.Parallel()
			newFaultBench(t, false).cells(fault, 1)
		})
		t.Run(string(fault)+" with shared entries", func(t *testing.T) {
			t.Parallel()
			newFaultBench(t, true).cells(fault, 3)
		})
	}
}

// cells runs one of so many of all cells, in every round.
func (b *faultBench) cells(fault faultKind, oneOf int) {
	if testing.Short() {
		oneOf *= 3
	}
	for range *faultRounds {
		for _, at := range stopPoints() {
			for _, who := range []victim{theCoordinator, theParticipant, theAnchor} {
				if b.rng.IntN(oneOf) > 0 {
					continue
				}
				b.cell(at, fault, who)
				if b.t.Failed() {
					return
				}
			}
		}
	}
	b.agree()
	if b.steps < b.txns/2 {
		b.t.Errorf("only %d of %d transactions were held: the test proves too little", b.steps, b.txns)
	}
	b.t.Logf("%d cells, %d transactions: %d applied, %d not applied, %d unknown of which %d were applied; %d steps were held",
		b.count, b.txns, b.told[base.OutcomeApplied], b.told[base.OutcomeNotApplied], b.told[base.OutcomeUnknown], b.unknownApplied, b.steps)
}

// faultBench is a cluster whose nodes lose power, hang and are cut off, under a
// clock that only the test moves.
type faultBench struct {
	*cluster
	ctx    context.Context
	rng    *rand.Rand
	ghosts sync.WaitGroup // nodes that have lost power

	mu     sync.Mutex // protects outage
	outage *outage

	sharing bool // commands share entries as always, else each may have its own

	count, txns, steps, unknownApplied int // count is of cells
	told                               map[base.Outcome]int
}

// outage is a node that no request reaches or leaves.
type outage struct {
	node    string
	over    chan struct{} // closed at the end
	hangs   bool          // requests wait for the end
	refused chan struct{} // has an element for each request that was refused
}

func newFaultBench(t *testing.T, sharing bool) *faultBench {
	b := &faultBench{cluster: newCluster(t, 4), ctx: testkit.Context(t), told: map[base.Outcome]int{}, sharing: sharing}
	if !sharing {
		b.full = 1
	}
	b.rng = testkit.Rand(t)
	t.Cleanup(b.ghosts.Wait)
	b.clock = testkit.NewClock(time.Time{})
	b.tune = func(c *Config) { c.SweepInterval = 50 * time.Millisecond }
	for _, n := range b.nodes {
		n.fs = testkit.NewCrashFS()
	}
	b.found(onFirst)
	for i := range b.nodes {
		b.watch(i)
	}
	for i := range coordinatorNode {
		b.near(i)
	}
	return b
}

func onFirst(base.ShardID) []int { return []int{0, 1, 2} }

// watch lets outages hit the requests of a node.
func (b *faultBench) watch(i int) {
	fn := passFn(func(ctx context.Context, from, to string) error {
		b.mu.Lock()
		o := b.outage
		b.mu.Unlock()
		if o == nil || from != o.node && to != o.node {
			return nil
		}
		if !o.hangs {
			select {
			case o.refused <- struct{}{}:
			default:
			}
			return fmt.Errorf("%w: %s is cut off", base.ErrUnavailable, o.node)
		}
		ctx, cancel := context.WithTimeout(ctx, askPatience)
		defer cancel()
		select {
		case <-o.over:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%w: %s hangs", base.ErrUnavailable, o.node)
		}
	})
	b.nodes[i].remote.passing.Store(&fn)
}

// begin makes a node unreachable, until the function that it returns is called.
func (b *faultBench) begin(i int, hangs bool) (o *outage, end func()) {
	o = &outage{node: b.peers[i].Node, over: make(chan struct{}), hangs: hangs, refused: make(chan struct{}, 1)}
	set := func(o *outage) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.outage = o
	}
	set(o)
	b.net.Isolate(b.peers[i].Address)
	return o, func() {
		set(nil)
		close(o.over)
		b.net.Heal()
	}
}

// crash takes the power from a node. What it had not synced is lost in part.
func (b *faultBench) crash(i int) {
	n := b.nodes[i]
	b.cluster.mu.Lock()
	host, store := n.host, n.store
	n.host, n.store = nil, nil
	b.cluster.mu.Unlock()
	n.remote.cut.Store(true)
	_ = n.endpoint.Close()
	n.fs = n.fs.(testkit.CrashFS).Crash(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * b.rng.IntN(3), RNG: testkit.Fork(b.rng)})
	b.ghosts.Go(func() {
		host.Close()
		_ = store.Close()
	})
}

func (b *faultBench) restart(i int) {
	b.t.Helper()
	b.start(i)
	b.introduce(i)
	b.watch(i)
	if i < coordinatorNode {
		b.startReplicas(i, onFirst)
		b.near(i)
	}
}

// place lets each of the first shards be led by a node of its own.
func (b *faultBench) place() {
	b.t.Helper()
	for shard := range base.ShardID(coordinatorNode) {
		testkit.Eventually(b.t, time.Minute, fmt.Sprintf("node %d to lead shard %d", shard, shard), func() bool {
			h := b.hostOf(int(shard))
			if h.log.Leads(shard) {
				return true
			}
			for i := range coordinatorNode {
				if b.hostOf(i).log.Leads(shard) {
					_ = b.hostOf(i).TransferLeader(b.ctx, shard, uint64(shard+1))
				}
			}
			return false
		})
	}
}

// hold stops the steps of the coordinator at a point.
type hold struct {
	at      stopPoint
	release chan struct{}
	free    func()     // closes release; further calls do nothing
	mu      sync.Mutex // protects the rest
	rng     *rand.Rand
	held    map[base.RequestID]bool // transactions
	before  map[string]bool         // entries that were stopped on their way there
}

func (h *hold) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.held)
}

// reached returns whether enough transactions are at the step. If they share entries, what
// else is in an entry that is held is held as well, and no more may come.
func (h *hold) reached(sharing bool) func() bool {
	last, since := 0, time.Now()
	return func() bool {
		n := h.count()
		if n != last {
			last, since = n, time.Now()
		}
		return n >= leastHeld || sharing && n > 0 && time.Since(since) > heldAlone
	}
}

// asks reports whether an entry was stopped on its way to its shard.
func (h *hold) asks() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, before := range h.before {
		if before {
			return true
		}
	}
	return false
}

// stops reports whether an entry has a step to be stopped, on the way to its shard or
// on the way back.
func (h *hold) stops(q *ask.Request, back bool) bool {
	if q.Kind != ask.Propose || (q.Shard == anchorShard) != h.at.onAnchor {
		return false
	}
	e, err := command.DecodeEntry(q.Bytes)
	if err != nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	id := fmt.Sprint(q.Shard, " ", e.Session, " ", e.Sequence)
	found := false
	for i := range e.Commands {
		s := &e.Commands[i].Step
		if s.Kind != h.at.kind {
			continue
		}
		if _, asked := h.before[id]; !asked && !back {
			h.before[id] = h.rng.IntN(2) == 0
		}
		if found = h.before[id] != back; found {
			for _, txn := range append(e.Commands[i].Forget, s.Txn) {
				h.held[txn] = true
			}
		}
	}
	return found
}

func (b *faultBench) arm(at stopPoint) *hold {
	h := &hold{at: at, release: make(chan struct{}), rng: testkit.Fork(b.rng), held: map[base.RequestID]bool{}, before: map[string]bool{}}
	h.free = sync.OnceFunc(func() { close(h.release) })
	r := b.nodes[coordinatorNode].remote
	asking := func(q *ask.Request) {
		if h.stops(q, false) {
			<-h.release
		}
	}
	asked := askedFn(func(q *ask.Request, err error) error {
		if err == nil && h.stops(q, true) {
			<-h.release
		}
		return err
	})
	r.asking.Store(&asking)
	r.asked.Store(&asked)
	return h
}

// agree checks that all replicas have the same, in every space.
func (b *faultBench) agree() {
	b.t.Helper()
	for shard := range base.ShardID(testShards) {
		testkit.Eventually(b.t, time.Minute, fmt.Sprintf("equal replicas of shard %d", shard), func() bool {
			var first []byte
			for i := range coordinatorNode {
				sn, err := b.nodes[i].store.NewSnapshot()
				if err != nil {
					b.t.Fatal(err)
				}
				info, err := sn.Export(b.ctx, shard, new(bytes.Buffer))
				sn.Close()
				if err != nil {
					b.t.Fatal(err)
				}
				if i == 0 {
					first = info.Digest[:]
				} else if !bytes.Equal(first, info.Digest[:]) {
					return false
				}
			}
			return true
		})
	}
}

// quiet waits until nothing is held and no outcome is left on any node. The clock
// goes on meanwhile: a transaction whose deadline has passed may have begun anew, with
// a deadline of its own, and been stopped again.
func (b *faultBench) quiet(what string, nodes ...int) {
	b.t.Helper()
	left := ""
	defer func() {
		if b.t.Failed() {
			b.t.Log("left: ", left)
		}
	}()
	testkit.Eventually(b.t, time.Minute, "the end of all transactions: "+what, func() bool {
		left = ""
		b.clock.Advance(txnPatience / 100)
		for _, i := range nodes {
			for _, g := range b.hostOf(i).groups {
				r := g.replica.Load()
				outcomes, err := kvfsm.Outcomes(g.space, 1)
				if err != nil || r == nil || len(outcomes)+len(r.machine.Prepared()) > 0 {
					left = fmt.Sprintf("node %d, shard %d: %v, %v", i, g.id, outcomes, err)
					if r != nil {
						for _, by := range r.machine.Prepared() {
							left += fmt.Sprintf("; held for %v, until %v from now", by, by.Deadline.Time().Sub(b.clock.Now()))
						}
					}
					return false
				}
			}
		}
		return true
	})
}

// others returns the nodes with replicas, but for one.
func others(i int) (nodes []int) {
	for j := range coordinatorNode {
		if j != i {
			nodes = append(nodes, j)
		}
	}
	return nodes
}

// replaced waits until the shards that a node led are led by others.
func (b *faultBench) replaced(i int) {
	b.t.Helper()
	for shard := range base.ShardID(testShards) {
		testkit.Eventually(b.t, time.Minute, fmt.Sprintf("another leader of shard %d", shard), func() bool {
			for _, j := range others(i) {
				if b.hostOf(j).log.Leads(shard) {
					return true
				}
			}
			return false
		})
	}
}

func outcomeOf(err error) base.Outcome {
	var e *base.Error
	switch {
	case err == nil:
		return base.OutcomeApplied
	case errors.As(err, &e):
		return e.Outcome
	default:
		return base.OutcomeUnknown
	}
}
