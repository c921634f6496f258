package hostfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/lni/dragonboat/v4/raftpb"
	lni "github.com/lni/vfs"

	"github.com/distributedcache/cache/internal/base"
)

// TestLikeDragonboatsOwn runs the same calls on dragonboat's file system and on
// ours and compares what they give.
func TestLikeDragonboatsOwn(t *testing.T) {
	want := exercise(lni.Default, t.TempDir())
	dir := t.TempDir()
	for name, got := range map[string][]string{
		"disk":   exercise(New(vfs.Default, Config{Root: dir, OnError: failOnError(t)}), dir),
		"memory": exercise(New(vfs.NewMem(), Config{Root: "/r", OnError: failOnError(t)}), "/r"),
	} {
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant:\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// exercise makes many calls and writes down what each gave.
func exercise(fs lni.FS, root string) (log []string) {
	note := func(what string, values ...any) {
		line := what
		for _, v := range values {
			if err, ok := v.(error); ok {
				v = "error"
				for text, target := range map[string]error{"not exist": os.ErrNotExist, "exist": os.ErrExist, "EOF": io.EOF} {
					if errors.Is(err, target) {
						v = text
					}
				}
			}
			line += " " + strings.ReplaceAll(strings.TrimSpace(toString(v)), root, "")
		}
		log = append(log, line)
	}
	host := fs.PathJoin(root, "machine")
	note("mkdir", fs.MkdirAll(fs.PathJoin(host, "a"), 0o750))
	name := fs.PathJoin(host, "a", "file")
	f, err := fs.Create(name)
	note("create", err)
	for _, part := range []string{"hello ", "world"} {
		n, err := f.Write([]byte(part))
		note("write", n, err)
	}
	n, err := f.WriteAt([]byte("J"), 0)
	note("writeat", n, err)
	pos, err := f.Seek(-5, io.SeekEnd)
	note("seek", pos, err)
	rest, err := io.ReadAll(f)
	note("read", rest, err)
	pos, err = f.Seek(6, io.SeekStart)
	note("seek", pos, err)
	_, err = f.Seek(-1, io.SeekStart)
	note("seek", err)
	n, err = f.Write([]byte("W"))
	note("write", n, err, f.Sync(), f.Close())
	f, err = fs.OpenForAppend(name)
	note("append", err)
	n, err = f.Write([]byte("!"))
	note("write", n, err, f.Close())
	f, err = fs.Open(name)
	note("open", err)
	buf := make([]byte, 20)
	n, err = f.ReadAt(buf, 6)
	note("readat", n, err, buf[:n])
	n, err = f.Read(buf[:3])
	note("read", n, err, buf[:n])
	info, err := f.Stat()
	note("stat", info.Size(), info.IsDir(), info.Name(), err, f.Close())
	exerciseNames(fs, host, name, note)
	return log
}

// exerciseNames is the part of exercise about names and directories.
func exerciseNames(fs lni.FS, host, name string, note func(string, ...any)) {
	missing := fs.PathJoin(host, "a", "missing")
	_, err := fs.Open(missing)
	note("open missing", err, os.IsNotExist(errors.Unwrap(err)) || os.IsNotExist(err))
	_, err = fs.OpenForAppend(missing)
	note("append missing", err)
	_, err = fs.Stat(missing)
	note("stat missing", err)
	_, err = fs.OpenDir(fs.PathJoin(host, "b", "c"))
	note("opendir missing", err)
	note("remove missing", fs.Remove(missing), fs.RemoveAll(missing), fs.RemoveAll(fs.PathJoin(missing, "x")))
	note("rename missing", fs.Rename(missing, missing+"2"))
	_, err = fs.List(missing)
	note("list missing", err)
	note("link", fs.Link(name, name+"2"), fs.Link(name, name+"2"))
	f, err := fs.Create(name)
	note("create again", err)
	info, err := f.Stat()
	note("stat", info.Size(), err, f.Close())
	f, err = fs.ReuseForWrite(name+"2", name+"3")
	note("reuse", err, f.Close())
	names, err := fs.List(fs.PathJoin(host, "a"))
	slices.Sort(names)
	note("list", strings.Join(names, " "), err)
	note("rename dir", fs.Rename(fs.PathJoin(host, "a"), fs.PathJoin(host, "z")))
	dir, err := fs.OpenDir(fs.PathJoin(host, "z"))
	note("opendir", err)
	info, err = dir.Stat()
	note("stat dir", info.IsDir(), err, dir.Sync(), dir.Close())
	note("paths", fs.PathBase(name), fs.PathDir(name) == fs.PathJoin(host, "a"))
	lock, err := fs.Lock(fs.PathJoin(fs.PathDir(host), lockFile))
	note("lock", err, lock.Close())
	note("remove", fs.Remove(fs.PathJoin(host, "z", "file")), fs.RemoveAll(fs.PathJoin(host, "z")))
	_, err = fs.Stat(fs.PathJoin(host, "z"))
	note("stat removed", err)
}

func toString(v any) string {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return fmt.Sprint(v)
}

func TestPaths(t *testing.T) {
	f := New(vfs.NewMem(), Config{Root: "/data/raft/"})
	for name, want := range map[string]string{
		"/data/raft":                  "/data/raft",
		"/data/raft/dragonboat.ds":    "/data/raft/dragonboat.ds",
		"/data/raft/NODEHOST.ID":      "/data/raft/NODEHOST.ID",
		"/data/raft/NODEHOST.ID.tmp":  "/data/raft/NODEHOST.ID.tmp",
		"/data/raft/LOCK":             "/data/raft/LOCK",
		"/data/raft/some.host":        "/data/raft/host",
		"/data/raft/other/0001/x":     "/data/raft/host/0001/x",
		"/data/raft/other/LOCK":       "/data/raft/host/LOCK",
		"/data/raft//other//LOCK/../": "/data/raft/host",
		"/data/raft2/other/0001":      "/data/raft2/other/0001",
		"/data":                       "/data",
	} {
		if got := f.path(name); got != want {
			t.Errorf("%s is at %s, want %s", name, got, want)
		}
	}
	if got, want := New(vfs.NewMem(), Config{Root: "/"}).path("/machine/x"), "/host/x"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestStatusHasNoHostname(t *testing.T) {
	mem := vfs.NewMem()
	openHost(t, New(mem, Config{Root: testRoot}), testRoot, logElsewhere{}).Close()
	content, err := readFile(mem, filepath.Join(testRoot, statusFile))
	if err != nil {
		t.Fatal(err)
	}
	var status raftpb.RaftDataStatus
	if err := status.Unmarshal(content[statusHashBytes:]); err != nil || status.Hostname != "" || status.Address == "" {
		t.Errorf("status %+v, error %v", status, err)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if names, err := mem.List(testRoot); err != nil || slices.Contains(names, name) || !slices.Contains(names, hostDir) {
		t.Errorf("the root has %v, error %v", names, err)
	}
}

func readFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// TestFlagFilesAreWholeOrAbsent cuts the power at every change of the first
// start. The next start must succeed each time.
func TestFlagFilesAreWholeOrAbsent(t *testing.T) {
	mem := vfs.NewCrashableMem()
	var states []*vfs.MemFS
	cut := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			states = append(states, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0}))
		}
		return nil
	})
	openHost(t, New(errorfs.Wrap(mem, cut), Config{Root: testRoot}), testRoot, logElsewhere{}).Close()
	if len(states) < 10 {
		t.Fatalf("only %d changes", len(states))
	}
	for _, state := range states {
		openHost(t, New(state, Config{Root: testRoot, OnError: failOnError(t)}), testRoot, logElsewhere{}).Close()
	}
}

func TestErrorsAreTyped(t *testing.T) {
	for _, c := range []struct {
		inject, want error
	}{
		{syscall.ENOSPC, base.ErrNoSpace}, {syscall.EIO, base.ErrUnavailable}, {syscall.EACCES, base.ErrInvalid},
	} {
		var got error
		fails := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpMkdirAll {
				return c.inject
			}
			return nil
		})
		f := New(errorfs.Wrap(vfs.NewMem(), fails), Config{Root: testRoot, OnError: func(_ string, err error) { got = err }})
		if err := f.MkdirAll(testRoot, 0o750); err != nil {
			t.Error("the error came back:", err)
		}
		if !errors.Is(got, c.want) || !errors.Is(got, c.inject) || !f.Dead() {
			t.Errorf("%v was reported as %v, want %v", c.inject, got, c.want)
		}
	}
}

func TestLockIsExclusive(t *testing.T) {
	mem := vfs.NewMem()
	nh := openHost(t, New(mem, Config{Root: testRoot}), testRoot, logElsewhere{})
	defer nh.Close()
	other := New(mem, Config{Root: testRoot, OnError: failOnError(t)})
	if _, err := other.Lock(filepath.Join(testRoot, lockFile)); !errors.Is(err, base.ErrInUse) {
		t.Errorf("a held lock: %v", err)
	}
}

func TestCheckSettingsFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := CheckSettingsFiles(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"dragonboat-soft-settings.json", "dragonboat-hard-settings.json"} {
		if err := os.WriteFile(name, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := CheckSettingsFiles(); !errors.Is(err, base.ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("with %s: %v", name, err)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}
