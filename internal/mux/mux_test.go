package mux_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/mux"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// patience is how long a test waits for what will happen.
const patience = 30 * time.Second

// logs collects what a Mux complains about.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logs) await(t testing.TB, text string) {
	t.Helper()
	testkit.Eventually(t, patience, "a log with "+text, func() bool { return strings.Contains(l.String(), text) })
}

// open listens until the test ends.
func open(t testing.TB, cfg mux.Config, l mux.Limits) (*mux.Mux, *logs) {
	t.Helper()
	lines := &logs{}
	cfg.Logger = slog.New(slog.NewTextHandler(lines, nil))
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	m, err := mux.ListenLimits(cfg, l)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, lines
}

func plain(t testing.TB) (*mux.Mux, *logs) { return open(t, mux.Config{Insecure: true}, mux.Limits{}) }

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

func serve(t testing.TB, m *mux.Mux, kind byte, handle func(net.Conn)) (stop func()) {
	t.Helper()
	stop, err := m.Serve(kind, handle)
	if err != nil {
		t.Fatal(err)
	}
	return stop
}

func dial(t testing.TB, from, to *mux.Mux, kind byte) net.Conn {
	t.Helper()
	c, err := from.Dial(testkit.Context(t), to.Addr(), kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends something that comes back.
func exchange(t testing.TB, c net.Conn, text string) {
	t.Helper()
	written := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte(text))
		written <- err
	}()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

// stranger connects without being a node.
func stranger(t testing.TB, to *mux.Mux) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", to.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// awaitClosed waits until the other side has closed the connection, and returns
// what it said before.
func awaitClosed(t testing.TB, c net.Conn) []byte {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(c)
	if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
		t.Fatal("the connection stays open")
	}
	return said
}

func TestKinds(t *testing.T) {
	for name, listen := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0", "name": "localhost:0"} {
		t.Run(name, func(t *testing.T) {
			testkit.CheckNoLeaks(t)
			if l, err := net.Listen("tcp", listen); err != nil {
				t.Skip(err) // no IPv6 here
			} else {
				l.Close()
			}
			a, _ := open(t, mux.Config{Listen: listen, Insecure: true}, mux.Limits{})
			b, log := open(t, mux.Config{Listen: listen, Insecure: true}, mux.Limits{})
			for _, kind := range []byte{mux.KindMessages, mux.KindSnapshot, mux.KindRPC, mux.KindGossip} {
				serve(t, b, kind, func(c net.Conn) {
					_, _ = c.Write([]byte{kind})
					echo(c)
				})
				c := dial(t, a, b, kind)
				var got [1]byte
				if _, err := io.ReadFull(c, got[:]); err != nil || got[0] != kind {
					t.Errorf("kind %d comes to %d, %v", kind, got, err)
				}
				exchange(t, c, "x")
			}
			if log.String() != "" {
				t.Error(log)
			}
		})
	}
}

func TestServe(t *testing.T) {
	testkit.CheckNoLeaks(t)
	m, log := plain(t)
	entered := make(chan struct{})
	stop := serve(t, m, mux.KindRPC, func(c net.Conn) { close(entered); echo(c) })
	if _, err := m.Serve(mux.KindRPC, nil); !errors.Is(err, mux.ErrKindServed) {
		t.Error(err)
	}
	for _, kind := range []byte{0, 5, 255} {
		if _, err := m.Serve(kind, echo); !errors.Is(err, base.ErrInvalid) {
			t.Error(err)
		}
		if _, err := m.Dial(t.Context(), m.Addr(), kind); !errors.Is(err, base.ErrInvalid) {
			t.Error(err)
		}
	}
	if _, err := m.Dial(t.Context(), m.Addr(), mux.KindGossip); !errors.Is(err, mux.ErrNotServed) || !errors.Is(err, base.ErrUnavailable) {
		t.Error(err)
	}
	log.await(t, "kind 4")
	c := dial(t, m, m, mux.KindRPC)
	<-entered
	stop() // the handler reads until its connection is closed
	stop()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open")
	}
	if _, err := m.Dial(t.Context(), m.Addr(), mux.KindRPC); !errors.Is(err, mux.ErrNotServed) {
		t.Error(err)
	}
	entered = make(chan struct{}, 1)
	serve(t, m, mux.KindRPC, func(c net.Conn) { entered <- struct{}{}; echo(c) })
	exchange(t, dial(t, m, m, mux.KindRPC), "again")
	for range 2 {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := m.Serve(mux.KindGossip, echo); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := m.Dial(t.Context(), m.Addr(), mux.KindRPC); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestHandlerReturns: the connection is closed for it.
func TestHandlerReturns(t *testing.T) {
	testkit.CheckNoLeaks(t)
	m, _ := plain(t)
	serve(t, m, mux.KindRPC, func(net.Conn) {})
	awaitClosed(t, dial(t, m, m, mux.KindRPC))
	testkit.Eventually(t, patience, "its end", func() bool { return m.Stats().Open == 0 })
	if s := m.Stats(); s != (mux.Stats{Accepted: 1}) {
		t.Errorf("%+v", s)
	}
}

func TestListenFaults(t *testing.T) {
	testkit.CheckNoLeaks(t)
	m, _ := plain(t)
	for _, c := range []struct {
		name, listen string
		want         error
		says         string
	}{
		{"in use", m.Addr(), base.ErrUnavailable, m.Addr()},
		{"everywhere", "0.0.0.0:0", base.ErrInvalid, "TLS"},
		{"everywhere", ":0", base.ErrInvalid, "TLS"},
		{"everywhere", "[::]:0", base.ErrInvalid, "TLS"},
		{"elsewhere", "192.0.2.1:0", base.ErrInvalid, "192.0.2.1"},
		{"no port", "127.0.0.1", base.ErrInvalid, "host and a port"},
		{"no address", "no such address", base.ErrInvalid, "no such address"},
	} {
		_, err := mux.Listen(mux.Config{Listen: c.listen, Insecure: true})
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	_, err := mux.Listen(mux.Config{Listen: "192.0.2.1:0", Insecure: true, InsecureAnywhere: true})
	if !errors.Is(err, base.ErrInvalid) || !strings.Contains(err.Error(), "this host does not have the address") {
		t.Error(err)
	}
	if _, err := mux.Listen(mux.Config{Listen: "127.0.0.1:0"}); !errors.Is(err, base.ErrInvalid) {
		t.Error(err)
	}
}

// TestLoopbackOnly: without TLS nothing leaves the host.
func TestLoopbackOnly(t *testing.T) {
	testkit.CheckNoLeaks(t)
	m, _ := plain(t)
	for _, addr := range []string{"192.0.2.1:7", "[2001:db8::1]:7"} {
		_, err := m.Dial(t.Context(), addr, mux.KindRPC)
		noIPv6 := addr[0] == '[' && errors.Is(err, base.ErrUnavailable) // on this host
		if !errors.Is(err, base.ErrInvalid) && !noIPv6 {
			t.Errorf("%s: %v", addr, err)
		}
	}
	everywhere, _ := open(t, mux.Config{Listen: "0.0.0.0:0", Insecure: true, InsecureAnywhere: true}, mux.Limits{})
	serve(t, everywhere, mux.KindRPC, echo)
	_, port, err := net.SplitHostPort(everywhere.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.Dial(testkit.Context(t), net.JoinHostPort("localhost", port), mux.KindRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	exchange(t, c, "hello")
}

// TestDialGivesUp: on a port that accepts and says nothing, and on one that says
// the wrong thing.
func TestDialGivesUp(t *testing.T) {
	testkit.CheckNoLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ca := newCA(t)
	for name, cfg := range map[string]mux.Config{"plaintext": {Insecure: true}, "TLS": {TLS: credentials(t, ca, "n")}} {
		m, _ := open(t, cfg, mux.Limits{Dial: 50 * time.Millisecond})
		if _, err := m.Dial(t.Context(), l.Addr().String(), mux.KindRPC); !errors.Is(err, base.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		m, _ = open(t, cfg, mux.Limits{})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := m.Dial(ctx, l.Addr().String(), mux.KindRPC); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}

	var wg sync.WaitGroup
	defer wg.Wait()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	wg.Go(func() {
		for {
			c, err := other.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_, _ = c.Read(make([]byte, 4096))
			c.Close()
		}
	})
	for name, cfg := range map[string]mux.Config{"plaintext": {Insecure: true}, "TLS": {TLS: credentials(t, ca, "n")}} {
		m, _ := open(t, cfg, mux.Limits{})
		if _, err := m.Dial(t.Context(), other.Addr().String(), mux.KindRPC); !errors.Is(err, mux.ErrNotPeer) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := m.Dial(t.Context(), "127.0.0.1:1", mux.KindRPC); !errors.Is(err, base.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStopWhileDialling: no connection is left behind by a service that comes
// and goes.
func TestStopWhileDialling(t *testing.T) {
	testkit.CheckNoLeaks(t)
	m, _ := plain(t)
	quit := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				c, err := m.Dial(t.Context(), m.Addr(), mux.KindGossip)
				if err != nil {
					continue
				}
				_, _ = c.Write([]byte("x"))
				_, _ = io.CopyN(io.Discard, c, 1)
				c.Close()
			}
		})
	}
	for range 50 {
		var inside sync.WaitGroup
		stop := serve(t, m, mux.KindGossip, func(c net.Conn) {
			inside.Add(1)
			defer inside.Done()
			echo(c)
		})
		before := m.Stats().Accepted
		testkit.Eventually(t, patience, "connections", func() bool { return m.Stats().Accepted > before+2 })
		stop()
		inside.Wait()
	}
	close(quit)
	wg.Wait()
	testkit.Eventually(t, patience, "an end of all", func() bool { return m.Stats().Open == 0 })
}
