package mux_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/mux"
	"github.com/distributedcache/cache/internal/testkit"
)

// both runs a test without and with TLS.
func both(t *testing.T, test func(t *testing.T, cfg mux.Config)) {
	ca := newCA(t)
	for name, cfg := range map[string]mux.Config{"plaintext": {Insecure: true}, "TLS": {TLS: credentials(t, ca, "n")}} {
		t.Run(name, func(t *testing.T) {
			testkit.CheckNoLeaks(t)
			test(t, cfg)
		})
	}
}

// TestGarbage: strangers are not answered, and cannot fill the log.
func TestGarbage(t *testing.T) {
	both(t, func(t *testing.T, cfg mux.Config) {
		m, log := open(t, cfg, mux.Limits{})
		serve(t, m, mux.KindRPC, echo)
		r := testkit.Rand(t)
		for range 40 {
			garbage := testkit.Bytes(r, 1+r.IntN(5000))
			if r.IntN(2) == 0 {
				garbage = bytes.Repeat([]byte("GET / HTTP/1.1\r\nHost: x\r\n"), 1+r.IntN(100))
			}
			c := stranger(t, m)
			_, _ = c.Write(garbage)
			if err := c.(*net.TCPConn).CloseWrite(); err != nil {
				continue // it is closed already
			}
			// TLS may say in its own words that this is not TLS.
			if said := awaitClosed(t, c); len(said) > 7 || (cfg.Insecure && len(said) > 0) {
				t.Errorf("%q is answered %q", garbage, said)
			}
		}
		for range 40 { // a scan
			stranger(t, m).Close()
		}
		testkit.Eventually(t, patience, "an end of all", func() bool { return m.Stats() == mux.Stats{Accepted: 80, Refused: 80} })
		if lines := strings.Count(log.String(), "\n"); lines > 12 {
			t.Errorf("%d lines:\n%s", lines, log)
		}
		exchange(t, dial(t, m, m, mux.KindRPC), "as before")
	})
}

// TestOtherVersion: it is told which one would be spoken.
func TestOtherVersion(t *testing.T) {
	testkit.CheckNoLeaks(t)
	m, log := plain(t)
	c := stranger(t, m)
	_, _ = c.Write([]byte("dcr\x02\x03 and what else version 2 has"))
	if said := awaitClosed(t, c); string(said) != "dcr\x01\x02" {
		t.Errorf("%q", said)
	}
	log.await(t, mux.ErrVersion.Error())
}

// TestSlowStrangers: those who say nothing, or say it slowly, end, and hold up
// nobody meanwhile.
func TestSlowStrangers(t *testing.T) {
	both(t, func(t *testing.T, cfg mux.Config) {
		m, _ := open(t, cfg, mux.Limits{Greet: 700 * time.Millisecond, Linger: time.Millisecond, MaxGreetings: 50})
		serve(t, m, mux.KindRPC, echo)
		start := []byte("dcr")
		if !cfg.Insecure {
			start = []byte("\x16\x03\x01\x06\x00\x01")
		}
		var slow []net.Conn
		for i := range 40 {
			c := stranger(t, m)
			if i%2 == 0 {
				_, _ = c.Write(start[:1+i%len(start)])
			}
			slow = append(slow, c)
		}
		// A node is let in, however much of that there is, while they wait.
		testkit.Eventually(t, patience, "a connection", func() bool {
			c, err := m.Dial(t.Context(), m.Addr(), mux.KindRPC)
			if err != nil {
				return false
			}
			defer c.Close()
			exchange(t, c, "x")
			return true
		})
		for _, c := range slow {
			awaitClosed(t, c)
		}
		testkit.Eventually(t, patience, "an end of all", func() bool { return m.Stats().Open == 0 })
	})
}

// TestFlood: with every place taken by silent connections there is still one for
// a node, after a while.
func TestFlood(t *testing.T) {
	both(t, func(t *testing.T, cfg mux.Config) {
		m, log := open(t, cfg, mux.Limits{Greet: time.Hour, EvictAfter: 50 * time.Millisecond, MaxGreetings: 8})
		serve(t, m, mux.KindRPC, echo)
		var silent []net.Conn
		for range 20 {
			silent = append(silent, stranger(t, m))
		}
		testkit.Eventually(t, patience, "all to be seen", func() bool { return m.Stats().Accepted >= 20 })
		if s := m.Stats(); s.Greeting > 8 {
			t.Errorf("%+v", s)
		}
		testkit.Eventually(t, patience, "a connection", func() bool {
			c, err := m.Dial(t.Context(), m.Addr(), mux.KindRPC)
			if err != nil {
				if !errors.Is(err, base.ErrUnavailable) {
					t.Error(err)
				}
				return false
			}
			defer c.Close()
			exchange(t, c, "x")
			return true
		})
		log.await(t, mux.ErrBusy.Error())
		for _, c := range silent {
			c.Close()
		}
	})
}

// TestTooManyConnections: even of nodes.
func TestTooManyConnections(t *testing.T) {
	both(t, func(t *testing.T, cfg mux.Config) {
		m, log := open(t, cfg, mux.Limits{MaxConns: 5})
		serve(t, m, mux.KindRPC, echo)
		var conns []net.Conn
		for range 5 {
			c := dial(t, m, m, mux.KindRPC)
			exchange(t, c, "x")
			conns = append(conns, c)
		}
		if _, err := m.Dial(t.Context(), m.Addr(), mux.KindRPC); !errors.Is(err, base.ErrUnavailable) {
			t.Error(err)
		}
		log.await(t, mux.ErrBusy.Error())
		exchange(t, conns[0], "goes on")
		conns[0].Close()
		testkit.Eventually(t, patience, "room", func() bool { return m.Stats().Open < 5 })
		exchange(t, dial(t, m, m, mux.KindRPC), "x")
	})
}

// TestManyConnections: hundreds at the same moment, which Close ends.
func TestManyConnections(t *testing.T) {
	both(t, func(t *testing.T, cfg mux.Config) {
		const n = 200 // fewer than may greet
		m, _ := open(t, cfg, mux.Limits{Greet: time.Minute, Dial: time.Minute})
		var inside sync.WaitGroup
		serve(t, m, mux.KindMessages, func(c net.Conn) {
			inside.Add(1)
			defer inside.Done()
			echo(c)
		})
		conns := make([]net.Conn, n)
		var wg sync.WaitGroup
		for i := range conns {
			wg.Go(func() {
				c, err := m.Dial(testkit.Context(t), m.Addr(), mux.KindMessages)
				if err != nil {
					t.Error(err)
					return
				}
				conns[i] = c
				if _, err := c.Write([]byte{byte(i)}); err != nil {
					t.Error(err)
				}
				var got [1]byte
				if _, err := io.ReadFull(c, got[:]); err != nil || got[0] != byte(i) {
					t.Errorf("%d: %v, %v", i, got, err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		if s := m.Stats(); s.Open != n || s.Greeting != 0 || s.Refused != 0 {
			t.Errorf("%+v", s)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		inside.Wait() // Close has waited
		for _, c := range conns {
			awaitClosed(t, c)
			c.Close()
		}
		if s := m.Stats(); s.Open != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestCloseWithStuckPeers: neither silent strangers nor peers that do not read
// hold up Close.
func TestCloseWithStuckPeers(t *testing.T) {
	both(t, func(t *testing.T, cfg mux.Config) {
		m, _ := open(t, cfg, mux.Limits{Greet: time.Hour, Linger: time.Hour})
		stuck := make(chan struct{})
		serve(t, m, mux.KindSnapshot, func(c net.Conn) {
			_ = c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
			for {
				if _, err := c.Write(make([]byte, 1<<20)); err != nil {
					break
				}
			}
			close(stuck)
			_ = c.SetWriteDeadline(time.Time{})
			_, _ = c.Write(make([]byte, 64<<20)) // until it is closed
		})
		dial(t, m, m, mux.KindSnapshot)
		stranger(t, m)
		_, _ = stranger(t, m).Write([]byte("garbage, and then nothing"))
		<-stuck
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestCloseAfterFailedWrite: the end of a connection on which a write has timed
// out comes at once.
func TestCloseAfterFailedWrite(t *testing.T) {
	both(t, func(t *testing.T, cfg mux.Config) {
		m, _ := open(t, cfg, mux.Limits{})
		release := make(chan struct{})
		serve(t, m, mux.KindRPC, func(net.Conn) { <-release })
		c := dial(t, m, m, mux.KindRPC)
		_ = c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		var err error
		for err == nil {
			_, err = c.Write(make([]byte, 1<<20))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("it is open")
		}
		close(release)
	})
}
