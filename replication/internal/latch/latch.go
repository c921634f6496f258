package latch

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// Latches are the queues of the keys that somebody stands at. Their methods may be
// called concurrently.
type Latches struct {
	limit int

	mu     sync.Mutex // protects what is below, and Guard.missing
	queues map[base.Key][]*Guard
	guards int
}

// New returns Latches for so many guards at a time.
func New(limit int) *Latches { return &Latches{limit: limit, queues: make(map[base.Key][]*Guard)} }

// Guard stands for one transaction in the queues of its keys. The first of a queue
// holds the key.
type Guard struct {
	latches *Latches
	keys    []base.Key // each once
	ready   chan struct{}
	missing int // keys that others hold
}

// Enqueue puts a transaction at the end of the queues of its keys, of which there may
// be doubles; it takes the slice over. It returns nil if too many stand in queues
// already. The guard must be released.
func (l *Latches) Enqueue(keys []base.Key) *Guard {
	slices.SortFunc(keys, base.Key.Compare)
	g := &Guard{latches: l, keys: slices.Compact(keys), ready: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.guards >= l.limit {
		return nil
	}
	l.guards++
	for _, key := range g.keys {
		queue := append(l.queues[key], g)
		l.queues[key] = queue
		if len(queue) > 1 {
			g.missing++
		}
	}
	if g.missing == 0 {
		close(g.ready)
	}
	return g
}

// Busy reports whether somebody holds any of the keys.
func (l *Latches) Busy(keys []base.Key) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		if len(l.queues[key]) > 0 {
			return true
		}
	}
	return false
}

// Guards returns how many guards there are.
func (l *Latches) Guards() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.guards
}

// Wait returns once the guard holds all of its keys, or after the patience, or when
// the context is done.
func (g *Guard) Wait(ctx context.Context, patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-g.ready:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Covers reports whether the guard stands in the queues of all of the keys.
func (g *Guard) Covers(keys []base.Key) bool {
	for _, key := range keys {
		if _, found := slices.BinarySearchFunc(g.keys, key, base.Key.Compare); !found {
			return false
		}
	}
	return true
}

// Release leaves all queues. It is called once.
func (g *Guard) Release() {
	l := g.latches
	l.mu.Lock()
	defer l.mu.Unlock()
	l.guards--
	for _, key := range g.keys {
		l.leave(key, g)
	}
}

// leave takes a guard out of one queue. REQUIRES: mu is locked.
func (l *Latches) leave(key base.Key, g *Guard) {
	queue := l.queues[key]
	at := slices.Index(queue, g)
	queue = slices.Delete(queue, at, at+1)
	if len(queue) == 0 {
		delete(l.queues, key)
		return
	}
	l.queues[key] = queue
	if at > 0 {
		return
	}
	if next := queue[0]; next.missing == 1 {
		next.missing = 0
		close(next.ready)
	} else {
		next.missing--
	}
}
