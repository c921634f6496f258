package peer

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/testkit/faultnet"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// tcpNet is a Network over the loopback interface, with one listener.
type tcpNet struct {
	ln     net.Listener
	narrow *narrow // nil is no limit
}

// narrow is a link that all connections of a node share: what comes in is read
// at a rate, in turn.
type narrow struct {
	rate float64 // bytes per second
	mu   sync.Mutex
	free time.Time // when the link is
}

type narrowConn struct {
	net.Conn
	link *narrow
}

// narrowRead is the longest read, so that connections take turns.
const narrowRead = 16 << 10

func (c *narrowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), narrowRead)])
	c.link.mu.Lock()
	now := time.Now()
	if c.link.free.Before(now) {
		c.link.free = now
	}
	c.link.free = c.link.free.Add(time.Duration(float64(n) / c.link.rate * 1e9))
	pause := c.link.free.Sub(now)
	c.link.mu.Unlock()
	if pause > time.Millisecond { // shorter sleeps are not kept
		time.Sleep(pause)
	}
	return n, err
}

func newTCPNet(t testing.TB) *tcpNet {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return &tcpNet{ln: ln}
}

func (n *tcpNet) addr() string { return n.ln.Addr().String() }

func (n *tcpNet) Dial(ctx context.Context, addr string, _ byte) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if n.narrow != nil && err == nil {
		return &narrowConn{Conn: c, link: n.narrow}, nil
	}
	return c, err
}

func (n *tcpNet) Serve(_ byte, handle func(net.Conn)) (stop func(), err error) {
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := n.ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c)
				_ = c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	return func() {
		_ = n.ln.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	}, nil
}

// funcs is a Handler of functions.
type funcs struct {
	serve  func(ctx context.Context, method uint8, request []byte) ([]byte, error)
	stream func(ctx context.Context, method uint8, request []byte, send func([]byte) error) error
}

func (f funcs) Serve(ctx context.Context, method uint8, request []byte) ([]byte, error) {
	if f.serve == nil {
		return append([]byte{method}, request...), nil
	}
	return f.serve(ctx, method, request)
}

func (f funcs) Stream(ctx context.Context, method uint8, request []byte, send func([]byte) error) error {
	if f.stream == nil {
		return errors.New("no streams")
	}
	return f.stream(ctx, method, request, send)
}

func startServer(t testing.TB, cfg Config, h Handler) *Server {
	t.Helper()
	s, err := NewServer(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func startPool(t testing.TB, cfg Config) *Pool {
	t.Helper()
	p := NewPool(cfg)
	t.Cleanup(p.Close)
	return p
}

// pair is a server "b" and a pool on "a" on a network with faults.
type pair struct {
	net    *faultnet.Net
	server *Server
	pool   *Pool
}

func newPair(t testing.TB, cfg Config, h Handler) *pair {
	t.Helper()
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	onA, onB := cfg, cfg
	onA.Network, onB.Network = n.Node("a"), n.Node("b")
	return &pair{net: n, server: startServer(t, onB, h), pool: startPool(t, onA)}
}
