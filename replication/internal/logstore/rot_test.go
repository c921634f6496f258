package logstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/testkit"
)

// rotSteps is how many steps a directory holds whose files are damaged.
const rotSteps = 150

// rotTail is how many of the newest steps damage to the log of a store that
// crashed may cost without being noticed: those of three syncs (see
// diskio.CheckLogs), and those that the damage itself reaches over.
const rotTail = 3 + 2

// rotDir is a directory to be damaged, and the history that is in it.
type rotDir struct {
	name    string
	clean   bool // it was closed in good order
	disk    *vfs.MemFS
	history *history
	files   []string
}

// newRotDir saves steps one by one, each of them synced.
func newRotDir(t *testing.T, rng *rand.Rand, name string, clean bool, memTableBytes int64) *rotDir {
	t.Helper()
	disk := vfs.NewCrashableMem()
	cfg := rotConfig(disk)
	cfg.FS, cfg.MemTableBytes = freshLogs{disk}, memTableBytes
	s := mustOpen(t, cfg)
	d := &rotDir{name: name, clean: clean, disk: disk, history: newHistory(0)}
	steps := 0
	more := func() bool { steps++; return steps <= rotSteps }
	d.history.work(t, s, rng, 0, more, func() bool { return true })
	if !clean {
		d.disk = disk.CrashClone(vfs.CrashCloneCfg{})
	}
	must(t, s.Close())
	for _, dir := range []string{cfg.Dir, cfg.Dir + "/" + engineDir} {
		names, err := d.disk.List(dir)
		must(t, err)
		for _, name := range names {
			path := d.disk.PathJoin(dir, name)
			if info, err := d.disk.Stat(path); err == nil && !info.IsDir() && info.Size() > 0 {
				d.files = append(d.files, path)
			}
		}
	}
	return d
}

func rotConfig(disk vfs.FS) Config {
	cfg := crashConfig(disk)
	cfg.MemTableBytes = 8 << 20
	return cfg
}

// rotKinds are the ways in which a file is damaged at a place.
var rotKinds = map[string]func(rng *rand.Rand, buf []byte, at int) []byte{
	"flip":    func(rng *rand.Rand, buf []byte, at int) []byte { buf[at] ^= 1 << rng.IntN(8); return buf },
	"zero":    func(_ *rand.Rand, buf []byte, at int) []byte { clear(buf[at:min(at+512, len(buf))]); return buf },
	"garbage": func(rng *rand.Rand, buf []byte, at int) []byte { copy(buf[at:], testkit.Bytes(rng, 64)); return buf },
	"cut":     func(_ *rand.Rand, buf []byte, at int) []byte { return buf[:at] },
}

// damage returns a copy of the directory with one file damaged.
func (d *rotDir) damage(t *testing.T, rng *rand.Rand, path, kind string, at int) *vfs.MemFS {
	t.Helper()
	disk := d.disk.CrashClone(vfs.CrashCloneCfg{})
	buf := rotKinds[kind](rng, readFile(t, disk, path), at)
	f, err := disk.Create(path, vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = f.Write(buf)
	must(t, errors.Join(err, f.Sync(), f.Close(), diskio.SyncDir(disk, disk.PathDir(path))))
	return disk
}

func readFile(t *testing.T, disk vfs.FS, path string) []byte {
	t.Helper()
	f, err := disk.Open(path)
	must(t, err)
	buf, err := io.ReadAll(f)
	must(t, errors.Join(err, f.Close()))
	return buf
}

// lost opens what is left and returns how many promised steps are missing, or that
// it was refused, by Open or by what reading trips.
func (d *rotDir) lost(t *testing.T, disk vfs.FS) (lost uint64, refused bool) {
	t.Helper()
	s, err := Open(rotConfig(disk))
	if err != nil {
		wantErr(t, err, base.ErrCorrupt)
		return 0, true
	}
	s.Release() // a fenced store answers, and nobody hears it
	defer s.Close()
	rs, err := s.ReadRaftState(d.history.shards[0], 1, 0)
	if err != nil && !errors.Is(err, raftio.ErrNoSavedLog) {
		t.Errorf("%s: %v", d.name, err)
	}
	err = d.history.check(s, 0)
	if s.Err() != nil {
		wantErr(t, s.Err(), base.ErrCorrupt)
		return 0, true
	}
	if err != nil {
		t.Errorf("%s: what is left is no state of the past: %v", d.name, err)
	}
	floor := d.history.promised()
	return floor - min(floor, stepOf(rs.State)), false
}

// TestRottenLogIsNotCutInSilence damages the newest log of a store that crashed
// all over: Open refuses it, or nothing is missing but the last few steps. A log
// that was cut looks like one whose end was never synced: then what is left is a
// state of the past, and whole.
func TestRottenLogIsNotCutInSilence(t *testing.T) {
	rng := testkit.Rand(t)
	d := newRotDir(t, rng, "crashed", false, 8<<20)
	log := ""
	for _, path := range d.files {
		if strings.HasSuffix(path, logSuffix) && path > log {
			log = path
		}
	}
	length := len(bytes.TrimRight(readFile(t, d.disk, log), "\x00"))
	places := 60
	if testing.Short() || invariants.Enabled {
		places = 30
	}
	counts := map[string]int{}
	for kind := range rotKinds {
		for range places {
			at := rng.IntN(length)
			lost, refused := d.lost(t, d.damage(t, rng, log, kind, at))
			counts[fmt.Sprintf("%s refused: %t", kind, refused)]++
			if lost > rotTail && kind != "cut" {
				t.Errorf("%s at %d of %d: %d steps are lost in silence", kind, at, length, lost)
			}
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("log of %d bytes: %v", length, counts)
	if counts["flip refused: true"] < places/2 {
		t.Errorf("too few were refused: %v", counts)
	}
}

// TestBitRot damages every file of directories in every way. Whatever happens, what
// is read is right or refused; only damage to the log of a store that crashed may
// cost the last few steps, or, if it was cut, more.
func TestBitRot(t *testing.T) {
	rng := testkit.Rand(t)
	dirs := []*rotDir{
		newRotDir(t, testkit.Fork(rng), "closed", true, 8<<20),
		newRotDir(t, testkit.Fork(rng), "closed, with many tables", true, 64<<10),
		newRotDir(t, testkit.Fork(rng), "crashed, with many tables", false, 64<<10),
	}
	rounds := 4
	if testing.Short() || invariants.Enabled {
		rounds = 2
	}
	counts := map[string]int{}
	for range rounds {
		for _, d := range dirs {
			for _, path := range d.files {
				for kind := range rotKinds {
					at := rng.IntN(len(readFile(t, d.disk, path)))
					lost, refused := d.lost(t, d.damage(t, rng, path, kind, at))
					tail := !d.clean && strings.HasSuffix(path, logSuffix) && (kind == "cut" || lost <= rotTail)
					if lost > 0 && !tail {
						t.Errorf("%s: %s at %d of %s: %d steps are lost in silence", d.name, kind, at, path, lost)
					}
					if t.Failed() {
						return
					}
					counts[fmt.Sprintf("refused: %t", refused)]++
				}
			}
		}
	}
	t.Log(counts)
}

// TestTornLogIsNoRot takes the power under concurrent writers, with any part kept of
// what was not synced: that must never be taken for rot.
func TestTornLogIsNoRot(t *testing.T) {
	rng := testkit.Rand(t)
	rounds := 20
	if testing.Short() || invariants.Enabled {
		rounds = 5
	}
	for range rounds {
		disk := vfs.NewCrashableMem()
		cfg := rotConfig(freshLogs{disk})
		s := mustOpen(t, cfg)
		done := make(chan struct{})
		for w := range uint64(workers) {
			r := testkit.Fork(rng)
			go func() {
				defer func() { done <- struct{}{} }()
				for i := uint64(1); i <= 60; i++ {
					list := entries(1, i, i)
					list[0].Cmd = testkit.Bytes(r, 1+r.IntN(1+10*r.IntN(3000)))
					save(t, s, update(w, raftpb.State{Term: 1, Commit: i - 1}, list))
					save(t, s, update(w, raftpb.State{Term: 1, Commit: i}, nil)) // not synced
				}
			}()
		}
		for range 12 {
			clone := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 30, 50, 80, 100}[rng.IntN(5)], RNG: testkit.Fork(rng)})
			if err := lookForRot(clone, cfg.Dir, clone.PathJoin(cfg.Dir, engineDir)); err != nil {
				t.Errorf("a torn log was taken for a rotten one: %v", err)
			}
		}
		for range workers {
			<-done
		}
		must(t, s.Close())
	}
}

// TestRottenManifestIsNotCutInSilence: the engine takes a damaged manifest for one
// with a torn end and would forget what came after.
func TestRottenManifestIsNotCutInSilence(t *testing.T) {
	rng := testkit.Rand(t)
	d := newRotDir(t, rng, "closed", true, 64<<10)
	for _, path := range d.files {
		if !strings.Contains(path, "MANIFEST-") {
			continue
		}
		length := len(readFile(t, d.disk, path))
		for at := 0; at < length; at += 1 + length/60 {
			for _, kind := range []string{"flip", "cut"} {
				if lost, refused := d.lost(t, d.damage(t, rng, path, kind, at)); lost > 0 {
					t.Errorf("%s at %d of %d: %d steps lost, refused: %t", kind, at, length, lost, refused)
				}
			}
		}
	}
}
