package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A frame is what goes over a connection between two nodes: a header of
// FrameHeaderBytes and a payload.
//
//	 0  version     1 byte, FrameVersion
//	 1  kind        1 byte, the business of those who talk
//	 2  reserved    2 bytes, zero
//	 4  length      4 bytes, of the payload
//	 8  checksum    4 bytes, CRC-32C of the 8 bytes above and the payload
//	12  payload
const (
	FrameVersion     = 1
	FrameHeaderBytes = 12

	frameSumAt = 8
)

// MaxFrameBytes is the longest frame there may be. It keeps the length of
// every frame within an int of 32 bits; readers set far lower limits.
const MaxFrameBytes = 1 << 30

// growFrameBytes is how much a reader allocates ahead of what has arrived: a
// header that promises a long payload costs no memory until the bytes come.
const growFrameBytes = 1 << 20

// keepFrameBytes is the buffer that a reader keeps for good. A longer one is
// given back after keepFrames frames that would have fitted in this one, so
// that a single long frame does not weigh on the connection for ever.
const (
	keepFrameBytes = 256 << 10
	keepFrames     = 64
)

// castagnoli is computed by the processor's own instruction.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// FrameSizeError reports a frame that is longer than its reader or writer
// accepts. It wraps ErrMalformed.
type FrameSizeError struct {
	Bytes uint64 // of the whole frame
	Limit int
}

// Error implements error.
func (e *FrameSizeError) Error() string {
	return fmt.Sprintf("%v: frame of %d bytes, at most %d are accepted", ErrMalformed, e.Bytes, e.Limit)
}

// Unwrap returns ErrMalformed.
func (e *FrameSizeError) Unwrap() error { return ErrMalformed }

// BeginFrame appends room for the header of a frame to buf. The payload is
// appended behind it; FinishFrame completes it.
func BeginFrame(buf []byte) []byte {
	return append(buf, make([]byte, FrameHeaderBytes)...)
}

// FinishFrame writes the header of frame, which is what BeginFrame made room
// for and the payload behind it. An error is a *FrameSizeError.
func FinishFrame(frame []byte, kind byte) error {
	if len(frame) > MaxFrameBytes {
		return &FrameSizeError{Bytes: uint64(len(frame)), Limit: MaxFrameBytes}
	}
	frame[0], frame[1], frame[2], frame[3] = FrameVersion, kind, 0, 0
	binary.BigEndian.PutUint32(frame[4:], uint32(len(frame)-FrameHeaderBytes))
	binary.BigEndian.PutUint32(frame[frameSumAt:], frameSum(frame))
	return nil
}

// FrameBytes returns the length of the whole frame that begins with header,
// of which it looks at FrameHeaderBytes. The checksum is not verified.
func FrameBytes(header []byte) (int, error) {
	switch {
	case len(header) < FrameHeaderBytes:
		return 0, fmt.Errorf("%w: header of a frame cut short", ErrMalformed)
	case header[0] != FrameVersion:
		return 0, fmt.Errorf("%w: frame version %d, only %d can be read", ErrMalformed, header[0], FrameVersion)
	case header[2] != 0 || header[3] != 0:
		return 0, fmt.Errorf("%w: a reserved byte of a frame is not zero", ErrMalformed)
	}
	n := FrameHeaderBytes + uint64(binary.BigEndian.Uint32(header[4:]))
	if n > MaxFrameBytes {
		return 0, &FrameSizeError{Bytes: n, Limit: MaxFrameBytes}
	}
	return int(n), nil
}

func frameSum(frame []byte) uint32 {
	return crc32.Update(crc32.Checksum(frame[:frameSumAt], castagnoli), castagnoli, frame[FrameHeaderBytes:])
}

// FrameReader reads the frames of one connection into a buffer that it uses
// again. It is not safe for concurrent use.
type FrameReader struct {
	r     io.Reader
	limit int
	buf   []byte
	small int // frames in a row that needed no more than keepFrameBytes
}

// NewFrameReader returns a reader of frames of at most limit bytes, headers
// included. It reads twice for each frame, so r should be buffered.
func NewFrameReader(r io.Reader, limit int) *FrameReader {
	return &FrameReader{r: r, limit: min(limit, MaxFrameBytes)}
}

// Next returns the next frame. The payload is valid until the following call.
// The error is io.EOF at the end between two frames, wraps ErrMalformed for
// bytes that are no sound frame, *FrameSizeError for one over the limit, and
// is that of the underlying reader else. After an error the position in the
// stream is lost.
func (r *FrameReader) Next() (kind byte, payload []byte, err error) {
	r.shrink()
	if cap(r.buf) < FrameHeaderBytes {
		r.buf = make([]byte, 0, 4096)
	}
	r.buf = r.buf[:FrameHeaderBytes]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		return 0, nil, err
	}
	n, err := FrameBytes(r.buf)
	if err != nil {
		return 0, nil, err
	}
	if n > r.limit {
		return 0, nil, &FrameSizeError{Bytes: uint64(n), Limit: r.limit}
	}
	if err := r.fill(n); err != nil {
		return 0, nil, err
	}
	if frameSum(r.buf) != binary.BigEndian.Uint32(r.buf[frameSumAt:]) {
		return 0, nil, fmt.Errorf("%w: checksum of a frame does not match", ErrMalformed)
	}
	return r.buf[1], r.buf[FrameHeaderBytes:n:n], nil
}

// fill reads until the buffer holds n bytes.
func (r *FrameReader) fill(n int) error {
	for len(r.buf) < n {
		have := len(r.buf)
		step := min(n-have, max(growFrameBytes, have))
		if cap(r.buf) < have+step {
			r.buf = append(make([]byte, 0, have+step), r.buf...)
		}
		r.buf = r.buf[:have+step]
		if _, err := io.ReadFull(r.r, r.buf[have:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// shrink gives back a buffer that was not needed for a while.
func (r *FrameReader) shrink() {
	if len(r.buf) > keepFrameBytes || cap(r.buf) <= keepFrameBytes {
		r.small = 0
		return
	}
	if r.small++; r.small >= keepFrames {
		r.buf, r.small = nil, 0
	}
}
