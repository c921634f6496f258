package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/storage/internal/archive"
)

// backUp makes a backup of a store as it is now and returns its directory.
func backUp(t testing.TB, s *Store) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "backup")
	if err := Backup(testkit.Context(t), streamSnapshot(t, s), dir, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

// pairWriter writes pairs of records on two shards, each pair in one batch and
// with one version, until it is stopped: a cut between the two would show.
func pairWriter(t testing.TB, s *Store, seed uint64) (written *atomic.Int64, stop func()) {
	written = new(atomic.Int64)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		r := testkit.NewRand(seed)
		for version := base.Version(1 << 40); ; version++ {
			select {
			case <-done:
				return
			default:
			}
			key := base.K("pair", fmt.Sprint(r.IntN(500)))
			rec := Record{Version: version, ExpiresAt: 1 + r.Uint64N(1e15), Value: testkit.Bytes(r, 100)}
			err := write(s, func(b *Batch) {
				b.Put(0, key, rec)
				b.Put(1, key, rec)
				randomWrite(b, r, s.id.Shards, version)
			})
			if err != nil {
				t.Errorf("write: %v", err)
				return
			}
			written.Add(1)
		}
	})
	return written, sync.OnceFunc(func() { close(done); wg.Wait() })
}

// TestBackupUnderLoad backs up while a writer runs, restores, and compares
// every entry with the snapshot.
func TestBackupUnderLoad(t *testing.T) {
	testkit.CheckNoLeaks(t)
	r := testkit.Rand(t)
	s := openStream(t, Config{Dir: t.TempDir(), Durability: Relaxed, MemTableBytes: 1 << 20})
	fillStream(t, s, r, 20_000)
	written, stop := pairWriter(t, s, r.Uint64())
	defer stop()
	testkit.Eventually(t, testTimeout, "some writes", func() bool { return written.Load() > 100 })
	sn := streamSnapshot(t, s)
	before := written.Load()
	dir := filepath.Join(t.TempDir(), "backup")
	progress := &progressLog{t: t}
	if err := Backup(testkit.Context(t), sn, dir, progress.add); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d batches written during the backup", written.Load()-before)
	stop()
	progress.check(stageBackup, 5)
	if err := VerifyBackup(testkit.Context(t), dir); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Dir: filepath.Join(t.TempDir(), "restored")}
	progress = &progressLog{t: t}
	if err := RestoreBackup(testkit.Context(t), dir, cfg, progress.add); err != nil {
		t.Fatal(err)
	}
	progress.check(stageRestore, 5)
	restored := openStream(t, Config{Dir: cfg.Dir, Shards: s.id.Shards, NodeID: s.id.NodeID})
	compareStores(t, restored, sn)
	if report, err := Check(testkit.Context(t), cfg.Dir); !errors.Is(err, base.ErrInUse) {
		t.Errorf("check of an open directory: %+v, %v", report, err)
	}
}

const testTimeout = 4 * 60 * 1e9 // 4 minutes: only waited for in full by a failing test

// compareStores compares a restored store with the snapshot it came from:
// physically, by digest, and record by record.
func compareStores(t *testing.T, restored *Store, sn *Snapshot) {
	t.Helper()
	again := streamSnapshot(t, restored)
	sameEntries(t, physical(t, again), physical(t, sn))
	if !maps.Equal(digests(t, again), digests(t, sn)) {
		t.Error("digests differ")
	}
	sc := sn.Scan()
	defer sc.Close()
	records := 0
	for i := range sn.s.id.Shards {
		items, more, err := sc.Page(nil, PageRequest{Shard: base.ShardID(i)})
		if err != nil || more {
			t.Fatal(more, err)
		}
		records += len(items)
		for _, want := range items {
			rec, err := restored.Space(base.ShardID(i)).Get(want.Key)
			head, _ := sn.Head(base.ShardID(i), want.Key)
			if err != nil || rec.Version != want.Version || rec.ExpiresAt != head.ExpiresAt || !bytes.Equal(rec.Value, want.Value) {
				t.Fatalf("%s: got version %d expires %d (%v), want %d, %d", want.Key, rec.Version, rec.ExpiresAt, err, head.Version, head.ExpiresAt)
			}
			if pair, err := restored.Space(1 - base.ShardID(i)).Get(want.Key); i < 2 && want.Key.Primary == "pair" &&
				(err != nil || pair.Version != want.Version) {
				t.Fatalf("%s: half of a batch: versions %d and %d", want.Key, want.Version, pair.Version)
			}
		}
	}
	if records == 0 {
		t.Error("no records: nothing was compared")
	}
}

// progressLog checks the progress of one piece of work.
type progressLog struct {
	t   testing.TB
	all []base.Progress
}

func (l *progressLog) add(p base.Progress) {
	if n := len(l.all); n > 0 && (p.Done < l.all[n-1].Done || p.DoneBytes < l.all[n-1].DoneBytes) {
		l.t.Errorf("progress goes back from %+v to %+v", l.all[n-1], p)
	}
	l.all = append(l.all, p)
}

func (l *progressLog) check(stage string, total int64) {
	l.t.Helper()
	if len(l.all) == 0 {
		l.t.Fatal("no progress was reported")
	}
	last := l.all[len(l.all)-1]
	if last.Stage != stage || last.Done != total || last.Total != total || last.DoneBytes == 0 {
		l.t.Errorf("last progress %+v, want %d of %d", last, total, total)
	}
	if last.TotalBytes != 0 && last.TotalBytes != last.DoneBytes {
		l.t.Errorf("last progress %+v", last)
	}
}

// TestBackupOfMemoryStore backs a store in memory up to a real directory and
// restores it into a file system in memory.
func TestBackupOfMemoryStore(t *testing.T) {
	s := openStream(t, Config{NodeID: "mem-1"})
	fillStream(t, s, testkit.Rand(t), 2000)
	dir := backUp(t, s)
	if err := VerifyBackup(testkit.Context(t), dir); err != nil {
		t.Fatal(err)
	}
	cfg := memConfig(vfs.NewMem())
	cfg.Shards = 0
	if err := RestoreBackup(testkit.Context(t), dir, cfg, nil); err != nil {
		t.Fatal(err)
	}
	restored := openStream(t, Config{Dir: cfg.Dir, FS: cfg.FS, DiskReserveBytes: -1})
	sameEntries(t, physical(t, streamSnapshot(t, restored)), physical(t, streamSnapshot(t, s)))
	if id := restored.Identity(); id.NodeID != "mem-1" || id.Shards != 4 {
		t.Errorf("restored as %+v", id)
	}
}

func TestBackupOfEmptyStore(t *testing.T) {
	dir := backUp(t, openStream(t, Config{}))
	cfg := Config{Dir: t.TempDir(), NodeID: "other"}
	if err := RestoreBackup(testkit.Context(t), dir, cfg, nil); err != nil {
		t.Fatal(err)
	}
	restored := openStream(t, cfg)
	if n := len(physical(t, streamSnapshot(t, restored))); n > 0 || restored.Identity().NodeID != "other" {
		t.Errorf("%d entries, %+v", n, restored.Identity())
	}
}

// damages are edits of a backup directory and what the refusal must say.
var damages = []struct {
	name string
	edit func(dir string) error
	says []string
}{
	{"flip", func(dir string) error { return flipByte(filepath.Join(dir, "shard-0002.stream"), 0.5) },
		[]string{"shard-0002.stream: its checksum does not match", "block"}},
	{"flip in the header", func(dir string) error { return flipByte(filepath.Join(dir, "shard-0001.stream"), 0) },
		[]string{"shard-0001.stream: its checksum does not match"}},
	{"flip in the node's file", func(dir string) error { return flipByte(filepath.Join(dir, "node.stream"), 0.9) },
		[]string{"node.stream: its checksum does not match"}},
	{"flip in the manifest", func(dir string) error { return flipByte(filepath.Join(dir, "MANIFEST.json"), 0.3) },
		[]string{"MANIFEST.json: its checksum does not match"}},
	{"cut", func(dir string) error { return os.Truncate(filepath.Join(dir, "shard-0003.stream"), 100) },
		[]string{"shard-0003.stream: has 100 bytes"}},
	{"missing", func(dir string) error { return os.Remove(filepath.Join(dir, "shard-0000.stream")) },
		[]string{"shard-0000.stream: is missing"}},
	{"no manifest", func(dir string) error { return os.Remove(filepath.Join(dir, "MANIFEST.json")) },
		[]string{"MANIFEST.json is missing"}},
	{"extra", func(dir string) error { return os.WriteFile(filepath.Join(dir, "shard-0004.stream"), nil, 0o600) },
		[]string{"shard-0004.stream", "does not belong"}},
	{"shards swapped", func(dir string) error {
		a, b := filepath.Join(dir, "shard-0000.stream"), filepath.Join(dir, "shard-0001.stream")
		return errors.Join(os.Rename(a, a+".x"), os.Rename(b, a), os.Rename(a+".x", b))
	}, []string{"shard-0000.stream", "shard-0001.stream"}},
	{"several", func(dir string) error {
		return errors.Join(
			os.Remove(filepath.Join(dir, "shard-0000.stream")),
			flipByte(filepath.Join(dir, "shard-0001.stream"), 0.7),
			os.Truncate(filepath.Join(dir, "shard-0003.stream"), 1),
			os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600))
	}, []string{"shard-0000.stream: is missing", "shard-0001.stream: its checksum", "shard-0003.stream: has 1 bytes", "notes.txt"}},
}

func flipByte(path string, where float64) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[int(float64(len(data)-1)*where)] ^= 0x04
	return os.WriteFile(path, data, 0o600)
}

// TestDamagedBackupIsRefused damages a backup; verifying and restoring must
// say what is wrong, and restoring must leave nothing.
func TestDamagedBackupIsRefused(t *testing.T) {
	s := openStream(t, Config{})
	fillStream(t, s, testkit.Rand(t), 3000)
	for _, c := range damages {
		t.Run(c.name, func(t *testing.T) {
			dir := backUp(t, s)
			if err := c.edit(dir); err != nil {
				t.Fatal(err)
			}
			target := filepath.Join(t.TempDir(), "target")
			for what, err := range map[string]error{
				"verify":  VerifyBackup(testkit.Context(t), dir),
				"restore": RestoreBackup(testkit.Context(t), dir, Config{Dir: target}, nil),
			} {
				wantErr(t, what, err, base.ErrCorrupt)
				for _, says := range c.says {
					if !strings.Contains(err.Error(), says) {
						t.Errorf("%s: %q does not say %q", what, err, says)
					}
				}
			}
			if _, err := os.Stat(target); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the failed restore left %s: %v", target, err)
			}
		})
	}
}

// TestForgedManifestIsRefused makes manifest and files agree, but not with the
// contents.
func TestForgedManifestIsRefused(t *testing.T) {
	s := openStream(t, Config{})
	fillStream(t, s, testkit.Rand(t), 500)
	forge := func(t *testing.T, edit func(m *archive.Manifest)) string {
		dir := backUp(t, s)
		path := filepath.Join(dir, archive.ManifestName)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := archive.DecodeManifest(data)
		if err != nil {
			t.Fatal(err)
		}
		edit(&m)
		if data, err = m.Encode(); err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for _, c := range []struct {
		name string
		edit func(m *archive.Manifest)
		want error
		says string
	}{
		{"entries", func(m *archive.Manifest) { m.Files[1].Entries++ }, base.ErrCorrupt, "shard-0001.stream"},
		{"digest", func(m *archive.Manifest) { m.Files[1].Digest = m.Files[2].Digest }, base.ErrCorrupt, "shard-0001.stream"},
		{"sha256", func(m *archive.Manifest) { m.Files[1].SHA256 = m.Files[2].SHA256 }, base.ErrCorrupt, "shard-0001.stream"},
		{"newer data", func(m *archive.Manifest) { m.DataFormat++ }, base.ErrInvalid, "data of format 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := forge(t, c.edit)
			for _, err := range []error{
				VerifyBackup(testkit.Context(t), dir),
				RestoreBackup(testkit.Context(t), dir, Config{Dir: filepath.Join(t.TempDir(), "t")}, nil),
			} {
				wantErr(t, c.name, err, c.want)
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("%q does not say %q", err, c.says)
				}
			}
		})
	}
}

func TestBackupArguments(t *testing.T) {
	s := openStream(t, Config{})
	sn := streamSnapshot(t, s)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"backup to nowhere":                   Backup(testkit.Context(t), sn, "", nil),
		"backup into a directory with files":  Backup(testkit.Context(t), sn, full, nil),
		"verify nothing":                      VerifyBackup(testkit.Context(t), ""),
		"verify no backup":                    VerifyBackup(testkit.Context(t), full),
		"restore nothing":                     RestoreBackup(testkit.Context(t), full, Config{Dir: t.TempDir()}, nil),
		"restore into memory":                 RestoreBackup(testkit.Context(t), backUp(t, s), Config{}, nil),
		"restore into a directory with files": RestoreBackup(testkit.Context(t), backUp(t, s), Config{Dir: full}, nil),
		"restore with other shards":           RestoreBackup(testkit.Context(t), backUp(t, s), Config{Dir: t.TempDir(), Shards: 7}, nil),
	} {
		wantErr(t, name, err, base.ErrInvalid)
	}
	if names, _ := os.ReadDir(full); len(names) != 1 {
		t.Errorf("the refused directory has now %v", names)
	}
}

func TestBackupCanceled(t *testing.T) {
	s := openStream(t, Config{})
	fillStream(t, s, testkit.Rand(t), 3000)
	good := backUp(t, s)
	sn := streamSnapshot(t, s)
	why := errors.New("changed my mind")
	// canceled runs work and cancels its context at the n-th progress report.
	canceled := func(n int, work func(ctx context.Context, progress func(base.Progress)) error) error {
		ctx, cancel := context.WithCancelCause(testkit.Context(t))
		defer cancel(nil)
		count := 0
		return work(ctx, func(base.Progress) {
			if count++; count == n {
				cancel(why)
			}
		})
	}
	for n := 1; n <= 5; n++ {
		dir := filepath.Join(t.TempDir(), "backup")
		target := filepath.Join(t.TempDir(), "target")
		for what, err := range map[string]error{
			"backup": canceled(n, func(ctx context.Context, progress func(base.Progress)) error {
				return Backup(ctx, sn, dir, progress)
			}),
			"restore": canceled(n, func(ctx context.Context, progress func(base.Progress)) error {
				return RestoreBackup(ctx, good, Config{Dir: target}, progress)
			}),
		} {
			if !errors.Is(err, why) {
				t.Errorf("%s canceled at report %d: %v", what, n, err)
			}
		}
		for _, path := range []string{dir, target} {
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("left %s: %v", path, err)
			}
		}
	}
	ctx, cancel := context.WithCancelCause(testkit.Context(t))
	cancel(why)
	if err := VerifyBackup(ctx, good); !errors.Is(err, why) {
		t.Errorf("verify with a canceled context: %v", err)
	}
}

// fullOutput has room for a number of bytes, shared by all files.
type fullOutput struct {
	archive.Output
	room *int
}

func (f fullOutput) Write(p []byte) (int, error) {
	n, err := f.Output.Write(p[:min(len(p), *f.room)])
	*f.room -= n
	if err == nil && n < len(p) {
		err = &fs.PathError{Op: "write", Path: "backup", Err: syscall.ENOSPC}
	}
	return n, err
}

// TestBackupOntoFullDisk lets the disk of the backup fill up at many places.
// The backup fails and is gone; the store goes on.
func TestBackupOntoFullDisk(t *testing.T) {
	s := openStream(t, Config{Dir: t.TempDir()})
	r := testkit.Rand(t)
	fillStream(t, s, r, 2000)
	sn := streamSnapshot(t, s)
	size := 0
	for _, name := range must(os.ReadDir(backUp(t, s))) {
		size += int(must(name.Info()).Size())
	}
	for range 50 {
		room := r.IntN(size)
		create := func(root *os.Root, name string) (archive.Output, error) {
			f, err := root.Create(name)
			return fullOutput{f, &room}, err
		}
		dir := filepath.Join(t.TempDir(), "backup")
		err := backup(testkit.Context(t), sn, dir, nil, create)
		wantErr(t, "backup onto a full disk", err, base.ErrNoSpace)
		if !strings.Contains(err.Error(), dir) {
			t.Errorf("%q does not name the file", err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left %s: %v", dir, err)
		}
	}
	if err := s.Err(); err != nil {
		t.Errorf("the store was fenced: %v", err)
	}
	mustPut(t, s, 0, base.K("p", "after"), 1<<50, "v")
	wantGet(t, s, 0, base.K("p", "after"), 1<<50, "v")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestInterruptedRestoreDoesNotOpen cuts the power at every stage of a restore
// and opens what is left.
func TestInterruptedRestoreDoesNotOpen(t *testing.T) {
	s := openStream(t, Config{})
	fillStream(t, s, testkit.Rand(t), 1000)
	dir := backUp(t, s)
	crashable := vfs.NewCrashableMem()
	cfg := memConfig(crashable)
	cfg.Shards = 0
	var clones []*vfs.MemFS
	cut := func(base.Progress) {
		for _, percent := range []int{0, 50, 100} {
			clones = append(clones, crashable.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: testRNG()}))
		}
	}
	if err := RestoreBackup(testkit.Context(t), dir, cfg, cut); err != nil {
		t.Fatal(err)
	}
	if len(clones) < 3*5 {
		t.Fatalf("only %d points", len(clones))
	}
	for i, clone := range clones {
		cfg.FS = clone
		_, err := Open(cfg)
		wantErr(t, fmt.Sprintf("open after a power cut at point %d", i), err, base.ErrCorrupt)
		if !strings.Contains(err.Error(), "restore") && !strings.Contains(err.Error(), identityFile) {
			t.Errorf("%q does not say why", err)
		}
		err = RestoreBackup(testkit.Context(t), dir, cfg, nil)
		wantErr(t, "restore into what an interrupted one left", err, base.ErrInvalid)
		report, err := CheckFS(testkit.Context(t), cfg.Dir, clone)
		if err != nil || len(report.Problems) == 0 {
			t.Errorf("check of what an interrupted restore left: %+v, %v", report, err)
		}
	}
	cfg.FS = crashClone(crashable)
	sameEntries(t, physical(t, streamSnapshot(t, mustOpen(t, cfg))), physical(t, streamSnapshot(t, s)))
}

// TestFailedRestoreLeavesNothing fails every single operation of the target's
// file system in turn.
func TestFailedRestoreLeavesNothing(t *testing.T) {
	s := openStream(t, Config{Shards: 2})
	fillStream(t, s, testkit.Rand(t), 300)
	dir := backUp(t, s)
	for _, cause := range []error{syscall.EIO, syscall.ENOSPC, syscall.EACCES} {
		failed := 0
		for n := 1; ; n += 1 + n/8 {
			mem := vfs.NewMem()
			faults := &faultyFS{FS: mem, at: int64(n), err: cause}
			cfg := memConfig(faults)
			cfg.Shards = 0
			err := RestoreBackup(testkit.Context(t), dir, cfg, nil)
			if faults.count.Load() < int64(n) {
				if err != nil {
					t.Fatalf("no fault, but %v", err)
				}
				break
			}
			if err == nil {
				continue // a failed removal, say
			}
			failed++
			if errors.Is(err, base.ErrCorrupt) {
				t.Errorf("operation %d: the target's fault is blamed on the backup: %v", n, err)
			}
			if k := sentinels(err); k != 1 {
				t.Errorf("operation %d: %v matches %d sentinels", n, err, k)
			}
			cfg.FS = mem
			if store, err := Open(cfg); err == nil {
				if len(must(mem.List(cfg.Dir))) > 0 && len(physical(t, streamSnapshot(t, store))) > 0 {
					t.Errorf("operation %d: a failed restore left a store with data", n)
				}
				t.Cleanup(func() { _ = store.Close() })
			}
		}
		if failed < 20 {
			t.Errorf("%v: only %d failures", cause, failed)
		}
	}
}

func TestRestoreKeepsTheEmptyDirectory(t *testing.T) {
	s := openStream(t, Config{})
	dir := backUp(t, s)
	if err := flipByte(filepath.Join(dir, "node.stream"), 0.5); err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	wantErr(t, "restore", RestoreBackup(testkit.Context(t), dir, Config{Dir: target}, nil), base.ErrCorrupt)
	if names := must(os.ReadDir(target)); len(names) > 0 {
		t.Errorf("left behind %v", names)
	}
}

func TestBackupIsPrivate(t *testing.T) {
	s := openStream(t, Config{})
	dir := backUp(t, s)
	paths := []string{dir}
	for _, entry := range must(os.ReadDir(dir)) {
		paths = append(paths, filepath.Join(dir, entry.Name()))
	}
	if !slices.Contains(paths, filepath.Join(dir, "node.stream")) || len(paths) != 7 {
		t.Fatalf("backup has %v", paths)
	}
	for _, path := range paths {
		if perm := must(os.Stat(path)).Mode().Perm(); perm&0o077 != 0 {
			t.Errorf("%s may be read by others: %v", path, perm)
		}
	}
}
