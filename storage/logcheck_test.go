package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/internal/testkit"
)

// newestLog returns the path of the only log with contents.
func newestLog(t testing.TB, fsys vfs.FS) string {
	t.Helper()
	dir := fsys.PathJoin("/db", dataDir)
	found := ""
	for _, name := range must(fsys.List(dir)) {
		if strings.HasSuffix(name, ".log") && name > found {
			found = name
		}
	}
	return fsys.PathJoin(dir, found)
}

func readFile(t testing.TB, fsys vfs.FS, path string) []byte {
	t.Helper()
	f, err := fsys.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return must(io.ReadAll(f))
}

func writeFile(t testing.TB, fsys vfs.FS, path string, data []byte) {
	t.Helper()
	f, err := fsys.Create(path, vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRottenLogIsNotCutInSilence flips bits all over a log with records of
// several sizes. Opening must fail, or lose nothing but the last few writes.
func TestRottenLogIsNotCutInSilence(t *testing.T) {
	for _, c := range []struct {
		name       string
		writes     int
		valueBytes int
		step       int
	}{
		{"one block", 200, 60, 61},
		{"many blocks", 900, 300, 997},
		{"records over blocks", 60, 50_000, 9973},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := testkit.Rand(t)
			crashable := vfs.NewCrashableMem()
			cfg := memConfig(crashable)
			cfg.MemTableBytes = 32 << 20
			s := mustOpen(t, cfg)
			for i := range c.writes {
				mustPut(t, s, 0, testKey(i), 1, string(testkit.Bytes(r, c.valueBytes)))
			}
			mem := crashClone(crashable)
			path := newestLog(t, mem)
			sound := readFile(t, mem, path)
			length := len(bytes.TrimRight(sound, "\x00"))
			// The last three writes may be lost: see diskio.CheckLogs.
			tolerated := 3
			refused := 0
			for at := r.IntN(c.step); at < length; at += c.step {
				bad := bytes.Clone(sound)
				bad[at] ^= 1 << r.IntN(8)
				disk := crashClone(crashable)
				writeFile(t, disk, path, bad)
				report, err := CheckFS(testkit.Context(t), cfg.Dir, disk)
				if err != nil {
					t.Fatal(err)
				}
				cfg := cfg
				cfg.FS = disk
				s, err := Open(cfg)
				if err != nil {
					wantErr(t, fmt.Sprintf("flip of byte %d", at), err, base.ErrCorrupt)
					if len(report.Problems) == 0 {
						t.Errorf("byte %d: the check did not find what keeps the store from opening: %v", at, err)
					}
					refused++
					continue
				}
				n := len(physical(t, streamSnapshot(t, s)))
				t.Cleanup(func() { _ = s.Close() })
				if n < c.writes-tolerated {
					t.Errorf("flip of byte %d of %d: opened with %d of %d records", at, length, n, c.writes)
				}
			}
			t.Logf("%d flips refused, log of %d bytes", refused, length)
			if refused < 10 {
				t.Error("too few flips: the test tests nothing")
			}
		})
	}
}

// TestTornLogIsNoRot cuts the power under concurrent writers, with any part of
// what was not synced kept: that must never be taken for rot.
func TestTornLogIsNoRot(t *testing.T) {
	r := testkit.Rand(t)
	rounds := 40
	if testing.Short() {
		rounds = 8
	}
	for round := range rounds {
		crashable := vfs.NewCrashableMem()
		cfg := memConfig(reusingFS{crashable})
		cfg.Durability = []Durability{Synced, Relaxed}[round%2]
		cfg.MemTableBytes = 16 << 20
		s := mustOpen(t, cfg)
		clones := tornClones(t, s, crashable, testkit.Fork(r))
		for i, clone := range clones {
			if err := diskio.CheckLogs(clone, clone.PathJoin("/db", dataDir)); err != nil {
				t.Fatalf("round %d, clone %d: a torn log was taken for a rotten one: %v", round, i, err)
			}
		}
		mustClose(t, s)
	}
}

// reusingFS reuses files in two steps. MemFS does it in one that takes a lock
// twice, which hangs if a CrashClone comes in between.
type reusingFS struct{ *vfs.MemFS }

func (fs reusingFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.Rename(from, to); err != nil {
		return nil, err
	}
	return fs.OpenReadWrite(to, c)
}

// tornClones lets four writers write and cuts the power now and then.
func tornClones(t *testing.T, s *Store, fsys *vfs.MemFS, r *rand.Rand) []*vfs.MemFS {
	t.Helper()
	var wg sync.WaitGroup
	var clones []*vfs.MemFS
	for w := range 4 {
		r := testkit.Fork(r)
		wg.Go(func() {
			for i := range 60 {
				value := testkit.Bytes(r, r.IntN(1+10*r.IntN(3000)))
				err := write(s, func(b *Batch) { b.Put(0, testKey(w*1000+i), Record{Version: 1, Value: value}) })
				if err == nil && s.cfg.Durability == Relaxed && r.IntN(5) == 0 {
					err = s.Sync()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 12 {
		clones = append(clones, fsys.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: []int{0, 30, 50, 80, 100}[r.IntN(5)],
			RNG:                 testkit.Fork(r),
		}))
	}
	wg.Wait()
	return append(clones, fsys.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: r}))
}
