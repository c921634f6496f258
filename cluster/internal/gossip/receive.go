package gossip

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/distributedcache/cache/internal/wire"
)

const (
	// incomingIdleTimeout is how long a connection may stay without a packet.
	incomingIdleTimeout = 3 * time.Minute
	// packetBufferBytes holds a few packets.
	packetBufferBytes = 16 << 10
)

var (
	// errUnexpected is for frames that do not belong where they are.
	errUnexpected = errors.New("unexpected frame")
	// errTooMany is for connections over maxIncoming.
	errTooMany = errors.New("too many connections")
)

// handle serves one connection of a peer.
func (t *transport) handle(conn net.Conn) {
	if t.incoming.Add(1) > maxIncoming {
		t.incoming.Add(-1)
		t.fault(conn, errTooMany)
		return
	}
	defer t.incoming.Add(-1)
	if err := conn.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return
	}
	h, err := readHello(conn)
	switch {
	case err != nil:
		t.fault(conn, err)
	case h.kind == frameHelloPackets:
		t.fault(conn, t.servePackets(conn, address(h.from)))
	default:
		t.serveStream(conn)
	}
}

// fault counts and logs what a peer did wrong. That a connection has ended is
// no fault.
func (t *transport) fault(conn net.Conn, err error) {
	switch {
	case errors.Is(err, ErrOtherCluster):
		t.stats.refuse(err)
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, errUnexpected), errors.Is(err, errTooMany):
		t.stats.faults.Add(1)
	default:
		return
	}
	t.log.complain("gossip connection closed for what came over it", "peer", conn.RemoteAddr().String(), "error", err)
}

// servePackets hands packets on until the connection ends.
func (t *transport) servePackets(conn net.Conn, from net.Addr) error {
	buffer := bufio.NewReaderSize(conn, packetBufferBytes)
	frames := wire.NewFrameReader(buffer, maxFrameBytes)
	taken := finish(wire.BeginFrame(nil), frameTaken)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(incomingIdleTimeout)); err != nil {
			return err
		}
		kind, payload, err := frames.Next()
		if err != nil {
			return err
		}
		now := time.Now()
		if kind != framePacket {
			return errUnexpected
		}
		if _, err := packetParts(payload, t.label); err != nil {
			return err
		}
		t.stats.packetsIn.Add(1)
		packet := &memberlist.Packet{Buf: append([]byte(nil), payload...), From: from, Timestamp: now}
		select {
		case t.packets <- packet:
		case <-t.ctx.Done():
			return errClosed
		}
		if buffer.Buffered() > 0 {
			continue // one answer for all that has come
		}
		_ = conn.SetWriteDeadline(now.Add(writeTimeout))
		if _, err := conn.Write(taken); err != nil {
			return err
		}
	}
}

// serveStream hands a stream to memberlist and returns when that has closed
// it.
func (t *transport) serveStream(conn net.Conn) {
	s := &stream{Conn: conn, label: t.label, closed: make(chan struct{})}
	s.refused = func(err error) { t.fault(conn, err) }
	select {
	case t.streams <- s:
		<-s.closed // memberlist sets deadlines, and shutdown closes conn
	case <-t.ctx.Done():
	}
}

// stream is a connection as memberlist gets it: it reads nothing from it that
// the guard has not let through, and no more than an exchange may have. It is
// read by one goroutine.
type stream struct {
	net.Conn
	label   string
	answer  bool        // this side has opened it
	refused func(error) // told what the guard did not let through; may be nil
	release func()      // called when memberlist closes it; may be nil

	head    []byte // what the guard has read and memberlist has not
	checked bool
	failed  error
	read    int

	once   sync.Once
	closed chan struct{}
}

// Read implements net.Conn.
func (s *stream) Read(p []byte) (int, error) {
	if !s.checked {
		s.checked = true
		if s.failed = s.check(); s.failed != nil && s.refused != nil {
			s.refused(s.failed)
		}
	}
	if s.failed != nil {
		return 0, s.failed
	}
	if len(s.head) > 0 {
		n := copy(p, s.head)
		s.head = s.head[n:]
		return n, nil
	}
	if s.read >= maxStreamBytes {
		return 0, &wire.FrameSizeError{Bytes: uint64(s.read), Limit: maxStreamBytes}
	}
	n, err := s.Conn.Read(p[:min(len(p), maxStreamBytes-s.read)])
	s.read += n
	return n, err
}

// check reads as much as the guard needs. The deadline is memberlist's.
func (s *stream) check() error {
	buf := make([]byte, 0, 4<<10)
	for len(buf) < cap(buf) {
		n, err := s.Conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		enough, bad := streamHead(buf, s.label, s.answer)
		switch {
		case bad != nil:
			return bad
		case enough:
			s.head, s.read = buf, len(buf)
			return nil
		case err != nil:
			return err
		}
	}
	return wire.ErrMalformed
}

// Close implements net.Conn.
func (s *stream) Close() error {
	err := s.Conn.Close()
	s.once.Do(func() {
		close(s.closed)
		if s.release != nil {
			s.release()
		}
	})
	return err
}
