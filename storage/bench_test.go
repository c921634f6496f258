package storage

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/internal/keyenc"
)

// The benchmarks here run the raw engine beside the store, with the same
// options on the same kind of directory, so that their ratio is what the
// store costs. 256 byte values throughout.

const benchValueBytes = 256

func benchConfig(b *testing.B) Config {
	return Config{Dir: b.TempDir(), DiskReserveBytes: -1, BlockCacheBytes: 256 << 20, ReadCacheBytes: 256 << 20}
}

// openRaw opens the engine alone.
func openRaw(b *testing.B, cfg Config) *pebble.DB {
	b.Helper()
	cfg = cfg.withDefaults()
	cache := pebble.NewCache(cfg.BlockCacheBytes)
	defer cache.Unref()
	opts := engineOptions(cfg, cache)
	opts.Logger = &engineLog{log: cfg.Logger, fence: diskio.NewFence()}
	db, err := pebble.Open(cfg.Dir, opts)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	return db
}

func benchKey(i int) base.Key {
	return base.K(fmt.Sprintf("user:%04d", i/1000), fmt.Sprintf("item:%03d", i%1000))
}

const benchItems = 200_000

// benchFill puts the same entries into both.
func benchFill(b *testing.B, s *Store, db *pebble.DB) {
	b.Helper()
	value := make([]byte, benchValueBytes)
	r := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < benchItems; {
		sb, rb := s.NewBatch(), db.NewBatch()
		for range 1000 {
			for j := range value {
				value[j] = byte(r.Uint32())
			}
			rec := Record{Version: base.Version(i + 1), Value: value}
			sb.Put(0, benchKey(i), rec)
			_ = rb.Set(keyenc.AppendRecordKey(nil, 0, benchKey(i)), appendRecord(nil, rec), nil)
			i++
		}
		if err := sb.Apply(); err != nil {
			b.Fatal(err)
		}
		if err := db.Apply(rb, pebble.NoSync); err != nil {
			b.Fatal(err)
		}
		_ = sb.Wait()
		sb.Release()
		_ = rb.Close()
	}
	for _, err := range []error{
		s.Flush(b.Context()), db.Flush(), s.Compact(b.Context(), nil), db.Compact(b.Context(), []byte{0}, []byte{0xFF}, true),
	} {
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	cfg := benchConfig(b)
	s, db := mustOpen(b, cfg), openRaw(b, benchConfig(b))
	benchFill(b, s, db)
	keys := make([]base.Key, 1<<14)
	phys := make([][]byte, len(keys))
	for i := range keys {
		keys[i] = benchKey(rand.IntN(benchItems))
		phys[i] = keyenc.AppendRecordKey(nil, 0, keys[i])
	}
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			value, closer, err := db.Get(phys[i%len(phys)])
			if err != nil {
				b.Fatal(err)
			}
			_ = clone(value)
			_ = closer.Close()
		}
	})
	get := func(b *testing.B, s *Store, n int) {
		b.ReportAllocs()
		sp := s.Space(0)
		for i := 0; b.Loop(); i++ {
			if rec, err := sp.Get(keys[i%n]); err != nil || len(rec.Value) != benchValueBytes {
				b.Fatal(rec, err)
			}
		}
	}
	b.Run("uncached", func(b *testing.B) { // the cache is on, but holds 1 % of what is read
		reads := s.reads
		s.reads = newReadCache(1<<20, s.cfg.Logger)
		defer func() { s.reads.close(); s.reads = reads }()
		get(b, s, len(keys))
	})
	b.Run("cached", func(b *testing.B) {
		for i := range 3 * 1024 {
			_, _ = s.Space(0).Get(keys[i%1024])
		}
		get(b, s, 1024)
	})
	b.Run("cached-parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			sp := s.Space(0)
			for i := rand.IntN(1024); pb.Next(); i++ {
				if rec, err := sp.Get(keys[i%1024]); err != nil || len(rec.Value) != benchValueBytes {
					b.Error(rec, err)
				}
			}
		})
	})
	b.Run("off", func(b *testing.B) {
		reads := s.reads
		s.reads = nil
		defer func() { s.reads = reads }()
		get(b, s, len(keys))
	})
}

// BenchmarkPage reads 100 items of one primary. The raw engine only walks over
// them; raw-copy also copies the values to fresh memory, as whoever hands them
// out must. In a process as small as this one the collector runs every few
// hundred pages, which is most of what separates the two.
func BenchmarkPage(b *testing.B) {
	s, db := mustOpen(b, benchConfig(b)), openRaw(b, benchConfig(b))
	benchFill(b, s, db)
	primary := func() string { return benchKey(rand.IntN(benchItems/1000) * 1000).Primary }
	b.Run("raw", func(b *testing.B) {
		rawPages(b, db, primary, func([]byte) {}, func() {})
	})
	b.Run("raw-copy", func(b *testing.B) {
		buf := make([]byte, 0, 100*(benchValueBytes+recordHeaderLen))
		rawPages(b, db, primary, func(v []byte) { buf = append(buf, v...) }, func() { buf = make([]byte, 0, cap(buf)) })
	})
	request := func(change func(*PageRequest)) func() PageRequest {
		return func() PageRequest {
			req := PageRequest{Range: base.Primary(primary()), MaxItems: 100}
			change(&req)
			return req
		}
	}
	b.Run("store", func(b *testing.B) { storePages(b, s, request(func(*PageRequest) {})) })
	b.Run("reverse", func(b *testing.B) { storePages(b, s, request(func(req *PageRequest) { req.Reverse = true })) })
	b.Run("keys-only", func(b *testing.B) { storePages(b, s, request(func(req *PageRequest) { req.KeysOnly = true })) })
}

func rawPages(b *testing.B, db *pebble.DB, primary func() string, each func([]byte), end func()) {
	b.ReportAllocs()
	for b.Loop() {
		p := primary()
		it, err := db.NewIter(&pebble.IterOptions{
			LowerBound: keyenc.AppendBound(nil, 0, base.K(p, "")),
			UpperBound: keyenc.AppendBound(nil, 0, base.K(p+"\x00", "")),
		})
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for ok := it.First(); ok && n < 100; ok = it.Next() {
			v, err := it.ValueAndErr()
			if err != nil || len(v) < benchValueBytes {
				b.Fatal(err)
			}
			each(v)
			n++
		}
		end()
		_ = it.Close()
	}
}

func storePages(b *testing.B, s *Store, request func() PageRequest) {
	b.ReportAllocs()
	var items []base.Item
	for b.Loop() {
		sn, err := s.NewSnapshot()
		if err != nil {
			b.Fatal(err)
		}
		sc := sn.Scan()
		items, _, err = sc.Page(items[:0], request())
		if err != nil || len(items) != 100 {
			b.Fatal(len(items), err)
		}
		_ = sc.Close()
		_ = sn.Close()
	}
}

// BenchmarkOpen opens and closes a new, empty directory.
func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		s, err := Open(Config{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkShards reads 100 items from 30 shards, as a scan across primaries
// does: a few of each, with one scanner.
func BenchmarkShards(b *testing.B) {
	s := mustOpen(b, benchConfig(b))
	for i := range 30_000 {
		mustApply(b, s, func(batch *Batch) {
			batch.Put(base.ShardID(i%30), benchKey(i), Record{Version: 1, Value: make([]byte, benchValueBytes)})
		})
	}
	if err := s.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		sn, err := s.NewSnapshot()
		if err != nil {
			b.Fatal(err)
		}
		sc := sn.Scan()
		var items []base.Item
		for shard := range base.ShardID(30) {
			items, _, err = sc.Page(items, PageRequest{Shard: shard, MaxItems: 4})
			if err != nil {
				b.Fatal(err)
			}
		}
		if len(items) != 120 {
			b.Fatal(len(items))
		}
		_ = sc.Close()
		_ = sn.Close()
	}
}

func mustApply(b *testing.B, s *Store, fill func(batch *Batch)) {
	batch := s.NewBatch()
	fill(batch)
	if err := batch.Apply(); err != nil {
		b.Fatal(err)
	}
	if batch.synced {
		batch.synced = false
		_ = batch.b.SyncWait()
	}
	batch.Release()
}

// BenchmarkBatch writes batches of 1 and 50 records, fsynced, from 1 to 256
// writers at once.
func BenchmarkBatch(b *testing.B) {
	for _, size := range []int{1, 50} {
		for _, writers := range []int{1, 16, 64, 256} {
			name := fmt.Sprintf("size=%d/writers=%d", size, writers)
			b.Run(name+"/raw", func(b *testing.B) {
				db := openRaw(b, benchConfig(b))
				parallel(b, writers, func(n int) error { return rawBatch(db, n, size, pebble.Sync) })
			})
			b.Run(name+"/store", func(b *testing.B) {
				s := mustOpen(b, benchConfig(b))
				parallel(b, writers, func(n int) error { return storeBatch(s, n, size) })
			})
		}
	}
}

// BenchmarkRelaxed writes single records without waiting for the disk.
func BenchmarkRelaxed(b *testing.B) {
	b.Run("raw", func(b *testing.B) {
		db := openRaw(b, benchConfig(b))
		parallel(b, 1, func(n int) error { return rawBatch(db, n, 1, pebble.NoSync) })
	})
	b.Run("store", func(b *testing.B) {
		cfg := benchConfig(b)
		cfg.Durability = Relaxed
		s := mustOpen(b, cfg)
		parallel(b, 1, func(n int) error { return storeBatch(s, n, 1) })
	})
}

func rawBatch(db *pebble.DB, n, size int, opts *pebble.WriteOptions) error {
	batch := db.NewBatch()
	var buf [64]byte
	value := make([]byte, recordHeaderLen+benchValueBytes)
	for i := range size {
		_ = batch.Set(keyenc.AppendRecordKey(buf[:0], 0, benchKey(n*size+i)), value, nil)
	}
	if err := batch.Commit(opts); err != nil {
		return err
	}
	return batch.Close()
}

func storeBatch(s *Store, n, size int) error {
	value := make([]byte, benchValueBytes)
	return write(s, func(batch *Batch) {
		for i := range size {
			batch.Put(0, benchKey(n*size+i), Record{Version: base.Version(n + 1), Value: value})
		}
	})
}

// parallel runs fn b.N times from so many goroutines.
func parallel(b *testing.B, writers int, fn func(n int) error) {
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if err := fn(int(n)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
