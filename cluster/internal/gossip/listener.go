package gossip

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// listenerName is the name of the node that memberlist exchanges states with
// to tell us its own. No member can have it.
const listenerName = "\x00listener"

// listenerTarget is the argument of memberlist.Join that leads to a listener.
const listenerTarget = listenerName + "/[::1]:1"

// errState says that memberlist's state could not be read: its encoding has
// changed.
var errState = errors.New("state of memberlist cannot be read")

// listener is a connection that takes what memberlist says and answers
// nothing. It is used by one goroutine.
type listener struct{ heard []byte }

// maxHeardBytes bounds a state: maxNodes of the longest names and metadata,
// and all hints.
const maxHeardBytes = maxStreamBytes

// Write implements net.Conn.
func (l *listener) Write(p []byte) (int, error) {
	if len(l.heard)+len(p) > maxHeardBytes {
		return 0, io.ErrShortWrite
	}
	l.heard = append(l.heard, p...)
	return len(p), nil
}

// Read implements net.Conn.
func (l *listener) Read([]byte) (int, error) { return 0, io.EOF }

// Close implements net.Conn.
func (l *listener) Close() error { return nil }

// LocalAddr implements net.Conn.
func (l *listener) LocalAddr() net.Addr { return address(listenerName) }

// RemoteAddr implements net.Conn.
func (l *listener) RemoteAddr() net.Addr { return address(listenerName) }

// SetDeadline implements net.Conn.
func (l *listener) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (l *listener) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (l *listener) SetWriteDeadline(time.Time) error { return nil }

// sightings decodes what was heard.
func (l *listener) sightings(label string) ([]sighting, error) {
	rest, err := cutLabel(l.heard, label)
	if err != nil || len(rest) == 0 || rest[0] != msgPushPull {
		return nil, errState
	}
	u := &unpacker{buf: rest[1:]}
	nodes, _ := stateHeader(u)
	if u.failed() || nodes > maxNodes {
		return nil, errState
	}
	list := make([]sighting, 0, nodes)
	for range nodes {
		s := readSighting(u)
		if u.failed() {
			return nil, errState
		}
		list = append(list, s)
	}
	return list, nil
}

// stateHeader reads how many nodes and how many bytes of ours an exchanged
// state has.
func stateHeader(u *unpacker) (nodes, bytes uint64) {
	u.fields(func(name string, value item) {
		switch name {
		case "Nodes":
			nodes = value.n
		case "UserStateLen":
			bytes = value.n
		}
	})
	return nodes, bytes
}

func readSighting(u *unpacker) (s sighting) {
	u.fields(func(name string, value item) {
		switch name {
		case "Name":
			s.name = string(value.b)
		case "Meta":
			s.meta = value.b
		case "State":
			s.state = stateOf(value.n)
		}
	})
	return s
}

func stateOf(n uint64) State {
	switch memberlist.NodeStateType(n) {
	case memberlist.StateAlive:
		return Alive
	case memberlist.StateSuspect:
		return Suspect
	case memberlist.StateLeft:
		return Left
	}
	return Dead
}
