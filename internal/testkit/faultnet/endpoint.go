package faultnet

import (
	"context"
	"fmt"
	"net"
	"sync"
)

// Endpoint is one node of a Net.
type Endpoint struct {
	net  *Net
	addr string

	// guarded by net.mu
	closed   bool
	services map[byte]*service
}

type service struct {
	handle func(net.Conn)
	wg     sync.WaitGroup
	conns  map[*conn]struct{} // guarded by Net.mu
}

// Addr returns the address of the node.
func (e *Endpoint) Addr() string { return e.addr }

// Dial opens a connection to the node at addr, which must serve the kind.
func (e *Endpoint) Dial(ctx context.Context, addr string, kind byte) (net.Conn, error) {
	return e.net.dial(ctx, e, addr, kind)
}

// Serve hands every connection of the kind that a node opens to handle, each
// on a goroutine of its own, and closes it when handle returns. stop closes
// these connections and returns after all handlers did.
func (e *Endpoint) Serve(kind byte, handle func(net.Conn)) (stop func(), err error) {
	e.net.mu.Lock()
	defer e.net.mu.Unlock()
	if e.closed {
		return nil, net.ErrClosed
	}
	if e.services[kind] != nil {
		return nil, fmt.Errorf("faultnet: %s serves kind %d already", e.addr, kind)
	}
	s := &service{handle: handle, conns: map[*conn]struct{}{}}
	e.services[kind] = s
	return func() { e.stop(kind, s) }, nil
}

func (e *Endpoint) stop(kind byte, s *service) {
	e.net.mu.Lock()
	if e.services[kind] == s {
		delete(e.services, kind)
	}
	for c := range s.conns {
		c.cut(errCut)
	}
	e.net.mu.Unlock()
	s.wg.Wait()
}

// acceptLocked runs the handler of a connection. It requires net.mu.
func (e *Endpoint) acceptLocked(c *conn, s *service) {
	s.conns[c] = struct{}{}
	s.wg.Go(func() {
		defer func() {
			c.Close()
			e.net.mu.Lock()
			defer e.net.mu.Unlock()
			delete(s.conns, c)
		}()
		s.handle(c)
	})
}

// Close stops all services of the node and cuts its connections. Node returns
// a new one for the address then, as if it had restarted.
func (e *Endpoint) Close() error {
	e.net.mu.Lock()
	e.closed = true
	services := map[byte]*service{}
	for kind, s := range e.services {
		services[kind] = s
	}
	if e.net.mu.nodes[e.addr] == e {
		delete(e.net.mu.nodes, e.addr)
	}
	e.net.mu.Unlock()
	e.net.cutIf(func(c *conn) bool { return string(c.local) == e.addr || string(c.peer) == e.addr })
	for kind, s := range services {
		e.stop(kind, s)
	}
	return nil
}
