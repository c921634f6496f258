package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/keyenc"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/storage/internal/stream"
)

// export returns the stream of a shard.
func export(t testing.TB, s *Store, shard base.ShardID) ([]byte, StreamInfo) {
	t.Helper()
	sn := streamSnapshot(t, s)
	var buf bytes.Buffer
	info, err := sn.Export(testkit.Context(t), shard, &buf)
	if err != nil {
		t.Fatal(err)
	}
	if info.StreamBytes != int64(buf.Len()) || info.Shard != shard || info.Shards != s.id.Shards {
		t.Fatalf("export says %+v of %d bytes", info, buf.Len())
	}
	return buf.Bytes(), info
}

// TestExportImport moves all shards of one store into another that has other
// data, in every durability, and compares all of it, before and after a
// reopen.
func TestExportImport(t *testing.T) {
	for _, durability := range []Durability{Synced, Relaxed, Volatile} {
		t.Run(durability.String(), func(t *testing.T) {
			testkit.CheckNoLeaks(t)
			r := testkit.Rand(t)
			from := openStream(t, Config{})
			fillStream(t, from, r, 3000)
			cfg := Config{Dir: t.TempDir(), Shards: 4, Durability: durability}
			to, err := Open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			fillStream(t, to, r, 2000)
			for i := range from.id.Shards + 1 {
				shard := from.nthShard(i)
				data, wrote := export(t, from, shard)
				read, err := to.Import(testkit.Context(t), shard, bytes.NewReader(data))
				if err != nil {
					t.Fatal(err)
				}
				if read != wrote {
					t.Fatalf("export says %+v, import %+v", wrote, read)
				}
			}
			want := physical(t, streamSnapshot(t, from))
			sameEntries(t, physical(t, streamSnapshot(t, to)), want)
			if !maps.Equal(digests(t, streamSnapshot(t, to)), digests(t, streamSnapshot(t, from))) {
				t.Error("digests differ")
			}
			if left, _ := filepath.Glob(filepath.Join(cfg.Dir, importPrefix+"*")); len(left) > 0 {
				t.Errorf("left behind %v", left)
			}
			if err := to.Close(); err != nil {
				t.Fatal(err)
			}
			sameEntries(t, physical(t, streamSnapshot(t, openStream(t, cfg))), want)
		})
	}
}

// TestImportSurvivesACrash takes the disk as it is at the moment Import
// returns, with nothing kept that was not synced.
func TestImportSurvivesACrash(t *testing.T) {
	for _, durability := range []Durability{Synced, Volatile} {
		t.Run(durability.String(), func(t *testing.T) {
			r := testkit.Rand(t)
			from := openStream(t, Config{})
			fillStream(t, from, r, 500)
			crashable := vfs.NewCrashableMem()
			cfg := Config{Dir: "/d", FS: crashable, Shards: 4, Durability: durability, DiskReserveBytes: -1}
			to := openStream(t, cfg)
			fillStream(t, to, r, 500)
			data, wrote := export(t, from, 2)
			if _, err := to.Import(testkit.Context(t), 2, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			cfg.FS = crashClone(crashable)
			after := openStream(t, cfg)
			if got := digests(t, streamSnapshot(t, after))[2]; got != wrote.Digest {
				t.Fatal("the imported shard did not survive")
			}
		})
	}
}

// TestImportShowsThroughReadCache reads a key until it is cached and replaces
// its shard.
func TestImportShowsThroughReadCache(t *testing.T) {
	from, to := openStream(t, Config{}), openStream(t, Config{})
	key := base.K("p", "s")
	gone := base.K("p", "gone")
	put := func(s *Store, key base.Key, version base.Version) {
		mustWrite(t, s, func(b *Batch) { b.Put(1, key, Record{Version: version, Value: []byte("v")}) })
	}
	put(from, key, 20)
	put(to, key, 10)
	put(to, gone, 11)
	for range 5 {
		for _, k := range []base.Key{key, gone} {
			if rec, err := to.Space(1).Get(k); err != nil || !rec.Exists() {
				t.Fatal(rec, err)
			}
		}
	}
	data, _ := export(t, from, 1)
	if _, err := to.Import(testkit.Context(t), 1, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if rec, err := to.Space(1).Get(key); err != nil || rec.Version != 20 {
		t.Errorf("got version %d, %v; want 20", rec.Version, err)
	}
	if rec, err := to.Space(1).Get(gone); err != nil || rec.Exists() {
		t.Errorf("a record that was replaced by nothing is still there: %+v, %v", rec, err)
	}
}

// TestImportInvalidatesSnapshots reads an old snapshot in every way.
func TestImportInvalidatesSnapshots(t *testing.T) {
	s := openStream(t, Config{})
	key := base.K("p", "s")
	mustWrite(t, s, func(b *Batch) {
		for shard := range base.ShardID(2) {
			b.Put(shard, key, Record{Version: 1, Value: []byte("old")})
			b.Set(shard, KindMeta, []byte("m"), []byte("old"))
		}
	})
	data, _ := export(t, s, 0)
	old := streamSnapshot(t, s)
	sc := old.Scan()
	defer sc.Close()
	if _, err := s.Import(testkit.Context(t), 0, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	reads := func(sn *Snapshot, shard base.ShardID) map[string]error {
		_, get := sn.Get(shard, key)
		_, head := sn.Head(shard, key)
		_, _, value := sn.Value(shard, KindMeta, []byte("m"))
		var values error
		for _, err := range sn.Values(shard, KindMeta, nil, 0) {
			values = errors.Join(values, err)
		}
		fresh := sn.Scan()
		_, _, page := fresh.Page(nil, PageRequest{Shard: shard})
		_, export := sn.Export(context.Background(), shard, io.Discard)
		return map[string]error{
			"get": get, "head": head, "value": value, "values": values, "page": page, "export": export, "close": fresh.Close(),
		}
	}
	for name, err := range reads(old, 0) {
		if name != "close" && !errors.Is(err, base.ErrUnavailable) {
			t.Errorf("%s of a replaced shard in an old snapshot: %v", name, err)
		}
	}
	if _, _, err := sc.Page(nil, PageRequest{Shard: 0}); !errors.Is(err, base.ErrUnavailable) {
		t.Errorf("page of an old scanner: %v", err)
	}
	for name, err := range reads(old, 1) {
		if err != nil {
			t.Errorf("%s of another shard in an old snapshot: %v", name, err)
		}
	}
	for name, err := range reads(streamSnapshot(t, s), 0) {
		if err != nil {
			t.Errorf("%s in a new snapshot: %v", name, err)
		}
	}
}

// TestImportRefuses gives Import streams that are damaged or of something
// else, and expects that nothing at all changes.
func TestImportRefuses(t *testing.T) {
	r := testkit.Rand(t)
	s := openStream(t, Config{Dir: t.TempDir()})
	fillStream(t, s, r, 2000)
	other := openStream(t, Config{})
	fillStream(t, other, r, 2000)
	good, _ := export(t, other, 1)
	fiveShards := openStream(t, Config{Shards: 5})
	ofFive, _ := export(t, fiveShards, 1)
	ofTwo, _ := export(t, other, 2)
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 0x10
	header := stream.Header{DataFormat: FormatVersion, Shard: 1, Shards: 4}
	newer := header
	newer.DataFormat++
	record := append([]byte{byte(keyenc.SpaceRecord)}, "p\x00\x01s"...)
	before := physical(t, streamSnapshot(t, s))
	for _, c := range []struct {
		name string
		data []byte
		want error
		says string
	}{
		{"flip", flipped, base.ErrCorrupt, "block"},
		{"cut", good[:len(good)-1], base.ErrCorrupt, "cut"},
		{"nothing", nil, base.ErrCorrupt, "cut"},
		{"garbage behind", append(bytes.Clone(good), 1), base.ErrCorrupt, "more bytes"},
		{"another shard", ofTwo, base.ErrInvalid, "of shard 2, not 1"},
		{"another shard count", ofFive, base.ErrInvalid, "of 5 shards, not 4"},
		{"newer data format", sealed(t, newer, nil, nil), base.ErrInvalid, "format 2"},
		{"record that does not decode", sealed(t, header, record, []byte("x")), base.ErrCorrupt, "record of 1 bytes"},
		{"record key that does not decode", sealed(t, header, record[:2], recordOf(1)), base.ErrCorrupt, "primary has no end"},
		{"unknown space", sealed(t, header, []byte{0x99, 1}, nil), base.ErrCorrupt, "unknown space 0x99"},
		{"expiry entry that does not decode", sealed(t, header, []byte{byte(keyenc.SpaceExpiry), 1}, nil), base.ErrCorrupt, "expiry"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := s.Import(testkit.Context(t), 1, bytes.NewReader(c.data))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.says)
			}
			sameEntries(t, physical(t, streamSnapshot(t, s)), before)
			if left, _ := filepath.Glob(filepath.Join(s.cfg.Dir, importPrefix+"*")); len(left) > 0 {
				t.Errorf("left behind %v", left)
			}
		})
	}
	if _, err := s.Import(testkit.Context(t), 4, bytes.NewReader(good)); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("import into a shard that does not exist: %v", err)
	}
	if _, err := streamSnapshot(t, s).Export(testkit.Context(t), 4, io.Discard); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("export of a shard that does not exist: %v", err)
	}
}

func recordOf(version base.Version) []byte {
	return appendRecord(nil, Record{Version: version, Value: []byte("v")})
}

// sealed returns a sound stream with one entry, or none if key is nil.
func sealed(t testing.TB, h stream.Header, key, value []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := stream.NewWriter(&buf, h)
	if err == nil && key != nil {
		err = w.Add(key, value)
	}
	if err == nil {
		_, err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestExportImportCanceled(t *testing.T) {
	s := openStream(t, Config{})
	fillStream(t, s, testkit.Rand(t), 3000)
	data, _ := export(t, s, 1)
	before := physical(t, streamSnapshot(t, s))
	why := errors.New("changed my mind")
	ctx, cancel := context.WithCancelCause(testkit.Context(t))
	cancel(why)
	if _, err := streamSnapshot(t, s).Export(ctx, 1, io.Discard); !errors.Is(err, why) {
		t.Errorf("export: %v", err)
	}
	if _, err := s.Import(ctx, 1, bytes.NewReader(data)); !errors.Is(err, why) {
		t.Errorf("import: %v", err)
	}
	sameEntries(t, physical(t, streamSnapshot(t, s)), before)
}

func TestExportReportsWriteErrors(t *testing.T) {
	s := openStream(t, Config{})
	fillStream(t, s, testkit.Rand(t), 3000)
	full := errors.New("peer went away")
	if _, err := streamSnapshot(t, s).Export(testkit.Context(t), 1, failAfter{new(int), full}); !errors.Is(err, full) {
		t.Fatal(err)
	}
}

type failAfter struct {
	calls *int
	err   error
}

func (f failAfter) Write(p []byte) (int, error) {
	if *f.calls++; *f.calls > 3 {
		return 0, f.err
	}
	return len(p), nil
}

// TestManyPages has values at and around the size of a page, and many pages.
func TestManyPages(t *testing.T) {
	r := testkit.Rand(t)
	from, to := openStream(t, Config{}), openStream(t, Config{})
	sizes := []int{exportPageBytes, exportPageBytes - 100, 1, base.HardMaxValueBytes, 0, exportPageBytes / 2}
	for i := range 40 {
		size := exportPageBytes / 8
		if i < len(sizes) {
			size = sizes[i]
		}
		mustPut(t, from, 1, testKey(i), 1, string(testkit.Bytes(r, size)))
	}
	data, _ := export(t, from, 1)
	if _, err := to.Import(testkit.Context(t), 1, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	sameEntries(t, physical(t, streamSnapshot(t, to)), physical(t, streamSnapshot(t, from)))
}

// TestLargeShardInBoundedMemory moves 96 MiB through Export and Import at
// once, with a few MiB of heap, into several data files.
func TestLargeShardInBoundedMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("moves 96 MiB")
	}
	const records, valueBytes = 96 << 6, 16 << 10
	from := openStream(t, Config{Dir: t.TempDir(), Durability: Relaxed, ReadCacheBytes: -1, BlockCacheBytes: 1 << 20, MemTableBytes: 4 << 20})
	to := openStream(t, Config{Dir: t.TempDir(), Durability: Relaxed, ReadCacheBytes: -1, BlockCacheBytes: 1 << 20, MemTableBytes: 4 << 20})
	r := testkit.Rand(t)
	for i := 0; i < records; i += 64 {
		mustWrite(t, from, func(b *Batch) {
			for j := range 64 {
				b.Put(0, base.K("p", fmt.Sprintf("%08d", i+j)), Record{Version: 1, Value: testkit.Bytes(r, valueBytes)})
			}
		})
	}
	sn := streamSnapshot(t, from)
	heap := watchHeap()
	pr, pw := io.Pipe()
	var exportErr error
	var exporter sync.WaitGroup
	exporter.Go(func() {
		_, exportErr = sn.Export(testkit.Context(t), 0, pw)
		_ = pw.CloseWithError(exportErr)
	})
	info, err := to.Import(testkit.Context(t), 0, pr)
	exporter.Wait()
	grown := heap()
	if err != nil || exportErr != nil || info.Entries != records {
		t.Fatal(err, exportErr, info.Entries)
	}
	t.Logf("moved %d MiB, heap grew by at most %d MiB", info.StreamBytes>>20, grown>>20)
	if grown > 32<<20 {
		t.Errorf("heap grew by %d MiB for a shard of %d MiB", grown>>20, info.StreamBytes>>20)
	}
	tables, err := to.db.SSTables()
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, level := range tables {
		files += len(level)
	}
	if files < 2 {
		t.Errorf("the shard went into %d data files, want several", files)
	}
	if digests(t, streamSnapshot(t, to))[0] != info.Digest {
		t.Error("digests differ")
	}
}

// watchHeap samples the live heap until the function it returns is called,
// which tells by how much it grew at most.
func watchHeap() func() uint64 {
	live := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	start, peak := live(), uint64(0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				peak = max(peak, live())
			}
		}
	})
	return func() uint64 {
		close(stop)
		wg.Wait()
		return max(peak, start) - start
	}
}

// TestStaleImportFilesAreRemoved: what a crash in the middle of an import left
// must not stay for ever.
func TestStaleImportFilesAreRemoved(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), Shards: 4}
	s := openStream(t, cfg)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(cfg.Dir, importPrefix+"1234")
	if err := errors.Join(os.Mkdir(stale, 0o755), os.WriteFile(filepath.Join(stale, "000000.sst"), []byte("x"), 0o644)); err != nil {
		t.Fatal(err)
	}
	openStream(t, cfg)
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", stale, err)
	}
}
