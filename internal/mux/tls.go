package mux

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"

	"github.com/distributedcache/cache/internal/base"
)

// protocol is what both sides name in the handshake (ALPN), so that neither
// takes another service with a certificate of the same CA for a node.
const protocol = "distributedcache-node"

// Authenticated is what a connection implements, in a handler and after Dial,
// if it has TLS.
type Authenticated interface {
	// PeerCertificates returns the verified chain of the peer, its own
	// certificate first. It belongs to the connection and must not be changed.
	PeerCertificates() []*x509.Certificate
}

// secured is a connection inside TLS.
type secured struct {
	*tls.Conn
	raw    net.Conn
	failed atomic.Bool // a write did
}

// PeerCertificates implements Authenticated.
func (c *secured) PeerCertificates() []*x509.Certificate {
	if chains := c.ConnectionState().VerifiedChains; len(chains) > 0 {
		return chains[0]
	}
	return nil
}

// Write implements net.Conn.
func (c *secured) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		c.failed.Store(true)
	}
	return n, err
}

// Close implements net.Conn. It tells the peer that this is the end, unless a
// write has failed: that would only wait, for seconds, for a peer that does not
// read.
func (c *secured) Close() error {
	if !c.failed.Load() {
		return c.Conn.Close()
	}
	err := c.raw.Close()
	_ = c.Conn.Close() // fails, as it cannot say goodbye any more
	return err
}

// acceptTLS runs the handshake of a connection that came in.
func (m *Mux) acceptTLS(raw net.Conn) (net.Conn, error) {
	conn := tls.Server(raw, m.serverTLS)
	if err := conn.Handshake(); err != nil {
		return nil, faultOfTLS(err)
	}
	return &secured{Conn: conn, raw: raw}, nil
}

// dialTLS runs the handshake of a connection that was dialled.
func (m *Mux) dialTLS(ctx context.Context, raw net.Conn, addr string) (net.Conn, error) {
	cfg, err := m.cfg.credentials()
	if err != nil {
		return nil, err
	}
	if cfg.ServerName == "" {
		cfg.ServerName = hostOf(addr)
	}
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, faultOfTLS(err)
	}
	return &secured{Conn: conn, raw: raw}, nil
}

// hostOf returns the host of an address as certificates name it.
func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	host, _, _ = strings.Cut(host, "%") // the interface of a link-local IPv6 address
	return host
}

// listenTLS returns what connections that come in are served with: nothing but
// the question for the credentials of the moment, asked when a client has said
// hello.
func (c *Config) listenTLS() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		GetConfigForClient:     func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.credentials() },
	}
}

// credentials asks for the credentials of the moment and returns a copy of them
// that is as strict as connections between nodes have to be.
func (c *Config) credentials() (*tls.Config, error) {
	given, err := c.TLS()
	if err == nil {
		err = usable(given)
	}
	if err != nil {
		if errors.Is(err, base.ErrInvalid) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: TLS credentials: %w", base.ErrInvalid, err)
	}
	cfg := given.Clone()
	cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	if cfg.RootCAs == nil {
		cfg.RootCAs = cfg.ClientCAs
	}
	if cfg.ClientCAs == nil {
		cfg.ClientCAs = cfg.RootCAs
	}
	cfg.NextProtos = []string{protocol}
	cfg.GetConfigForClient = nil // the last word is had here
	// A resumed session would go on with what was verified when it began, after
	// the CA was replaced; and connections are few and live long, so there is
	// nothing to save.
	cfg.SessionTicketsDisabled, cfg.ClientSessionCache, cfg.WrapSession, cfg.UnwrapSession = true, nil, nil, nil
	// It spares browsers some latency. Here it would cut the first megabyte of
	// each snapshot into records of a kilobyte.
	cfg.DynamicRecordSizingDisabled = true
	cfg.VerifyConnection = c.verify(given.VerifyConnection)
	return cfg, nil
}

// usable says what is missing in credentials.
func usable(given *tls.Config) error {
	switch {
	case given == nil:
		return errors.New("there are none")
	case given.InsecureSkipVerify:
		return errors.New("InsecureSkipVerify is set; it must not be, as nodes verify one another")
	case given.RootCAs == nil && given.ClientCAs == nil:
		// The default of crypto/tls are the CAs of the system, each of which
		// could then make nodes.
		return errors.New("neither RootCAs nor ClientCAs is set; one must say which CA signs the certificates of nodes")
	case len(given.Certificates) == 0 && (given.GetCertificate == nil || given.GetClientCertificate == nil):
		return errors.New("there is no certificate: set Certificates, or both GetCertificate and GetClientCertificate")
	}
	return nil
}

// verify returns what runs on both sides after the chain of the peer has been
// verified; next may be nil.
func (c *Config) verify(next func(tls.ConnectionState) error) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if state.NegotiatedProtocol != protocol {
			return ErrNotPeer
		}
		if next != nil {
			if err := next(state); err != nil {
				return fmt.Errorf("%w: %w", ErrUntrusted, err)
			}
		}
		if c.VerifyPeer == nil {
			return nil
		}
		if err := c.VerifyPeer(state.PeerCertificates[0]); err != nil {
			return fmt.Errorf("%w: %w", ErrUntrusted, err)
		}
		return nil
	}
}
