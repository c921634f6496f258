package cluster

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication"
)

// Any node tells the same of nodes and shards, and can have another one lead.
func TestReports(t *testing.T) {
	const shards = 4
	h := newHarness(t)
	h.grow(4, shards)
	h.balanced(shards, 3, 3)
	for _, n := range h.nodes {
		c := n.get()
		if plan, err := c.Rebalance(h.ctx); err != nil || len(plan.Moves) != 0 {
			t.Errorf("%s: plan %v, %v", n.cfg.NodeID, plan, err)
		}
		testkit.Eventually(t, patience, "a report of shards", func() bool { return h.reports(n, shards) == "" })
		if why := h.reports(n, shards); why != "" {
			t.Errorf("%s: %s", n.cfg.NodeID, why)
		}
		if err := c.TransferLeader(h.ctx, shards, "node-0"); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("a shard that does not exist: %v", err)
		}
	}
	infos, err := h.nodes[0].get().ShardInfos(h.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos[:2] {
		for _, n := range h.nodes {
			err := n.get().TransferLeader(h.ctx, info.Shard, n.cfg.NodeID)
			if slices.Contains(info.Replicas, n.cfg.NodeID) != (err == nil) || (err != nil && !errors.Is(err, base.ErrInvalid)) {
				t.Errorf("shard %d to %s: %v; replicas %v", info.Shard, n.cfg.NodeID, err, info.Replicas)
			}
		}
	}
}

// reports returns what is wrong with what a node says of a cluster that is at rest.
func (h *harness) reports(n *testNode, shards int) string {
	nodes, err := n.get().Nodes(h.ctx)
	infos, err2 := n.get().ShardInfos(h.ctx)
	if err = errors.Join(err, err2); err != nil || len(infos) != shards || len(nodes) != len(h.nodes) {
		return "incomplete"
	}
	replicas, leaders := 0, 0
	for _, info := range nodes {
		replicas, leaders = replicas+info.Shards, leaders+info.Leaders
		if info.State != nodeActive || info.Self != (info.ID == n.cfg.NodeID) || info.Addr == "" {
			return "a node is wrong: " + info.ID + " " + info.State
		}
	}
	if replicas != 3*shards || leaders != shards {
		return "the sums are wrong"
	}
	for _, info := range infos {
		if info.State != shardServing || info.Leader == "" || len(info.Replicas) != 3 {
			return "a shard is wrong: " + info.State
		}
	}
	return ""
}

// A node that is silent for less than the grace keeps what it has. That it is
// silent, and that there are too few replicas, is told by one node.
func TestSilentNode(t *testing.T) {
	const shards = 4
	h := newHarness(t)
	h.tune = func(cfg *Config) { cfg.Fast = 20 }
	h.grow(3, shards)
	h.balanced(shards, 3, 3)
	before := h.records()
	h.nodes[1].kill()
	count := func(alert string) (raised int) {
		for _, n := range h.running() {
			if n.alerts.raised(alert) {
				raised++
			}
		}
		return raised
	}
	testkit.Eventually(t, patience, "the alerts", func() bool { return count(alertSilent+"node-1") == 1 && count(alertThin) == 1 })
	h.awaitInfo(h.nodes[0], base.NodeInfo{ID: "node-1", Addr: "n1:1", State: nodeFailed, Shards: shards})
	h.nodes[1].start()
	testkit.Eventually(t, patience, "the end of the alerts", func() bool { return count(alertSilent+"node-1") == 0 && count(alertThin) == 0 })
	h.balanced(shards, 3, 3)
	if after := h.records(); after != before {
		t.Errorf("replicas moved: %v, before %v", after, before)
	}
}

// A node whose clock is wrong leads nothing until it is right again.
func TestClockWatch(t *testing.T) {
	const shards = 6
	h := newHarness(t)
	var ahead atomic.Int64
	h.tune = func(cfg *Config) {
		cfg.Fast = 10
		if cfg.NodeID == "node-2" {
			cfg.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		}
	}
	h.grow(3, shards)
	h.balanced(shards, 3, 3)
	leads := func(n *testNode) (led int) {
		n.run(func(host *replication.Host) { led = len(host.Led()) })
		return led
	}
	if n := h.nodes[2]; leads(n) == 0 || n.alerts.raised(alertClock) {
		t.Fatalf("it leads %d shards", leads(n))
	}
	ahead.Store(int64(5 * time.Second))
	testkit.Eventually(t, patience, "the wrong clock to be noticed", func() bool {
		return h.nodes[2].alerts.raised(alertClock) && leads(h.nodes[2]) == 0
	})
	for _, n := range h.nodes[:2] {
		if n.alerts.raised(alertClock) {
			t.Errorf("%s takes its own clock for wrong", n.cfg.NodeID)
		}
	}
	ahead.Store(0)
	testkit.Eventually(t, patience, "the right clock to be noticed", func() bool { return !h.nodes[2].alerts.raised(alertClock) })
	h.balanced(shards, 3, 3)
}

// When ctx ends, a drain goes on; nobody waits for it any more.
func TestDrainGoesOn(t *testing.T) {
	const shards = 4
	h := newHarness(t)
	h.grow(4, shards)
	h.balanced(shards, 3, 3)
	ctx, cancel := context.WithCancel(h.ctx)
	if err := h.nodes[1].get().Drain(ctx, "node-2", func(base.Progress) { cancel() }); err == nil {
		t.Error("it was waited for")
	}
	h.settled(shards, 3, 3, "node-2")
	if err := h.nodes[1].get().Drain(h.ctx, "node-9", func(base.Progress) {}); !errors.Is(err, base.ErrNotFound) {
		t.Errorf("an unknown node: %v", err)
	}
}
