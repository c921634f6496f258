// Package wire has the primitives of every hand-written binary format of the
// cache: appenders, and a Reader that checks each length against what is left
// before it is used, so that hostile bytes can neither panic nor make a
// decoder allocate more than it was given.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed is the cause of every decoding error.
var ErrMalformed = errors.New("malformed bytes")

// AppendUvarint appends v in variable length.
func AppendUvarint(buf []byte, v uint64) []byte { return binary.AppendUvarint(buf, v) }

// AppendUint32 appends v in 4 bytes, most significant first.
func AppendUint32(buf []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(buf, v) }

// AppendUint64 appends v in 8 bytes, most significant first.
func AppendUint64(buf []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(buf, v) }

// AppendBytes appends the length of b and b.
func AppendBytes(buf, b []byte) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(b))), b...)
}

// AppendString appends the length of s and s.
func AppendString(buf []byte, s string) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

// Reader decodes a buffer from front to back. The first fault sticks: all
// later reads return zero values and Err tells the fault, so a decoder checks
// once, at its end. The Reader aliases the buffer; Bytes returns parts of it.
type Reader struct {
	buf []byte
	err error
}

// NewReader returns a Reader over buf.
func NewReader(buf []byte) *Reader { return &Reader{buf: buf} }

// Err returns the first fault, wrapping ErrMalformed, or nil.
func (r *Reader) Err() error { return r.err }

// Len returns how many bytes are left.
func (r *Reader) Len() int { return len(r.buf) }

// Rest returns all bytes that are left, aliasing the buffer, and consumes
// them.
func (r *Reader) Rest() []byte {
	rest := r.buf
	r.buf = nil
	return rest
}

// Close returns the first fault, or an error if bytes are left over.
func (r *Reader) Close() error {
	if r.err == nil && len(r.buf) > 0 {
		r.Fail("%d bytes left over", len(r.buf))
	}
	return r.err
}

// Fail records a fault found by the caller, unless there was one before.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
	}
	r.buf = nil
}

// Byte reads one byte.
func (r *Reader) Byte() byte {
	if len(r.buf) < 1 {
		r.Fail("cut short")
		return 0
	}
	b := r.buf[0]
	r.buf = r.buf[1:]
	return b
}

// Uint32 reads 4 bytes, most significant first.
func (r *Reader) Uint32() uint32 {
	if len(r.buf) < 4 {
		r.Fail("cut short")
		return 0
	}
	v := binary.BigEndian.Uint32(r.buf)
	r.buf = r.buf[4:]
	return v
}

// Uint64 reads 8 bytes, most significant first.
func (r *Reader) Uint64() uint64 {
	if len(r.buf) < 8 {
		r.Fail("cut short")
		return 0
	}
	v := binary.BigEndian.Uint64(r.buf)
	r.buf = r.buf[8:]
	return v
}

// Uvarint reads a number in variable length. Only the shortest encoding is
// accepted, so that equal values have equal bytes.
func (r *Reader) Uvarint() uint64 {
	if len(r.buf) > 0 && r.buf[0] < 0x80 { // most numbers are small
		v := r.buf[0]
		r.buf = r.buf[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(r.buf)
	if n <= 0 {
		r.Fail("bad number")
		return 0
	}
	if n > 1 && r.buf[n-1] == 0 {
		r.Fail("number not in its shortest form")
		return 0
	}
	r.buf = r.buf[n:]
	return v
}

// Count reads a number of elements that each take at least minBytes, and
// refuses one that the rest of the buffer cannot hold or that exceeds limit.
func (r *Reader) Count(limit, minBytes int) int {
	v := r.Uvarint()
	if v > uint64(limit) || v > uint64(len(r.buf)/max(minBytes, 1)) {
		r.Fail("count %d is over the limit", v)
		return 0
	}
	return int(v)
}

// Bytes reads a length and that many bytes, at most limit. The result aliases
// the buffer and its capacity ends with it.
func (r *Reader) Bytes(limit int) []byte {
	n := r.Uvarint()
	if n > uint64(len(r.buf)) || n > uint64(limit) {
		r.Fail("length %d is over the limit", n)
		return nil
	}
	b := r.buf[:n:n]
	r.buf = r.buf[n:]
	return b
}

// String is Bytes with a copy.
func (r *Reader) String(limit int) string { return string(r.Bytes(limit)) }

// Fixed reads len(dst) bytes into dst.
func (r *Reader) Fixed(dst []byte) {
	if len(r.buf) < len(dst) {
		r.Fail("cut short")
		return
	}
	r.buf = r.buf[copy(dst, r.buf):]
}
