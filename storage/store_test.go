package storage

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/distributedcache/cache/internal/base"
)

func TestReopenKeepsEverything(t *testing.T) {
	for _, durability := range []Durability{Synced, Relaxed, Volatile} {
		t.Run(durability.String(), func(t *testing.T) {
			cfg := memConfig(vfs.NewMem())
			cfg.Durability = durability
			s := mustOpen(t, cfg)
			id := s.Identity()
			for i := range 100 {
				mustPut(t, s, 1, testKey(i), base.Version(i+1), "value")
			}
			mustClose(t, s)
			s = mustOpen(t, cfg)
			if s.Identity() != id || id.NodeID == "" || id.Shards != 4 || id.Format != FormatVersion {
				t.Fatalf("identity %+v, was %+v", s.Identity(), id)
			}
			for i := range 100 {
				wantGet(t, s, 1, testKey(i), base.Version(i+1), "value")
			}
			wantGet(t, s, 2, testKey(1), 0, "")
		})
	}
}

func TestInMemory(t *testing.T) {
	s := mustOpen(t, Config{})
	mustPut(t, s, 0, base.K("a", ""), 1, "x")
	wantGet(t, s, 0, base.K("a", ""), 1, "x")
	for _, err := range []error{s.Sync(), s.Flush(t.Context()), s.Writable()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if s.Identity().Shards != DefaultShards {
		t.Fatalf("%+v", s.Identity())
	}
	mustClose(t, s)
	other := mustOpen(t, Config{})
	wantGet(t, other, 0, base.K("a", ""), 0, "")
}

func TestClosed(t *testing.T) {
	s := openMem(t)
	key := base.K("a", "")
	mustPut(t, s, 0, key, 1, "x")
	wantGet(t, s, 0, key, 1, "x")
	wantGet(t, s, 0, key, 1, "x")
	sn, err := s.NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	sc := sn.Scan()
	if _, _, err := sc.Page(nil, PageRequest{}); err != nil {
		t.Fatal(err)
	}
	b := s.NewBatch()
	b.Put(0, key, Record{Version: 2})
	mustClose(t, s) // closes the snapshot and the scanner

	_, getErr := s.Space(0).Get(key)
	_, headErr := s.Space(0).Head(key)
	_, _, valueErr := s.Space(0).Value(KindMeta, nil)
	_, expiredErr := s.Space(0).Expired(1, 1)
	_, _, lastErr := s.Space(0).Last(KindMeta)
	_, snErr := s.NewSnapshot()
	_, snGetErr := sn.Get(0, key)
	_, _, pageErr := sc.Page(nil, PageRequest{})
	var valuesErr error
	for _, err := range s.Space(0).Values(KindMeta, nil, 0) {
		valuesErr = err
	}
	for what, err := range map[string]error{
		"Get": getErr, "Head": headErr, "Value": valueErr, "Values": valuesErr, "Expired": expiredErr, "Last": lastErr,
		"NewSnapshot": snErr, "Snapshot.Get": snGetErr, "Page": pageErr, "Apply": b.Apply(), "empty Apply": s.NewBatch().Apply(),
		"Sync": s.Sync(), "Flush": s.Flush(t.Context()), "Compact": s.Compact(t.Context(), nil), "DropShard": s.DropShard(0),
		"Writable": s.Writable(),
	} {
		wantErr(t, what, err, base.ErrClosed)
	}
	for _, err := range []error{sc.Close(), sn.Close(), s.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	b.Release()
	if s.Stats() != (base.StorageStats{}) {
		t.Fatal("stats of a closed store")
	}
}

func TestOpenRefusals(t *testing.T) {
	mem := vfs.NewMem()
	cfg := memConfig(mem)
	s := mustOpen(t, cfg)

	_, err := Open(cfg)
	wantErr(t, "second open", err, base.ErrInUse)
	id := s.Identity()
	mustClose(t, s)

	other := cfg
	other.Shards = 5
	_, err = Open(other)
	wantErr(t, "other shard count", err, base.ErrInvalid)
	other = cfg
	other.NodeID = "somebody else"
	_, err = Open(other)
	wantErr(t, "other node", err, base.ErrInvalid)

	id.Format++
	if err := writeIdentity(mem, "/db", id); err != nil {
		t.Fatal(err)
	}
	_, err = Open(cfg)
	wantErr(t, "newer format", err, base.ErrInvalid)
	id.Format--
	if err := writeIdentity(mem, "/db", id); err != nil {
		t.Fatal(err)
	}

	for what, bad := range map[string]Config{
		"shards":      {Shards: base.MaxShards + 1},
		"negative":    {Shards: -1},
		"durability":  {Durability: 9},
		"compression": {Compression: -1},
		"memtable":    {MemTableBytes: 5 << 30},
		"cache":       {BlockCacheBytes: -1},
		"node id":     {NodeID: strings.Repeat("x", 200)},
	} {
		_, err := Open(bad)
		wantErr(t, what, err, base.ErrInvalid)
	}
	mustClose(t, mustOpen(t, cfg))
}

func TestOpenOnDisk(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: filepath.Join(dir, "new", "db"), DiskReserveBytes: -1}
	s := mustOpen(t, cfg)
	mustPut(t, s, 0, base.K("a", ""), 1, "x")

	link := filepath.Join(dir, "link")
	if err := os.Symlink(cfg.Dir, link); err != nil {
		t.Fatal(err)
	}
	_, err := Open(Config{Dir: link})
	wantErr(t, "the same directory by another name", err, base.ErrInUse)
	mustClose(t, s)
	s = mustOpen(t, Config{Dir: link, DiskReserveBytes: -1})
	wantGet(t, s, 0, base.K("a", ""), 1, "x")
	mustClose(t, s)

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(Config{Dir: file})
	wantErr(t, "a file", err, base.ErrInvalid)
	_, err = Open(Config{Dir: filepath.Join(file, "db")})
	wantErr(t, "below a file", err, base.ErrInvalid)
}

// TestOpenNotWritable: errors of permission come out typed, whichever
// operation meets them. The tests may run as root, so they are injected.
func TestOpenNotWritable(t *testing.T) {
	denied := func(op errorfs.Op, path string) error {
		return &fs.PathError{Op: "open", Path: path, Err: syscall.EACCES}
	}
	for what, kind := range map[string]errorfs.OpKind{
		"make directory": errorfs.OpMkdirAll, "lock": errorfs.OpLock, "create": errorfs.OpCreate, "rename": errorfs.OpRename,
	} {
		for _, existing := range []bool{false, true} {
			if existing && kind == errorfs.OpMkdirAll {
				continue
			}
			mem := vfs.NewMem()
			if existing {
				mustClose(t, mustOpen(t, memConfig(mem)))
			}
			cfg := memConfig(faulty(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind == kind {
					return denied(op, op.Path)
				}
				return nil
			})))
			_, err := Open(cfg)
			wantErr(t, what, err, base.ErrInvalid)
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v does not wrap fs.ErrPermission", what, err)
			}
		}
	}
}

// TestMissingFiles: the store does not begin anew where it cannot find what
// was there.
func TestMissingFiles(t *testing.T) {
	for _, missing := range []string{"IDENTITY", "data", "data/marker.manifest", "data/marker.format", "data/MANIFEST", "data/*.sst"} {
		t.Run(strings.ReplaceAll(missing, "/", "_"), func(t *testing.T) {
			mem := vfs.NewMem()
			s := mustOpen(t, memConfig(mem))
			mustPut(t, s, 0, base.K("a", ""), 1, "x")
			mustClose(t, s)
			dir, name := mem.PathDir("/db/"+missing), mem.PathBase(missing)
			names, err := mem.List(dir)
			if err != nil {
				t.Fatal(err)
			}
			removed := 0
			for _, n := range names {
				if strings.HasPrefix(n, name) || (name == "*.sst" && strings.HasSuffix(n, ".sst")) {
					if err := mem.RemoveAll(mem.PathJoin(dir, n)); err != nil {
						t.Fatal(err)
					}
					removed++
				}
			}
			if removed == 0 {
				t.Fatal("nothing to remove")
			}
			_, err = Open(memConfig(mem))
			wantErr(t, missing, err, base.ErrCorrupt)
		})
	}
}

func TestIdentityFile(t *testing.T) {
	id := Identity{Format: 1, NodeID: "n1", ClusterID: "c1", Shards: 30}
	const golden = `{"format":1,"node_id":"n1","cluster_id":"c1","shards":30}` + "\n70bca9b5b3fad49a\n"
	buf := id.encode()
	if string(buf) != golden {
		t.Fatalf("encoded as %q", buf)
	}
	if got, err := decodeIdentity(buf); err != nil || got != id {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range buf {
		for bit := range 8 {
			bad := bytes.Clone(buf)
			bad[i] ^= 1 << bit
			if _, err := decodeIdentity(bad); !errors.Is(err, base.ErrCorrupt) {
				t.Fatalf("bit %d of byte %d flipped: %v", bit, i, err)
			}
		}
		if _, err := decodeIdentity(buf[:i]); !errors.Is(err, base.ErrCorrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

func FuzzIdentity(f *testing.F) {
	f.Add(Identity{Format: 1, NodeID: "n1", Shards: 30}.encode())
	f.Add([]byte("{}\n0000000000000000\n"))
	f.Fuzz(func(t *testing.T, buf []byte) {
		if id, err := decodeIdentity(buf); err == nil && id.Shards < 1 {
			t.Fatalf("%+v", id)
		} else if err != nil && sentinels(err) != 1 {
			t.Fatal(err)
		}
	})
}

func TestDropShard(t *testing.T) {
	s := openMem(t)
	for shard := range base.ShardID(4) {
		mustWrite(t, s, func(b *Batch) {
			b.Put(shard, base.K("a", ""), Record{Version: 1, ExpiresAt: 5, Value: []byte("x")})
			b.Set(shard, KindMeta, []byte("m"), []byte("x"))
		})
		for range 3 {
			wantGet(t, s, shard, base.K("a", ""), 1, "x")
		}
	}
	if err := s.DropShard(1); err != nil {
		t.Fatal(err)
	}
	wantGet(t, s, 0, base.K("a", ""), 1, "x")
	wantGet(t, s, 1, base.K("a", ""), 0, "")
	wantGet(t, s, 2, base.K("a", ""), 1, "x")
	if _, found, err := s.Space(1).Value(KindMeta, []byte("m")); found || err != nil {
		t.Fatal(found, err)
	}
	if due, err := s.Space(1).Expired(9, 0); err != nil || len(due) != 0 {
		t.Fatal(due, err)
	}
	mustPut(t, s, 1, base.K("a", ""), 2, "y")
	wantGet(t, s, 1, base.K("a", ""), 2, "y")
}

func TestCompactReportsAndStops(t *testing.T) {
	s := openMem(t)
	mustPut(t, s, 0, base.K("a", ""), 1, "x")
	var last base.Progress
	if err := s.Compact(t.Context(), func(p base.Progress) { last = p }); err != nil {
		t.Fatal(err)
	}
	if last.Done != 5 || last.Total != 5 || last.Stage != "compact" {
		t.Fatalf("%+v", last)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Compact(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestStats(t *testing.T) {
	cfg := memConfig(vfs.NewMem())
	s := mustOpen(t, cfg)
	mustPut(t, s, 0, base.K("a", ""), 1, "x")
	for range 5 {
		wantGet(t, s, 0, base.K("a", ""), 1, "x")
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.reads.entries.CleanUp() // it counts in the background
	st := s.Stats()
	if st.DiskBytes <= 0 || st.Flushes < 1 || st.ReadCacheHits < 5 || st.ReadCacheMisses < 2 || st.ReadCacheItems != 1 || st.ReadCacheBytes <= 0 {
		t.Fatalf("%+v", st)
	}
}

// TestSilent: nothing is printed, and the engine's log goes to ours.
func TestLogs(t *testing.T) {
	var out bytes.Buffer
	cfg := memConfig(vfs.NewMem())
	cfg.Logger = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := mustOpen(t, cfg)
	mustPut(t, s, 0, base.K("a", ""), 1, "x")
	mustClose(t, s)
	if !strings.Contains(out.String(), "memtable flushed") {
		t.Errorf("logged: %s", out.String())
	}
}

// TestDirectoryLikeThoseInMemory: the name of a directory does not make it
// one in memory.
func TestDirectoryLikeThoseInMemory(t *testing.T) {
	mem := vfs.NewCrashableMem()
	cfg := memConfig(mem)
	cfg.Dir, cfg.Durability = memDir, Volatile
	s := mustOpen(t, cfg)
	mustPut(t, s, 0, base.K("a", ""), 1, "x")
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	cfg.FS = mem.CrashClone(vfs.CrashCloneCfg{})
	wantGet(t, mustOpen(t, cfg), 0, base.K("a", ""), 1, "x")
}

// TestCloseWaitsForSnapshotsThatAreBeingClosed lets readers end while the store
// closes.
func TestCloseWaitsForSnapshotsThatAreBeingClosed(t *testing.T) {
	for range 100 {
		s, err := Open(Config{Dir: "/db", FS: vfs.NewMem(), Shards: 1, DiskReserveBytes: -1, MemTableBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		var readers, reading sync.WaitGroup
		for range 8 {
			reading.Add(1)
			readers.Go(func() {
				for i := 0; ; i++ {
					sn, err := s.NewSnapshot()
					if i == 0 {
						reading.Done()
					}
					if err != nil {
						return
					}
					if err := sn.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		reading.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		readers.Wait()
	}
}
