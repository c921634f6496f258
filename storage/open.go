package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
)

// Open opens the store in cfg.Dir and creates it if it is missing. The error
// wraps ErrInUse if another store, in this or another process, has the
// directory open; ErrInvalid if the directory cannot be used as asked: it has
// a newer format, another shard count or another node id, is no directory or
// not writable; ErrCorrupt if it is damaged; ErrNoSpace if the disk is full;
// ErrUnavailable if the disk fails.
func Open(cfg Config) (*Store, error) {
	d, err := Claim(cfg)
	if err != nil {
		return nil, err
	}
	return d.Open(d.cfg)
}

// locate makes the directory and resolves its path, so that two spellings of
// one directory cannot be opened by one process at once.
func locate(cfg Config) (Config, error) {
	if err := diskio.MakeDir(cfg.FS, cfg.Dir); err != nil {
		return cfg, diskio.Typed("create data directory", err)
	}
	info, err := cfg.FS.Stat(cfg.Dir)
	if err != nil {
		return cfg, diskio.Typed("data directory", err)
	}
	if !info.IsDir() {
		return cfg, fmt.Errorf("%w: %s is not a directory", base.ErrInvalid, cfg.Dir)
	}
	if cfg.FS != vfs.Default {
		return cfg, nil
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return cfg, diskio.Typed("data directory", err)
	}
	cfg.Dir = dir
	return cfg, nil
}

// lockDir locks the directory against other processes and against a second
// Open in this one.
func lockDir(cfg Config) (io.Closer, error) {
	lock, err := cfg.FS.Lock(cfg.FS.PathJoin(cfg.Dir, lockFile))
	if err == nil {
		return lock, nil
	}
	var onPath *fs.PathError // creating the file failed
	var errno syscall.Errno  // locking it failed; EACCES and EAGAIN mean that it is locked
	if errors.As(err, &onPath) {
		return nil, diskio.Typed("lock data directory", err)
	}
	if errors.As(err, &errno) && errno != syscall.EAGAIN && errno != syscall.EACCES {
		return nil, diskio.Typed("lock data directory", err)
	}
	return nil, fmt.Errorf("%w: %s: %w", base.ErrInUse, cfg.Dir, err)
}

// open opens the engine in a locked directory.
func open(cfg Config) (*Store, error) {
	s := newStore(cfg)
	id, fresh, err := identify(s.fs, cfg)
	if err != nil {
		return nil, err
	}
	removeStaleImports(cfg)
	s.id = id
	s.cache = newBlockCache(cfg)
	err = s.openEngine(fresh)
	if err == nil && fresh {
		err = errors.Join(s.renewLog(), s.writeIdentity())
	}
	if cause := s.fence.Err(); cause != nil {
		err = cause
	}
	if err != nil {
		close(s.fs.release)
		s.closeEngine()
		return nil, err
	}
	s.fs.patient.Store(true)
	s.start()
	return s, nil
}

func newStore(cfg Config) *Store {
	s := &Store{
		cfg:   cfg,
		fence: diskio.NewFence(),
		gate:  newGate(),
		wake:  make(chan struct{}, 1),
		stop:  make(chan struct{}),
	}
	s.fs = newGuardFS(cfg.FS, s.fence, cfg.DiskPollInterval)
	s.fs.onFull = s.poke
	s.events = &engineLog{log: cfg.Logger, fence: s.fence, wake: s.poke}
	s.open.handles = make(map[handle]struct{})
	s.batches.New = func() any { return newBatch(s) }
	s.pages.New = func() any { return new(pageBuilder) }
	s.lookups.New = func() any { return new(lookup) }
	return s
}

// openEngine opens the engine. An engine without an identity must be new: the
// identity is written last. One with an identity must be there: the engine
// must not quietly begin anew where it cannot find its files.
func (s *Store) openEngine(fresh bool) (err error) {
	defer recovered(s.cfg.Logger, "open", &err)
	opts := engineOptions(s.cfg, s.cache)
	opts.FS = s.fs
	opts.Logger = s.events
	opts.EventListener = s.events.events()
	opts.ErrorIfNotExists = !fresh
	opts.ErrorIfNotPristine = fresh
	dir := s.fs.PathJoin(s.cfg.Dir, dataDir)
	if fresh {
		err = diskio.DropUnfinished(s.fs, dir)
	} else {
		err = diskio.CheckSeal(s.fs, s.cfg.Dir, dir)
	}
	if err != nil {
		return err
	}
	if err := diskio.CheckLogs(s.fs, dir); err != nil {
		return err
	}
	if s.fs.seal, err = diskio.OpenSeal(s.cfg.FS, s.cfg.Dir); err != nil {
		return diskio.Typed("open "+diskio.SealFile, err)
	}
	s.db, err = pebble.Open(dir, opts)
	return openError(err)
}

// renewLog makes a new engine begin its second log. It begins the first one
// before it has the newest format, in one that has no marks, without which
// rot in the log cannot be told from its end; see diskio.CheckLogs.
func (s *Store) renewLog() error {
	if s.cfg.Durability == Volatile {
		return nil
	}
	return s.flush(context.Background())
}

// openError types what opening the engine can fail with.
func openError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pebble.ErrDBDoesNotExist), errors.Is(err, pebble.ErrDBNotPristine):
		return fmt.Errorf("%w: files of the data directory are missing: %w", base.ErrCorrupt, err)
	case errors.Is(err, fs.ErrPermission), diskio.IsNoSpace(err), isDiskError(err):
		return diskio.Typed("open", err)
	}
	// Whatever else keeps the engine from opening is wrong bytes on the disk;
	// the engine does not mark all of it as corruption.
	return fmt.Errorf("%w: open: %w", base.ErrCorrupt, err)
}

// isDiskError reports whether the operating system failed an operation, as
// opposed to the bytes on disk being wrong. A missing file is wrong bytes.
func isDiskError(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && !errors.Is(err, fs.ErrNotExist)
}

func (s *Store) writeIdentity() error {
	return diskio.Typed("write "+identityFile, writeIdentity(s.fs, s.cfg.Dir, s.id))
}

// start starts what runs as long as the store is open.
func (s *Store) start() {
	if s.cfg.ReadCacheBytes > 0 {
		s.reads = newReadCache(s.cfg.ReadCacheBytes, s.cfg.Logger)
	}
	s.tasks.Go(s.maintain)
	if s.cfg.OnFence != nil {
		s.tasks.Go(s.tellFence)
	}
}

// tellFence calls OnFence if the store is fenced before it is closed.
func (s *Store) tellFence() {
	select {
	case <-s.fence.Tripped():
	case <-s.stop:
	}
	if err := s.fence.Err(); err != nil {
		s.cfg.OnFence(err)
	}
}

// closeEngine closes what open opened, in the order that needs.
func (s *Store) closeEngine() (err error) {
	if s.db != nil {
		err = s.closeDB()
	}
	s.cache.Unref()
	return errors.Join(err, s.ioError("close "+diskio.SealFile, s.fs.seal.Close()))
}

func (s *Store) closeDB() (err error) {
	defer recovered(s.cfg.Logger, "close", &err)
	return s.db.Close()
}
