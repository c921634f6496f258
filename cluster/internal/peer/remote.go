package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// firstBackoff is the pause after the first failure to connect. It doubles up
// to Config.MaxBackoff.
const firstBackoff = 50 * time.Millisecond

// shortLife is a lifetime that makes the end of a link count as a failure to
// connect: a peer that accepts connections and drops them is given pauses too.
const shortLife = time.Second

// remote is what a pool knows of one address.
type remote struct {
	pool    *Pool
	addr    string
	current atomic.Pointer[link] // takes the calls; nil if there is none

	// mu protects what follows.
	mu       sync.Mutex
	attempt  *attempt // to connect, under way
	waiting  int      // callers that wait for it
	failures int      // in a row
	retryAt  time.Time
	lastErr  error
	gone     bool // forgotten, or the pool was closed
}

// attempt is one attempt to connect. err is set before done is closed.
type attempt struct {
	done chan struct{}
	err  error
}

// link returns a link that takes calls. While the address is known not to
// answer it fails at once.
func (r *remote) link(ctx context.Context) (*link, error) {
	if l := r.current.Load(); l != nil {
		return l, nil
	}
	for {
		a, err := r.await()
		if err != nil {
			return nil, err
		}
		if a != nil {
			select {
			case <-a.done:
				err = a.err
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
			r.mu.Lock()
			r.waiting--
			r.mu.Unlock()
		}
		if l := r.current.Load(); l != nil {
			return l, nil
		}
		if err != nil {
			return nil, r.unsent(err)
		}
	}
}

// await returns the attempt to wait for, or nil if there is a link.
func (r *remote) await() (*attempt, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return nil, r.unsent(errForgot)
	}
	if r.current.Load() != nil {
		return nil, nil
	}
	if r.attempt == nil && time.Now().Before(r.retryAt) {
		return nil, r.unsent(r.lastErr)
	}
	if r.waiting >= r.pool.cfg.MaxInFlight {
		return nil, fmt.Errorf("%w: %d calls wait for a connection to %s", base.ErrOverloaded, r.waiting, r.addr)
	}
	r.connectLocked()
	r.waiting++
	return r.attempt, nil
}

func (r *remote) unsent(err error) error { return &CallError{Addr: r.addr, Err: err} }

// connectLocked starts an attempt unless one is under way.
func (r *remote) connectLocked() {
	if r.attempt != nil {
		return
	}
	a := &attempt{done: make(chan struct{})}
	r.attempt = a
	if !r.pool.start(func() { r.connect(a) }) {
		a.err = base.ErrClosed
		close(a.done)
		r.attempt = nil
	}
}

// renew connects anew beside the current link, unless that failed a moment
// ago.
func (r *remote) renew() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.gone && !time.Now().Before(r.retryAt) {
		r.connectLocked()
	}
}

func (r *remote) connect(a *attempt) {
	l, err := openLink(r)
	r.mu.Lock()
	r.attempt = nil
	if err == nil && r.gone {
		err = errForgot
	}
	var old *link
	if err == nil {
		r.lastErr, r.retryAt = nil, time.Time{}
		old = r.current.Swap(l)
	} else {
		r.failedLocked(err)
	}
	a.err = err
	r.mu.Unlock()
	close(a.done)
	if old != nil {
		old.drain()
	}
	if l == nil {
		return
	}
	if err == nil {
		l.start()
	} else {
		l.abort()
	}
}

// failedLocked notes a failure, after which nothing is tried for a while.
func (r *remote) failedLocked(err error) {
	limit := r.pool.cfg.MaxBackoff
	pause := limit
	if r.failures < 16 {
		pause = min(limit, firstBackoff<<r.failures)
	}
	r.failures++
	r.lastErr = err
	r.retryAt = time.Now().Add(pause/2 + rand.N(pause/2+1)) // so that peers do not come in step
}

// lost notes that a link has ended.
func (r *remote) lost(l *link, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.current.CompareAndSwap(l, nil) {
		return
	}
	switch {
	case errors.Is(err, errIdle), errors.Is(err, errTooOld):
	case errors.Is(err, errDead), time.Since(l.born) < shortLife:
		r.failedLocked(err)
	default:
		r.failures = 0
	}
}

// close ends the link for good.
func (r *remote) close(err error) {
	r.mu.Lock()
	r.gone = true
	l := r.current.Swap(nil)
	r.mu.Unlock()
	if l != nil {
		l.fail(err)
	}
}

// retire ends a remote that has no connection and is known no evil of, and
// reports whether it did.
func (r *remote) retire(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current.Load() == nil && r.attempt == nil && now.After(r.retryAt) {
		r.gone = true
	}
	return r.gone
}
