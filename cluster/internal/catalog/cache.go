package catalog

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/distributedcache/cache/internal/base"
)

// Cache holds the newest State that a node has heard of. It is safe for
// concurrent use.
type Cache struct {
	state atomic.Pointer[State]

	mu      sync.Mutex
	changed chan struct{} // closed and replaced by each update
}

// NewCache returns a cache that holds this State; nil is that of a cluster that
// has not been founded.
func NewCache(s *State) *Cache {
	c := &Cache{changed: make(chan struct{})}
	if s == nil {
		s = &State{}
	}
	c.state.Store(s)
	return c
}

// State returns the newest State, never nil.
func (c *Cache) State() *State { return c.state.Load() }

// Update takes a State if it is newer and reports whether it did. One of
// another cluster is never taken.
func (c *Cache) Update(s *State) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.State()
	if s.Epoch() <= have.Epoch() || (have.Founded() && s.settings.ClusterID != have.settings.ClusterID) {
		return false
	}
	c.state.Store(s)
	close(c.changed)
	c.changed = make(chan struct{})
	return true
}

// Changed returns a channel that is closed by the next update. Who takes it
// before State misses nothing; several updates may show as one.
func (c *Cache) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Wait returns the newest State once cond holds for it. The error wraps
// base.ErrUnavailable and tells why ctx ended.
func (c *Cache) Wait(ctx context.Context, cond func(*State) bool) (*State, error) {
	for {
		changed := c.Changed()
		if s := c.State(); cond(s) {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: waiting for the catalog: %w", base.ErrUnavailable, context.Cause(ctx))
		}
	}
}
