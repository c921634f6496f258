package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

const testShards = 3

func content(shard base.ShardID) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "contents of %d. ", shard), 100)
}

// build writes a whole backup into dir.
func build(dir string, create CreateFunc) error {
	b, err := Create(dir, create)
	if err != nil {
		return err
	}
	err = func() error {
		for i := range testShards + 1 {
			if err := addFile(b, shardOf(i, testShards)); err != nil {
				return err
			}
		}
		m := testManifest(testShards)
		_, err := b.Commit(m)
		return err
	}()
	if err != nil {
		b.Abort()
	}
	return err
}

func addFile(b *Builder, shard base.ShardID) error {
	f, err := b.File(shard)
	if err != nil {
		return err
	}
	if _, err := f.Write(content(shard)); err != nil {
		f.Discard()
		return err
	}
	digest := sha256.Sum256(content(shard))
	return f.Close(7, digest[:])
}

// sound builds a backup and returns its directory.
func sound(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "backup")
	if err := build(dir, nil); err != nil {
		t.Fatal(err)
	}
	return dir
}

func inspectNothing(File, io.Reader) error { return nil }

func verify(t *testing.T, dir string) error {
	t.Helper()
	a, err := Open(dir)
	if err != nil {
		return err
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	return a.Verify(testkit.Context(t), inspectNothing)
}

func TestBuildAndVerify(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "parents", "backup")
	if err := build(dir, nil); err != nil {
		t.Fatal(err)
	}
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var seen []base.ShardID
	err = a.Verify(testkit.Context(t), func(f File, r io.Reader) error {
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, content(f.Shard)) {
			t.Errorf("%s: %v", f.Name, err)
		}
		seen = append(seen, f.Shard)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []base.ShardID{0, 1, 2, NodeShard}; !slices.Equal(seen, want) {
		t.Errorf("inspected %v, want %v", seen, want)
	}
	for _, f := range a.Manifest().Files {
		if f.Entries != 7 || f.Bytes != int64(len(content(f.Shard))) {
			t.Errorf("manifest says %+v", f)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, ManifestName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read the backup: %v %v", info.Mode(), err)
	}
}

func TestCreateNeedsAnEmptyDirectory(t *testing.T) {
	empty := t.TempDir()
	if err := build(empty, nil); err != nil {
		t.Fatalf("empty directory: %v", err)
	}
	err := build(empty, nil)
	if !errors.Is(err, base.ErrInvalid) {
		t.Fatalf("second backup into one directory: %v", err)
	}
	if err := verify(t, empty); err != nil {
		t.Fatalf("the refused backup damaged the first: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file, filepath.Join(file, "below")} {
		if err := build(dir, nil); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("backup to %q: %v", dir, err)
		}
	}
}

func TestVerifyNamesWhatIsWrong(t *testing.T) {
	const victim = "shard-0001.stream"
	flip := func(name string) func(string) error {
		return func(dir string) error {
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			data[len(data)/2] ^= 1
			return os.WriteFile(path, data, 0o600)
		}
	}
	for _, c := range []struct {
		name   string
		damage func(dir string) error
		says   string
	}{
		{"flip", flip(victim), victim + ": its checksum does not match"},
		{"flip in the node's file", flip("node.stream"), "node.stream: its checksum"},
		{"flip in the manifest", flip(ManifestName), ManifestName + ": its checksum"},
		{"cut", func(dir string) error { return os.Truncate(filepath.Join(dir, victim), 10) }, victim + ": has 10 bytes instead of"},
		{"emptied", func(dir string) error { return os.Truncate(filepath.Join(dir, victim), 0) }, victim + ": has 0 bytes"},
		{"missing", func(dir string) error { return os.Remove(filepath.Join(dir, victim)) }, victim + ": is missing"},
		{"no manifest", func(dir string) error { return os.Remove(filepath.Join(dir, ManifestName)) }, ManifestName + " is missing"},
		{"manifest cut", func(dir string) error { return os.Truncate(filepath.Join(dir, ManifestName), 300) }, ManifestName + ": it does not end"},
		{"manifest not renamed", func(dir string) error {
			return os.Rename(filepath.Join(dir, ManifestName), filepath.Join(dir, manifestTemp))
		}, ManifestName + " is missing"},
		{"extra", func(dir string) error { return os.WriteFile(filepath.Join(dir, "shard-0003.stream"), nil, 0o600) }, `"shard-0003.stream": does not belong`},
		{"extra directory", func(dir string) error { return os.Mkdir(filepath.Join(dir, "sub"), 0o700) }, `"sub": does not belong`},
		{"directory instead", func(dir string) error {
			path := filepath.Join(dir, victim)
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		}, victim + ": is not a regular file"},
		{"link instead", func(dir string) error {
			path := filepath.Join(dir, victim)
			return errors.Join(os.Rename(path, dir+".moved"), os.Symlink(dir+".moved", path))
		}, victim + ": is not a regular file"},
		{"swapped", func(dir string) error {
			a, b := filepath.Join(dir, victim), filepath.Join(dir, "shard-0002.stream")
			return errors.Join(os.Rename(a, a+"x"), os.Rename(b, a), os.Rename(a+"x", b))
		}, victim + ": its checksum"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := sound(t)
			if err := c.damage(dir); err != nil {
				t.Fatal(err)
			}
			err := verify(t, dir)
			if !errors.Is(err, base.ErrCorrupt) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want ErrCorrupt that says %q", err, c.says)
			}
		})
	}
}

func TestVerifyNamesEverything(t *testing.T) {
	dir := sound(t)
	err := errors.Join(
		os.Remove(filepath.Join(dir, "shard-0000.stream")),
		os.Truncate(filepath.Join(dir, "shard-0002.stream"), 5),
		os.WriteFile(filepath.Join(dir, "evil\x1b[31m"), nil, 0o600),
	)
	for i := range 100 {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, fmt.Sprintf("x%d", i)), nil, 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	err = verify(t, dir)
	var damage *DamageError
	if !errors.As(err, &damage) || len(damage.Problems) < 3 || len(damage.Problems) > 3+2*maxExtraNames {
		t.Fatalf("got %v", err)
	}
	all := strings.Join(damage.Problems, "\n")
	for _, says := range []string{"shard-0000.stream: is missing", "shard-0002.stream: has 5 bytes"} {
		if !strings.Contains(all, says) {
			t.Errorf("%q does not say %q", all, says)
		}
	}
	if strings.Contains(err.Error(), "\x1b") {
		t.Error("the message has a raw control character")
	}
}

func TestVerifyReportsInspect(t *testing.T) {
	dir := sound(t)
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	err = a.Verify(testkit.Context(t), func(f File, _ io.Reader) error {
		if f.Shard == 2 {
			return fmt.Errorf("%w: nonsense", base.ErrInvalid)
		}
		return nil
	})
	if !errors.Is(err, base.ErrCorrupt) || !strings.Contains(err.Error(), "shard-0002.stream: invalid: nonsense") {
		t.Fatalf("got %v", err)
	}
	stop := errors.New("stop")
	if err := a.Verify(testkit.Context(t), func(File, io.Reader) error { return stop }); !errors.Is(err, stop) {
		t.Fatalf("an error that is none of the backup: %v", err)
	}
	ctx, cancel := context.WithCancel(testkit.Context(t))
	calls := 0
	err = a.Verify(ctx, func(File, io.Reader) error { calls++; cancel(); return nil })
	if !errors.Is(err, context.Canceled) || calls != 1 {
		t.Fatalf("canceled: %v after %d files", err, calls)
	}
}

func TestOpenOfNoBackup(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, file, filepath.Join(dir, "missing")} {
		if err := verify(t, path); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

// TestForgedNamesStayInside has a manifest, checksum and all, that names a
// file elsewhere, and a link that leads elsewhere.
func TestForgedNamesStayInside(t *testing.T) {
	dir := sound(t)
	path := filepath.Join(dir, ManifestName)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Replace(data[:len(data)-sealBytes], []byte(`"shard-0000.stream"`), []byte(`"../secret"`), 1)
	if err := os.WriteFile(path, seal(forged), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := verify(t, dir); !errors.Is(err, base.ErrCorrupt) || !strings.Contains(err.Error(), "../secret") {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(dir+".json", data, 0o600), os.Symlink(dir+".json", path)); err != nil {
		t.Fatal(err)
	}
	if err := verify(t, dir); err == nil {
		t.Error("a link to a manifest elsewhere was followed")
	}
}

// faulty fails at the n-th call of Write, Sync or Close.
type faulty struct {
	Output
	left *int
	err  error
}

func (f faulty) tick() error {
	if *f.left--; *f.left < 0 {
		return f.err
	}
	return nil
}

func (f faulty) Write(p []byte) (int, error) {
	if err := f.tick(); err != nil {
		n, _ := f.Output.Write(p[:len(p)/2])
		return n, err
	}
	return f.Output.Write(p)
}

func (f faulty) Sync() error { return errors.Join(f.tick(), f.Output.Sync()) }

func (f faulty) Close() error { return errors.Join(f.Output.Close(), f.tick()) }

// TestEveryFailureLeavesNothing lets every call fail in turn, with a full disk
// and with a broken one.
func TestEveryFailureLeavesNothing(t *testing.T) {
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
		for n := 0; ; n++ {
			left := n
			create := func(root *os.Root, name string) (Output, error) {
				f := faulty{left: &left, err: &os.PathError{Op: "write", Path: name, Err: cause}}
				if err := f.tick(); err != nil {
					return nil, err
				}
				var err error
				f.Output, err = createFile(root, name)
				return f, err
			}
			top := t.TempDir()
			dir := filepath.Join(top, "a", "b")
			err := build(dir, create)
			if err == nil {
				if n < 4*testShards {
					t.Fatalf("only %d calls: the test tests nothing", n)
				}
				if err := verify(t, dir); err != nil {
					t.Fatal(err)
				}
				break
			}
			want := base.ErrUnavailable
			if cause == syscall.ENOSPC {
				want = base.ErrNoSpace
			}
			if !errors.Is(err, want) || !errors.Is(err, cause) || !strings.Contains(err.Error(), dir) {
				t.Fatalf("call %d: got %v", n, err)
			}
			if names, err := os.ReadDir(top); err != nil || len(names) > 0 {
				t.Fatalf("call %d: left behind %v, %v", n, names, err)
			}
		}
	}
}

// TestInterruptedBackupIsRefused stops before each step, as a killed process
// would: nothing is cleaned up.
func TestInterruptedBackupIsRefused(t *testing.T) {
	for files := range testShards + 2 {
		dir := filepath.Join(t.TempDir(), "backup")
		b, err := Create(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range files {
			if err := addFile(b, shardOf(i, testShards)); err != nil {
				t.Fatal(err)
			}
		}
		_ = b.root.Close()
		want := base.ErrCorrupt
		if files == 0 {
			want = base.ErrInvalid
		}
		if err := verify(t, dir); !errors.Is(err, want) || !strings.Contains(err.Error(), ManifestName) {
			t.Fatalf("after %d files: got %v", files, err)
		}
	}
}

func TestAbortKeepsWhatIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	b, err := Create(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, FileName(0))
	if err := os.WriteFile(other, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.File(0); !errors.Is(err, base.ErrInvalid) {
		t.Fatalf("overwrites the file of somebody else: %v", err)
	}
	b.Abort()
	if data, err := os.ReadFile(other); err != nil || string(data) != "mine" {
		t.Fatalf("%q, %v", data, err)
	}
}
