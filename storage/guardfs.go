package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
)

// guardFS stands between the engine and the disk and is where a failed disk
// becomes a fenced store.
//
// The engine was written for a process that dies when its log or manifest
// cannot be written: it panics with locks held, or retries for ever. So it
// never gets to see such an error. The first failed write, sync, create or
// rename trips the fence, and from that moment on the disk is dead: whatever
// the engine still does to files goes to a file system in memory, the ghost,
// and "succeeds". The disk keeps the state it had, as after a power cut, and
// the next Open recovers from that. The engine does not notice and can be
// closed in good order. Nobody else is fooled: every call of the store asks
// the fence before it answers.
//
// A full disk is not a failed one. A write that finds no space waits until
// there is some, because that is what the engine handles well: reads go on,
// and the store refuses new writes meanwhile.
type guardFS struct {
	vfs.FS
	fence *diskio.Fence
	ghost *vfs.MemFS
	// budget is how much may be written before the free space must be looked
	// at again, waiting how many writes wait for space. onFull is called when
	// either is a reason to look.
	budget  atomic.Int64
	waiting atomic.Int32
	onFull  func()
	// seal is told of every sync of a manifest; nil: nobody needs to know.
	seal *diskio.Seal
	// patient says whether writes wait for space; before the store is open
	// and once it is closing they fail instead.
	patient atomic.Bool
	// release is closed when the store closes and nothing may wait any more.
	release chan struct{}
	retry   time.Duration
}

const (
	tableSuffix, blobSuffix = ".sst", ".blob"
	logSuffix               = ".log"
	compactionCategory      = "pebble-compaction"
	blobRewriteCategory     = "pebble-blob-file-rewrite"
)

func newGuardFS(inner vfs.FS, f *diskio.Fence, retry time.Duration) *guardFS {
	return &guardFS{
		FS:      inner,
		fence:   f,
		ghost:   vfs.NewMem(),
		onFull:  func() {},
		release: make(chan struct{}),
		retry:   retry,
	}
}

func (g *guardFS) dead() bool { return g.fence.Err() != nil }

func (g *guardFS) released() bool {
	select {
	case <-g.release:
		return true
	default:
		return false
	}
}

// fail fences the store because of an error of the disk.
func (g *guardFS) fail(op, name string, err error) {
	what := fmt.Sprintf("%s %s", op, name)
	switch {
	case diskio.IsNoSpace(err):
		err = fmt.Errorf("%w: %s: %w", base.ErrNoSpace, what, err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w: %s: %w", base.ErrInvalid, what, err)
	default:
		err = fmt.Errorf("%w: the disk failed: %s: %w", base.ErrUnavailable, what, err)
	}
	g.fence.Trip(err)
}

// attempt runs an operation on the disk, again and again while the disk is
// full. It reports whether it succeeded; if not, the store is fenced.
func (g *guardFS) attempt(op, name string, fn func() error) bool {
	if g.dead() {
		return false
	}
	err := fn()
	if err != nil && diskio.IsNoSpace(err) && g.patient.Load() {
		g.waiting.Add(1)
		for err != nil && diskio.IsNoSpace(err) && g.waitForSpace() {
			err = fn()
		}
		g.waiting.Add(-1)
		g.onFull()
	}
	if err != nil {
		g.fail(op, name, err)
	}
	return err == nil
}

// waitForSpace blocks for a while after a write found no space and reports
// whether to try again.
func (g *guardFS) waitForSpace() bool {
	g.onFull()
	timer := time.NewTimer(g.retry)
	defer timer.Stop()
	select {
	case <-timer.C:
		return g.patient.Load()
	case <-g.release:
		return false
	case <-g.fence.Tripped():
		return false
	}
}

// Create implements vfs.FS.
func (g *guardFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	compaction := category == compactionCategory || category == blobRewriteCategory
	if compaction && g.dead() {
		// A compaction of a dead disk leads nowhere and would fill the memory.
		<-g.release
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

// Link implements vfs.FS. Its errors are left to the caller, who falls back
// to a copy.
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
	// table says that this is a data file, compaction that a compaction
	// writes it. A data file that the fence caught half written gets errors,
	// so that it is written anew, to the ghost; all other files get success.
	table, compaction bool
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
	return f.write(p, func(done int) (int, error) { return f.File.Write(p[done:]) })
}

// WriteAt implements vfs.File.
func (f *guardFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write(p, func(done int) (int, error) { return f.File.WriteAt(p[done:], off+int64(done)) })
}

func (f *guardFile) write(p []byte, rest func(done int) (int, error)) (int, error) {
	if f.compaction && f.g.released() {
		return 0, errClosed() // Close does not wait for compactions
	}
	done := 0
	ok := f.g.attempt("write", f.name, func() error {
		n, err := rest(done)
		done += n
		if f.g.budget.Add(-int64(n)) < 0 {
			f.g.onFull()
		}
		return err
	})
	if ok {
		return len(p), nil
	}
	if err := f.lost(); err != nil {
		return done, err
	}
	return len(p), nil
}

// sync runs one of the ways to sync. It is never tried twice: after a failed
// fsync the kernel may have dropped what was to be written.
func (f *guardFile) sync(fn func() error) error {
	if f.g.dead() {
		return f.lost()
	}
	if err := fn(); err != nil {
		f.g.fail("sync", f.name, err)
		return f.lost()
	}
	if f.manifest != nil {
		f.sealManifest()
	}
	return nil
}

// sealManifest makes the seal agree with the manifest before the engine may
// go on. A failure fences, so nothing needs to be returned.
func (f *guardFile) sealManifest() {
	if !f.g.attempt("seal", f.name, func() error { return f.g.seal.Write(f.manifest) }) {
		return
	}
	if err := f.g.seal.Sync(); err != nil {
		f.g.fail("sync the seal of", f.name, err)
	}
}

// Sync implements vfs.File.
func (f *guardFile) Sync() error { return f.sync(f.File.Sync) }

// SyncData implements vfs.File.
func (f *guardFile) SyncData() error { return f.sync(f.File.SyncData) }

// SyncTo implements vfs.File.
func (f *guardFile) SyncTo(length int64) (full bool, err error) {
	err = f.sync(func() (err error) { full, err = f.File.SyncTo(length); return err })
	return full, err
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
	if err != nil && !f.g.dead() {
		f.g.fail("close", f.name, err)
	}
	return f.lostIf(err)
}

func (f *guardFile) lostIf(err error) error {
	if err == nil {
		return nil
	}
	return f.lost()
}
