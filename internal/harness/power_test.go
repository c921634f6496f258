package harness

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

var (
	powerAll = flag.Int("powerall", 12, "how often the power-loss test takes the power from all nodes at once")
	powerOne = flag.Int("powerone", 6, "how often it takes the power from one node")
)

// counter is a key that one writer counts up in.
type counter struct {
	key       base.Key
	attempted atomic.Uint64
	promised  atomic.Uint64 // acknowledged, so it must never be less again
}

func (k *counter) write(ctx context.Context, c Client) {
	n := k.attempted.Add(1)
	value := binary.BigEndian.AppendUint64(nil, n)
	if _, err := c.Put(ctx, k.key, value, base.Cond{}); err == nil {
		k.promised.Store(n)
	} else if e := (*base.Error)(nil); !errors.As(err, &e) {
		panic(fmt.Sprintf("untyped error %v", err))
	}
}

// check reads the counter: at least floor, at most what was attempted.
func (k *counter) check(ctx context.Context, t *testing.T, c Client, floor uint64) {
	t.Helper()
	value, _, err := c.Get(ctx, k.key)
	if err != nil {
		t.Errorf("%v: %v", k.key, err)
		return
	}
	n := uint64(0)
	if value != nil {
		n = binary.BigEndian.Uint64(value)
	}
	if n < floor || n > k.attempted.Load() {
		t.Errorf("%v: %d after the crash, %d was acknowledged, %d attempted", k.key, n, floor, k.attempted.Load())
	}
}

// TestPowerLossOfACluster takes the power from nodes while clients write, with
// snapshots in between, keeps a part of what was not synced, and looks for every
// acknowledged write afterwards.
func TestPowerLossOfACluster(t *testing.T) {
	all, one := *powerAll, *powerOne
	if testing.Short() {
		all, one = min(all, 3), min(one, 2)
	}
	rng := testkit.Rand(t)
	c := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 3, Seed: rng.Uint64(), Tick: 5 * time.Millisecond})
	ctx := testkit.Context(t)
	counters := make([]*counter, 24)
	for i := range counters {
		counters[i] = &counter{key: base.K(fmt.Sprint("counter/", i), "")}
	}
	for cycle := range all + one {
		victims := []int{0, 1, 2}
		if cycle%3 == 2 && one > 0 {
			one--
			victims = []int{rng.IntN(3)}
		}
		powerCycle(ctx, t, rng, c, counters, 50*(cycle%3), victims...)
		if t.Failed() {
			t.Fatalf("cycle %d, of nodes %v", cycle, victims)
		}
	}
	c.MustAgree(ctx)
	total := uint64(0)
	for _, k := range counters {
		total += k.promised.Load()
	}
	t.Logf("%d cycles, %d writes acknowledged", all+*powerOne, total)
	if total < uint64(all) {
		t.Errorf("only %d writes were acknowledged", total)
	}
}

func powerCycle(ctx context.Context, t *testing.T, rng *rand.Rand, c *Cluster, counters []*counter, keep int, victims ...int) {
	t.Helper()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	work, stop := context.WithCancel(ctx)
	var writers sync.WaitGroup
	for i, k := range counters {
		writers.Go(func() {
			for work.Err() == nil {
				call, cancel := context.WithTimeout(work, 300*time.Millisecond)
				k.write(call, c.Client(i))
				cancel()
			}
		})
	}
	time.Sleep(time.Duration(20+rng.IntN(150)) * time.Millisecond)
	c.Crash(rng, keep, victims...)
	stop()
	writers.Wait()
	floors := make([]uint64, len(counters))
	for i, k := range counters {
		floors[i] = k.promised.Load()
	}
	for _, i := range victims {
		c.Start(i)
	}
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	for i, k := range counters {
		k.check(ctx, t, c.Client(rng.IntN(c.Nodes())), floors[i])
	}
}
