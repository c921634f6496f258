package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/distributedcache/cache/internal/wire"
)

// Why a node or its messages are refused.
var (
	// ErrOtherCluster is for what carries the id of another cluster, or none.
	ErrOtherCluster = errors.New("belongs to another cluster")
	// ErrOtherProtocol is for nodes whose protocol range does not meet ours.
	ErrOtherProtocol = errors.New("speaks another protocol")
	// ErrBadMember is for nodes whose name, address or metadata are not what
	// a node announces.
	ErrBadMember = errors.New("announces itself wrongly")
)

// The types of memberlist's messages, as far as they are expected.
const (
	msgPing         = 0
	msgIndirectPing = 1
	msgAck          = 2
	msgSuspect      = 3
	msgAlive        = 4
	msgDead         = 5
	msgPushPull     = 6
	msgCompound     = 7
	msgUser         = 8
	msgNack         = 11
	msgCRC          = 12
	msgError        = 13
	msgLabel        = 244

	crcHeaderBytes = 5
)

const (
	// maxNodes is how many nodes an exchanged state may have. memberlist
	// would allocate for a million before it has read one.
	maxNodes = 4096
	// maxStreamBytes is how much one exchange may send. It holds maxNodes
	// and all hints.
	maxStreamBytes = 4 << 20
	// maxStreamHeadBytes holds whatever precedes the first node of a state.
	maxStreamHeadBytes = 512
)

// cutLabel returns what follows the label in a packet, or at the beginning of
// a stream.
func cutLabel(buf []byte, label string) ([]byte, error) {
	n := 2 + len(label)
	if len(buf) < n || buf[0] != msgLabel || int(buf[1]) != len(label) || string(buf[2:n]) != label {
		return nil, ErrOtherCluster
	}
	return buf[n:], nil
}

// appendLabel appends the label as memberlist puts it before its packets.
func appendLabel(buf []byte, label string) []byte {
	return append(append(buf, msgLabel, byte(len(label))), label...)
}

// packetParts returns the messages of a packet, which alias it. It refuses
// what a peer never sends: compressed messages, which could become a thousand
// times as long, and nested ones.
func packetParts(buf []byte, label string) ([][]byte, error) {
	buf, err := cutLabel(buf, label)
	if err != nil {
		return nil, err
	}
	if len(buf) >= crcHeaderBytes && buf[0] == msgCRC {
		buf = buf[crcHeaderBytes:]
	}
	parts := [][]byte{buf}
	if len(buf) > 0 && buf[0] == msgCompound {
		if parts, err = compoundParts(buf[1:]); err != nil {
			return nil, err
		}
	}
	for _, p := range parts {
		if err := checkMessage(p); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// compoundParts splits a compound message: a count, as many lengths, and as
// many messages.
func compoundParts(buf []byte) ([][]byte, error) {
	if len(buf) < 1 || len(buf) < 1+2*int(buf[0]) {
		return nil, fmt.Errorf("%w: compound message cut short", wire.ErrMalformed)
	}
	lengths, rest := buf[1:1+2*int(buf[0])], buf[1+2*int(buf[0]):]
	parts := make([][]byte, 0, buf[0])
	for ; len(lengths) > 0; lengths = lengths[2:] {
		n := int(binary.BigEndian.Uint16(lengths))
		if n > len(rest) {
			return nil, fmt.Errorf("%w: compound message cut short", wire.ErrMalformed)
		}
		parts = append(parts, rest[:n])
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes behind a compound message", wire.ErrMalformed, len(rest))
	}
	return parts, nil
}

func checkMessage(m []byte) error {
	if len(m) == 0 {
		return fmt.Errorf("%w: empty message", wire.ErrMalformed)
	}
	switch m[0] {
	case msgPing, msgIndirectPing, msgAck, msgSuspect, msgAlive, msgDead, msgUser, msgNack:
		return nil
	}
	return fmt.Errorf("%w: message of type %d in a packet", wire.ErrMalformed, m[0])
}

// streamHead looks at the beginning of a stream, of which buf is what has
// arrived. It reports whether that is enough to tell that memberlist may read
// it. Streams that peers open carry the label, answers do not.
func streamHead(buf []byte, label string, answer bool) (enough bool, err error) {
	if !answer {
		n := 2 + len(label)
		if len(buf) < n {
			// What has come must be right already: a peer that says
			// something else is not to be waited for.
			if string(buf) != string(appendLabel(nil, label)[:len(buf)]) {
				return false, ErrOtherCluster
			}
			return false, nil
		}
		if buf, err = cutLabel(buf, label); err != nil {
			return false, err
		}
	}
	if len(buf) == 0 {
		return false, nil
	}
	switch kind := buf[0]; {
	case kind == msgPing && !answer, kind == msgAck && answer, kind == msgError && answer:
		return true, nil
	case kind == msgPushPull:
		return stateHead(buf[1:])
	default:
		return false, fmt.Errorf("%w: message of type %d in a stream", wire.ErrMalformed, kind)
	}
}

// stateHead checks the numbers before an exchanged state.
func stateHead(buf []byte) (enough bool, err error) {
	u := &unpacker{buf: buf}
	nodes, bytes := stateHeader(u)
	switch {
	case u.bad || len(buf) > maxStreamHeadBytes && u.short:
		return false, fmt.Errorf("%w: header of a state", wire.ErrMalformed)
	case u.short:
		return false, nil
	case nodes > maxNodes || bytes > maxHintsBytes:
		return false, fmt.Errorf("%w: state of %d nodes and %d bytes", wire.ErrMalformed, nodes, bytes)
	}
	return true, nil
}

// pingSequence returns the number of the ping in an outgoing packet, which is
// its first message.
func pingSequence(packet []byte, label string) (uint32, bool) {
	parts, err := packetParts(packet, label)
	if err != nil || len(parts) == 0 || parts[0][0] != msgPing {
		return 0, false
	}
	number, found := uint64(0), false
	u := &unpacker{buf: parts[0][1:]}
	u.fields(func(name string, value item) {
		if name == "SeqNo" && value.kind == itemNumber {
			number, found = value.n, true
		}
	})
	return uint32(number), found && !u.failed()
}

// ack returns a packet that answers the ping of that number.
func ack(number uint32, label string) []byte {
	buf := append(appendLabel(nil, label), msgAck, 0x82)
	buf = append(append(buf, "\xa5SeqNo\xce"...), byte(number>>24), byte(number>>16), byte(number>>8), byte(number))
	return append(buf, "\xa7Payload\xc0"...)
}
