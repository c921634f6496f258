package mux_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/mux"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/security"
)

type provider = func() (*tls.Config, error)

func newCA(t testing.TB) *security.DevCA { return newCAOf(t, "test") }

func newCAOf(t testing.TB, cluster string) *security.DevCA {
	t.Helper()
	ca, err := security.NewDevCA(t.TempDir(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// load issues a certificate and reads it without the checks of package security,
// which some of the tests must get past.
func load(t testing.TB, ca *security.DevCA, node string, hosts ...string) *tls.Config {
	t.Helper()
	files, err := ca.Issue(node, hosts...)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	cas, err := security.OpenDevCA(ca.Dir())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cas.Certificate())
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool}
}

func fixed(cfg *tls.Config) provider { return func() (*tls.Config, error) { return cfg, nil } }

func credentials(t testing.TB, ca *security.DevCA, node string) provider {
	t.Helper()
	return fixed(load(t, ca, node, "127.0.0.1", "::1", "localhost"))
}

func secure(t testing.TB, ca *security.DevCA, node string) (*mux.Mux, *logs) {
	t.Helper()
	return open(t, mux.Config{TLS: credentials(t, ca, node)}, mux.Limits{})
}

// nodeOf returns who is at the other end, as its certificate says.
func nodeOf(c net.Conn) string {
	a, ok := c.(mux.Authenticated)
	if !ok || len(a.PeerCertificates()) != 2 {
		return ""
	}
	return a.PeerCertificates()[0].URIs[0].String()
}

func TestTLS(t *testing.T) {
	for name, listen := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0", "name": "localhost:0"} {
		t.Run(name, func(t *testing.T) {
			testkit.CheckNoLeaks(t)
			if l, err := net.Listen("tcp", listen); err != nil {
				t.Skip(err)
			} else {
				l.Close()
			}
			ca := newCA(t)
			a, _ := open(t, mux.Config{Listen: listen, TLS: credentials(t, ca, "a")}, mux.Limits{})
			b, log := open(t, mux.Config{Listen: listen, TLS: credentials(t, ca, "b")}, mux.Limits{})
			peers := make(chan string, 1)
			serve(t, b, mux.KindRPC, func(c net.Conn) { peers <- nodeOf(c); echo(c) })
			c := dial(t, a, b, mux.KindRPC)
			exchange(t, c, strings.Repeat("long ", 100_000))
			if got := <-peers; got != "spiffe://test/node/a" {
				t.Errorf("the server sees %q", got)
			}
			if got := nodeOf(c); got != "spiffe://test/node/b" {
				t.Errorf("the client sees %q", got)
			}
			if s := c.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState(); s.Version != tls.VersionTLS13 || s.DidResume {
				t.Errorf("%+v", s)
			}
			if log.String() != "" {
				t.Error(log)
			}
		})
	}
}

// TestMismatch: one side has TLS, the other has not. Both learn it.
func TestMismatch(t *testing.T) {
	testkit.CheckNoLeaks(t)
	ca := newCA(t)
	withTLS, tlsLog := secure(t, ca, "a")
	without, plainLog := plain(t)
	serve(t, withTLS, mux.KindRPC, echo)
	serve(t, without, mux.KindRPC, echo)
	for range 20 {
		if _, err := without.Dial(t.Context(), withTLS.Addr(), mux.KindRPC); !errors.Is(err, mux.ErrTLSPeer) || !errors.Is(err, base.ErrUnavailable) {
			t.Error(err)
		}
		if _, err := withTLS.Dial(t.Context(), without.Addr(), mux.KindRPC); !errors.Is(err, mux.ErrPlaintextPeer) || !errors.Is(err, base.ErrUnavailable) {
			t.Error(err)
		}
	}
	tlsLog.await(t, mux.ErrPlaintextPeer.Error())
	plainLog.await(t, mux.ErrTLSPeer.Error())
	for _, l := range []*logs{tlsLog, plainLog} {
		if n := strings.Count(l.String(), "\n"); n > 3 { // one line, but the test may be slow
			t.Errorf("%d lines:\n%s", n, l)
		}
	}
}

// TestCertificates: who is refused, what the client is told, and what the
// server logs.
func TestCertificates(t *testing.T) {
	ca := newCA(t)
	expiredOf := func(of *security.DevCA) provider {
		old, err := security.OpenDevCA(of.Dir())
		if err != nil {
			t.Fatal(err)
		}
		old.Lifetime = -time.Minute
		return credentials(t, old, "old")
	}
	otherServer := func(cluster string) provider { // trusts ca, is of another
		cfg := load(t, newCAOf(t, cluster), "stranger", "127.0.0.1")
		cfg.RootCAs = load(t, ca, "x", "127.0.0.1").RootCAs
		return fixed(cfg)
	}
	refuse := func(*x509.Certificate) error { return errors.New("not in the catalog") }
	good := func() mux.Config { return mux.Config{TLS: credentials(t, ca, "good")} }
	for _, c := range []struct {
		name           string
		client, server mux.Config
		want           error
		log            string
	}{
		{"other CA", mux.Config{TLS: credentials(t, newCA(t), "stranger")}, good(), mux.ErrUntrusted, mux.ErrRejected.Error()},
		{"client of another CA", mux.Config{TLS: otherServer("test")}, good(), mux.ErrRejected, mux.ErrUntrusted.Error()},
		{"client of another cluster", mux.Config{TLS: otherServer("other")}, good(), mux.ErrRejected, mux.ErrHandshake.Error()},
		{"server of another CA", good(), mux.Config{TLS: otherServer("test")}, mux.ErrUntrusted, mux.ErrRejected.Error()},
		{"expired client", mux.Config{TLS: expiredOf(ca)}, good(), mux.ErrRejected, "expired"},
		{"expired server", good(), mux.Config{TLS: expiredOf(ca)}, mux.ErrUntrusted, mux.ErrRejected.Error()},
		{"other host", good(), mux.Config{TLS: fixed(load(t, ca, "far", "192.0.2.1"))}, mux.ErrUntrusted, mux.ErrRejected.Error()},
		{"server that the client does not want", mux.Config{TLS: good().TLS, VerifyPeer: refuse}, good(), mux.ErrUntrusted, mux.ErrRejected.Error()},
		{"client that the server does not want", good(), mux.Config{TLS: good().TLS, VerifyPeer: refuse}, mux.ErrRejected, "not in the catalog"},
	} {
		t.Run(c.name, func(t *testing.T) {
			testkit.CheckNoLeaks(t)
			client, _ := open(t, c.client, mux.Limits{})
			server, log := open(t, c.server, mux.Limits{})
			serve(t, server, mux.KindRPC, func(net.Conn) { t.Error("was let in") })
			conn, err := client.Dial(testkit.Context(t), server.Addr(), mux.KindRPC)
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, c.want) || !errors.Is(err, base.ErrUnavailable) {
				t.Error(err)
			}
			log.await(t, c.log)
		})
	}
}

// TestOtherClients: what does not come from a Mux, though its certificate may be
// good.
func TestOtherClients(t *testing.T) {
	testkit.CheckNoLeaks(t)
	ca := newCA(t)
	m, log := secure(t, ca, "a")
	serve(t, m, mux.KindRPC, func(net.Conn) { t.Error("was let in") })
	for name, change := range map[string]func(*tls.Config){
		"no certificate": func(c *tls.Config) { c.Certificates, c.NextProtos = nil, []string{"distributedcache-node"} },
		"TLS 1.2":        func(c *tls.Config) { c.MaxVersion, c.NextProtos = tls.VersionTLS12, []string{"distributedcache-node"} },
		"no protocol":    func(*tls.Config) {},
		"other protocol": func(c *tls.Config) { c.NextProtos = []string{"h2"} },
	} {
		cfg := load(t, ca, "client", "127.0.0.1")
		change(cfg)
		c, err := tls.Dial("tcp", m.Addr(), cfg)
		if err == nil { // in TLS 1.3 a client is done before the server is
			_, _ = c.Write([]byte("dcr\x01\x03"))
			var said []byte
			said, err = io.ReadAll(c)
			c.Close()
			if len(said) > 0 {
				t.Errorf("%s: is told %q", name, said)
			}
		}
		if err == nil || !strings.Contains(err.Error(), "remote error") {
			t.Errorf("%s: %v", name, err)
		}
	}
	log.await(t, mux.ErrHandshake.Error())
	log.await(t, mux.ErrNotPeer.Error())
	testkit.Eventually(t, patience, "an end of all", func() bool { return m.Stats().Open == 0 })
}

// TestOtherServer: a client shows its certificate to nobody but nodes.
func TestOtherServer(t *testing.T) {
	testkit.CheckNoLeaks(t)
	ca := newCA(t)
	m, _ := secure(t, ca, "a")
	l, err := tls.Listen("tcp", "127.0.0.1:0", load(t, ca, "web", "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = c.Read(make([]byte, 1))
			c.Close()
		}
	})
	if _, err := m.Dial(t.Context(), l.Addr().String(), mux.KindRPC); !errors.Is(err, mux.ErrNotPeer) {
		t.Error(err)
	}
	l.Close()
	wg.Wait()
}

func TestCredentialsThatCannotBeUsed(t *testing.T) {
	testkit.CheckNoLeaks(t)
	good := load(t, newCA(t), "a", "127.0.0.1")
	change := func(f func(*tls.Config)) provider {
		c := good.Clone()
		f(c)
		return fixed(c)
	}
	for name, cfg := range map[string]mux.Config{
		"nothing":  {TLS: fixed(nil)},
		"an error": {TLS: func() (*tls.Config, error) { return nil, errors.New("vault is sealed") }},
		"skips":    {TLS: change(func(c *tls.Config) { c.InsecureSkipVerify = true })},
		"no CA":    {TLS: change(func(c *tls.Config) { c.RootCAs = nil })},
		"no cert":  {TLS: change(func(c *tls.Config) { c.Certificates = nil })},
		"one function": {TLS: change(func(c *tls.Config) {
			c.Certificates, c.GetCertificate = nil, func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }
		})},
		"both": {TLS: fixed(good), Insecure: true},
	} {
		cfg.Listen = "127.0.0.1:0"
		if m, err := mux.Listen(cfg); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
			_ = m.Close()
		}
	}
}

// TestStrict: what is given may be as lax as it likes.
func TestStrict(t *testing.T) {
	testkit.CheckNoLeaks(t)
	ca := newCA(t)
	lax := load(t, ca, "lax", "127.0.0.1")
	lax.MinVersion, lax.MaxVersion, lax.ClientAuth = tls.VersionTLS10, tls.VersionTLS12, tls.NoClientCert
	lax.ClientSessionCache = tls.NewLRUClientSessionCache(9)
	lax.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return &tls.Config{}, nil }
	verified := atomic.Int32{}
	lax.VerifyConnection = func(tls.ConnectionState) error { verified.Add(1); return nil }
	lax.ClientCAs, lax.RootCAs = lax.RootCAs, nil
	m, _ := open(t, mux.Config{TLS: fixed(lax)}, mux.Limits{})
	serve(t, m, mux.KindRPC, echo)
	for range 3 {
		c := dial(t, m, m, mux.KindRPC)
		exchange(t, c, "x")
		if s := c.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState(); s.Version != tls.VersionTLS13 || s.DidResume {
			t.Errorf("%+v", s)
		}
	}
	if n := verified.Load(); n != 6 {
		t.Errorf("VerifyConnection ran %d times", n)
	}
	if lax.MaxVersion != tls.VersionTLS12 || lax.RootCAs != nil {
		t.Error("it was changed")
	}
}

// TestReload: each connection has the credentials of its moment, and a fault of
// the provider refuses that connection only.
func TestReload(t *testing.T) {
	testkit.CheckNoLeaks(t)
	ca := newCA(t)
	var now atomic.Pointer[tls.Config]
	first, second := load(t, ca, "first", "127.0.0.1"), load(t, ca, "second", "127.0.0.1")
	now.Store(first)
	server, log := open(t, mux.Config{TLS: func() (*tls.Config, error) {
		if c := now.Load(); c != nil {
			return c, nil
		}
		return nil, errors.New("vault is sealed")
	}}, mux.Limits{})
	serve(t, server, mux.KindRPC, echo)
	client, _ := secure(t, ca, "client")

	before := dial(t, client, server, mux.KindRPC)
	now.Store(second)
	after := dial(t, client, server, mux.KindRPC)
	exchange(t, before, "goes on")
	exchange(t, after, "x")
	if a, b := nodeOf(before), nodeOf(after); a != "spiffe://test/node/first" || b != "spiffe://test/node/second" {
		t.Error(a, b)
	}
	now.Store(nil)
	if _, err := client.Dial(testkit.Context(t), server.Addr(), mux.KindRPC); !errors.Is(err, mux.ErrRejected) {
		t.Error(err)
	}
	log.await(t, "vault is sealed")
	if _, err := server.Dial(t.Context(), client.Addr(), mux.KindRPC); !errors.Is(err, base.ErrInvalid) {
		t.Error(err)
	}
	now.Store(first)
	exchange(t, dial(t, client, server, mux.KindRPC), "x")
}
