package harness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/testkit"
)

// splitDeadline is that of calls on a side that may not have what they need.
const splitDeadline = 2 * time.Second

// splitFast makes gossip forget the dead after some seconds, which are a minute else.
func splitFast() (fast float64, memory time.Duration) {
	if fast = 30; invariants.Enabled {
		fast = 6
	}
	return fast, time.Duration(float64(time.Minute) / fast)
}

// TestSplitOutlastsGossip cuts four nodes into two halves for longer than gossip
// remembers the dead. Meanwhile every shard is served on the side of two of its
// replicas, and refused on the other as unavailable, in time; when the halves can
// reach one another again, they find together by themselves.
func TestSplitOutlastsGossip(t *testing.T) {
	rng := testkit.Rand(t)
	fast, memory := splitFast()
	c := NewCluster(t, ClusterConfig{Nodes: 4, Shards: 4, Seed: rng.Uint64(), Elastic: true, Fast: fast})
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	c.mustBeOne(ctx, 0, 1, 2, 3)
	order := rng.Perm(4)
	left, right := order[:2], order[2:]
	c.Net.Partition([]string{c.Address(left[0]), c.Address(left[1])})
	c.awaitStates(ctx, left[0], "failed", right)
	c.awaitStates(ctx, right[0], "failed", left)
	cut := time.Now()
	keys := Keys(30)
	var callers sync.WaitGroup
	for _, key := range keys {
		callers.Go(func() { c.servedOnOneSide(ctx, key, left[0], right[0]) })
	}
	callers.Wait()
	// Nothing shows what gossip has forgotten; only time makes it.
	time.Sleep(max(0, 2*memory-time.Since(cut)))
	outlasted := time.Since(cut)
	c.Net.Heal()
	healed := time.Now()
	for _, i := range order {
		c.awaitStates(ctx, i, "active", order)
	}
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	c.mustBeOne(ctx, order...)
	for _, key := range keys {
		for _, i := range order {
			if value, _, err := c.Client(i).Get(ctx, key); err != nil || string(value) != "in the split" {
				t.Errorf("%v through node %d: %q, %v", key, i, value, err)
			}
		}
	}
	t.Logf("split for %v, one again %v after it", outlasted.Round(time.Millisecond), time.Since(healed).Round(time.Millisecond))
	c.MustAgree(ctx)
}

// awaitStates waits until a node says of others that they are in a state.
func (c *Cluster) awaitStates(ctx context.Context, i int, state string, others []int) {
	c.t.Helper()
	testkit.Eventually(c.t, settlePatience, fmt.Sprintf("node %d to take %v for %s", i, others, state), func() bool {
		infos, err := c.node(i).Nodes(ctx)
		if err != nil {
			return false
		}
		is := map[string]string{}
		for _, info := range infos {
			is[info.ID] = info.State
		}
		for _, j := range others {
			if is[c.peers[j].Node] != state {
				return false
			}
		}
		return true
	})
}

// servedOnOneSide writes a key through a node of each side until one of them has
// done it. The other one must say in time that it cannot.
func (c *Cluster) servedOnOneSide(ctx context.Context, key base.Key, sides ...int) {
	for began := time.Now(); ; {
		done := 0
		for _, i := range sides {
			if c.servedInTime(ctx, key, i) {
				done++
			}
		}
		switch {
		case done > 1:
			c.t.Errorf("%v was written on both sides", key)
			return
		case done == 1:
			return
		case time.Since(began) > settlePatience/3:
			c.t.Errorf("%v is written on no side", key)
			return
		}
	}
}

func (c *Cluster) servedInTime(ctx context.Context, key base.Key, i int) bool {
	call, cancel := context.WithTimeout(ctx, splitDeadline)
	defer cancel()
	began := time.Now()
	_, err := c.Client(i).Put(call, key, []byte("in the split"), base.Cond{})
	took := time.Since(began)
	switch {
	case err == nil:
		return true
	case !errors.Is(err, base.ErrUnavailable) && !errors.Is(err, base.ErrIndeterminate):
		c.t.Errorf("%v through node %d: %v", key, i, err)
	case took > splitDeadline+deadlineSlack:
		c.t.Errorf("%v through node %d: %v after %v", key, i, err, took)
	}
	return false
}

// deadlineSlack is by how much a call may be late on a slow machine. It is far less
// than what calls without a deadline take.
const deadlineSlack = 5 * time.Second
