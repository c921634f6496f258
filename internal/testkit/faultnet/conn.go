package faultnet

import (
	"net"
	"time"
)

// Addr is the address of a node.
type Addr string

// Network implements net.Addr.
func (a Addr) Network() string { return "faultnet" }

// String implements net.Addr.
func (a Addr) String() string { return string(a) }

// conn is one side of a connection.
type conn struct {
	in, out      *buffer
	local, peer  Addr
	counterparty *conn
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) { return c.in.read(p) }

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) { return c.out.write(p) }

// Close implements net.Conn. What was written still arrives.
func (c *conn) Close() error {
	c.out.end()
	c.in.fail(net.ErrClosed)
	return nil
}

// cut breaks both directions for both sides.
func (c *conn) cut(err error) {
	for _, side := range []*conn{c, c.counterparty} {
		side.in.fail(err)
		side.out.fail(err)
	}
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.peer }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.change(func() { c.in.readBy = t })
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.change(func() { c.out.writeBy = t })
	return nil
}
