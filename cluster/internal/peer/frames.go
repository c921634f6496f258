package peer

import (
	"fmt"
	"time"

	"github.com/distributedcache/cache/internal/wire"
)

// A message of the stream of calls is a version byte and any number of frames,
// each a kind byte, a number and what the kind has:
//
//	hello      max message bytes, max in flight      server to client, first
//	request    id, method, timeout, body             a call
//	void       id, method, timeout, body             a call that was taken back
//	long       id, method, timeout, size             a call whose body follows in pieces
//	piece      id, body                              the next part of a long one
//	cancel     id                                    the caller has given up
//	reply      id, body                              the answer
//	longReply  id, size                              an answer whose body follows in pieces
//	failure    id, error                             as base.AppendError writes it
//	lost       id, text                              the handler broke down; what it did is unknown
//	ping, pong any number
//	side       token                                 server to client, with hello: names the session for
//	                                                 the stream of long answers
//
// Numbers have variable length. A timeout is in microseconds and 0 if there is
// none. Ids of one stream rise. In void everything but the kind is as in
// request, so one byte takes a request back that has not been sent.
const (
	frameHello byte = 1 + iota
	frameRequest
	frameVoid
	frameLong
	framePiece
	frameCancel
	frameReply
	frameLongReply
	frameFailure
	frameLost
	framePing
	framePong
	frameSide
)

// messageVersion is the version of the messages.
const messageVersion = 1

// pieceBytes is the longest body that travels as a whole. A longer one goes in
// pieces of this length, at most one in each message, so that what is short
// never waits for more than a piece.
const pieceBytes = 64 << 10

// batchBytes is where a message is full. One more frame fits in always.
const batchBytes = 192 << 10

// maxBatchBytes is the longest message there may be: a full batch, the frame
// that filled it and a piece, each with its header.
const maxBatchBytes = batchBytes + 2*(pieceBytes+64)

// maxFailureBytes is the longest error; base bounds it lower.
const maxFailureBytes = 32 << 10

// maxLostBytes is the longest text of a lost frame.
const maxLostBytes = 512

// frame is a decoded frame. body aliases the message.
type frame struct {
	kind    byte
	method  uint8
	id      uint64 // of hello: max message bytes
	timeout time.Duration
	size    uint64 // of hello: max in flight
	body    []byte
}

func appendHello(buf []byte, maxMessageBytes, maxInFlight int) []byte {
	buf = wire.AppendUvarint(append(buf, frameHello), uint64(maxMessageBytes))
	return wire.AppendUvarint(buf, uint64(maxInFlight))
}

func appendRequest(buf []byte, id uint64, method uint8, timeout time.Duration, body []byte) []byte {
	return wire.AppendBytes(appendCall(buf, frameRequest, id, method, timeout), body)
}

func appendLong(buf []byte, id uint64, method uint8, timeout time.Duration, size int) []byte {
	return wire.AppendUvarint(appendCall(buf, frameLong, id, method, timeout), uint64(size))
}

func appendCall(buf []byte, kind byte, id uint64, method uint8, timeout time.Duration) []byte {
	buf = append(wire.AppendUvarint(append(buf, kind), id), method)
	return wire.AppendUvarint(buf, uint64(timeout/time.Microsecond))
}

// appendNumbered appends a frame that has a body and nothing else.
func appendNumbered(buf []byte, kind byte, id uint64, body []byte) []byte {
	return wire.AppendBytes(wire.AppendUvarint(append(buf, kind), id), body)
}

func appendLongReply(buf []byte, id uint64, size int) []byte {
	return wire.AppendUvarint(wire.AppendUvarint(append(buf, frameLongReply), id), uint64(size))
}

// appendMark appends a frame of a number alone.
func appendMark(buf []byte, kind byte, number uint64) []byte {
	return wire.AppendUvarint(append(buf, kind), number)
}

// maxTimeout is what longer timeouts are cut to: a year.
const maxTimeout = 365 * 24 * time.Hour

// timeoutUntil returns what is left until a deadline, as it travels: in whole
// microseconds and at least one.
func timeoutUntil(deadline time.Time) time.Duration {
	return min(max(time.Until(deadline), time.Microsecond), maxTimeout)
}

// eachFrame calls f for every frame of a message, until it fails. Errors of
// its own wrap wire.ErrMalformed.
func eachFrame(message []byte, f func(frame) error) error {
	r := wire.NewReader(message)
	if v := r.Byte(); r.Err() == nil && v != messageVersion {
		return fmt.Errorf("%w: version %d of messages, only %d can be read", wire.ErrMalformed, v, messageVersion)
	}
	for r.Len() > 0 {
		next := readFrame(r)
		if r.Err() != nil {
			break
		}
		if err := f(next); err != nil {
			return err
		}
	}
	return r.Err()
}

func readFrame(r *wire.Reader) frame {
	f := frame{kind: r.Byte(), id: r.Uvarint()}
	switch f.kind {
	case frameRequest, frameVoid, frameLong:
		f.method = r.Byte()
		micros := r.Uvarint()
		if micros > uint64(maxTimeout/time.Microsecond) {
			r.Fail("timeout of %d us", micros)
		}
		f.timeout = time.Duration(micros) * time.Microsecond
		if f.kind == frameLong {
			f.size = r.Uvarint()
		} else {
			f.body = r.Bytes(pieceBytes)
		}
	case framePiece, frameReply:
		f.body = r.Bytes(pieceBytes)
	case frameFailure:
		f.body = r.Bytes(maxFailureBytes)
	case frameLost:
		f.body = r.Bytes(maxLostBytes)
	case frameLongReply, frameHello:
		f.size = r.Uvarint()
	case frameCancel, framePing, framePong, frameSide:
	default:
		r.Fail("unknown frame kind %d", f.kind)
	}
	return f
}

// assembly collects the pieces of a long body.
type assembly struct {
	size int
	data []byte
}

// growBytes is how much is allocated ahead of what has arrived, at least: a
// promise of 16 MiB costs no memory until they come.
const growBytes = 512 << 10

// add appends a piece. More than was promised is a fault, and so is an empty
// piece, which could go on for ever.
func (a *assembly) add(piece []byte) (complete bool, err error) {
	if len(piece) == 0 || len(piece) > a.size-len(a.data) {
		return false, fmt.Errorf("%w: piece of %d bytes where %d are missing", wire.ErrMalformed, len(piece), a.size-len(a.data))
	}
	if have := len(a.data) + len(piece); have > cap(a.data) {
		a.data = append(make([]byte, 0, min(a.size, max(2*have, growBytes))), a.data...)
	}
	a.data = append(a.data, piece...)
	return len(a.data) == a.size, nil
}

// checkSize refuses a promised size that is over the limit or that needed no
// pieces.
func checkSize(size uint64, limit int) error {
	if size <= pieceBytes || size > uint64(limit) {
		return fmt.Errorf("%w: body of %d bytes in pieces, at most %d are accepted", wire.ErrMalformed, size, limit)
	}
	return nil
}
