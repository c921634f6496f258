package cache_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"github.com/distributedcache/cache"
)

// rawOptions are those that the cache gives the storage engine by default.
func rawOptions() *pebble.Options {
	opts := &pebble.Options{
		Cache:                       pebble.NewCache(cache.DefaultBlockCacheBytes + 2*cache.DefaultMemTableBytes),
		MemTableSize:                cache.DefaultMemTableBytes,
		MemTableStopWritesThreshold: 3,
		L0StopWritesThreshold:       1 << 20,
		FormatMajorVersion:          pebble.FormatNewest,
		CompactionConcurrencyRange:  func() (int, int) { return 1, min(2, runtime.GOMAXPROCS(0)) },
		Logger:                      quiet{},
	}
	for i := range opts.Levels {
		opts.Levels[i].BlockSize = 8 << 10
		opts.Levels[i].IndexBlockSize = 64 << 10
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	return opts
}

// quiet is a logger of the engine that says nothing.
type quiet struct{}

func (quiet) Infof(string, ...any)             {}
func (quiet) Errorf(string, ...any)            {}
func (quiet) Fatalf(format string, arg ...any) { panic(format) }

func putWorkload(tb testing.TB, d cache.Durability) (raw, ours operation) {
	data, db := newTestData(benchKeys), benchRaw(tb)
	c := benchCache(tb, cache.StorageOptions{Durability: d})
	sync := &pebble.WriteOptions{Sync: d == cache.Synced}
	raw = func(r *rand.Rand) error {
		return db.Set(data.rawKeys[r.IntN(benchKeys)], data.value(r), sync)
	}
	ours = func(r *rand.Rand) error {
		_, err := c.Put(context.Background(), data.keys[r.IntN(benchKeys)], data.value(r))
		return err
	}
	return raw, ours
}

func multiPutWorkload(tb testing.TB) (raw, ours operation) {
	data, db := newTestData(benchKeys), benchRaw(tb)
	c := benchCache(tb, cache.StorageOptions{})
	raw = func(r *rand.Rand) error {
		batch := db.NewBatch()
		defer batch.Close()
		for range batchOps {
			if err := batch.Set(data.rawKeys[r.IntN(benchKeys)], data.value(r), nil); err != nil {
				return err
			}
		}
		return batch.Commit(pebble.Sync)
	}
	ours = func(r *rand.Rand) error {
		ops := make([]cache.Op, batchOps)
		first := r.IntN(benchKeys) // a batch names each key once: step through them
		for i := range ops {
			ops[i] = cache.PutOp(data.keys[(first+i*7919)%benchKeys], data.value(r))
		}
		_, err := c.MultiPut(context.Background(), ops)
		return err
	}
	return raw, ours
}

// loadBoth stores the same data on both sides and compacts them, so that reads
// find it in as many levels here as there.
func loadBoth(tb testing.TB, data *testData, db *pebble.DB, c *cache.Cache) {
	tb.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	for i := range data.rawKeys {
		if err := db.Set(data.rawKeys[i], data.value(r), pebble.NoSync); err != nil {
			tb.Fatal(err)
		}
	}
	if err := db.Compact(context.Background(), []byte{0}, []byte{0xff}, true); err != nil {
		tb.Fatal(err)
	}
	load(tb, c, len(data.keys), func(i int) cache.Key { return data.keys[i] })
	if err := drain(c.Admin().Compact(context.Background())); err != nil {
		tb.Fatal(err)
	}
	settle()
}

// load stores n items in batches.
func load(tb testing.TB, c *cache.Cache, n int, key func(int) cache.Key) {
	tb.Helper()
	const batch = 1000
	r := rand.New(rand.NewPCG(3, 4))
	random := newValues(r)
	ops := make([]cache.Op, 0, batch)
	for i := range n {
		ops = append(ops, cache.PutOp(key(i), random[r.IntN(len(random))]))
		if len(ops) < batch && i < n-1 {
			continue
		}
		if _, err := c.MultiPut(context.Background(), ops); err != nil {
			tb.Fatal(err)
		}
		ops = ops[:0]
	}
}

// newValues returns some values that do not compress.
func newValues(r *rand.Rand) [][]byte {
	values := make([][]byte, 4096)
	for i := range values {
		values[i] = make([]byte, valueBytes)
		for j := range values[i] {
			values[i][j] = byte(r.Uint32())
		}
	}
	return values
}

func getWorkload(tb testing.TB, among int, storage cache.StorageOptions) (raw, ours operation) {
	data, db := newTestData(benchKeys), benchRaw(tb)
	storage.Durability = cache.Relaxed // loads faster; nothing is written afterwards
	c := benchCache(tb, storage)
	loadBoth(tb, data, db, c)
	raw = func(r *rand.Rand) error {
		value, closer, err := db.Get(data.rawKeys[r.IntN(among)])
		if err != nil {
			return err
		}
		kept = append([]byte(nil), value...)
		return closer.Close()
	}
	ours = func(r *rand.Rand) error {
		item, err := c.Get(context.Background(), data.keys[r.IntN(among)])
		kept = item.Value
		return err
	}
	warm(tb, raw, 3*among)
	warm(tb, ours, 3*among) // the second miss takes a key into the read cache
	return raw, ours
}

// warm repeats op, to fill caches.
func warm(tb testing.TB, op operation, n int) {
	tb.Helper()
	r := rand.New(rand.NewPCG(5, 6))
	for range n {
		if err := op(r); err != nil {
			tb.Fatal(err)
		}
	}
}

// kept and keptKey keep the compiler from dropping what a benchmark reads. The
// workloads that write them have one worker.
var kept, keptKey []byte

func cachedGetWorkload(tb testing.TB) (raw, ours operation) {
	return getWorkload(tb, hotKeys, cache.StorageOptions{})
}

func uncachedGetWorkload(tb testing.TB) (raw, ours operation) {
	return getWorkload(tb, benchKeys, cache.StorageOptions{ReadCacheBytes: -1})
}

func primaryScanWorkload(tb testing.TB) (raw, ours operation) {
	return scanWorkload(tb, scanGroups, false, inPrimary)
}

func ownedScanWorkload(tb testing.TB) (raw, ours operation) {
	return scanWorkload(tb, scanGroups, true, inPrimary)
}

func acrossScanWorkload(tb testing.TB) (raw, ours operation) {
	return scanWorkload(tb, benchKeys, false, func(start cache.Key) cache.Range { return cache.Range{Start: start} })
}

func inPrimary(start cache.Key) cache.Range { return cache.Primary(start.Primary) }

// scanWorkload reads 100 items in order, of one primary or of as many primaries
// as there are. The raw side has no shards to merge. It looks at keys and
// values in place or, if owned, copies them for the caller to keep, as the
// cache always does.
func scanWorkload(tb testing.TB, groups int, owned bool, from func(cache.Key) cache.Range) (raw, ours operation) {
	data, db := newTestData(groups), benchRaw(tb)
	c := benchCache(tb, cache.StorageOptions{Durability: cache.Relaxed})
	loadBoth(tb, data, db, c)
	starts := groups * 9 / 10 // from there on 100 items follow on either side
	raw = func(r *rand.Rand) error { return rawScan(db, data.rawKeys[r.IntN(starts)], owned) }
	ours = func(r *rand.Rand) error {
		n := 0
		for item, err := range c.RangeScan(context.Background(), from(data.keys[r.IntN(starts)]), cache.Limit(scanItems)) {
			if err != nil {
				return err
			}
			kept = item.Value
			n++
		}
		return wantItems(n)
	}
	return raw, ours
}

func rawScan(db *pebble.DB, from []byte, owned bool) error {
	it, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	n := 0
	for ok := it.SeekGE(from); ok && n < scanItems; ok = it.Next() {
		key := it.Key()
		value, err := it.ValueAndErr()
		if err != nil {
			break // Close returns it
		}
		if owned {
			key, value = slices.Clone(key), slices.Clone(value)
		}
		keptKey, kept = key, value
		n++
	}
	if err := it.Close(); err != nil {
		return err
	}
	return wantItems(n)
}
