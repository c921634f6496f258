package mux

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// acceptPause is how long to wait after a failure to accept, such as for want
// of file descriptors.
const acceptPause = 50 * time.Millisecond

// lingerBytes is how much of what a refused peer sends is read and thrown away:
// more than a hello of TLS has.
const lingerBytes = 16 << 10

func (m *Mux) accept() {
	for {
		conn, err := m.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			m.complain(m.listener.Addr(), err)
			time.Sleep(acceptPause)
		default:
			if a := m.admit(conn); a != nil {
				m.wg.Go(func() { m.serve(a) })
				continue
			}
			m.complain(conn.RemoteAddr(), ErrBusy)
			conn.Close()
		}
	}
}

// admit records an accepted connection, unless there are too many.
func (m *Mux) admit(conn net.Conn) *arrival {
	a := &arrival{raw: conn, since: time.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.stats.Accepted++
	if m.mu.closed || len(m.mu.conns) >= m.limits.maxConns || !m.makeRoomLocked(a.since) {
		m.mu.stats.Refused++
		return nil
	}
	a.greets = m.mu.greetings.PushBack(a)
	m.mu.conns[a] = struct{}{}
	return a
}

// makeRoomLocked reports whether one more connection may greet. REQUIRES: mu.
func (m *Mux) makeRoomLocked(now time.Time) bool {
	if m.mu.greetings.Len() < m.limits.maxGreetings {
		return true
	}
	oldest := m.mu.greetings.Front().Value.(*arrival)
	if now.Sub(oldest.since) < m.limits.evictAfter {
		return false
	}
	m.greetedLocked(oldest)
	oldest.raw.Close()
	return true
}

// greetedLocked takes a connection off those that greet. REQUIRES: mu.
func (m *Mux) greetedLocked(a *arrival) {
	if a.greets != nil {
		m.mu.greetings.Remove(a.greets)
		a.greets = nil
	}
}

// serve runs an accepted connection to its end.
func (m *Mux) serve(a *arrival) {
	defer m.dismiss(a)
	conn, s, err := m.greet(a)
	if err != nil {
		m.complain(a.raw.RemoteAddr(), err)
		m.linger(a.raw, err)
		return
	}
	defer s.wg.Done()
	defer conn.Close()
	s.handle(conn)
}

// greet brings a connection to the point where its service can have it.
func (m *Mux) greet(a *arrival) (net.Conn, *service, error) {
	if err := a.raw.SetDeadline(time.Now().Add(m.limits.greetTimeout)); err != nil {
		return nil, nil, err
	}
	conn, err := a.raw, error(nil)
	if m.serverTLS != nil {
		if conn, err = m.acceptTLS(a.raw); err != nil {
			return nil, nil, m.refuse(a.raw, err)
		}
	}
	kind, err := readHello(conn)
	if err != nil {
		return nil, nil, m.refuse(conn, m.fault(err))
	}
	s := m.enter(a, kind)
	if s == nil {
		return nil, nil, m.refuse(conn, fmt.Errorf("%w: kind %d", ErrNotServed, kind))
	}
	err = answer(conn, answerOK)
	if err == nil {
		err = a.raw.SetDeadline(time.Time{})
	}
	if err != nil {
		s.wg.Done()
		return nil, nil, err
	}
	return conn, s, nil
}

// fault says why the greeting failed after the handshake, if there was one: in
// TLS 1.3 the peer may reject it afterwards.
func (m *Mux) fault(err error) error {
	if m.serverTLS == nil {
		return err
	}
	return faultOfTLS(err)
}

// refuse tells a peer why it is refused, and returns that.
func (m *Mux) refuse(conn net.Conn, fault error) error {
	if a, ok := answerTo(fault); ok {
		_ = answer(conn, a) // the fault is logged in any case
	}
	return fault
}

func answer(conn net.Conn, last byte) error {
	g := newGreeting(last)
	_, err := conn.Write(g[:])
	return err
}

// linger lets a refused peer read why, which it could not any more if the
// connection were closed while some of what it sent is unread.
func (m *Mux) linger(raw net.Conn, fault error) {
	if errors.Is(fault, os.ErrDeadlineExceeded) {
		return
	}
	if tcp, ok := raw.(*net.TCPConn); !ok || tcp.CloseWrite() != nil {
		return
	}
	if raw.SetReadDeadline(time.Now().Add(m.limits.lingerTimeout)) == nil {
		_, _ = io.CopyN(io.Discard, raw, lingerBytes)
	}
}

// enter hands the connection to its service, if there is one.
func (m *Mux) enter(a *arrival, kind byte) *service {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.mu.services[kind]
	if s == nil || m.mu.closed {
		return nil
	}
	m.greetedLocked(a)
	a.service = s
	s.conns[a] = struct{}{}
	s.wg.Add(1)
	return s
}

// dismiss closes an accepted connection and forgets it.
func (m *Mux) dismiss(a *arrival) {
	a.raw.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.mu.conns, a)
	m.greetedLocked(a)
	if a.service == nil {
		m.mu.stats.Refused++
	} else {
		delete(a.service.conns, a)
	}
}
