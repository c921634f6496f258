package logstore

import (
	"errors"
	"os"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/diskio"
)

// guardFS stands between the engine and the disk and is where a failed disk
// becomes a fenced store.
//
// The engine ends or blocks its process when its log or manifest cannot be
// written. So it never sees that: the first failed write, sync, create or
// rename trips the fence, and from then on nothing reaches the disk. What the
// engine still writes goes to a file system in memory, the ghost, and
// succeeds, so that the engine can be closed in good order. The disk keeps
// what a power cut at the moment of the failure would have left.
//
// A fence that is tripped from outside cuts the disk off in the same way.
type guardFS struct {
	vfs.FS
	fence *diskio.Fence
	ghost *vfs.MemFS
	// closing is closed when the store closes: compactions need not be
	// waited for any more.
	closing chan struct{}
	fsyncs  atomic.Int64 // of the log of the engine
	// seal is told of every sync of a manifest; nil while there is no engine.
	seal *diskio.Seal
}

const (
	tableSuffix, blobSuffix = ".sst", ".blob"
	logSuffix               = ".log"
	compactionCategory      = "pebble-compaction"
	blobRewriteCategory     = "pebble-blob-file-rewrite"
)

func newGuardFS(inner vfs.FS, f *diskio.Fence) *guardFS {
	return &guardFS{FS: inner, fence: f, ghost: vfs.NewMem(), closing: make(chan struct{})}
}

func (g *guardFS) dead() bool { return g.fence.Err() != nil }

func (g *guardFS) isClosing() bool {
	select {
	case <-g.closing:
		return true
	default:
		return false
	}
}

// attempt runs an operation on the disk and reports whether it succeeded; if
// not, the store is fenced.
func (g *guardFS) attempt(op, name string, fn func() error) bool {
	if g.dead() {
		return false
	}
	if err := fn(); err != nil {
		g.fence.Trip(diskio.Typed(op+" "+name, err))
		return false
	}
	return true
}

// Create implements vfs.FS.
func (g *guardFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	compaction := category == compactionCategory || category == blobRewriteCategory
	if compaction && g.dead() {
		// A compaction of a dead disk leads nowhere and would fill the memory.
		<-g.closing
		return nil, g.fence.Err()
	}
	var f vfs.File
	if g.attempt("create", name, func() (err error) { f, err = g.FS.Create(name, category); return err }) {
		return g.wrap(f, name, compaction), nil
	}
	return g.ghostFile(name, category)
}

func (g *guardFS) ghostFile(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := g.ghost.MkdirAll(g.ghost.PathDir(name), 0o755); err != nil {
		return nil, err
	}
	return g.ghost.Create(name, category)
}

func (g *guardFS) wrap(f vfs.File, name string, compaction bool) vfs.File {
	return &guardFile{
		File:       f,
		g:          g,
		name:       name,
		table:      strings.HasSuffix(name, tableSuffix) || strings.HasSuffix(name, blobSuffix),
		log:        strings.HasSuffix(name, logSuffix),
		compaction: compaction,
		manifest:   g.seal.Digest(name),
	}
}

// OpenReadWrite implements vfs.FS.
func (g *guardFS) OpenReadWrite(
	name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption,
) (vfs.File, error) {
	var f vfs.File
	open := func() (err error) { f, err = g.FS.OpenReadWrite(name, category, opts...); return err }
	if g.attempt("open", name, open) {
		return g.wrap(f, name, false), nil
	}
	return g.ghostFile(name, category)
}

// ReuseForWrite implements vfs.FS.
func (g *guardFS) ReuseForWrite(
	oldname, newname string, category vfs.DiskWriteCategory,
) (vfs.File, error) {
	var f vfs.File
	reuse := func() (err error) { f, err = g.FS.ReuseForWrite(oldname, newname, category); return err }
	if g.attempt("reuse", newname, reuse) {
		return g.wrap(f, newname, false), nil
	}
	return g.ghostFile(newname, category)
}

// Open implements vfs.FS. Files that are only read are not wrapped.
func (g *guardFS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	if g.dead() {
		if f, err := g.ghost.Open(name, opts...); err == nil {
			return f, nil
		}
	}
	return g.FS.Open(name, opts...)
}

// Stat implements vfs.FS.
func (g *guardFS) Stat(name string) (vfs.FileInfo, error) {
	if g.dead() {
		if info, err := g.ghost.Stat(name); err == nil {
			return info, nil
		}
	}
	return g.FS.Stat(name)
}

// OpenDir implements vfs.FS. The directory is wrapped because it is synced.
func (g *guardFS) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return g.wrap(f, name, false), nil
}

// Remove implements vfs.FS. A file that cannot be removed costs space, not
// safety, so that does not fence.
func (g *guardFS) Remove(name string) error {
	if g.dead() {
		_ = g.ghost.Remove(name)
		return nil
	}
	return g.FS.Remove(name)
}

// RemoveAll implements vfs.FS.
func (g *guardFS) RemoveAll(name string) error {
	if g.dead() {
		_ = g.ghost.RemoveAll(name)
		return nil
	}
	return g.FS.RemoveAll(name)
}

// Rename implements vfs.FS.
func (g *guardFS) Rename(oldname, newname string) error {
	if !g.attempt("rename", newname, func() error { return g.FS.Rename(oldname, newname) }) {
		_ = g.ghost.Rename(oldname, newname)
	}
	return nil
}

// Link implements vfs.FS. Its errors are left to the caller.
func (g *guardFS) Link(oldname, newname string) error {
	if g.dead() {
		return g.fence.Err()
	}
	return g.FS.Link(oldname, newname)
}

// MkdirAll implements vfs.FS. Directories are only made while opening.
func (g *guardFS) MkdirAll(dir string, perm os.FileMode) error {
	if g.dead() {
		return g.ghost.MkdirAll(dir, perm)
	}
	return g.FS.MkdirAll(dir, perm)
}

// Unwrap implements vfs.FS.
func (g *guardFS) Unwrap() vfs.FS { return g.FS }

// guardFile is a file of guardFS that can be written.
type guardFile struct {
	vfs.File
	g    *guardFS
	name string
	// table says that this is a data file, compaction that a compaction writes
	// it. A data file that the fence caught half written gets errors, so that
	// it is written anew, to the ghost; all other files get success.
	table, compaction bool
	log               bool // its syncs are counted
	// manifest is what was written of a manifest; nil for other files.
	manifest *diskio.ManifestDigest
}

// lost is what becomes of an operation on a dead disk.
func (f *guardFile) lost() error {
	if f.table {
		return f.g.fence.Err()
	}
	return nil
}

// Write implements vfs.File.
func (f *guardFile) Write(p []byte) (int, error) {
	f.manifest.Add(p)
	return f.write(p, func() (int, error) { return f.File.Write(p) })
}

// WriteAt implements vfs.File.
func (f *guardFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write(p, func() (int, error) { return f.File.WriteAt(p, off) })
}

func (f *guardFile) write(p []byte, write func() (int, error)) (n int, err error) {
	if f.compaction && f.g.isClosing() {
		return 0, errClosed() // Close does not wait for compactions
	}
	if f.g.attempt("write", f.name, func() error { n, err = write(); return err }) {
		return len(p), nil
	}
	if err := f.lost(); err != nil {
		return n, err
	}
	return len(p), nil
}

// sync runs one of the ways to sync. It is never tried twice: after a failed
// fsync the kernel may have dropped what was to be written.
func (f *guardFile) sync(fn func() error) error {
	if f.log {
		f.g.fsyncs.Add(1)
	}
	if f.g.attempt("sync", f.name, fn) && (f.manifest == nil || f.sealed()) {
		return nil
	}
	return f.lost()
}

// sealed makes the seal agree with the manifest before the engine may go on, or
// fences the store.
func (f *guardFile) sealed() bool {
	return f.g.attempt("seal", f.name, func() error {
		return errors.Join(f.g.seal.Write(f.manifest), f.g.seal.Sync())
	})
}

// Sync implements vfs.File.
func (f *guardFile) Sync() error { return f.sync(f.File.Sync) }

// SyncData implements vfs.File.
func (f *guardFile) SyncData() error { return f.sync(f.File.SyncData) }

// SyncTo implements vfs.File. Mostly it only starts to write and is not
// counted as a sync.
func (f *guardFile) SyncTo(length int64) (full bool, err error) {
	if f.g.attempt("sync", f.name, func() (err error) { full, err = f.File.SyncTo(length); return err }) {
		return full, nil
	}
	return true, f.lost()
}

// Preallocate implements vfs.File. It is only advice to the file system.
func (f *guardFile) Preallocate(offset, length int64) error {
	if !f.g.dead() {
		_ = f.File.Preallocate(offset, length)
	}
	return nil
}

// Close implements vfs.File.
func (f *guardFile) Close() error {
	err := f.File.Close()
	if err == nil {
		return nil
	}
	if !f.g.dead() {
		f.g.fence.Trip(diskio.Typed("close "+f.name, err))
	}
	return f.lost()
}
