package cache_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/distributedcache/cache"
)

// The benchmarks compare the cache with the storage engine beneath it, run
// bare in the same process with the same settings. Only ratios of one run mean
// something: the machine and its disk decide the rest. TestBenchTable prints
// the same measurements as one table.

const (
	valueBytes  = 256
	batchOps    = 50
	scanItems   = 100
	benchKeys   = 200_000 // distinct keys that writes go to and reads ask for
	hotKeys     = 1000    // of those, the ones that a cached Get asks for
	scanGroups  = 1000    // primaries that scans read, with benchKeys/scanGroups keys each
	benchRounds = 3       // how often each pair of benchmarks is run in turn
)

// operation is what a worker repeats. Each worker has its own random source.
type operation func(r *rand.Rand) error

// workload is one measurement of both sides.
type workload struct {
	name    string
	workers int
	items   int    // keys that one operation touches
	aim     string // what the table says next to the ratio
	setup   func(tb testing.TB) (raw, ours operation)
}

func workloads() []workload {
	var all []workload
	for _, d := range []cache.Durability{cache.Synced, cache.Relaxed} {
		aim := map[cache.Durability]string{cache.Synced: ">= 0.9", cache.Relaxed: ">= 0.6"}[d]
		for _, writers := range []int{1, 16, 64, 256} {
			all = append(all, workload{
				fmt.Sprintf("Put/%v/%dwriters", d, writers), writers, 1, aim,
				func(tb testing.TB) (raw, ours operation) { return putWorkload(tb, d) },
			})
		}
	}
	return append(all,
		workload{"MultiPut50", 16, batchOps, ">= 0.8", multiPutWorkload},
		workload{"Get/cached", 1, 1, ">= 1, < 1 us", cachedGetWorkload},
		workload{"Get/uncached", 1, 1, ">= 0.8", uncachedGetWorkload},
		workload{"Scan100/primary", 1, scanItems, ">= 0.7", primaryScanWorkload},
		workload{"Scan100/owned", 1, scanItems, "raw copies too", ownedScanWorkload},
		workload{"Scan100/across", 1, scanItems, "< 500 us", acrossScanWorkload},
	)
}

func BenchmarkPut(b *testing.B)        { benchmark(b, "Put/") }
func BenchmarkMultiPut50(b *testing.B) { benchmark(b, "MultiPut50") }
func BenchmarkGet(b *testing.B)        { benchmark(b, "Get/") }
func BenchmarkScan100(b *testing.B)    { benchmark(b, "Scan100/") }

// benchmark runs the workloads whose names start with prefix, the two sides in
// turn.
func benchmark(b *testing.B, prefix string) {
	for _, w := range workloads() {
		rest, found := strings.CutPrefix(w.name, prefix)
		if !found {
			continue
		}
		pair := func(b *testing.B) {
			raw, ours := w.setup(b)
			for range benchRounds {
				b.Run("raw", func(b *testing.B) { w.bench(b, raw) })
				b.Run("cache", func(b *testing.B) { w.bench(b, ours) })
			}
		}
		if rest == "" {
			pair(b)
		} else {
			b.Run(rest, pair)
		}
	}
}

func (w *workload) bench(b *testing.B, op operation) {
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	for i := range w.workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), uint64(b.N)))
			for left.Add(-1) >= 0 {
				if err := op(r); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkOpenEmpty opens a cache in a new directory; closing is not counted.
func BenchmarkOpenEmpty(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		b.StartTimer()
		c, err := cache.Open(cache.Options{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkMemory1M stores a million items, reads some of them, and reports
// the memory of the process beyond the caches it was told to have. Run it by
// itself: memory that another benchmark left behind counts as well.
func BenchmarkMemory1M(b *testing.B) {
	const items = 1_000_000
	for b.Loop() {
		c := openAt(b, cache.Options{Dir: b.TempDir(), Storage: cache.StorageOptions{Durability: cache.Relaxed}})
		load(b, c, items, func(i int) cache.Key { return cache.K("user/"+strconv.Itoa(i), "profile") })
		r := rand.New(rand.NewPCG(1, 2))
		for range items / 4 {
			if _, err := c.Get(context.Background(), cache.K("user/"+strconv.Itoa(r.IntN(items)), "profile")); err != nil {
				b.Fatal(err)
			}
		}
		// The engine holds two memtables: the active one, and one that is
		// flushed or kept for reuse.
		configured := 2*cache.DefaultMemTableBytes + cache.DefaultBlockCacheBytes + cache.DefaultReadCacheBytes
		b.ReportMetric(float64(rssBytes(b)-int64(configured))/(1<<20), "MB-over-caches")
		b.ReportMetric(float64(rssBytes(b))/(1<<20), "MB-RSS")
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// rssBytes returns the resident memory of this process.
func rssBytes(tb testing.TB) int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Skip("no resident memory to be read here: ", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(rest)
	kib, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return kib << 10
}

// testData is what both sides of the workloads share.
type testData struct {
	keys    []cache.Key
	rawKeys [][]byte // of the same length and order as what the cache stores
	random  []byte   // values are cut from it
}

// newTestData makes keys of groups primaries.
func newTestData(groups int) *testData {
	d := &testData{random: make([]byte, 1<<20)}
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(d.random); i += 8 {
		binary.LittleEndian.PutUint64(d.random[i:], r.Uint64())
	}
	for i := range benchKeys {
		k := cache.K(fmt.Sprintf("user/%06d", i%groups), fmt.Sprintf("field/%06d", i/groups))
		d.keys = append(d.keys, k)
		shard := uint16(i % groups % cache.DefaultShards)
		raw := append(binary.BigEndian.AppendUint16(nil, shard), 'r')
		raw = append(append(append(raw, k.Primary...), 0, 1), k.Secondary...)
		d.rawKeys = append(d.rawKeys, raw)
	}
	return d
}

// value returns some value; it must not be changed.
func (d *testData) value(r *rand.Rand) []byte {
	at := r.IntN(len(d.random) - valueBytes)
	return d.random[at : at+valueBytes]
}

func openAt(tb testing.TB, opts cache.Options) *cache.Cache {
	tb.Helper()
	c, err := cache.Open(opts)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// benchCache opens the cache of a workload, which ends with tb.
func benchCache(tb testing.TB, storage cache.StorageOptions) *cache.Cache {
	tb.Helper()
	c := openAt(tb, cache.Options{Dir: tb.TempDir(), Storage: storage})
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// benchRaw opens the bare storage engine of a workload, with the settings that
// the cache gives it.
func benchRaw(tb testing.TB) *pebble.DB {
	tb.Helper()
	db, err := pebble.Open(tb.TempDir(), rawOptions())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

// settle waits for garbage of the setup to be gone.
func settle() { runtime.GC(); runtime.GC() }
