package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// link is a connection to a peer with the stream that carries calls, and a
// second connection for the streams of long answers once there is one. It is
// used until it fails, was idle, or is old.
type link struct {
	remote *remote
	pool   *Pool
	cfg    *Config
	main   *clientConn
	stream grpc.ClientStream
	ctx    context.Context // of the stream of calls; ends with the link
	cancel context.CancelFunc
	born   time.Time
	heard  atomic.Int64 // when the last message came, in Unix nanoseconds

	maxMessage, maxInFlight int    // of both sides the lower limit
	token                   uint64 // of the session there

	bulkLock chan struct{} // one slot; who has filled it may use bulk
	bulk     *clientConn

	// mu protects what follows.
	mu       sync.Mutex
	out      outbox
	calls    map[uint64]*call
	lastID   uint64
	streams  int
	sided    bool   // there is a stream for long answers, or will be
	uses     uint64 // calls and streams, ever
	draining bool   // takes no new calls
	err      error  // why it ended
}

// call is one call that waits for its answer. Whoever takes it out of
// link.calls answers it.
type call struct {
	done  chan struct{} // one slot
	place place
	long  *long
	parts assembly
	reply []byte
	err   error
}

func (p *Pool) newCall() *call {
	if c, ok := p.calls.Get().(*call); ok {
		return c
	}
	return &call{done: make(chan struct{}, 1)}
}

// recycle gives back a call that nobody else refers to.
func (p *Pool) recycle(c *call) {
	*c = call{done: c.done}
	p.calls.Put(c)
}

// call sends a request and waits for the answer. errMoved says that the link
// takes no more.
func (l *link) call(ctx context.Context, method uint8, request []byte) ([]byte, error) {
	if len(request) > l.maxMessage {
		return nil, fmt.Errorf("%w: request of %d bytes, the peer accepts %d", base.ErrTooLarge, len(request), l.maxMessage)
	}
	var timeout time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		timeout = timeoutUntil(deadline)
	}
	c := l.pool.newCall()
	id, err := l.enqueue(c, method, timeout, request)
	if err != nil {
		l.pool.recycle(c)
		return nil, err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if sent, ok := l.abandon(id, c); ok {
			l.pool.recycle(c)
			return nil, &CallError{Addr: l.remote.addr, Sent: sent, Err: context.Cause(ctx)}
		}
		<-c.done // it is being answered
	}
	reply, err := c.reply, c.err
	l.pool.recycle(c)
	return reply, err
}

// maxQueuedBytes bounds what waits for the sender, besides long requests,
// whose bytes are their callers'. A peer that takes nothing is dead before
// long.
const maxQueuedBytes = 16 << 20

// enqueue puts a request into the outbox.
func (l *link) enqueue(c *call, method uint8, timeout time.Duration, request []byte) (id uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil || l.draining:
		return 0, errMoved
	case len(l.calls) >= l.maxInFlight:
		return 0, fmt.Errorf("%w: %d calls to %s are under way", base.ErrOverloaded, len(l.calls), l.remote.addr)
	case l.out.bytes > maxQueuedBytes:
		return 0, fmt.Errorf("%w: %d bytes wait to be sent to %s", base.ErrOverloaded, l.out.bytes, l.remote.addr)
	}
	l.lastID++
	id = l.lastID
	l.uses++
	l.calls[id] = c
	batch, p := l.out.begin()
	c.place = p
	if len(request) <= pieceBytes {
		*batch = appendRequest(*batch, id, method, timeout, request)
	} else {
		*batch = appendLong(*batch, id, method, timeout, len(request))
		c.long = l.out.enqueue(id, p, request)
	}
	l.out.end()
	return id, nil
}

// abandon takes back a call, unless it is being answered. sent tells whether
// it may be executed in spite of that.
func (l *link) abandon(id uint64, c *call) (sent, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calls[id] != c {
		return false, false
	}
	delete(l.calls, id)
	sent = l.sentLocked(c)
	if c.long != nil {
		l.out.drop(c.long)
	}
	if l.out.sent(c.place.batch) || c.long != nil {
		l.out.mark(frameCancel, id) // of a long one in part, too
	} else {
		l.out.void(c.place)
	}
	return sent, true
}

// sentLocked reports whether the peer may have the whole request.
func (l *link) sentLocked(c *call) bool {
	if c.long != nil {
		return len(c.long.rest) == 0
	}
	return l.out.sent(c.place.batch)
}

// send passes messages to the stream until the link ends.
func (l *link) send() {
	for {
		l.mu.Lock()
		message, _ := l.out.take()
		l.mu.Unlock()
		if message == nil {
			select {
			case <-l.out.wake:
				runtime.Gosched() // whoever can run may still get on
				continue
			case <-l.ctx.Done():
				return
			}
		}
		data := mem.BufferSlice{mem.NewBuffer(message, &l.pool.buffers)}
		if err := l.stream.SendMsg(&data); err != nil {
			return // receive knows why
		}
	}
}

// receive reads messages until the link ends, and ends it if they do.
func (l *link) receive() {
	var in incoming
	var err error
	for err == nil {
		if err = l.stream.RecvMsg(&in); err == nil {
			l.heard.Store(time.Now().UnixNano())
			err = eachFrame(in.bytes(), l.handle)
		}
	}
	in.release()
	if errors.Is(err, wire.ErrMalformed) {
		l.pool.cfg.Logger.Warn("peer sent malformed bytes", "peer", l.remote.addr, "error", err)
	}
	if errors.Is(err, io.EOF) {
		err = errEnded
	}
	l.fail(err)
	l.main.close()
	l.bulkLock <- struct{}{} // for good
	if l.bulk != nil {
		l.bulk.close()
	}
}

// handle takes in one frame.
func (l *link) handle(f frame) error {
	switch f.kind {
	case framePong:
		return nil
	case frameReply, frameFailure, frameLost:
		l.mu.Lock()
		c := l.calls[f.id]
		delete(l.calls, f.id)
		l.forgetLongLocked(c)
		l.mu.Unlock()
		if c != nil { // else it was abandoned
			l.answer(c, f)
		}
		return nil
	case frameLongReply:
		if err := checkSize(f.size, l.cfg.MaxMessageBytes); err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if c := l.calls[f.id]; c != nil {
			c.parts = assembly{size: int(f.size)}
		}
		if !l.sided && !l.cfg.oneConn {
			l.sided = true
			l.pool.wg.Go(l.receiveSide) // we are on such a goroutine, so the pool still waits
		}
		return nil
	case framePiece:
		return l.handlePiece(f)
	default:
		return fmt.Errorf("%w: frame kind %d from a server", wire.ErrMalformed, f.kind)
	}
}

func (l *link) handlePiece(f frame) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.calls[f.id]
	if c == nil {
		return nil
	}
	complete, err := c.parts.add(f.body)
	if complete {
		delete(l.calls, f.id)
		l.forgetLongLocked(c)
		c.reply = c.parts.data
		c.done <- struct{}{}
	}
	return err
}

// forgetLongLocked stops sending a request that has its answer already.
func (l *link) forgetLongLocked(c *call) {
	if c != nil && c.long != nil && len(c.long.rest) > 0 {
		l.out.drop(c.long)
	}
}

// answer answers a call that has been taken out of l.calls.
func (l *link) answer(c *call, f frame) {
	switch f.kind {
	case frameReply:
		c.reply = append(make([]byte, 0, len(f.body)), f.body...)
	case frameFailure:
		c.err = remoteFailure(f.body)
	default:
		c.err = &CallError{Addr: l.remote.addr, Sent: true, Err: fmt.Errorf("%w: %s", errBroken, f.body)}
	}
	c.done <- struct{}{}
}

// drain has the link take no more calls. It ends when the last is answered,
// or when keep loses its patience.
func (l *link) drain() {
	l.mu.Lock()
	l.draining = true
	l.mu.Unlock()
}

// fail ends the link and answers all calls. Only the first error counts. The
// remote hears of it first: who gets errMoved must not find this link again.
func (l *link) fail(err error) {
	l.remote.lost(l, err)
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = err
	calls := l.calls
	l.calls = nil
	for _, c := range calls {
		c.err = &CallError{Addr: l.remote.addr, Sent: l.sentLocked(c), Err: err}
	}
	l.out.long = nil
	l.mu.Unlock()
	for _, c := range calls {
		c.done <- struct{}{}
	}
	l.main.cut() // a peer that reads nothing would hold up a polite end
	l.cancel()
}

// ended returns why the link ended, or nil.
func (l *link) ended() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
