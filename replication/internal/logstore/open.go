package logstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/raftio"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
)

// FormatVersion is the newest format of a directory that this version knows. New
// directories have it, and older ones keep theirs.
const FormatVersion = 2

// What differs between the formats is the number of step workers, which dragonboat binds
// a directory to. Two are enough: while one waits for an fsync the other makes the next
// batch. More would only make the batches smaller.
const (
	stepWorkers      = 2
	stepWorkersOfOne = 4 // in a directory of format 1
)

// The layout of a directory.
const (
	lockFile   = "LOCK"
	formatFile = "FORMAT"
	formatTmp  = "FORMAT.tmp"
	engineDir  = "engine"
)

const (
	// formatMagic is the first word of the format file.
	formatMagic = "raftlog"
	// maxFormatBytes bounds what is read of it.
	maxFormatBytes = 256
)

// minMemTableBytes is the least with which the engine works sensibly.
const minMemTableBytes = 64 << 10

// Config says how to open a store.
type Config struct {
	// Dir is the directory of the store, which is created if it is missing.
	Dir string
	// FS is the file system; nil means that of the operating system.
	FS vfs.FS
	// Logger receives what happens in the background; nil discards it.
	Logger *slog.Logger
	// OnFail is called once, on a goroutine of its own, when the store fails
	// or is fenced. Close waits for it, so it must not close the store or the
	// NodeHost that uses it. It may be nil.
	OnFail func(cause error)
	// MemTableBytes is the size of a memtable; 0 means 16 MiB.
	MemTableBytes int64

	pace pace
	// commitLag is how many entries the commit index on disk may be behind; tests
	// change it. Each record of it is an insert into the memtable.
	commitLag uint64
}

func (c Config) validate() error {
	var faults []error
	if c.Dir == "" {
		faults = append(faults, fmt.Errorf("%w: raft log: Dir is empty", base.ErrInvalid))
	}
	if c.MemTableBytes != 0 && c.MemTableBytes < minMemTableBytes {
		faults = append(faults, fmt.Errorf("%w: raft log: MemTableBytes is %d, less than %d",
			base.ErrInvalid, c.MemTableBytes, minMemTableBytes))
	}
	return errors.Join(faults...)
}

func (c Config) withDefaults() Config {
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnFail == nil {
		c.OnFail = func(error) {}
	}
	if c.MemTableBytes == 0 {
		c.MemTableBytes = defaultMemTableBytes
	}
	c.pace = c.pace.withDefaults()
	if c.commitLag == 0 {
		c.commitLag = 1024
	}
	return c
}

// Open opens the store in cfg.Dir and creates it if it is missing. The error
// wraps ErrInUse if another store has the directory open; ErrInvalid if it
// cannot be used as asked or has a newer format; ErrCorrupt if it is damaged;
// ErrNoSpace if the disk is full; ErrUnavailable if the disk fails.
func Open(cfg Config) (*Store, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg, err := locate(cfg.withDefaults())
	if err != nil {
		return nil, diskio.Typed("raft log directory", err)
	}
	lock, err := lockDir(cfg)
	if err != nil {
		return nil, err
	}
	s := newStore(cfg)
	s.lock = lock
	if err := s.openEngine(); err != nil {
		close(s.fs.closing)
		_ = s.closeEngine()
		_ = lock.Close()
		return nil, err
	}
	s.start()
	return s, nil
}

// locate makes the directory and resolves its path, so that two spellings of
// one directory cannot be opened by one process at once.
func locate(cfg Config) (Config, error) {
	if err := diskio.MakeDir(cfg.FS, cfg.Dir); err != nil {
		return cfg, err
	}
	if cfg.FS != vfs.Default {
		return cfg, nil
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	cfg.Dir = dir
	return cfg, err
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
	locked := !errors.As(err, &errno) || errno == syscall.EAGAIN || errno == syscall.EACCES
	if errors.As(err, &onPath) || !locked {
		return nil, diskio.Typed("lock raft log directory", err)
	}
	return nil, fmt.Errorf("%w: %s: %w", base.ErrInUse, cfg.Dir, err)
}

func newStore(cfg Config) *Store {
	s := &Store{cfg: cfg, fence: diskio.NewFence(), released: make(chan struct{}), stop: make(chan struct{})}
	s.fs = newGuardFS(cfg.FS, s.fence)
	s.nodes.byID = make(map[raftio.NodeInfo]*node)
	s.compactor.dirty = make(map[raftio.NodeInfo]uint64)
	s.compactor.next = make(chan struct{})
	s.compactor.wake = make(chan struct{}, 1)
	s.cache = pebble.NewCache(blockCacheBytes + memTablesInCache*cfg.MemTableBytes)
	return s
}

// openEngine opens the engine. One without a format file must be new, as that
// is written last; one with it must be there: it must not begin anew where it
// cannot find its files, as the node would forget how it voted.
func (s *Store) openEngine() (err error) {
	defer recovered(s.cfg.Logger, "open", &err)
	format, err := checkFormat(s.fs, s.cfg.Dir)
	if err != nil {
		return err
	}
	fresh := format == 0
	s.workers = stepWorkers
	if format == 1 {
		s.workers = stepWorkersOfOne
	}
	dir := s.engineDir()
	if fresh {
		err = diskio.Typed("raft log directory", diskio.DropUnfinished(s.fs, dir))
	} else {
		err = lookForRot(s.fs, s.cfg.Dir, dir)
	}
	if err != nil {
		return err
	}
	if s.fs.seal, err = diskio.OpenSeal(s.cfg.FS, s.cfg.Dir); err != nil {
		return diskio.Typed("open "+diskio.SealFile, err)
	}
	log := &engineLog{log: s.cfg.Logger, fence: s.fence}
	opts := engineOptions(s.cfg.MemTableBytes, s.cache)
	opts.FS = s.fs
	opts.Logger = log
	opts.EventListener = log.events()
	opts.ErrorIfNotExists = !fresh
	opts.ErrorIfNotPristine = fresh
	s.db, err = pebble.Open(dir, opts)
	if err == nil && fresh {
		// The engine begins its first log before it has the newest format, in one
		// that has no marks by which rot can be told from the end of the log.
		err = s.db.Flush()
	}
	if err == nil && fresh {
		err = diskio.Typed("write "+formatFile, writeFormat(s.fs, s.cfg.Dir))
	}
	if cause := s.fence.Err(); cause != nil {
		return cause
	}
	return openError(err)
}

// lookForRot looks for it where the engine would take it for what a crash leaves.
func lookForRot(fsys vfs.FS, dir, engine string) error {
	if err := diskio.CheckSeal(fsys, dir, engine); err != nil {
		return err
	}
	return diskio.CheckLogs(fsys, engine)
}

// openError types what opening the engine can fail with. What is no error of
// the operating system is wrong bytes on the disk.
func openError(err error) error {
	var errno syscall.Errno
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pebble.ErrDBDoesNotExist), errors.Is(err, pebble.ErrDBNotPristine):
		return fmt.Errorf("%w: files of the raft log are missing: %w", base.ErrCorrupt, err)
	case errors.As(err, &errno) && errno != syscall.ENOENT:
		return diskio.Typed("open raft log", err)
	}
	return fmt.Errorf("%w: open raft log: %w", base.ErrCorrupt, err)
}

// start starts what runs as long as the store is open.
func (s *Store) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.compactions.Go(func() { s.compact(ctx) })
	s.teller.Go(s.tellFailure)
}

// tellFailure calls OnFail if the store fails before it is closed.
func (s *Store) tellFailure() {
	select {
	case <-s.fence.Tripped():
	case <-s.stop:
	}
	if err := s.fence.Err(); err != nil {
		s.cfg.Logger.Error("raft log failed", "error", err)
		s.cfg.OnFail(err)
	}
}

// encodeFormat returns a format file: a line with the version, a line with its
// xxhash64. Later formats keep that frame, so that a newer file can be told
// from a damaged one.
func encodeFormat(version int) []byte {
	line := fmt.Appendf(nil, "%s %d", formatMagic, version)
	return fmt.Appendf(line, "\n%016x\n", xxhash.Sum64(line))
}

// decodeFormat checks a format file and returns the version that it names.
func decodeFormat(buf []byte) (version int, _ error) {
	line, _, _ := bytes.Cut(buf, []byte("\n"))
	digits, ok := strings.CutPrefix(string(line), formatMagic+" ")
	version, err := strconv.Atoi(digits)
	if !ok || err != nil || version < 1 || !bytes.Equal(buf, encodeFormat(version)) {
		return 0, fmt.Errorf("%w: raft log: %s is damaged", base.ErrCorrupt, formatFile)
	}
	if version > FormatVersion {
		return 0, fmt.Errorf("%w: the raft log has format %d; this version knows formats up to %d",
			base.ErrInvalid, version, FormatVersion)
	}
	return version, nil
}

// checkFormat returns the format of a directory, 0 for a new one, or that it cannot be
// used.
func checkFormat(fsys vfs.FS, dir string) (version int, err error) {
	f, err := fsys.Open(fsys.PathJoin(dir, formatFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, diskio.Typed("open "+formatFile, err)
	}
	defer func() { _ = f.Close() }()
	buf, err := io.ReadAll(io.LimitReader(f, maxFormatBytes))
	if err != nil {
		return 0, diskio.Typed("read "+formatFile, err)
	}
	return decodeFormat(buf)
}

func writeFormat(fsys vfs.FS, dir string) error {
	tmp := fsys.PathJoin(dir, formatTmp)
	f, err := fsys.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(encodeFormat(FormatVersion))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(tmp, fsys.PathJoin(dir, formatFile)); err != nil {
		return err
	}
	return diskio.SyncDir(fsys, dir)
}

// pace bounds what the compactor takes of the disk; tests change it.
type pace struct {
	// every is the least time between two rounds.
	every time.Duration
	// rest is how long the compactor rests after a compaction, as a multiple
	// of what that took.
	rest int
	// deadBytes is what must have died at least to be worth a round.
	deadBytes uint64
}

func (p pace) withDefaults() pace {
	if p.every == 0 {
		p.every = 5 * time.Second
	}
	if p.rest == 0 {
		p.rest = 3
	}
	if p.deadBytes == 0 {
		p.deadBytes = 8 << 20
	}
	return p
}
