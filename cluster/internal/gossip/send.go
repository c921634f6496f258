package gossip

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/internal/wire"
)

const (
	// queuedPackets is a few seconds of what memberlist sends to one peer.
	// Older packets are of no use to anybody.
	queuedPackets = 256
	// batchBytes is how much is written at once.
	batchBytes = 64 << 10
	// idleTimeout is how long a connection is kept without a packet. It is
	// below incomingIdleTimeout, so that the sender closes it.
	idleTimeout = time.Minute
	// stallTimeout is how long a peer may take to answer packets before the
	// connection counts as broken. After a partition TCP itself may take
	// minutes to try again.
	stallTimeout = 3 * time.Second
	// redialFirst and redialMost bound the pauses between attempts to connect;
	// what is to be sent meanwhile is lost.
	redialFirst = 50 * time.Millisecond
	redialMost  = time.Second
)

// peer sends packets to one address. Its goroutine owns all but the queue.
type peer struct {
	t     *transport
	addr  string
	queue chan []byte // whole frames; filled under transport.mu

	conn    net.Conn    // nil is none
	unwatch func() bool // conn is closed when the transport is, until this is called
	reader  sync.WaitGroup
	backoff time.Duration
	notTill time.Time // when to dial again

	unanswered atomic.Int64 // when the oldest packet was sent that was not answered, Unix nanoseconds; 0 is none
	broken     atomic.Bool  // the connection has ended
}

// run sends until the transport is closed or nothing was to be sent for a
// while.
func (p *peer) run() {
	defer p.disconnect()
	idle := time.NewTimer(idleTimeout)
	defer idle.Stop()
	var batch []byte
	for {
		select {
		case frame := <-p.queue:
			batch = p.collect(append(batch[:0], frame...))
			p.send(batch)
			idle.Reset(idleTimeout)
		case <-idle.C:
			if p.t.dropPeer(p) {
				return
			}
			idle.Reset(idleTimeout)
		case <-p.t.ctx.Done():
			return
		}
	}
}

// collect appends what else is queued.
func (p *peer) collect(batch []byte) []byte {
	for len(batch) < batchBytes {
		select {
		case frame := <-p.queue:
			batch = append(batch, frame...)
		default:
			return batch
		}
	}
	return batch
}

// send writes a batch, or loses it.
func (p *peer) send(batch []byte) {
	if p.conn != nil && (p.broken.Load() || p.stalled()) {
		p.disconnect()
	}
	if p.conn == nil && !p.connect() {
		p.t.stats.dropped.Add(1)
		return
	}
	p.unanswered.CompareAndSwap(0, time.Now().UnixNano())
	_ = p.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := p.conn.Write(batch); err != nil {
		p.t.stats.dropped.Add(1)
		p.disconnect()
	}
}

// stalled reports whether the peer has not answered for too long.
func (p *peer) stalled() bool {
	since := p.unanswered.Load()
	return since != 0 && time.Now().UnixNano()-since > int64(stallTimeout)
}

// connect opens a connection, unless an attempt has failed a short while ago.
func (p *peer) connect() bool {
	if time.Now().Before(p.notTill) {
		return false
	}
	conn, err := p.dial()
	if err != nil {
		p.backoff = min(max(2*p.backoff, redialFirst), redialMost)
		p.notTill = time.Now().Add(p.backoff/2 + rand.N(p.backoff/2))
		return false
	}
	p.conn, p.backoff = conn, 0
	p.unwatch = context.AfterFunc(p.t.ctx, func() { _ = conn.Close() })
	p.broken.Store(false)
	p.unanswered.Store(0)
	p.reader.Go(func() { p.readAnswers(conn) })
	return true
}

// dial opens a connection and says what it is for.
func (p *peer) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(p.t.ctx, dialTimeout)
	defer cancel()
	conn, err := p.t.network.Dial(ctx, p.addr, Kind)
	if err != nil {
		return nil, err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := conn.Write(hello{kind: frameHelloPackets, from: p.t.advertise}.frame()); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// readAnswers notes that the peer reads what it is sent, until it does not.
func (p *peer) readAnswers(conn net.Conn) {
	frames := wire.NewFrameReader(conn, wire.FrameHeaderBytes)
	for {
		kind, _, err := frames.Next()
		if err != nil || kind != frameTaken {
			p.broken.Store(true)
			_ = conn.Close()
			return
		}
		p.unanswered.Store(0)
	}
}

// disconnect closes the connection, if there is one.
func (p *peer) disconnect() {
	if p.conn == nil {
		return
	}
	p.unwatch()
	_ = p.conn.Close()
	p.reader.Wait()
	p.conn = nil
}
