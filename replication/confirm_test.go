package replication

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/rafthost"
)

// reading watches a key: who reads it may never see an older version than what was
// answered, to a writer or to a reader on any node, before the read began.
type reading struct {
	c        *cluster
	key      base.Key
	answered atomic.Uint64 // the newest version
	writes   atomic.Int64
	reads    atomic.Int64
	old      atomic.Int64 // reads that saw an older one
	pen      sync.Mutex   // held while a write is under way
}

// write writes from all nodes in turn, as long as ctx lasts.
func (r *reading) write(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		h := r.c.hostOf(i % len(r.c.nodes))
		call, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		r.pen.Lock()
		version, err := h.Write(call, &base.Write{Key: r.key}, base.RequestID{})
		r.pen.Unlock()
		cancel()
		if err == nil {
			r.answer(version)
			r.writes.Add(1)
		}
	}
}

func (r *reading) read(ctx context.Context, i int) {
	for ctx.Err() == nil {
		h, before := r.c.hostOf(i), r.answered.Load()
		call, cancel := context.WithTimeout(ctx, time.Second)
		it, err := h.Get(call, h.shardOf(r.key), r.key, base.ReadOptions{})
		cancel()
		if err != nil {
			continue
		}
		r.reads.Add(1)
		if uint64(it.Version) < before {
			r.old.Add(1)
		}
		r.answer(it.Version)
	}
}

func (r *reading) answer(version base.Version) {
	for {
		old := r.answered.Load()
		if uint64(version) <= old || r.answered.CompareAndSwap(old, uint64(version)) {
			return
		}
	}
}

// What a read has shown on one node, later ones show on all nodes, though followers
// may apply an entry before their leader has.
func TestReadsNeverGoBack(t *testing.T) {
	c := onThree(t, 3)
	r := &reading{c: c, key: keyOn(c.hostOf(0), 0, 1)}
	ctx, stop := context.WithCancel(testkit.Context(t))
	var all sync.WaitGroup
	all.Go(func() { r.write(ctx) })
	for i := range c.nodes {
		all.Go(func() { r.read(ctx, i) })
		all.Go(func() { r.read(ctx, i) })
	}
	testkit.Eventually(t, time.Minute, "reads", func() bool { return r.writes.Load() > 1500 && r.reads.Load() > 5000 })
	stop()
	all.Wait()
	if r.old.Load() > 0 {
		t.Errorf("%d of %d reads were old", r.old.Load(), r.reads.Load())
	}
}

// stuck is a disk whose writes can be held up.
type stuck struct {
	mu sync.RWMutex // held for writing while it is stuck
}

// MaybeError implements errorfs.Injector.
func (s *stuck) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
		s.mu.RLock()
		defer s.mu.RUnlock()
	}
	return nil
}

// String implements errorfs.Injector.
func (s *stuck) String() string { return "stuck" }

// depose holds up the disks of leaders, one after the other, until another leader has
// written for a while, and has all nodes read; so many times, or until an old read is
// seen. A leader with such a disk hears and says nothing more in raft, and still takes
// itself for one.
func depose(t *testing.T, times int, prepare func(*cluster)) *reading {
	c := newCluster(t, 3)
	disks := make([]stuck, len(c.nodes))
	for i, n := range c.nodes {
		n.fs = errorfs.Wrap(n.fs, &disks[i])
	}
	c.foundOnThree()
	prepare(c)
	r := &reading{c: c, key: keyOn(c.hostOf(0), 0, 1)}
	ctx, stop := context.WithCancel(testkit.Context(t))
	var all sync.WaitGroup
	all.Go(func() { r.write(ctx) })
	for i := range c.nodes {
		all.Go(func() { r.read(ctx, i) })
	}
	for i := 0; i < times && r.old.Load() == 0; i++ {
		old := c.leader(0)
		g := old.host.raft.log.group(0)
		testkit.Eventually(t, time.Minute, "reads without raft", func() bool {
			_, term := g.log.host.Leader(0)
			rep := g.replica.Load()
			return rep != nil && g.tenure.get(rep, term) != nil
		})
		if i%2 == 0 {
			r.pen.Lock()
			testkit.Eventually(t, time.Minute, "what was told to be applied", func() bool {
				rep := g.replica.Load()
				return rep != nil && g.barrier.upTo(rep) >= g.log.host.Told(0)
			})
		}
		disk, written := &disks[slices.Index(c.nodes, old)], r.writes.Load()
		disk.mu.Lock()
		if i%2 == 0 {
			r.pen.Unlock()
		}
		testkit.Eventually(t, time.Minute, "another leader", func() bool { return r.writes.Load() > written+8 })
		disk.mu.Unlock()
	}
	stop()
	all.Wait()
	t.Logf("%d reads, %d old, %d writes", r.reads.Load(), r.old.Load(), r.writes.Load())
	return r
}

// A leader that another one has taken the place of, without its knowing, shows
// nothing old.
func TestDeposedLeadersShowNothingOld(t *testing.T) {
	r := depose(t, 3, func(*cluster) {})
	if r.old.Load() > 0 || r.reads.Load() == 0 {
		t.Errorf("%d of %d reads were old", r.old.Load(), r.reads.Load())
	}
}

// The same finds voters that agree to whatever they are asked.
func TestVotersThatAgreeToAllAreFound(t *testing.T) {
	agree := func(q *ask.Request, answer []byte) []byte {
		if q.Kind != ask.Confirm {
			return answer
		}
		all, err := ask.DecodeConfirmed(answer)
		if err != nil {
			return answer
		}
		for i := range all {
			all[i].Yes = true
		}
		return ask.AppendConfirmed(nil, all)
	}
	r := depose(t, 20, func(c *cluster) {
		for _, n := range c.nodes {
			n.remote.altered.Store(&agree)
		}
	})
	if r.old.Load() == 0 {
		t.Errorf("none of %d reads was old", r.reads.Load())
	}
}

// However many shards a read is of, each other node is asked twice at most: about
// those that are led here, and about those that it leads.
func TestOneQuestionToEachNode(t *testing.T) {
	c := onThree(t, 3)
	ctx := short(t)
	var keys []base.Key
	for _, id := range c.hostOf(0).all {
		keys = append(keys, keyOn(c.hostOf(0), id, 1))
	}
	for i := range c.nodes {
		h := c.hostOf(i)
		var asked, others atomic.Int64
		count := func(q *ask.Request) {
			if q.Kind == ask.Confirm {
				asked.Add(1)
			} else {
				others.Add(1)
			}
		}
		c.nodes[i].remote.asking.Store(&count)
		testkit.Eventually(t, time.Minute, "leaders that know their term", func() bool {
			asked.Store(0)
			others.Store(0)
			if _, err := h.MultiGet(ctx, keys, base.ReadOptions{}); err != nil {
				t.Fatal(err)
			}
			return asked.Load() > 0 && asked.Load() <= 4 && others.Load() == 0
		})
	}
}

// What a node that does not lead hands to raft goes nowhere: a leader shows what it
// has proposed itself.
func TestNothingIsForwarded(t *testing.T) {
	c := onThree(t, 3)
	ctx := short(t)
	h := c.hostOf(c.follower(ctx))
	g := h.raft.log.group(0)
	before := g.replica.Load().machine.Index()
	rs, err := h.raft.log.raft.Propose(h.raft.log.raft.GetNoOPSession(rafthost.GroupID(0)), []byte("entry"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if result := <-rs.ResultC(); result.Completed() {
		t.Error("it was decided")
	}
	mustWrite(t, ctx, h, base.Write{Key: keyOn(h, 0, 1)})
	testkit.Eventually(t, time.Minute, "the write", func() bool { return g.replica.Load().machine.Index() > before })
}

// The tenure of a leader ends with its term, and with a change of the voters.
func TestTenureEnds(t *testing.T) {
	var all tenures
	r := &replica{id: 1}
	all.set(&tenure{replica: 1, term: 3}, all.changed())
	if all.get(r, 3) == nil || all.get(r, 4) != nil || all.get(&replica{id: 2}, 3) != nil {
		t.Error("it holds for another term or replica, or not at all")
	}
	changes := all.changed()
	all.change()
	if all.get(r, 3) != nil {
		t.Error("it outlasts a change")
	}
	if all.set(&tenure{replica: 1, term: 3}, changes); all.get(r, 3) != nil {
		t.Error("voters from before a change count after it")
	}
}

// A leader without other voters commits what is not on its disk yet. A learner does
// not show that: it would be gone with the leader.
func TestLearnersShowNothingThatCanBeLost(t *testing.T) {
	c := newCluster(t, 2)
	disk := &stuck{}
	c.nodes[0].fs = errorfs.Wrap(c.nodes[0].fs, disk)
	c.found(func(base.ShardID) []int { return []int{0} })
	ctx := short(t)
	h, learner := c.hostOf(0), c.hostOf(1)
	key := keyOn(h, 0, 1)
	first := mustWrite(t, ctx, h, base.Write{Key: key})
	m := Member{Replica: 5, Node: c.peers[1].Node}
	if err := h.AddLearner(ctx, c.changeOf(ctx, 0, m)); err != nil {
		t.Fatal(err)
	}
	c.startReplica(1, ReplicaSpec{Shard: 0, Replica: m.Replica})
	testkit.Eventually(t, time.Minute, "the learner to catch up", func() bool { return learner.near(0) != nil })
	if _, err := learner.Get(ctx, 0, key, base.ReadOptions{}); err != nil { // now it is known how far it is
		t.Fatal(err)
	}

	disk.mu.Lock()
	written := make(chan error, 1)
	go func() {
		_, err := h.Write(ctx, &base.Write{Key: key}, base.RequestID{})
		written <- err
	}()
	shown := func() base.Version {
		it, err := learner.Get(ctx, 0, key, base.ReadOptions{Stale: true, MaxStale: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return it.Version
	}
	index := learner.groups[0].replica.Load().machine.Index()
	for range 50 { // heartbeats come every two ticks
		time.Sleep(2 * time.Millisecond)
		if v := shown(); v != first || learner.groups[0].replica.Load().machine.Index() != index {
			t.Errorf("the learner shows version %d, which is on no disk", v)
			break
		}
	}
	disk.mu.Unlock()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, time.Minute, "the learner to follow", func() bool { return shown() > first })
}
