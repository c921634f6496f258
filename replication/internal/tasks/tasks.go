package tasks

import (
	"sync"
	"time"
)

// Group owns goroutines that come and go. Its zero value is ready; its methods may be
// called concurrently.
type Group struct {
	mu      sync.Mutex // protects closed, and running against Add after Wait
	closed  bool
	running sync.WaitGroup
}

// Spawn runs fn on a goroutine; false after Close.
func (g *Group) Spawn(fn func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.running.Go(fn)
	}
	return !g.closed
}

// Enter counts the caller in, as if it was a goroutine of its own; false after Close.
// Leave must follow.
func (g *Group) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.running.Add(1)
	}
	return !g.closed
}

// Leave counts out a caller that Enter has counted in.
func (g *Group) Leave() { g.running.Done() }

// Close waits for all goroutines. None can be spawned any more.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.running.Wait()
}

// CloseWithin is Close that gives up waiting, but not the goroutines, after a
// while.
func (g *Group) CloseWithin(patience time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.Close()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
