package node

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/storage"
)

var crashPoints = flag.Int("crashpoints", 3000, "power failures of TestPowerLoss")

// crashesPerStore is how many power failures one running node sees before it
// starts anew, so that what is cloned stays small.
const crashesPerStore = 60

// TestPowerLoss takes the power from a node that writes, at random moments,
// and opens what is left on the disk, of which none, half or all of the data
// that was not synced is there. Every acknowledged write must be found again,
// every batch whole or not at all, and nothing that a reader was shown may be
// gone.
func TestPowerLoss(t *testing.T) {
	points := *crashPoints
	if testing.Short() {
		points = 300
	}
	rng := testkit.Rand(t)
	total := &ledger{}
	for done := 0; done < points; done += crashesPerStore {
		crashWhileWriting(t, testkit.Fork(rng), min(crashesPerStore, points-done), total)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d power failures, %d batches acknowledged, %d reads", points, total.acked.Load(), total.read.Load())
	if total.acked.Load() < int64(points) {
		t.Errorf("only %d acknowledged batches: the test proves too little", total.acked.Load())
	}
}

type ledger struct{ acked, read atomic.Int64 }

const (
	crashWriters = 6
	crashKeys    = 5 // of one batch, on any shards
)

// crashRun is one running node. Writer w writes its keys in batches that all
// carry the number of the batch, so what is found tells which batch it is from.
type crashRun struct {
	node  *Node
	total *ledger
	mu    sync.Mutex
	floor map[int]int // writer -> batch that must be found, at least
}

func (r *crashRun) promise(writer, batch int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.floor[writer] = max(r.floor[writer], batch)
}

func (r *crashRun) promised() map[int]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.floor)
}

func crashWhileWriting(t *testing.T, rng *rand.Rand, crashes int, total *ledger) {
	fs := testkit.NewCrashFS()
	run := &crashRun{node: openTest(t, testConfig(fs, storage.Synced)), total: total, floor: map[int]int{}}
	ctx, stop := context.WithCancel(testkit.Context(t))
	var workers sync.WaitGroup
	for w := range crashWriters {
		r := testkit.Fork(rng)
		workers.Go(func() { run.write(ctx, t, r, w) })
	}
	r := testkit.Fork(rng)
	workers.Go(func() { run.watch(ctx, t, r) })
	for i := range crashes {
		pause(rng)
		floor := run.promised() // before the clone: all of this must be in it
		clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * (i % 3), RNG: testkit.Fork(rng)})
		checkAfterCrash(t, clone, floor)
		if t.Failed() {
			break
		}
	}
	stop()
	workers.Wait()
	if err := run.node.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// pause lets the writers go on for a random moment.
func pause(rng *rand.Rand) { time.Sleep(time.Duration(rng.IntN(1500)) * time.Microsecond) }

func crashKey(writer, i int) base.Key {
	return base.K(fmt.Sprintf("w%d-%d", writer, i), "v")
}

func (r *crashRun) write(ctx context.Context, t *testing.T, rng *rand.Rand, writer int) {
	for batch := 1; ctx.Err() == nil; batch++ {
		writes := make([]base.Write, crashKeys)
		for i := range writes {
			writes[i] = put(crashKey(writer, i), strconv.Itoa(batch)+strings.Repeat(".", rng.IntN(200)))
		}
		if batch%7 == 0 { // a batch that leaves nothing must be found as well
			for i := range writes {
				writes[i] = base.Write{Kind: base.WriteDelete, Key: writes[i].Key}
			}
		}
		writes = append(writes, put(crashKey(writer, crashKeys), strconv.Itoa(batch)))
		if _, err := r.node.MultiWrite(ctx, writes, base.TxOptions{}); err != nil {
			if ctx.Err() == nil {
				t.Errorf("write: %v", err)
			}
			return
		}
		r.promise(writer, batch)
		r.total.acked.Add(1)
	}
}

// watch reads what the writers write: a batch that was seen must last.
func (r *crashRun) watch(ctx context.Context, t *testing.T, rng *rand.Rand) {
	for ctx.Err() == nil {
		writer := rng.IntN(crashWriters)
		item, err := r.node.Get(ctx, crashKey(writer, crashKeys), base.ReadOptions{})
		if err != nil {
			if !errors.Is(err, base.ErrNotFound) && ctx.Err() == nil {
				t.Errorf("get: %v", err)
				return
			}
			continue
		}
		r.promise(writer, batchOf(t, item))
		r.total.read.Add(1)
	}
}

func batchOf(t *testing.T, item base.Item) int {
	n, err := strconv.Atoi(strings.TrimRight(string(item.Value), "."))
	if err != nil {
		t.Errorf("%v holds %q, which nobody wrote", item.Key, item.Value)
	}
	return n
}

func checkAfterCrash(t *testing.T, fs storage.FS, floor map[int]int) {
	t.Helper()
	n, err := Open(context.Background(), testConfig(fs, storage.Synced))
	if err != nil {
		t.Errorf("open after a power failure: %v", err)
		return
	}
	defer n.Close()
	for w := range crashWriters {
		keys := make([]base.Key, crashKeys+1)
		for i := range keys {
			keys[i] = crashKey(w, i)
		}
		items, err := n.MultiGet(context.Background(), keys, base.ReadOptions{})
		if err != nil {
			t.Errorf("read after a power failure: %v", err)
			return
		}
		last := items[crashKeys]
		if !last.Exists() {
			if floor[w] > 0 {
				t.Errorf("writer %d: batch %d was promised, nothing is there", w, floor[w])
			}
			continue
		}
		batch := batchOf(t, last)
		if batch < floor[w] {
			t.Errorf("writer %d: batch %d was promised, %d is there", w, floor[w], batch)
		}
		for _, item := range items[:crashKeys] {
			if batch%7 == 0 && item.Exists() {
				t.Errorf("%v exists, batch %d deleted it", item.Key, batch)
			}
			if batch%7 != 0 && (batchOf(t, item) != batch || item.Version != last.Version) {
				t.Errorf("%v is of batch %q, version %d, another key of batch %d, version %d",
					item.Key, item.Value, item.Version, batch, last.Version)
			}
		}
	}
}
