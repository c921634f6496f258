package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// Dial opens a connection of a kind to the node at addr, a host and a port, and
// returns it when the node has accepted it, which must serve the kind. It gives
// up when ctx is done, or after ten seconds; neither affects a connection that
// is open. The connection belongs to the caller, who must close it.
//
// Errors wrap base.ErrUnavailable and, where the reason is known, one of the
// errors of this package; base.ErrInvalid if the fault is in how this node is
// configured; net.ErrClosed after Close.
func (m *Mux) Dial(ctx context.Context, addr string, kind byte) (net.Conn, error) {
	if err := checkKind(kind); err != nil {
		return nil, err
	}
	if m.isClosed() {
		return nil, net.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, m.limits.dialTimeout)
	defer cancel()
	conn, err := m.dial(ctx, addr, kind)
	switch {
	case err == nil:
		return conn, nil
	case errors.Is(err, base.ErrInvalid):
		return nil, fmt.Errorf("dialling %s: %w", addr, err)
	default:
		return nil, fmt.Errorf("%w: dialling %s: %w", base.ErrUnavailable, addr, err)
	}
}

func (m *Mux) dial(ctx context.Context, addr string, kind byte) (net.Conn, error) {
	raw, err := m.dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// Whatever follows ends with ctx.
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	conn := raw
	if m.serverTLS != nil {
		conn, err = m.dialTLS(ctx, raw, addr)
	}
	if err == nil {
		err = m.ask(conn, kind)
	}
	if !stop() {
		err = errors.Join(context.Cause(ctx), err)
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the peer closed the connection without a word, perhaps because it has too many: %w", err)
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// ask sends the hello and reads the answer. The answer is read even if the hello
// could not be sent, because a peer that refuses says why before it closes.
func (m *Mux) ask(conn net.Conn, kind byte) error {
	hello := newGreeting(kind)
	_, failed := conn.Write(hello[:])
	err := readAnswer(conn)
	if err == nil {
		return failed
	}
	return errors.Join(m.fault(err), failed)
}
