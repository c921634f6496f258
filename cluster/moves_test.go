package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication"
)

// notShort leaves out what takes long with the race detector; the other tests go
// through the same code.
func notShort(t *testing.T) {
	if testing.Short() {
		t.Skip("left out of short runs")
	}
}

// Nodes come while every node is written through: each shard gets all its replicas,
// never two on a node, spread as the planner promises; and no write fails.
func TestGrow(t *testing.T) {
	notShort(t)
	const shards = 6
	h := newHarness(t)
	h.grow(1, shards)
	h.settled(shards, 1, 1)
	w := h.write(3)
	h.grow(2, shards)
	h.balanced(shards, 3, 3)
	h.grow(2, shards)
	h.balanced(shards, 3, 5)
	if failed, err := w.check(h.nodes[4]); failed > 0 {
		t.Errorf("%d writes failed: %v", failed, err)
	}
}

// A node that is drained ends with nothing, no request notices, and then it can be
// removed. Without anybody to take what it has, a node is not drained.
func TestDrain(t *testing.T) {
	const shards = 6
	h := newHarness(t)
	h.grow(1, shards)
	if err := h.nodes[0].get().Drain(h.ctx, "node-0", func(base.Progress) {}); !errors.Is(err, base.ErrInvalid) {
		t.Fatalf("drain of the only node: %v", err)
	}
	h.grow(3, shards)
	h.balanced(shards, 3, 3)
	if err := h.nodes[1].get().Remove(h.ctx, "node-0"); !errors.Is(err, base.ErrInvalid) {
		t.Fatalf("removal of a node that is in use: %v", err)
	}
	w := h.write(3)
	var last base.Progress
	reports := 0
	if err := h.nodes[1].get().Drain(h.ctx, "node-0", func(p base.Progress) { last, reports = p, reports+1 }); err != nil {
		t.Fatal(err)
	}
	if last.Done != last.Total || last.Total == 0 || reports < 2 {
		t.Errorf("%d reports, the last %+v", reports, last)
	}
	p := h.settled(shards, 3, 3, "node-0")
	if p.replicas["node-0"] != 0 {
		t.Errorf("the drained node has %d replicas", p.replicas["node-0"])
	}
	h.awaitInfo(h.nodes[2], base.NodeInfo{ID: "node-0", Addr: "n0:1", State: nodeDraining})
	if err := h.nodes[2].get().Remove(h.ctx, "node-0"); err != nil {
		t.Fatal(err)
	}
	h.nodes[0].stop()
	h.balanced(shards, 3, 3)
	if failed, err := w.check(h.nodes[3]); failed > 0 {
		t.Errorf("%d writes failed: %v", failed, err)
	}
}

// awaitInfo waits until one node says this of another.
func (h *harness) awaitInfo(asked *testNode, want base.NodeInfo) {
	h.t.Helper()
	testkit.Eventually(h.t, patience, fmt.Sprintf("%+v", want), func() bool {
		infos, err := asked.get().Nodes(h.ctx)
		if err != nil {
			h.t.Fatal(err)
		}
		return slices.Contains(infos, want)
	})
}

// What a dead node had is copied from the others after the grace; then it can be
// removed, and comes back with an empty disk only.
func TestDeadNode(t *testing.T) {
	const shards = 4
	h := newHarness(t)
	h.tune = func(cfg *Config) { cfg.DeadNodeGrace = 3 * time.Second }
	h.grow(4, shards)
	h.balanced(shards, 3, 3)
	w := h.write(2)
	h.nodes[0].kill()
	h.balanced(shards, 3, 3)
	raised := false
	for _, n := range h.running() {
		raised = raised || n.alerts.raised(alertSilent+"node-0")
	}
	if !raised {
		t.Error("nobody tells that the node is dead")
	}
	h.awaitInfo(h.nodes[1], base.NodeInfo{ID: "node-0", Addr: "n0:1", State: nodeFailed})
	if err := h.nodes[1].get().Remove(h.ctx, "node-0"); err != nil {
		t.Fatal(err)
	}
	// With what it had it is not let in; it serves nothing, and says why.
	if err := h.nodes[0].open(); err != nil {
		t.Logf("it does not start: %v", err)
	} else {
		testkit.Eventually(t, patience, "refusal", func() bool { return h.nodes[0].alerts.raised(alertRefused) })
		h.nodes[0].stop()
	}
	h.nodes[0].wipe()
	h.nodes[0].cfg.Peers = []string{h.nodes[1].cfg.Address, h.nodes[2].cfg.Address}
	h.nodes[0].start()
	h.balanced(shards, 3, 3)
	testkit.Eventually(t, patience, "the alerts to end", func() bool {
		for _, n := range h.running() {
			if n.alerts.raised(alertSilent+"node-0") || n.alerts.raised(alertThin) {
				return false
			}
		}
		return true
	})
	w.check(h.nodes[0])
}

// A dead node can be removed at once, before its grace has passed, if every shard
// can go on without it.
func TestRemoveDead(t *testing.T) {
	notShort(t)
	const shards = 4
	h := newHarness(t)
	h.grow(4, shards)
	h.balanced(shards, 3, 3)
	h.nodes[2].kill()
	testkit.Eventually(t, patience, "the removal", func() bool { return h.nodes[1].get().Remove(h.ctx, "node-2") == nil })
	h.balanced(shards, 3, 3)
	h.nodes[3].kill()
	h.nodes[1].kill()
	ctx, cancel := context.WithTimeout(h.ctx, 10*time.Second)
	defer cancel()
	if err := h.nodes[0].get().Remove(ctx, "node-3"); err == nil {
		t.Error("a node was removed without a majority")
	}
}

// Replicas are where they were after all nodes were stopped and started, also with
// a node that stays away for less than the grace.
func TestRestart(t *testing.T) {
	const shards = 4
	h := newHarness(t)
	h.grow(4, shards)
	h.balanced(shards, 3, 3)
	w := h.write(2)
	testkit.Eventually(t, patience, "writes", func() bool { return w.writes.Load() > 50 })
	w.end()
	before := h.records()
	for _, n := range h.nodes {
		n.stop()
	}
	for _, n := range h.nodes[:3] {
		n.start()
	}
	testkit.Eventually(t, patience, "a look", func() bool {
		for _, n := range h.running() {
			if n.get().RepairStats().Rounds > 5 {
				return true
			}
		}
		return false
	})
	h.nodes[3].start()
	h.settled(shards, 3, 3)
	if after := h.records(); after != before {
		t.Errorf("replicas moved: %v, before %v", after, before)
	}
	w.check(h.nodes[3])
}

// records says which replicas have ever been.
func (h *harness) records() (all [5]uint64) {
	for i, rec := range h.running()[0].get().cache.State().Shards() {
		all[i] = rec.Next
	}
	return all
}

// leader returns the node that leads a shard, as soon as there is one.
func (h *harness) leader(id base.ShardID) (leader *testNode) {
	h.t.Helper()
	testkit.Eventually(h.t, patience, "a leader", func() bool {
		for _, n := range h.running() {
			n.run(func(host *replication.Host) {
				if host.Leads(id) {
					leader = n
				}
			})
		}
		return leader != nil
	})
	return leader
}

// If the node that reconciles dies in the middle of it, another one goes on.
func TestReconcilerDies(t *testing.T) {
	notShort(t)
	const shards = 6
	h := newHarness(t)
	h.grow(5, shards)
	h.balanced(shards, 3, 5)
	w := h.write(2)
	first := h.leader(base.CatalogShard)
	var drained *testNode
	for _, n := range h.nodes {
		if n != first {
			drained = n
		}
	}
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	moving := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		begun := false
		done <- drained.get().Drain(ctx, drained.cfg.NodeID, func(p base.Progress) {
			if p.Done > 0 && !begun {
				begun = true
				close(moving)
			}
		})
	}()
	select {
	case <-moving:
	case err := <-done:
		t.Fatalf("drained before it was seen: %v", err)
	}
	first.kill()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p := h.observe()
	if p.on(drained.cfg.NodeID) != 0 || p.replicas[drained.cfg.NodeID] != 0 {
		t.Errorf("the drained node has %d replicas, %d of them vote", p.replicas[drained.cfg.NodeID], p.on(drained.cfg.NodeID))
	}
	first.start()
	h.balanced(shards, 3, 3, drained.cfg.NodeID)
	w.check(first)
}

// A node whose disk was wiped comes back by the same name, with new replicas.
func TestWipedDisk(t *testing.T) {
	notShort(t)
	const shards = 4
	h := newHarness(t)
	h.grow(3, shards)
	h.balanced(shards, 3, 3)
	w := h.write(2)
	n := h.nodes[2]
	n.kill()
	n.wipe()
	before := h.records()
	n.cfg.Peers = []string{h.nodes[0].cfg.Address, h.nodes[1].cfg.Address}
	n.start()
	h.balanced(shards, 3, 3)
	if after := h.records(); after == before {
		t.Errorf("the replicas have their old ids: %v", after)
	}
	w.check(n)
}

// Of two nodes one can be drained: then the other has everything alone.
func TestDrainToOne(t *testing.T) {
	notShort(t)
	const shards = 4
	h := newHarness(t)
	h.grow(2, shards)
	h.balanced(shards, 2, 2)
	w := h.write(2)
	if err := h.nodes[0].get().Drain(h.ctx, "node-0", func(base.Progress) {}); err != nil {
		t.Fatal(err)
	}
	if err := h.nodes[1].get().Remove(h.ctx, "node-0"); err != nil {
		t.Fatal(err)
	}
	h.nodes[0].stop()
	h.settled(shards, 1, 1)
	if failed, err := w.check(h.nodes[1]); failed > 0 {
		t.Errorf("%d writes failed: %v", failed, err)
	}
}

// A node whose disk fails takes leave, though its process lives on, and is replaced
// after the grace.
func TestFailedDisk(t *testing.T) {
	const shards = 4
	h := newHarness(t)
	h.tune = func(cfg *Config) { cfg.DeadNodeGrace = 2 * time.Second }
	h.grow(3, shards)
	bad := h.add(shards)
	var broken atomic.Bool
	bad.fs = errorfs.Wrap(bad.fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errors.New("the disk has failed")
		}
		return nil
	}))
	bad.start()
	h.balanced(shards, 3, 3)
	w := h.write(2)
	broken.Store(true)
	h.settled(shards, 3, 3, bad.cfg.NodeID)
	h.awaitInfo(h.nodes[0], base.NodeInfo{ID: bad.cfg.NodeID, Addr: bad.cfg.Address, State: nodeFailed})
	broken.Store(false)
	bad.kill()
	w.check(h.nodes[0])
}
