package peer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// Pool sends requests to other nodes. It is safe for concurrent use.
type Pool struct {
	cfg     Config
	ctx     context.Context // ends with the pool
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	buffers bufferPool
	calls   sync.Pool // of *call

	// mu protects what follows.
	mu      sync.RWMutex
	remotes map[string]*remote
	closed  bool

	// startMu protects what follows. It is taken while a remote's is held,
	// which mu must not be.
	startMu sync.Mutex
	stopped bool // no goroutine starts any more, but from those that run
}

// NewPool returns a Pool. It opens connections when they are needed.
func NewPool(cfg Config) *Pool {
	p := &Pool{cfg: cfg.withDefaults(), remotes: map[string]*remote{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// tries is how often a call that met a link in its last moments looks for
// another. More than once is a rare coincidence.
const tries = 4

// Call has the node at addr answer a request, which must not change until Call
// returns. The answer belongs to the caller. When ctx ends, Call returns at
// once and the handler's context is cancelled.
//
// What the handler answered as an error comes back matching the same sentinel.
// A *CallError says that there was no answer, and whether the request may have
// been executed. base.ErrOverloaded, from either side, says that it was not;
// base.ErrTooLarge that the request exceeds MaxMessageBytes.
func (p *Pool) Call(ctx context.Context, addr string, method uint8, request []byte) ([]byte, error) {
	r, err := p.remote(ctx, addr, len(request))
	if err != nil {
		return nil, err
	}
	for range tries {
		l, err := r.link(ctx)
		if err != nil {
			return nil, err
		}
		reply, err := l.call(ctx, method, request)
		if err != errMoved { //nolint:errorlint // never wrapped
			return reply, err
		}
	}
	return nil, r.unsent(errMoved)
}

// Stream has the node at addr answer in pieces, on a stream of its own. yield
// is called for each piece in order, which is valid until yield returns; while
// it runs, the other side is held back. An error of yield ends the stream and
// is returned as it is. Other errors are those of Call.
func (p *Pool) Stream(ctx context.Context, addr string, method uint8, request []byte, yield func(piece []byte) error) error {
	r, err := p.remote(ctx, addr, len(request))
	if err != nil {
		return err
	}
	for range tries {
		l, err := r.link(ctx)
		if err != nil {
			return err
		}
		if err = l.openStream(); err == nil {
			defer l.closeStream()
			return l.streamed(ctx, method, request, yield)
		}
		if err != errMoved { //nolint:errorlint // never wrapped
			return err
		}
	}
	return r.unsent(errMoved)
}

// remote returns the remote of an address.
func (p *Pool) remote(ctx context.Context, addr string, size int) (*remote, error) {
	if size > p.cfg.MaxMessageBytes {
		return nil, fmt.Errorf("%w: request of %d bytes, at most %d are allowed", base.ErrTooLarge, size, p.cfg.MaxMessageBytes)
	}
	if ctx.Err() != nil {
		return nil, &CallError{Addr: addr, Err: context.Cause(ctx)}
	}
	p.mu.RLock()
	r, closed := p.remotes[addr], p.closed
	p.mu.RUnlock()
	if closed {
		return nil, base.ErrClosed
	}
	if r != nil {
		return r, nil
	}
	return p.newRemote(addr)
}

func (p *Pool) newRemote(addr string) (*remote, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, base.ErrClosed
	}
	if r := p.remotes[addr]; r != nil {
		return r, nil
	}
	if len(p.remotes) >= p.cfg.MaxPeers {
		p.evictLocked()
	}
	if len(p.remotes) >= p.cfg.MaxPeers {
		return nil, fmt.Errorf("%w: connections to %d addresses", base.ErrOverloaded, len(p.remotes))
	}
	r := &remote{pool: p, addr: addr}
	p.remotes[addr] = r
	return r, nil
}

// evictLocked forgets the addresses without a connection.
func (p *Pool) evictLocked() {
	now := time.Now()
	for addr, r := range p.remotes {
		if r.retire(now) {
			delete(p.remotes, addr)
		}
	}
}

// start runs f on a goroutine that Close waits for, unless the pool is closed.
func (p *Pool) start(f func()) bool {
	p.startMu.Lock()
	defer p.startMu.Unlock()
	if p.stopped {
		return false
	}
	p.wg.Go(f)
	return true
}

// Forget closes the connections to an address and forgets what is known of
// it, such as that it did not answer. Waiting calls fail. A later call starts
// anew.
func (p *Pool) Forget(addr string) {
	p.mu.Lock()
	r := p.remotes[addr]
	delete(p.remotes, addr)
	p.mu.Unlock()
	if r != nil {
		r.close(errForgot)
	}
}

// Close closes all connections and answers all waiting calls. Later calls fail
// with base.ErrClosed.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	remotes := p.remotes
	p.remotes = nil
	p.mu.Unlock()
	for _, r := range remotes {
		r.close(base.ErrClosed)
	}
	p.cancel()
	p.startMu.Lock()
	p.stopped = true
	p.startMu.Unlock()
	p.wg.Wait()
}
