package hostfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	lni "github.com/lni/vfs"

	"github.com/distributedcache/cache/internal/base"
)

// hostDir stands for the name of the machine in paths below the root.
const hostDir = "host"

// The files that dragonboat keeps directly in its root. Whatever else is there
// is the directory with the name of the machine.
const (
	statusFile = "dragonboat.ds"
	idFile     = "NODEHOST.ID"
	lockFile   = "LOCK"
	tmpSuffix  = ".tmp"
)

// writeCategory says in the statistics of the engine who writes.
const writeCategory = vfs.DiskWriteCategory("replication-host")

// Config says how dragonboat uses the file system.
type Config struct {
	// Root is the NodeHostDir. It must be nobody else's; WALDir must be empty.
	Root string
	// OnError is told of every I/O error but those that say that a file does
	// or does not exist. It may be called concurrently and must not use the FS.
	OnError func(op string, err error)
}

// FS is a config.IFS of dragonboat. Its methods may be called concurrently,
// those of one of its files may not.
type FS struct {
	inner   vfs.FS
	root    string
	onError func(op string, err error)
	dead    atomic.Bool

	// mu guards moved: new names of what a dead disk has under the old one.
	mu    sync.Mutex
	moved map[string]string
}

var _ lni.FS = (*FS)(nil)

// New returns the file system that dragonboat is given as Expert.FS.
func New(inner vfs.FS, cfg Config) *FS {
	root := filepath.Clean(cfg.Root)
	if abs, err := filepath.Abs(root); err == nil {
		root = abs // as dragonboat does
	}
	onError := cfg.OnError
	if onError == nil {
		onError = func(string, error) {}
	}
	return &FS{inner: inner, root: root, onError: onError, moved: map[string]string{}}
}

// Dead reports whether an error has made the disk dead.
func (f *FS) Dead() bool { return f.dead.Load() }

// path returns where a file of dragonboat is: with a fixed name in place of
// that of the machine.
func (f *FS) path(name string) string {
	name = filepath.Clean(name)
	rel, ok := strings.CutPrefix(name, strings.TrimSuffix(f.root, separator)+separator)
	if !ok || rel == "" {
		return name
	}
	first, rest, _ := strings.Cut(rel, separator)
	if rest == "" && slices.Contains([]string{statusFile, idFile, lockFile}, strings.TrimSuffix(first, tmpSuffix)) {
		return name
	}
	return filepath.Join(f.root, hostDir, rest)
}

const separator = string(filepath.Separator)

// isFlag reports whether a path is one of the flag files in the root.
func (f *FS) isFlag(path string) bool {
	return path == filepath.Join(f.root, statusFile) || path == filepath.Join(f.root, idFile)
}

// fail reports an error of the disk, which is dead from then on. An error that
// a caller has to expect is returned instead.
func (f *FS) fail(op, path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
	}
	if errors.Is(err, fs.ErrExist) {
		return &fs.PathError{Op: op, Path: path, Err: fs.ErrExist}
	}
	kind := base.ErrUnavailable
	switch {
	case vfs.IsNoSpaceError(err):
		kind = base.ErrNoSpace
	case errors.Is(err, fs.ErrPermission):
		kind = base.ErrInvalid
	}
	f.onError(op, fmt.Errorf("%w: %s %s: %w", kind, op, path, err))
	f.dead.Store(true)
	return nil
}

// change runs what changes the disk. Only errors that a caller has to expect
// are returned; done says whether the disk was changed.
func (f *FS) change(op, path string, fn func() error) (done bool, err error) {
	if f.dead.Load() {
		return false, nil
	}
	if err := fn(); err != nil {
		return false, f.fail(op, path, err)
	}
	return true, nil
}

// look returns the error of something that was only looked at, after
// reporting it.
func (f *FS) look(op, path string, err error) error {
	if err == nil {
		return nil
	}
	if expected := f.fail(op, path, err); expected != nil {
		return expected
	}
	return err
}

// Create implements vfs.FS of dragonboat.
func (f *FS) Create(name string) (lni.File, error) {
	path := f.path(name)
	if f.isFlag(path) {
		return &flagFile{ghost: ghost{name: path}, fs: f}, nil
	}
	return f.create(path)
}

func (f *FS) create(path string) (lni.File, error) {
	// The file is not truncated but new, as from Create of the engine, which
	// only promises appending to it, and dragonboat also writes at offsets.
	return f.writable("create", path, func() (vfs.File, error) {
		if err := f.inner.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return f.inner.OpenReadWrite(path, writeCategory)
	})
}

// writable opens a file to be written, which goes nowhere on a dead disk.
func (f *FS) writable(op, path string, open func() (vfs.File, error)) (lni.File, error) {
	var inner vfs.File
	done, err := f.change(op, path, func() (err error) { inner, err = open(); return err })
	if err != nil {
		return nil, err
	}
	if !done {
		return &ghost{name: path}, nil
	}
	return &file{inner: inner, fs: f, name: path}, nil
}

// OpenForAppend implements vfs.FS of dragonboat. The file must exist.
func (f *FS) OpenForAppend(name string) (lni.File, error) {
	path, size := f.path(name), int64(0)
	opened, err := f.writable("open", path, func() (vfs.File, error) {
		info, err := f.inner.Stat(path)
		if err != nil {
			return nil, err
		}
		size = info.Size()
		return f.inner.OpenReadWrite(path, writeCategory)
	})
	if real, ok := opened.(*file); ok {
		real.pos = size
	}
	return opened, err
}

// ReuseForWrite implements vfs.FS of dragonboat.
func (f *FS) ReuseForWrite(oldname, newname string) (lni.File, error) {
	path := f.path(newname)
	return f.writable("reuse", path, func() (vfs.File, error) {
		return f.inner.ReuseForWrite(f.path(oldname), path, writeCategory)
	})
}

// Open implements vfs.FS of dragonboat.
func (f *FS) Open(name string, opts ...lni.OpenOption) (lni.File, error) {
	path := f.find(f.path(name))
	inner, err := f.inner.Open(path)
	if err != nil {
		return nil, f.look("open", path, err)
	}
	opened := &file{inner: inner, fs: f, name: path}
	for _, opt := range opts {
		opt.Apply(opened)
	}
	return opened, nil
}

// OpenDir implements vfs.FS of dragonboat.
func (f *FS) OpenDir(name string) (lni.File, error) {
	path := f.path(name)
	var inner vfs.File
	done, err := f.change("open", path, func() (err error) { inner, err = f.inner.OpenDir(path); return err })
	if err != nil {
		return nil, err
	}
	if !done {
		return &ghost{name: path, dir: true}, nil
	}
	return &file{inner: inner, fs: f, name: path}, nil
}

// Link implements vfs.FS of dragonboat.
func (f *FS) Link(oldname, newname string) error {
	path := f.path(newname)
	_, err := f.change("link", path, func() error { return f.inner.Link(f.path(oldname), path) })
	return err
}

// Remove implements vfs.FS of dragonboat.
func (f *FS) Remove(name string) error {
	path := f.path(name)
	_, err := f.change("remove", path, func() error { return f.inner.Remove(path) })
	return err
}

// RemoveAll implements vfs.FS of dragonboat.
func (f *FS) RemoveAll(name string) error {
	path := f.path(name)
	_, err := f.change("remove", path, func() error { return f.inner.RemoveAll(path) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil // as with os.RemoveAll; not every vfs.FS agrees
	}
	return err
}

// Rename implements vfs.FS of dragonboat.
func (f *FS) Rename(oldname, newname string) error {
	from, to := f.path(oldname), f.path(newname)
	done, err := f.change("rename", to, func() error { return f.inner.Rename(from, to) })
	if !done && err == nil {
		f.mu.Lock()
		f.moved[to] = from
		f.mu.Unlock()
	}
	return err
}

// find returns where a path is on a dead disk that refused to rename it or a
// directory above it.
func (f *FS) find(path string) string {
	if !f.dead.Load() {
		return path
	}
	if _, err := f.inner.Stat(path); err == nil {
		return path
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for to, from := range f.moved {
		if rest, ok := strings.CutPrefix(path, to); ok && (rest == "" || strings.HasPrefix(rest, separator)) {
			return from + rest
		}
	}
	return path
}

// MkdirAll implements vfs.FS of dragonboat.
func (f *FS) MkdirAll(dir string, perm os.FileMode) error {
	path := f.path(dir)
	_, err := f.change("mkdir", path, func() error { return f.inner.MkdirAll(path, perm) })
	return err
}

// Lock implements vfs.FS of dragonboat. It fails if another process, or
// another FS of this one, holds the lock.
func (f *FS) Lock(name string) (io.Closer, error) {
	path := f.path(name)
	if f.dead.Load() {
		return nil, fmt.Errorf("%w: lock %s: the disk failed", base.ErrUnavailable, path)
	}
	held, err := f.inner.Lock(path)
	if err != nil {
		return nil, fmt.Errorf("%w: lock %s: %w", base.ErrInUse, path, err)
	}
	return &lock{held: held, fs: f, name: path}, nil
}

// List implements vfs.FS of dragonboat.
func (f *FS) List(dir string) ([]string, error) {
	path := f.path(dir)
	names, err := f.inner.List(path)
	if err != nil && f.dead.Load() {
		return nil, nil
	}
	return names, f.look("list", path, err)
}

// Stat implements vfs.FS of dragonboat. On a dead disk everything exists.
func (f *FS) Stat(name string) (os.FileInfo, error) {
	path := f.path(name)
	info, err := f.inner.Stat(f.find(path))
	if err == nil {
		return info, nil
	}
	if f.dead.Load() {
		return (&ghost{name: path}).Stat()
	}
	return nil, f.look("stat", path, err)
}

// PathBase implements vfs.FS of dragonboat.
func (f *FS) PathBase(path string) string { return f.inner.PathBase(path) }

// PathJoin implements vfs.FS of dragonboat.
func (f *FS) PathJoin(elem ...string) string { return f.inner.PathJoin(elem...) }

// PathDir implements vfs.FS of dragonboat.
func (f *FS) PathDir(path string) string { return f.inner.PathDir(path) }

// GetDiskUsage implements vfs.FS of dragonboat, which does not use it. Not
// every vfs.FS has it, so an error is not one of the disk.
func (f *FS) GetDiskUsage(path string) (lni.DiskUsage, error) {
	usage, err := f.inner.GetDiskUsage(f.path(path))
	return lni.DiskUsage(usage), err
}
