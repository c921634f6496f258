package replication

import (
	"sync"
	"time"
)

// tasks owns goroutines that come and go.
type tasks struct {
	mu      sync.Mutex // protects closed, and running against Add after Wait
	closed  bool
	running sync.WaitGroup
}

// spawn runs fn on a goroutine; false after close.
func (t *tasks) spawn(fn func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.running.Go(fn)
	}
	return !t.closed
}

// enter counts the caller in, as if it was a goroutine of its own; false after close.
// leave must follow.
func (t *tasks) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.running.Add(1)
	}
	return !t.closed
}

func (t *tasks) leave() { t.running.Done() }

// close waits for all goroutines. None can be spawned any more.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.running.Wait()
}

// closeWithin is close that gives up waiting, but not the goroutines, after a
// while.
func (t *tasks) closeWithin(patience time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.close()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
