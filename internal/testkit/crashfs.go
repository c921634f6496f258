package testkit

import "github.com/cockroachdb/pebble/v2/vfs"

// CrashFS is a file system in memory that knows what was synced, so that
// CrashClone shows what a power failure would leave. It does not recycle files:
// vfs.MemFS takes a lock twice for that and would hang with a clone in between.
type CrashFS struct{ *vfs.MemFS }

// NewCrashFS returns an empty one.
func NewCrashFS() CrashFS { return CrashFS{vfs.NewCrashableMem()} }

// ReuseForWrite implements vfs.FS.
func (f CrashFS) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Remove(from); err != nil {
		return nil, err
	}
	return f.Create(to, category)
}

// Crash returns what a power failure would leave now, with the given share of
// what was not synced, and can crash again.
func (f CrashFS) Crash(cfg vfs.CrashCloneCfg) CrashFS { return CrashFS{f.CrashClone(cfg)} }
