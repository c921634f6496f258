package harness

import (
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Disk is a file system that is slow, stands still, fails or is full when it is
// told to. Its methods may be called at any time.
type Disk struct {
	vfs.FS
	delay atomic.Int64 // of each sync

	// mu guards the rest.
	mu      sync.Mutex
	stalled chan struct{} // closed when the disk moves again; nil = it does
	fault   *DiskFault
	hits    int // operations that the fault has failed
	limited bool
	left    int64 // bytes that may still be written, if it is limited
}

// DiskFault fails operations on the files below Dir whose name contains File: the
// nth of them, and every later one.
type DiskFault struct {
	Dir, File string
	Sync      bool // fail syncs; else writes, creations and renames
	Nth       int  // 1 = the next one
	Err       error
}

// NewDisk returns a disk that is well, with the files of inner.
func NewDisk(inner vfs.FS) *Disk {
	d := &Disk{}
	d.FS = errorfs.Wrap(budgetFS{inner, d}, errorfs.InjectorFunc(d.before))
	return d
}

// Slow makes each sync take at least so long.
func (d *Disk) Slow(delay time.Duration) { d.delay.Store(int64(delay)) }

// Stall lets no write and no sync return until resume is called.
func (d *Disk) Stall() (resume func()) {
	gate := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stalled = gate
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.stalled = nil
		close(gate)
	})
}

// Fail makes the disk fail from now on.
func (d *Disk) Fail(f DiskFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault, d.hits = &f, 0
}

// Hits returns how many operations Fail has failed.
func (d *Disk) Hits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hits
}

// Limit lets so many more bytes be written. What is removed does not come back.
func (d *Disk) Limit(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limited, d.left = true, bytes
}

// before runs before each operation.
func (d *Disk) before(op errorfs.Op) error {
	var syncs bool
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		syncs = true
	case errorfs.OpCreate, errorfs.OpReuseForWrite, errorfs.OpRename, errorfs.OpFileWrite, errorfs.OpFileWriteAt:
	default:
		return nil
	}
	if delay := d.delay.Load(); syncs && delay > 0 {
		time.Sleep(time.Duration(delay))
	}
	d.mu.Lock()
	gate := d.stalled
	d.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return d.failure(op.Path, syncs)
}

// failure returns the error of an operation that is to fail.
func (d *Disk) failure(path string, syncs bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.fault
	if f == nil || f.Sync != syncs || !strings.HasPrefix(path, f.Dir) || !strings.Contains(path[strings.LastIndex(path, "/")+1:], f.File) {
		return nil
	}
	if f.Nth--; f.Nth > 0 {
		return nil
	}
	d.hits++
	return &fs.PathError{Op: "fault", Path: path, Err: f.Err}
}

// charge takes n bytes out of what is left.
func (d *Disk) charge(n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.limited {
		return nil
	}
	if d.left < int64(n) {
		return syscall.ENOSPC
	}
	d.left -= int64(n)
	return nil
}

// usage is what the disk says of itself.
func (d *Disk) usage() vfs.DiskUsage {
	d.mu.Lock()
	defer d.mu.Unlock()
	free := uint64(1 << 40)
	if d.limited {
		free = uint64(max(d.left, 0))
	}
	return vfs.DiskUsage{AvailBytes: free, TotalBytes: 1 << 41, UsedBytes: 1<<41 - free}
}

// budgetFS counts what is written to files.
type budgetFS struct {
	vfs.FS
	d *Disk
}

// GetDiskUsage implements vfs.FS.
func (b budgetFS) GetDiskUsage(string) (vfs.DiskUsage, error) { return b.d.usage(), nil }

// Create implements vfs.FS.
func (b budgetFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := b.FS.Create(name, c)
	return b.count(f, err)
}

// ReuseForWrite implements vfs.FS.
func (b budgetFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := b.FS.ReuseForWrite(from, to, c)
	return b.count(f, err)
}

func (b budgetFS) count(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return budgetFile{f, b.d}, nil
}

type budgetFile struct {
	vfs.File
	d *Disk
}

// Write implements vfs.File.
func (f budgetFile) Write(p []byte) (int, error) {
	if err := f.d.charge(len(p)); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}
