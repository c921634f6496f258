package storage

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// faultyFS fails its at-th operation that changes something, once.
type faultyFS struct {
	vfs.FS
	at    int64
	err   error
	count atomic.Int64
}

func (f *faultyFS) tick(op, name string) error {
	if f.count.Add(1) == f.at {
		return &fs.PathError{Op: op, Path: name, Err: f.err}
	}
	return nil
}

func (f *faultyFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.tick("create", name); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(name, c)
	return faultyFile{file, f, name}, err
}

func (f *faultyFS) Link(from, to string) error {
	if err := f.tick("link", to); err != nil {
		return err
	}
	return f.FS.Link(from, to)
}

func (f *faultyFS) Rename(from, to string) error {
	if err := f.tick("rename", to); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f *faultyFS) MkdirAll(dir string, perm os.FileMode) error {
	if err := f.tick("mkdir", dir); err != nil {
		return err
	}
	return f.FS.MkdirAll(dir, perm)
}

func (f *faultyFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	return faultyFile{file, f, name}, err
}

type faultyFile struct {
	vfs.File
	f    *faultyFS
	name string
}

func (f faultyFile) Write(p []byte) (int, error) {
	if err := f.f.tick("write", f.name); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f faultyFile) Sync() error {
	if err := f.f.tick("sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f faultyFile) SyncData() error {
	if err := f.f.tick("sync", f.name); err != nil {
		return err
	}
	return f.File.SyncData()
}

func testRNG() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }
