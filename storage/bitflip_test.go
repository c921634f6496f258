package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/testkit"
)

// rotFaults is how many faults the campaign injects at least; the
// environment variable STORAGE_ROT_FAULTS sets another number.
func rotFaults(t *testing.T) int {
	if s := os.Getenv("STORAGE_ROT_FAULTS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if testing.Short() || invariants.Enabled {
		return 100
	}
	return 1000
}

// rotDir is a data directory that faults are put into copies of.
type rotDir struct {
	name    string
	fs      *vfs.MemFS
	log     crashLog
	batches int
	files   []string // paths of all files that hold bytes
}

func rotConfig(fs FS) Config {
	cfg := memConfig(fs)
	cfg.BlockCacheBytes = 1 << 20
	cfg.ReadCacheBytes = 64 << 10
	return cfg
}

// newRotDir writes a history that leaves data files on several levels, a
// manifest with many edits and, unless it is closed cleanly, a log.
func newRotDir(t *testing.T, name string, log crashLog, clean bool) *rotDir {
	const batches = 150
	mem := vfs.NewCrashableMem()
	d := &rotDir{name: name, log: log, batches: batches}
	s := mustOpen(t, rotConfig(mem))
	for n := range batches {
		if err := d.log.write(s, n); err != nil {
			t.Fatal(err)
		}
		var err error
		switch n {
		case batches / 4, batches / 2:
			err = s.Flush(t.Context())
		case batches / 3, batches * 3 / 4:
			err = s.Compact(t.Context(), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if clean {
		mustClose(t, s)
		d.fs = mem
	} else {
		d.fs = mem.CrashClone(vfs.CrashCloneCfg{})
		mustClose(t, s)
	}
	for _, dir := range []string{"/db", "/db/data"} {
		names, err := d.fs.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			path := d.fs.PathJoin(dir, name)
			if info, err := d.fs.Stat(path); err == nil && !info.IsDir() && info.Size() > 0 {
				d.files = append(d.files, path)
			}
		}
	}
	return d
}

// classOf names the kind of a file.
func classOf(path string) string {
	name := path[strings.LastIndex(path, "/")+1:]
	for _, class := range []string{"IDENTITY", "MANIFEST", "OPTIONS", "marker", ".sst", ".blob", ".log"} {
		if strings.HasPrefix(name, class) || strings.HasSuffix(name, class) {
			return class
		}
	}
	return name
}

// rotFault is one thing that went wrong with one file.
type rotFault struct {
	path, kind  string
	offset, len int
}

func (f rotFault) String() string {
	return fmt.Sprintf("%s at %d of %s (%d bytes)", f.kind, f.offset, f.path, f.len)
}

// inject damages a copy of the directory and returns it.
func (d *rotDir) inject(t *testing.T, r *rand.Rand, path, kind string) (*vfs.MemFS, rotFault) {
	copied := d.fs.CrashClone(vfs.CrashCloneCfg{})
	buf := readWhole(t, copied, path)
	f := rotFault{path: path, kind: kind, offset: r.IntN(len(buf)), len: len(buf)}
	switch kind {
	case "flip":
		buf[f.offset] ^= 1 << r.IntN(8)
	case "zero":
		f.offset -= f.offset % 512
		clear(buf[f.offset:min(f.offset+512, len(buf))])
	case "garbage":
		copy(buf[f.offset:], testkit.Bytes(r, 64))
	case "cut":
		buf = buf[:f.offset]
	}
	out, err := copied.Create(path, vfs.WriteCategoryUnspecified)
	if err == nil {
		_, err = out.Write(buf)
	}
	if err := errors.Join(err, out.Sync(), out.Close(), diskio.SyncDir(copied, copied.PathDir(path))); err != nil {
		t.Fatal(err)
	}
	return copied, f
}

func readWhole(t *testing.T, fs vfs.FS, path string) []byte {
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	buf, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return buf
}

// rotTailBatches is how many of the newest synced batches damage inside a log
// may cost without being noticed; see diskio.CheckLogs.
const rotTailBatches = 3

// What became of a fault.
const (
	rotRefused  = "refused by Open"   // a typed error
	rotReported = "reported by reads" // a typed error, and right answers elsewhere
	rotHarmless = "harmless"          // every answer right
	rotTail     = "lost the tail"     // the state after fewer batches
)

// TestBitRot damages files of every class in every way, in directories that
// were closed and in such that crashed. Whatever happens, no read gives a
// wrong answer, nothing panics and every error is typed.
//
// Damage at the very end of a crashed directory's log cannot be told from a
// tail that was never written: then, and only then, the newest batches may be
// missing, all of them from some batch on.
func TestBitRot(t *testing.T) {
	r := testkit.Rand(t)
	dirs := []*rotDir{
		newRotDir(t, "closed", crashLog{seed: r.Uint64()}, true),
		newRotDir(t, "quiet", crashLog{seed: r.Uint64(), keep: true}, true),
		newRotDir(t, "crashed", crashLog{seed: r.Uint64()}, false),
	}
	count := map[string]int{}
	faults := 0
	for faults < rotFaults(t) {
		for _, d := range dirs {
			for _, path := range d.files {
				kind := []string{"flip", "flip", "flip", "zero", "garbage", "cut"}[r.IntN(6)]
				fs, fault := d.inject(t, r, path, kind)
				outcome, lost, err := d.check(fs, faults%4 == 0)
				if err != nil {
					t.Fatalf("%s, %v: %v", d.name, fault, err)
				}
				tail := d.name == "crashed" && classOf(path) == ".log" && (lost <= rotTailBatches || kind == "cut")
				if lost > 0 && !tail {
					t.Fatalf("%s, %v: %d batches are missing", d.name, fault, lost)
				}
				count[fmt.Sprintf("%-8s %-9s %-8s %s", d.name, classOf(path), kind, outcome)]++
				faults++
			}
		}
	}
	t.Logf("%d faults", faults)
	for _, line := range sortedKeys(count) {
		t.Logf("%s: %d", line, count[line])
	}
}

func sortedKeys(m map[string]int) []string {
	return slices.Sorted(maps.Keys(m))
}

// check opens a damaged directory and asks it for everything, if compact says
// so also after a compaction. It returns how many batches are missing.
func (d *rotDir) check(fs *vfs.MemFS, compact bool) (outcome string, lost int, err error) {
	s, err := Open(rotConfig(fs))
	if err != nil {
		if !errors.Is(err, base.ErrCorrupt) || sentinels(err) != 1 {
			return "", 0, fmt.Errorf("Open: %w", err)
		}
		return rotRefused, 0, nil
	}
	defer func() {
		if closeErr := s.Close(); closeErr != nil && sentinels(closeErr) != 1 {
			err = fmt.Errorf("Close: %w", closeErr)
		}
	}()
	a := &rotAnswers{s: s, model: &crashModel{log: d.log}}
	n, err := d.log.applied(s)
	if err != nil {
		a.fail(err)
		n = d.batches
	}
	if n > d.batches {
		return "", 0, fmt.Errorf("%d batches", n)
	}
	a.model.advance(n)
	if err := a.askAll(); err != nil {
		return "", 0, err
	}
	if compact {
		_ = s.Compact(context.Background(), nil) // must not panic
		if err := a.askAll(); err != nil {
			return "", 0, fmt.Errorf("after compaction: %w", err)
		}
	}
	switch {
	case a.failed > 0:
		return rotReported, d.batches - n, nil
	case n < d.batches:
		return rotTail, d.batches - n, nil
	}
	return rotHarmless, 0, nil
}

// rotAnswers compares what a damaged store says with the model.
type rotAnswers struct {
	s      *Store
	model  *crashModel
	failed int
}

// fail takes an error of a read, which must be typed.
func (a *rotAnswers) fail(err error) error {
	a.failed++
	if !errors.Is(err, base.ErrCorrupt) || sentinels(err) != 1 {
		return fmt.Errorf("untyped error: %w", err)
	}
	return nil
}

// maxRotFailures ends the asking early: the engine searches each damaged block
// for the flipped bit whenever it reads it, which takes milliseconds.
const maxRotFailures = 8

func (a *rotAnswers) askAll() error {
	for shard := range base.ShardID(4) {
		for i := range 60 {
			if a.failed > maxRotFailures {
				return nil
			}
			if err := a.askKey(shard, testKey(i)); err != nil {
				return err
			}
		}
		for _, reverse := range []bool{false, true} {
			if err := a.askPages(shard, reverse); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *rotAnswers) askKey(shard base.ShardID, key base.Key) error {
	want := a.model.shards[shard][key]
	rec, err := a.s.Space(shard).Get(key)
	if err != nil {
		return a.fail(err)
	}
	if rec.Version != want.Version || rec.ExpiresAt != want.ExpiresAt || string(rec.Value) != string(want.Value) {
		return fmt.Errorf("shard %d, %v: version %d, want %d", shard, key, rec.Version, want.Version)
	}
	return nil
}

// askPages scans a shard. What was returned before an error must be right.
func (a *rotAnswers) askPages(shard base.ShardID, reverse bool) error {
	sn, err := a.s.NewSnapshot()
	if err != nil {
		return a.fail(err)
	}
	defer func() { _ = sn.Close() }()
	sc := sn.Scan()
	defer func() { _ = sc.Close() }()
	want := a.model.items(shard, reverse)
	req := PageRequest{Shard: shard, Reverse: reverse, MaxItems: 7}
	for more := true; more; {
		var items []base.Item
		items, more, err = sc.Page(nil, req)
		if len(items) > len(want) {
			return fmt.Errorf("shard %d: %d items too many", shard, len(items)-len(want))
		}
		if diff := diffPages(items, want[:len(items)]); diff != "" {
			return fmt.Errorf("shard %d: %s", shard, diff)
		}
		if err != nil {
			return a.fail(err)
		}
		want = want[len(items):]
		if len(items) > 0 {
			req.After = items[len(items)-1].Key
		}
	}
	if len(want) > 0 {
		return fmt.Errorf("shard %d: %d items are missing", shard, len(want))
	}
	return nil
}

// items returns what a scan of a shard must give.
func (m *crashModel) items(shard base.ShardID, reverse bool) (items []base.Item) {
	for key, rec := range m.shards[shard] {
		it := base.Item{Key: key, Version: rec.Version, Value: clone(rec.Value)}
		if rec.ExpiresAt != 0 {
			it.ExpiresAt = time.UnixMicro(int64(rec.ExpiresAt)).UTC()
		}
		items = append(items, it)
	}
	slices.SortFunc(items, func(a, b base.Item) int {
		if reverse {
			a, b = b, a
		}
		return a.Key.Compare(b.Key)
	})
	return items
}
