package storage

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"

	"github.com/distributedcache/cache/internal/base"
)

// sealedDir returns a directory with several sealed manifests behind it, and
// the path of the one in use.
func sealedDir(t *testing.T) (mem *vfs.MemFS, manifest string) {
	mem = vfs.NewMem()
	for i := range 12 {
		s := mustOpen(t, memConfig(mem))
		mustPut(t, s, 0, testKey(i), 1, "x")
		mustClose(t, s)
	}
	name, err := atomicfs.ReadMarker(mem, "/db/data", "manifest")
	if err != nil {
		t.Fatal(err)
	}
	return mem, "/db/data/" + name
}

func replaceFile(t *testing.T, fs vfs.FS, path string, buf []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.Write(buf)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestSealedManifest: the engine takes a manifest that was damaged or cut for
// one with a torn tail and forgets what came after; the seal does not.
func TestSealedManifest(t *testing.T) {
	for what, damage := range map[string]func(buf []byte) []byte{
		"last byte flipped":  func(buf []byte) []byte { buf[len(buf)-1] ^= 1; return buf },
		"first byte flipped": func(buf []byte) []byte { buf[0] ^= 1; return buf },
		"last byte cut":      func(buf []byte) []byte { return buf[:len(buf)-1] },
		"emptied":            func(buf []byte) []byte { return nil },
	} {
		mem, manifest := sealedDir(t)
		replaceFile(t, mem, manifest, damage(readWhole(t, mem, manifest)))
		_, err := Open(memConfig(mem))
		wantErr(t, what, err, base.ErrCorrupt)
	}
	mem, manifest := sealedDir(t)
	// A torn tail after what was sealed is how a crash leaves it.
	replaceFile(t, mem, manifest, append(readWhole(t, mem, manifest), "torn"...))
	s := mustOpen(t, memConfig(mem))
	for i := range 12 {
		wantGet(t, s, 0, testKey(i), 1, "x")
	}
}

// TestMissingWitness: without a seal there is less protection, and no harm.
func TestMissingWitness(t *testing.T) {
	mem, _ := sealedDir(t)
	if err := mem.Remove("/db/SEAL"); err != nil {
		t.Fatal(err)
	}
	mustClose(t, mustOpen(t, memConfig(mem)))
	if info, err := mem.Stat("/db/SEAL"); err != nil || info.Size() == 0 {
		t.Fatalf("the next open did not seal: %v", err)
	}
}

func TestFlushesAreShared(t *testing.T) {
	var g flushGroup
	var running, runs atomic.Int32
	var started sync.WaitGroup
	release := make(chan struct{})
	flush := func() error {
		if running.Add(1) != 1 {
			t.Error("two flushes at once")
		}
		runs.Add(1)
		<-release
		running.Add(-1)
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.do(flush) })
	becomes(t, "the first runs", func() bool { return runs.Load() == 1 })
	for range 10 {
		started.Add(1)
		wg.Go(func() { started.Done(); _ = g.do(flush) })
	}
	started.Wait()
	close(release)
	wg.Wait()
	if n := runs.Load(); n < 2 {
		t.Fatalf("%d runs: late callers were answered by a flush that began before them", n)
	}
	failing := errors.New("failed")
	if err := g.do(func() error { return failing }); !errors.Is(err, failing) {
		t.Fatal(err)
	}
}

// TestVolatileSync: what was applied before Sync survives a crash, however
// many call it at once.
func TestVolatileSync(t *testing.T) {
	mem := vfs.NewCrashableMem()
	cfg := memConfig(mem)
	cfg.Durability = Volatile
	s := mustOpen(t, cfg)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 20 {
				key := testKey(i*100 + n)
				if err := write(s, func(b *Batch) { b.Put(0, key, Record{Version: 1}) }); err != nil {
					t.Error(err)
				}
				if err := s.Sync(); err != nil {
					t.Error(err)
				}
				if n%5 != 0 {
					continue
				}
				crashed := cfg
				crashed.FS = mem.CrashClone(vfs.CrashCloneCfg{})
				c, err := Open(crashed)
				if err != nil {
					t.Error(err)
					return
				}
				if head, err := c.Space(0).Head(key); err != nil || !head.Exists() {
					t.Errorf("%v is lost: %v", key, err)
				}
				_ = c.Close()
			}
		})
	}
	wg.Wait()
}

// TestCloseEndsLongWork: Close does not wait for a compaction to finish.
func TestCloseEndsLongWork(t *testing.T) {
	s := openMem(t)
	ctx, cancel := s.untilUseless(context.Background())
	defer cancel()
	mustClose(t, s)
	<-ctx.Done()
}
