package mux

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// What can be wrong between two nodes. Dial returns them, wrapped together with
// base.ErrUnavailable, and the accepting side logs them.
var (
	// ErrTLSPeer: the peer has TLS, this node has not.
	ErrTLSPeer = errors.New("the peer speaks TLS and this node is configured without; give both certificates of the same CA")
	// ErrPlaintextPeer: the peer has no TLS, this node has.
	ErrPlaintextPeer = errors.New("the peer speaks plaintext and this node is configured with TLS; give both certificates of the same CA")
	// ErrUntrusted: the certificate of the peer was not accepted here.
	ErrUntrusted = errors.New("the certificate of the peer is not accepted")
	// ErrRejected: the peer ended the TLS handshake, usually because it did not
	// accept the certificate of this node.
	ErrRejected = errors.New("the peer rejected this node; its log says why")
	// ErrHandshake: the TLS handshake failed for another reason, such as a peer
	// without a certificate or without TLS 1.3.
	ErrHandshake = errors.New("TLS handshake failed")
	// ErrNotPeer: what is at the other end is no node.
	ErrNotPeer = errors.New("the other side is not a node of a cache")
	// ErrVersion: the peer has another version of the greeting.
	ErrVersion = errors.New("the peer speaks another version of the protocol")
	// ErrNotServed: the peer does not serve the kind, perhaps not yet.
	ErrNotServed = errors.New("the peer does not serve connections of this kind")
	// ErrBusy: there were too many connections.
	ErrBusy = errors.New("too many connections")
)

// ErrKindServed is returned by Serve for a kind that is being served.
var ErrKindServed = errors.New("connections of this kind are being served")

// faultOfTLS says in the words of this package why a handshake failed, or a
// read that waited for the peer to accept ours.
func faultOfTLS(err error) error {
	var header tls.RecordHeaderError
	var cert *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case errors.As(err, &header) && greeting(header.RecordHeader).isGreeting():
		return ErrPlaintextPeer
	case errors.As(err, &header):
		return ErrNotPeer
	case errors.As(err, &cert):
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	case errors.As(err, &op) && op.Op == "remote error": // how crypto/tls marks what the peer said
		return fmt.Errorf("%w: %w", ErrRejected, err)
	case sortOf(err) != sortOther || errors.Is(err, base.ErrInvalid):
		return err
	default:
		return fmt.Errorf("%w: %w", ErrHandshake, err)
	}
}

// ended reports whether err is of the connection and not of what came over it.
func ended(err error) bool {
	for _, target := range []error{
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, os.ErrDeadlineExceeded, context.Canceled, context.DeadlineExceeded,
		syscall.ECONNRESET, syscall.EPIPE,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// The sorts of faults: each of the errors above, connections that merely ended,
// and what is left.
const (
	sortEnded = 9 + iota
	sortOther
	sorts
)

func sortOf(fault error) int {
	for i, target := range [sortEnded]error{
		ErrTLSPeer, ErrPlaintextPeer, ErrUntrusted, ErrRejected, ErrHandshake, ErrNotPeer, ErrVersion, ErrNotServed, ErrBusy,
	} {
		if errors.Is(fault, target) {
			return i
		}
	}
	if ended(fault) {
		return sortEnded
	}
	return sortOther
}

// complaintEvery is how often a fault of one sort is logged at most. With eleven
// sorts that is about a line per second: a stranger must not be able to fill the log.
const complaintEvery = 10 * time.Second

// maxComplaintBytes is how much of an error is logged. A certificate, which may
// have been made to be read in a log, can have tens of kilobytes.
const maxComplaintBytes = 300

// complaints decides which faults are logged: each sort for itself, so that
// noise does not hide a peer that lacks its certificate.
type complaints [sorts]struct {
	next   atomic.Int64 // Unix nanoseconds
	unsaid atomic.Uint64
}

// due reports whether to log now, and how many of the sort were passed over.
func (c *complaints) due(fault error, now time.Time) (unsaid uint64, ok bool) {
	sort := &c[sortOf(fault)]
	next := sort.next.Load()
	if now.UnixNano() < next || !sort.next.CompareAndSwap(next, now.Add(complaintEvery).UnixNano()) {
		sort.unsaid.Add(1)
		return 0, false
	}
	return sort.unsaid.Swap(0), true
}

// complain logs why a connection that came in was refused.
func (m *Mux) complain(peer net.Addr, fault error) {
	// A port that is only tried whether it is open, as monitoring does, is none
	// of our business.
	if errors.Is(fault, io.EOF) || errors.Is(fault, net.ErrClosed) {
		return
	}
	unsaid, ok := m.complaints.due(fault, time.Now())
	if !ok {
		return
	}
	text := fault.Error()
	if len(text) > maxComplaintBytes {
		text = text[:maxComplaintBytes] + "..."
	}
	m.cfg.Logger.Warn("a connection was refused", slog.String("peer", peer.String()), slog.String("error", text), slog.Uint64("unsaid", unsaid))
}
