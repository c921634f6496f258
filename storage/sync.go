package storage

import (
	"context"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Sync makes everything durable that was applied before it was called. With a
// log that is one fsync, without one a flush; concurrent callers share both.
// A store in memory has nothing to make durable.
func (s *Store) Sync() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	switch {
	case s.cfg.inMemory:
		return nil
	case s.cfg.Durability == Volatile:
		return s.flushes.do(func() error { return s.flush(context.Background()) })
	}
	return s.syncLog()
}

// syncLog queues an empty record with a sync; the log is in order, so
// everything before it is durable when that is.
func (s *Store) syncLog() (err error) {
	defer recovered(s.cfg.Logger, "sync", &err)
	if err := s.db.LogData(nil, pebble.Sync); err != nil {
		return s.ioError("sync", err)
	}
	return s.fence.Err()
}

// flushGroup coalesces flushes: whoever comes while one runs waits for the
// next one, because the running one may have begun before their writes.
type flushGroup struct {
	mu      sync.Mutex
	running *flight // the flush that runs, or nil
	next    *flight // the one that starts when it ends, or nil
}

// flight is one flush and its result.
type flight struct {
	done chan struct{} // closed after err was set
	err  error
}

// do returns after a run of flush that began after do was called.
func (g *flushGroup) do(flush func() error) error {
	g.mu.Lock()
	mine := g.next
	if mine != nil {
		g.mu.Unlock()
		<-mine.done
		return mine.err
	}
	mine = &flight{done: make(chan struct{})}
	before := g.running
	if before != nil {
		g.next = mine
		g.mu.Unlock()
		<-before.done
		g.mu.Lock()
		g.next = nil
	}
	g.running = mine
	g.mu.Unlock()
	mine.err = flush()
	g.mu.Lock()
	if g.running == mine {
		g.running = nil
	}
	g.mu.Unlock()
	close(mine.done)
	return mine.err
}
