package mux

import (
	"errors"
	"fmt"
	"io"

	"github.com/distributedcache/cache/internal/base"
)

// The kinds of connections. The numbers go over the wire: they are added to,
// never changed and never used again.
const (
	// KindMessages carries the messages of raft, one way.
	KindMessages byte = 1
	// KindSnapshot carries one snapshot of a shard, one way.
	KindSnapshot byte = 2
	// KindRPC carries requests between nodes.
	KindRPC byte = 3
	// KindGossip carries what nodes tell one another about nodes.
	KindGossip byte = 4

	maxKind = KindGossip
)

// Hello and answer: magic, version, and one byte that is the kind or the
// answer. Their length and the place of the version are the same in every
// version, so that nodes of different versions can tell one another so.
const (
	magic      = "dcr"
	version    = 1
	helloBytes = len(magic) + 2
)

// The answers to a hello.
const (
	answerOK        byte = 0 // the connection is handed to who serves the kind
	answerNotServed byte = 1 // nobody serves the kind
	answerVersion   byte = 2 // the version of the hello is not spoken
	answerPlaintext byte = 3 // to a TLS handshake: there is no TLS here
	answerTLS       byte = 4 // to a hello outside TLS: there is TLS here
)

type greeting [helloBytes]byte

func newGreeting(last byte) (g greeting) {
	copy(g[:], magic)
	g[helloBytes-2], g[helloBytes-1] = version, last
	return g
}

// isGreeting reports whether the bytes are of any version of this protocol.
func (g greeting) isGreeting() bool { return string(g[:len(magic)]) == magic }

// isTLS reports whether the bytes are the head of a TLS handshake: the type of
// the record and the major version, which all versions of TLS share.
func (g greeting) isTLS() bool { return g[0] == 22 && g[1] == 3 }

// decode returns the kind or the answer. Its range is not checked: a newer node
// may have more of them.
func (g greeting) decode() (byte, error) {
	switch {
	case g.isTLS():
		return 0, ErrTLSPeer
	case !g.isGreeting():
		return 0, ErrNotPeer
	case g[helloBytes-2] != version:
		return 0, fmt.Errorf("%w: it has version %d, this node version %d", ErrVersion, g[helloBytes-2], version)
	}
	return g[helloBytes-1], nil
}

// readHello reads the kind of a connection.
func readHello(r io.Reader) (kind byte, err error) {
	var g greeting
	if _, err := io.ReadFull(r, g[:]); err != nil {
		return 0, err
	}
	return g.decode()
}

// readAnswer reads whether the connection was accepted.
func readAnswer(r io.Reader) error {
	answer, err := readHello(r)
	if err != nil {
		return err
	}
	switch answer {
	case answerOK:
		return nil
	case answerNotServed:
		return ErrNotServed
	case answerVersion:
		return ErrVersion
	case answerPlaintext:
		return ErrPlaintextPeer
	case answerTLS:
		return ErrTLSPeer
	default:
		return fmt.Errorf("%w: answer %d is unknown", ErrVersion, answer)
	}
}

// answerTo returns what a hello with a fault is answered; ok is false if
// nothing, as strangers learn nothing.
func answerTo(fault error) (answer byte, ok bool) {
	switch {
	case errors.Is(fault, ErrNotServed):
		return answerNotServed, true
	case errors.Is(fault, ErrVersion):
		return answerVersion, true
	case errors.Is(fault, ErrTLSPeer):
		return answerPlaintext, true
	case errors.Is(fault, ErrPlaintextPeer):
		return answerTLS, true
	}
	return 0, false
}

func checkKind(kind byte) error {
	if kind == 0 || kind > maxKind {
		return fmt.Errorf("%w: connections of kind %d do not exist", base.ErrInvalid, kind)
	}
	return nil
}
