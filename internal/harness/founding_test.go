package harness

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
)

var foundings = flag.Int("foundings", 4, "how often nodes are started at the same moment to found a cluster")

// foundedBy is how many nodes found a cluster in each round. Of four, and of seven,
// some have no replica of the catalog.
func foundedBy(round int) int { return []int{3, 5, 4, 3, 5, 7, 3, 2}[round%8] }

// TestFoundedAtOnce starts fresh nodes in random orders and at about the same moment.
// Whoever comes first, and also if one loses power meanwhile, there is one cluster,
// which has all of them.
func TestFoundedAtOnce(t *testing.T) {
	atOnce, rounds := 4, *foundings // they wait most of the time
	if invariants.Enabled {
		atOnce = 1
	}
	if testing.Short() {
		rounds = min(rounds, 2)
	}
	for first := 0; first < rounds && !t.Failed(); first += atOnce {
		t.Run(fmt.Sprint("from ", first), func(t *testing.T) {
			for round := first; round < min(first+atOnce, rounds); round++ {
				t.Run(fmt.Sprint(round), func(t *testing.T) {
					t.Parallel()
					foundRound(t, foundedBy(round), round%4 >= 2)
				})
			}
		})
	}
}

func foundRound(t *testing.T, nodes int, crash bool) {
	rng := testkit.Rand(t)
	c := newCluster(t, ClusterConfig{Nodes: nodes, Shards: 4, Seed: rng.Uint64(), Elastic: true})
	defer c.close() // the rounds must not pile up
	ctx := testkit.Context(t)
	victim, after := -1, time.Duration(rng.Int64N(int64(time.Second)))
	if crash {
		victim = rng.IntN(nodes)
	}
	began := time.Now()
	var starting sync.WaitGroup
	for _, i := range rng.Perm(nodes) {
		delay := time.Duration(rng.Int64N(int64(500 * time.Millisecond)))
		r := testkit.Fork(rng)
		starting.Go(func() {
			time.Sleep(delay)
			if i == victim {
				short, cancel := context.WithTimeout(ctx, after)
				_ = c.open(short, i)
				cancel()
				c.Crash(r, 50*r.IntN(3), i)
			}
			if err := c.open(ctx, i); err != nil {
				t.Errorf("node %d does not start: %v", i, err)
			}
		})
	}
	starting.Wait()
	if t.Failed() {
		return
	}
	took := time.Since(began)
	c.mustBeOne(ctx, c.running()...)
	t.Logf("%d nodes, one crashed: %t; started in %v", nodes, crash, took)
}

// mustBeOne fails the test unless the nodes are one cluster that has them and
// nobody else: all have the same catalog in the end, and what is written through
// each is read through all others.
func (c *Cluster) mustBeOne(ctx context.Context, nodes ...int) {
	c.t.Helper()
	var want []string
	for _, i := range nodes {
		want = append(want, c.peers[i].Node)
	}
	slices.Sort(want)
	for _, i := range nodes {
		var have []string
		testkit.Eventually(c.t, settlePatience, fmt.Sprintf("node %d to know %v", i, want), func() bool {
			have = nil
			infos, err := c.node(i).Nodes(ctx)
			for _, info := range infos {
				have = append(have, info.ID)
			}
			return err == nil && slices.Equal(slices.Sorted(slices.Values(have)), want)
		})
	}
	for _, i := range nodes {
		key := base.K(fmt.Sprint("written through ", i), "")
		version, err := c.Client(i).Put(ctx, key, []byte("v"), base.Cond{})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, j := range nodes {
			if _, found, err := c.Client(j).Get(ctx, key); err != nil || found != version {
				c.t.Errorf("%v has version %d; through node %d it has %d, %v", key, version, j, found, err)
			}
		}
	}
}

// settlePatience is how long tests wait for what takes seconds on an idle machine.
const settlePatience = 3 * time.Minute

// node returns a node, which must be up.
func (c *Cluster) node(i int) *node.Node {
	l := c.members[i].life.Load()
	if l == nil {
		c.t.Helper()
		c.t.Fatalf("node %d is down", i)
		return nil
	}
	return l.Node
}
