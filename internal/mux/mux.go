package mux

import (
	"cmp"
	"container/list"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// Config says where a node listens and how it and its peers show who they are.
// Either TLS or Insecure must be set.
type Config struct {
	// Listen is a host and a port as of net.Listen, such as "10.0.0.1:7000",
	// "[::]:7000" or "127.0.0.1:0".
	Listen string

	// TLS returns the credentials of this node. It is called for each
	// connection, from any goroutine, and must return quickly. The result is
	// not changed. It needs a certificate that serves as that of a server and
	// of a client, and the CA that signs those of nodes in RootCAs or
	// ClientCAs; most of the rest is overruled. Peers are verified against the
	// host they are dialled at, unless there is a ServerName.
	TLS func() (*tls.Config, error)
	// VerifyPeer, if not nil, has the last word on the certificate of a peer,
	// whoever dialled, after it was verified.
	VerifyPeer func(*x509.Certificate) error

	// Insecure does without TLS. Nobody proves who it is, so only loopback
	// addresses are listened at and dialled.
	Insecure bool
	// InsecureAnywhere lifts that bound of Insecure, for tests in networks of
	// their own. Nothing that a user can set reaches it.
	InsecureAnywhere bool

	// Logger is told of connections that are refused; nil discards.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	switch {
	case c.TLS == nil && !c.Insecure:
		return fmt.Errorf("%w: connections between nodes need TLS certificates; on loopback addresses Insecure does without", base.ErrInvalid)
	case c.TLS != nil && c.Insecure:
		return fmt.Errorf("%w: TLS and Insecure exclude each other; leave out one of them", base.ErrInvalid)
	case c.TLS != nil:
		_, err := c.credentials()
		return err
	}
	return nil
}

// limits bound what strangers can take.
type limits struct {
	// greetTimeout is how long a connection may take for its TLS handshake and
	// to say what it is for.
	greetTimeout time.Duration
	// dialTimeout is the same on the other side, and for connecting.
	dialTimeout time.Duration
	// lingerTimeout is how long a refused peer may take to read why.
	lingerTimeout time.Duration
	// maxGreetings is how many connections may be about to say what they are
	// for. A handshake takes about 100 kB and a millisecond of a processor.
	maxGreetings int
	// evictAfter is after what time one of those makes room for a new one if
	// there are too many: an honest one has long finished, so that silent ones
	// cannot keep others out.
	evictAfter time.Duration
	// maxConns is how many connections are accepted: some for each of a few
	// hundred peers, and as many again that are about to be given up.
	maxConns int
}

func defaultLimits() limits {
	return limits{
		greetTimeout: 10 * time.Second, dialTimeout: 10 * time.Second, lingerTimeout: time.Second,
		maxGreetings: 256, evictAfter: time.Second, maxConns: 2048,
	}
}

// deadPeerAfter is how long a peer may leave data unacknowledged before the
// connection is given up. Without it a connection that lived through a
// partition sends again only after the growing pauses of TCP.
const deadPeerAfter = 5 * time.Second

// Mux is the port of a node. It is safe for concurrent use.
type Mux struct {
	cfg        Config
	limits     limits
	listener   net.Listener
	dialer     net.Dialer
	serverTLS  *tls.Config // nil without TLS
	complaints complaints
	wg         sync.WaitGroup // accept, and a goroutine for each connection

	mu struct {
		sync.Mutex
		closed    bool
		services  map[byte]*service
		conns     map[*arrival]struct{}
		greetings *list.List // of *arrival, the oldest first
		stats     Stats
	}
}

// service is what Serve was called with.
type service struct {
	handle func(net.Conn)
	conns  map[*arrival]struct{} // guarded by Mux.mu
	wg     sync.WaitGroup
}

// arrival is a connection that was accepted. Whoever wants to end it closes raw,
// which never waits, as closing TLS may.
type arrival struct {
	raw     net.Conn
	since   time.Time
	greets  *list.Element // in Mux.mu.greetings, nil afterwards; guarded by Mux.mu
	service *service      // guarded by Mux.mu
}

// Stats counts connections that were accepted.
type Stats struct {
	Open     int    // at present
	Greeting int    // of those, have not said yet what they are for
	Accepted uint64 // by the listener, since it listens
	Refused  uint64 // of those, were not handed to a handler
}

// Listen opens the port. Close must be called.
//
// Errors wrap base.ErrInvalid if the configuration must change, and
// base.ErrUnavailable if not, as when the port is in use.
func Listen(cfg Config) (*Mux, error) { return listen(cfg, defaultLimits()) }

func listen(cfg Config, limits limits) (*Mux, error) {
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m := &Mux{cfg: cfg, limits: limits}
	keepalive := net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}
	m.dialer = net.Dialer{KeepAliveConfig: keepalive, Control: m.cfg.control}
	if cfg.TLS != nil {
		m.serverTLS = m.cfg.listenTLS()
	}
	m.mu.services = map[byte]*service{}
	m.mu.conns = map[*arrival]struct{}{}
	m.mu.greetings = list.New()
	lc := net.ListenConfig{KeepAliveConfig: keepalive, Control: m.cfg.control}
	l, err := lc.Listen(context.Background(), "tcp", cfg.Listen)
	if err != nil {
		return nil, listenFault(cfg.Listen, err)
	}
	m.listener = l
	m.wg.Go(m.accept)
	return m, nil
}

func listenFault(address string, err error) error {
	var bad *net.AddrError
	var unknown *net.DNSError
	switch {
	case errors.Is(err, base.ErrInvalid):
		return fmt.Errorf("listening at %q: %w", address, err)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: listening at %q: another program, or another node of this one, has the port; stop it or choose another port: %w",
			base.ErrUnavailable, address, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: listening at %q: this host does not have the address: %w", base.ErrInvalid, address, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: listening at %q: ports below 1024 need a privilege: %w", base.ErrInvalid, address, err)
	case errors.As(err, &bad), errors.As(err, &unknown):
		return fmt.Errorf("%w: listening at %q: it must be a host and a port, such as 10.0.0.1:7000: %w", base.ErrInvalid, address, err)
	default:
		return fmt.Errorf("%w: listening at %q: %w", base.ErrUnavailable, address, err)
	}
}

// Addr returns the address it listens at.
func (m *Mux) Addr() string { return m.listener.Addr().String() }

// Stats returns the counters.
func (m *Mux) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.mu.stats
	s.Open, s.Greeting = len(m.mu.conns), m.mu.greetings.Len()
	return s
}

// Serve hands every connection of the kind that a peer opens to handle, each on
// a goroutine of its own, and closes it when handle returns. stop closes these
// connections and returns after all handlers did; it must not be called by one.
func (m *Mux) Serve(kind byte, handle func(net.Conn)) (stop func(), err error) {
	if err := checkKind(kind); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return nil, net.ErrClosed
	}
	if m.mu.services[kind] != nil {
		return nil, fmt.Errorf("kind %d: %w", kind, ErrKindServed)
	}
	s := &service{handle: handle, conns: map[*arrival]struct{}{}}
	m.mu.services[kind] = s
	return func() { m.stop(kind, s) }, nil
}

func (m *Mux) stop(kind byte, s *service) {
	m.mu.Lock()
	if m.mu.services[kind] == s {
		delete(m.mu.services, kind)
	}
	for a := range s.conns {
		a.raw.Close()
	}
	m.mu.Unlock()
	s.wg.Wait()
}

// Close closes the listener and all accepted connections, and returns after all
// handlers did. It may be called again.
func (m *Mux) Close() error {
	m.mu.Lock()
	again := m.mu.closed
	m.mu.closed = true
	for a := range m.mu.conns {
		a.raw.Close()
	}
	m.mu.Unlock()
	err := m.listener.Close()
	m.wg.Wait()
	if again {
		return nil
	}
	return err
}

func (m *Mux) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.closed
}
