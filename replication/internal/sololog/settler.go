package sololog

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/distributedcache/cache/internal/base"
)

// settler tracks up to which version everything is durable, and lets readers
// wait for it.
type settler struct {
	durable atomic.Uint64
	waiting atomic.Int64 // readers in mu.waiters; saves the lock when there are none
	mu      struct {
		sync.Mutex
		waiters []settleWaiter
		failed  error
	}
}

type settleWaiter struct {
	version uint64
	done    chan struct{}
}

// advance says that everything up to v is durable now.
func (s *settler) advance(v base.Version) {
	s.durable.Store(uint64(v))
	if s.waiting.Load() > 0 {
		s.wake()
	}
}

// wake releases the readers whose version has become durable.
func (s *settler) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	durable := s.durable.Load()
	s.release(func(w settleWaiter) bool { return w.version <= durable })
}

// fail releases every reader with an error: what it waits for may never become
// durable.
func (s *settler) fail(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.failed == nil {
		s.mu.failed = cause
	}
	s.release(func(settleWaiter) bool { return true })
}

// release wakes the waiters that match. REQUIRES: s.mu is held.
func (s *settler) release(match func(settleWaiter) bool) {
	kept := s.mu.waiters[:0]
	for _, w := range s.mu.waiters {
		if match(w) {
			close(w.done)
			s.waiting.Add(-1)
		} else {
			kept = append(kept, w)
		}
	}
	clear(s.mu.waiters[len(kept):])
	s.mu.waiters = kept
}

// wait returns once everything up to v is durable.
func (s *settler) wait(ctx context.Context, v base.Version) error {
	if uint64(v) <= s.durable.Load() {
		return nil
	}
	w := settleWaiter{version: uint64(v), done: make(chan struct{})}
	s.mu.Lock()
	if s.mu.failed != nil {
		defer s.mu.Unlock()
		return s.mu.failed
	}
	s.mu.waiters = append(s.mu.waiters, w)
	s.waiting.Add(1)
	s.mu.Unlock()
	// advance may have looked for waiters before this one was counted.
	if uint64(v) <= s.durable.Load() {
		s.wake()
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for a write to become durable: %w", base.ErrUnavailable, context.Cause(ctx))
	}
	if uint64(v) <= s.durable.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.failed
}
