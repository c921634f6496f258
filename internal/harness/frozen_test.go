package harness

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/testkit"
)

var frozenBytes = flag.Int64("frozenbytes", 176<<20, "how much to write while a node is frozen")

// maxHeapGrowth is how much the heaps of the others may grow meanwhile. It is less
// than what is written, so a leader that keeps everything for the frozen node is
// found, and what the bounds of the configuration add up to: 64 MiB wait for a peer,
// and as much is in the memtables of the raft log. The aim is 64 MiB; growth of 80
// has been seen.
const maxHeapGrowth = 136 << 20

// TestFrozenFollower freezes one of three real processes while the others write
// much: their memory stays bounded, nobody waits for it, and when it goes on it
// catches up. What was acknowledged meanwhile, and what clients of all three saw
// before and after, can be explained.
func TestFrozenFollower(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	total := *frozenBytes
	if invariants.Enabled {
		total /= 4 // nothing is said about memory under the race detector
	}
	rng := testkit.Rand(t)
	c := NewProcesses(t, 3, 5)
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	rec := NewRecorder(1_000_000)
	w := Workload{Clients: 6, Keys: Keys(60), Timeout: time.Second, Rand: testkit.Fork(rng)}
	work, end := context.WithCancel(ctx)
	var clients sync.WaitGroup
	clients.Go(func() { w.Run(work, rec, c.Client) })
	c.fillThrough(ctx, t, 16<<20, 0, 1) // warm
	before := []int64{c.heap(ctx, t, 0), c.heap(ctx, t, 1)}
	c.Freeze(2)
	began := time.Now()
	newest := c.fillThrough(ctx, t, total, 0, 1)
	took := time.Since(began)
	for i := range before {
		after := c.heap(ctx, t, i)
		t.Logf("node %d: heap of %d MiB, then %d MiB", i, before[i]>>20, after>>20)
		if after-before[i] > maxHeapGrowth && !invariants.Enabled {
			t.Errorf("the heap of node %d grew from %d to %d bytes while node 2 was frozen", i, before[i], after)
		}
	}
	c.Thaw(2)
	began = time.Now()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB were written in %v; then the frozen node answered for all shards after %v", total>>20, took, time.Since(began))
	for w, value := range newest {
		got, _, err := c.Client(2).Get(ctx, fillKey(w))
		if err != nil || !bytes.Equal(got, value) {
			t.Errorf("fill %d: %d bytes that are not those that were acknowledged last: %v", w, len(got), err)
		}
	}
	end()
	clients.Wait()
	if err := errors.Join(c.Ready(ctx), w.ReadFinally(ctx, rec, c.Client(2))); err != nil {
		t.Fatal(err)
	}
	t.Log(rec.History().Stats())
	mustBeExplained(t, rec.History())
}

func (c *Processes) heap(ctx context.Context, t *testing.T, i int) int64 {
	t.Helper()
	var a Answer
	if err := c.nodes[i].call(ctx, "Control.Heap", &Call{}, &a); err != nil {
		t.Fatal(err)
	}
	return a.HeapBytes
}

// fillThrough writes much through some nodes. It returns what each writer has
// written last to its key, which was acknowledged.
func (c *Processes) fillThrough(ctx context.Context, t *testing.T, total int64, nodes ...int) (newest [][]byte) {
	t.Helper()
	const valueBytes = 64 << 10
	newest = make([][]byte, 16)
	var written atomic.Int64
	var writers sync.WaitGroup
	for w := range newest {
		writers.Go(func() {
			for n := byte(1); written.Add(valueBytes) <= total || newest[w] == nil; n++ {
				value := bytes.Repeat([]byte{byte(w), n}, valueBytes/2)
				for ctx.Err() == nil {
					call, cancel := context.WithTimeout(ctx, time.Minute)
					_, err := c.Client(nodes[w%len(nodes)]).Put(call, fillKey(w), value, base.Cond{})
					cancel()
					if err == nil {
						break // an unknown outcome is written again
					}
				}
				newest[w] = value
			}
		})
	}
	writers.Wait()
	if ctx.Err() != nil {
		t.Fatal("writes do not go on while a node is frozen")
	}
	return newest
}

func fillKey(writer int) base.Key { return base.K(fmt.Sprint("fill/", writer), "") }
