package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/internal/keyenc"
)

// Store is the one storage engine of a node. All methods are safe for
// concurrent use.
type Store struct {
	cfg    Config
	id     Identity
	fence  *diskio.Fence
	fs     *guardFS
	events *engineLog
	cache  *pebble.Cache
	db     *pebble.DB
	reads  *readCache // nil: off
	lock   io.Closer

	// gate is entered by every use of db. Close shuts it and waits.
	gate    *gate
	batches sync.Pool // *Batch
	pages   sync.Pool // *pageBuilder
	lookups sync.Pool // *lookup
	flushes flushGroup
	// replaced remembers the shards that Import replaced.
	replaced replacements

	full    atomic.Pointer[error]    // set while writes are refused for want of space
	stalled atomic.Pointer[stall]    // set while writes wait for compactions
	disk    atomic.Pointer[diskView] // what the last look at the disk showed
	stalls  atomic.Int64

	// wake and stop steer the goroutines in tasks.
	wake  chan struct{}
	stop  chan struct{}
	tasks sync.WaitGroup

	open handles

	closeOnce sync.Once
	closeErr  error
}

// handles are what Close must close for a caller who did not.
type handles struct {
	sync.Mutex
	handles   map[handle]struct{}
	releasing sync.WaitGroup // those that were taken out and are being closed
}

// handle is an engine object that must be closed before the engine.
type handle interface{ closeHandle() error }

// enter begins a use of db; leave ends it.
func (s *Store) enter() error {
	if !s.gate.enter() {
		return errClosed()
	}
	if err := s.fence.Err(); err != nil {
		s.gate.leave()
		return err
	}
	return nil
}

func (s *Store) leave() { s.gate.leave() }

// usable returns why the store cannot be used, without entering it.
func (s *Store) usable() error {
	if s.gate.isShut() {
		return errClosed()
	}
	return s.fence.Err()
}

// Identity returns what the directory is.
func (s *Store) Identity() Identity { return s.id }

// Fenced returns a channel that is closed when the engine failed for good.
func (s *Store) Fenced() <-chan struct{} { return s.fence.Tripped() }

// Err returns why the store was fenced, or nil.
func (s *Store) Err() error { return s.fence.Err() }

// Writable returns nil if writes can be accepted now, else an error that
// wraps ErrNoSpace, ErrClosed or the cause of the fence. It costs a few
// atomic loads.
func (s *Store) Writable() error {
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.full.Load(); err != nil {
		return *err
	}
	return nil
}

// Space returns the view of one shard. It is a small value; it needs no
// closing.
func (s *Store) Space(shard base.ShardID) Space { return Space{s: s, shard: shard} }

// ioError turns an error of the engine into a typed one; the cause of a
// fence wins.
func (s *Store) ioError(what string, err error) error {
	if err == nil {
		return nil
	}
	if cause := s.fence.Err(); cause != nil {
		return cause
	}
	return diskio.Typed(what, err)
}

// Flush writes everything in memory to data files and waits for that.
func (s *Store) Flush(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.flush(ctx)
}

func (s *Store) flush(ctx context.Context) (err error) {
	defer recovered(s.cfg.Logger, "flush", &err)
	done, err := s.db.AsyncFlush()
	if err != nil {
		return s.ioError("flush", err)
	}
	select {
	case <-done:
		return s.fence.Err()
	case <-s.fence.Tripped():
		return s.fence.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Compact rewrites all data files, so that deleted and overwritten data gives
// its space back. progress, if not nil, is called after each shard.
func (s *Store) Compact(ctx context.Context, progress func(base.Progress)) error {
	total := int64(s.id.Shards + 1)
	for i := range total {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.compactShard(ctx, s.nthShard(int(i))); err != nil {
			return err
		}
		if progress != nil {
			progress(base.Progress{Stage: "compact", Done: i + 1, Total: total})
		}
	}
	return nil
}

// nthShard numbers the shards with the node's own space last.
func (s *Store) nthShard(i int) base.ShardID {
	if i == s.id.Shards {
		return NodeShard
	}
	return base.ShardID(i)
}

func (s *Store) compactShard(ctx context.Context, shard base.ShardID) (err error) {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	defer recovered(s.cfg.Logger, "compact", &err)
	asked := ctx
	ctx, cancel := s.untilUseless(ctx)
	defer cancel()
	start := keyenc.AppendShardStart(nil, shard)
	end := keyenc.AppendShardEnd(nil, shard)
	err = s.db.Compact(ctx, start, end, true)
	switch {
	case asked.Err() != nil:
		return context.Cause(asked)
	case ctx.Err() != nil && s.fence.Err() == nil:
		return errClosed()
	case err != nil:
		return s.ioError("compact", err)
	}
	return s.fence.Err()
}

// untilUseless returns a context that also ends when the store is fenced or
// about to close: long work then leads nowhere, and Close waits for it.
func (s *Store) untilUseless(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	go func() {
		select {
		case <-s.fence.Tripped():
		case <-s.stop:
		case <-ctx.Done():
		}
		cancel()
	}()
	return ctx, cancel
}

// DropShard deletes everything of a shard; Sync makes that durable.
func (s *Store) DropShard(shard base.ShardID) error {
	start := keyenc.AppendShardStart(nil, shard)
	end := keyenc.AppendShardEnd(nil, shard)
	return s.replacing("drop shard", func() error {
		return s.db.DeleteRange(start, end, pebble.NoSync)
	})
}

// replacing runs fn, which changes many records behind the back of the read
// cache, and empties the cache so that no reader sees what was before.
func (s *Store) replacing(what string, fn func() error) (err error) {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	defer recovered(s.cfg.Logger, what, &err)
	s.reads.beginAll()
	defer s.reads.endAll()
	if err := fn(); err != nil {
		return s.ioError(what, err)
	}
	return s.fence.Err()
}

// Stats describes the engine.
func (s *Store) Stats() base.StorageStats {
	if s.enter() != nil {
		return base.StorageStats{}
	}
	defer s.leave()
	m := s.db.Metrics()
	stats := base.StorageStats{
		DiskBytes:        int64(m.DiskSpaceUsage()),
		MemTableBytes:    int64(m.MemTable.Size),
		BlockCacheBytes:  m.BlockCache.Size,
		BlockCacheHits:   m.BlockCache.Hits,
		BlockCacheMisses: m.BlockCache.Misses,
		WALBytes:         int64(m.WAL.Size),
		Flushes:          m.Flush.Count,
		Compactions:      m.Compact.Count,
		ReadAmp:          m.ReadAmp(),
		WriteStalls:      s.events.writeStalls.Load() + s.stalls.Load(),
	}
	if disk := s.disk.Load(); disk != nil {
		stats.DiskFreeBytes, stats.ReserveBytes = disk.free, disk.reserve
	}
	s.reads.stats(&stats)
	return stats
}

// closePatience bounds how long Close waits for the engine of a fenced store.
const closePatience = 5 * time.Second

// Close waits for the calls in flight, flushes and releases everything: a
// directory that was closed without an error has an empty log. Snapshots and
// scanners that are still open are closed. Close is idempotent; later calls
// return what the first one did. After it, every call returns ErrClosed.
//
// Closing a fenced store takes bounded time and returns the cause of the
// fence.
func (s *Store) Close() error {
	s.closeOnce.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Store) close() error {
	s.fs.patient.Store(false) // a write that waits for space now fails, and fences
	close(s.stop)             // ends stalls and long work
	s.gate.shut()
	s.tasks.Wait()
	err := s.fence.Err()
	if err == nil && !s.cfg.inMemory {
		err = s.flush(context.Background())
	}
	close(s.fs.release)
	err = firstError(err, s.closeHandles(), s.closeWithin(closePatience))
	err = firstError(err, s.fence.Err()) // the very last write may have failed
	s.reads.close()
	if err == nil {
		diskio.RemoveOldLogs(s.fs, s.fs.PathJoin(s.cfg.Dir, dataDir))
	}
	return firstError(err, diskio.Typed("unlock", s.lock.Close()))
}

// firstError returns the first of its arguments that is an error.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// closeWithin closes the engine. That of a fenced store is left behind if it
// does not close in time: it may have panicked with its locks held.
func (s *Store) closeWithin(patience time.Duration) error {
	if s.fence.Err() == nil {
		return s.closeEngine()
	}
	done := make(chan error, 1)
	go func() { done <- s.closeEngine() }()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done: // what it complains about is the fence's doing
		return nil
	case <-timer.C:
		return fmt.Errorf("%w: the storage engine did not close within %v", base.ErrUnavailable, patience)
	}
}

// register adds an open handle, so that Close can close it.
func (s *Store) register(h handle) {
	s.open.Lock()
	defer s.open.Unlock()
	s.open.handles[h] = struct{}{}
}

// release closes a handle unless that was done before.
func (s *Store) release(h handle) error {
	s.open.Lock()
	_, open := s.open.handles[h]
	delete(s.open.handles, h)
	if open {
		s.open.releasing.Add(1) // so that the engine does not close before the handle
	}
	s.open.Unlock()
	if !open {
		return nil
	}
	defer s.open.releasing.Done()
	return s.ioError("close", h.closeHandle())
}

// closeHandles closes the scanners, then the snapshots they read from.
func (s *Store) closeHandles() error {
	s.open.Lock()
	open := s.open.handles
	s.open.handles = nil // nobody registers any more: the gate is shut
	s.open.Unlock()
	var errs []error
	for _, scanners := range []bool{true, false} {
		for h := range open {
			if _, ok := h.(*Scanner); ok == scanners {
				errs = append(errs, s.ioError("close", h.closeHandle()))
			}
		}
	}
	s.open.releasing.Wait()
	return errors.Join(errs...)
}
