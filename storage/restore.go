package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/storage/internal/archive"
)

// unfinishedIdentity is what the identity file holds while a restore runs. It
// is no identity, so nothing opens a directory in which a restore was
// interrupted, wherever that happened.
const unfinishedIdentity = "a restore into this directory was not finished; remove it and restore again\n"

// RestoreBackup makes a new data directory, cfg.Dir, out of the backup in
// dir. cfg.Dir must be missing or empty. It checks the backup as VerifyBackup
// does while it reads it. The directory gets its identity last, so it opens
// only if all of it was restored: after an error everything is removed again,
// and after an interruption the directory is refused by Open until it is
// removed.
//
// The shard count is that of the backup; cfg.Shards must be 0 or the same.
// The node id is cfg.NodeID or that of the backup. The restored directory
// belongs to no cluster. progress may be nil.
func RestoreBackup(ctx context.Context, dir string, cfg Config, progress func(base.Progress)) error {
	if cfg.Dir == "" {
		return fmt.Errorf("%w: a restore needs a data directory", base.ErrInvalid)
	}
	if err := cfg.validate(); err != nil {
		return err
	}
	a, err := openBackup(dir)
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	m := a.Manifest()
	if cfg.Shards != 0 && cfg.Shards != m.Shards {
		return fmt.Errorf("%w: the backup has %d shards, not %d; the number never changes", base.ErrInvalid, m.Shards, cfg.Shards)
	}
	t, err := newRestoreTarget(cfg, &m)
	if err != nil {
		return err
	}
	if err := t.restore(ctx, a, progress); err != nil {
		t.remove()
		return err
	}
	return t.lock.Close()
}

// restoreTarget is a data directory while it is made.
type restoreTarget struct {
	cfg     Config
	created bool // the directory did not exist
	lock    io.Closer
	id      Identity
}

// newRestoreTarget makes or checks the directory, locks it and marks it as
// unfinished.
func newRestoreTarget(cfg Config, m *archive.Manifest) (*restoreTarget, error) {
	cfg.ReadCacheBytes = -1
	cfg.OnFence = nil
	cfg.Shards = m.Shards
	if cfg.NodeID == "" {
		cfg.NodeID = m.Node
	}
	cfg = cfg.withDefaults()
	t := &restoreTarget{cfg: cfg, id: newIdentity(cfg)}
	_, err := cfg.FS.Stat(cfg.Dir)
	t.created = errors.Is(err, fs.ErrNotExist)
	if t.cfg, err = locate(cfg); err != nil {
		return nil, err
	}
	// Look before the lock, so as to leave no lock file in a directory that
	// is none of ours, and again when nobody else can begin to fill it.
	if err := t.checkEmpty(); err != nil {
		return nil, err
	}
	if t.lock, err = lockDir(t.cfg); err != nil {
		return nil, err
	}
	if err := t.checkEmpty(); err != nil {
		_ = t.lock.Close()
		return nil, err
	}
	if err := t.mark(); err != nil {
		t.remove()
		return nil, diskio.Typed("restore", err)
	}
	return t, nil
}

func (t *restoreTarget) checkEmpty() error {
	names, err := t.cfg.FS.List(t.cfg.Dir)
	if err != nil {
		return diskio.Typed("restore", err)
	}
	for _, name := range names {
		if name != lockFile || t.lock == nil {
			return fmt.Errorf("%w: a restore needs a new or empty directory, %s has %.80q", base.ErrInvalid, t.cfg.Dir, name)
		}
	}
	return nil
}

func (t *restoreTarget) path(name string) string { return t.cfg.FS.PathJoin(t.cfg.Dir, name) }

// mark puts unfinishedIdentity into the directory.
func (t *restoreTarget) mark() error {
	f, err := t.cfg.FS.Create(t.path(identityFile), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(unfinishedIdentity))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return diskio.SyncDir(t.cfg.FS, t.cfg.Dir)
}

// restore fills the directory and gives it its identity.
func (t *restoreTarget) restore(ctx context.Context, a *archive.Archive, progress func(base.Progress)) error {
	s, err := t.open()
	if err != nil {
		return err
	}
	err = s.importBackup(ctx, a, progress)
	if closeErr := s.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return diskio.Typed("restore", writeIdentity(t.cfg.FS, t.cfg.Dir, t.id))
}

// open opens a store on a new engine, but writes no identity.
func (t *restoreTarget) open() (*Store, error) {
	s := newStore(t.cfg)
	s.id = t.id
	s.lock = io.NopCloser(nil) // the target has it
	s.cache = newBlockCache(t.cfg)
	if err := s.openEngine(true); err != nil {
		close(s.fs.release)
		return nil, errors.Join(err, s.closeEngine())
	}
	s.start()
	return s, nil
}

// remove removes what a failed restore made. The mark goes last, so that an
// interruption leaves no directory that opens.
func (t *restoreTarget) remove() {
	fsys := t.cfg.FS
	if fsys.RemoveAll(t.path(dataDir)) != nil {
		return // the mark stays
	}
	names, _ := fsys.List(t.cfg.Dir)
	for _, name := range names {
		if name != identityFile && name != lockFile {
			_ = fsys.RemoveAll(t.path(name))
		}
	}
	_ = fsys.Remove(t.path(identityFile))
	_ = fsys.Remove(t.path(lockFile))
	_ = t.lock.Close()
	if t.created {
		_ = fsys.Remove(t.cfg.Dir)
	}
}

// importBackup imports every file of a backup. It reads to the end even of a
// damaged one, so that the error names all that is wrong.
func (s *Store) importBackup(ctx context.Context, a *archive.Archive, progress func(base.Progress)) error {
	m := a.Manifest()
	var total int64
	for _, f := range m.Files {
		total += f.Bytes
	}
	report := newReport(stageRestore, int64(len(m.Files)), total, progress)
	var fault error // of the new directory; says nothing about the backup
	sound := true
	err := a.Verify(ctx, func(f archive.File, r io.Reader) error {
		if !sound {
			return verifyStream(ctx, &m, f, r)
		}
		info, err := s.Import(ctx, f.Shard, r)
		var target *importError
		switch {
		case errors.As(err, &target):
			fault = err
			return errStopped
		case err == nil:
			err = checkContents(f, info)
		}
		sound = err == nil
		report.add(1, f.Bytes)
		return err
	})
	if fault != nil {
		return fault
	}
	return err
}

// errStopped ends the reading of a backup.
var errStopped = errors.New("stopped")
