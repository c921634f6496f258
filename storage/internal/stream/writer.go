package stream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"

	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
)

var errWriterClosed = errors.New("stream writer closed")

// Writer writes one stream. Entries are added in order; Close ends the
// stream, and without it a reader takes the stream for a cut one. The first
// error sticks: everything after it returns it again.
type Writer struct {
	w      io.Writer
	info   Info
	digest hash.Hash
	frame  []byte // scratch
	block  []byte // content of the open block
	count  uint32 // entries of the open block
	last   []byte // the newest key
	err    error
}

// NewWriter writes the header to w and returns a Writer for the rest. The
// Writer makes few, large writes; it never closes w.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	if err := h.Validate(); err != nil {
		return nil, err
	}
	sw := &Writer{
		w:      w,
		info:   Info{Header: h},
		digest: sha256.New(),
		block:  make([]byte, 0, targetBlockBytes+targetBlockBytes/8),
	}
	head := appendHeader(nil, h)
	sw.digest.Write(head[:digestedHead])
	return sw, sw.write(head)
}

// Add appends one entry. key must be greater than every key before it. Both
// are copied. An entry that cannot be written gives an error that wraps
// ErrInvalid or ErrTooLarge.
func (w *Writer) Add(key, value []byte) error {
	if w.err != nil {
		return w.err
	}
	if err := w.check(key, value); err != nil {
		w.err = err
		return err
	}
	w.block = binary.AppendUvarint(w.block, uint64(len(key)))
	w.block = binary.AppendUvarint(w.block, uint64(len(value)))
	w.block = append(w.block, key...)
	w.block = append(w.block, value...)
	w.last = append(w.last[:0], key...)
	w.count++
	w.info.Entries++
	w.info.PayloadBytes += uint64(len(key) + len(value))
	if len(w.block) >= targetBlockBytes {
		return w.flush()
	}
	return nil
}

func (w *Writer) check(key, value []byte) error {
	switch {
	case len(key) == 0:
		return fmt.Errorf("%w: empty key in a shard stream", base.ErrInvalid)
	case len(key) > MaxKeyBytes:
		return fmt.Errorf("%w: key of %d bytes in a shard stream, at most %d are possible", base.ErrTooLarge, len(key), MaxKeyBytes)
	case len(value) > MaxValueBytes:
		return fmt.Errorf("%w: value of %d bytes in a shard stream, at most %d are possible", base.ErrTooLarge, len(value), MaxValueBytes)
	case w.info.Entries > 0 && bytes.Compare(key, w.last) <= 0:
		return fmt.Errorf("%w: key %.40x after %.40x in a shard stream", base.ErrInvalid, key, w.last)
	case w.info.Blocks == math.MaxUint32:
		return fmt.Errorf("%w: more than %d blocks in a shard stream", base.ErrTooLarge, w.info.Blocks)
	}
	return nil
}

// Bytes returns how many bytes were written so far, not counting the open
// block.
func (w *Writer) Bytes() uint64 { return w.info.StreamBytes }

// Close writes what is pending and the trailer, and returns the description
// of the whole stream. It does not close the underlying writer.
func (w *Writer) Close() (Info, error) {
	if w.err == nil && w.count > 0 {
		w.err = w.flush()
	}
	if w.err != nil {
		return Info{}, w.err
	}
	w.info.Digest = contentDigest(w.digest, &w.info)
	if err := w.writeBlock(kindTrailer, 0, appendTrailer(nil, &w.info)); err != nil {
		return Info{}, err
	}
	w.err = errWriterClosed
	return w.info, nil
}

// flush writes the open block.
func (w *Writer) flush() error {
	if err := w.writeBlock(kindData, w.count, w.block); err != nil {
		return err
	}
	w.info.Blocks++
	w.count, w.block = 0, w.block[:0]
	return nil
}

func (w *Writer) writeBlock(kind byte, entries uint32, content []byte) error {
	w.frame = appendFrame(w.frame[:0], frame{
		kind:    kind,
		number:  w.info.Blocks,
		entries: entries,
		length:  uint32(len(content)),
		sum:     xxhash.Sum64(content),
	})
	if kind == kindData {
		w.digest.Write(w.frame)
		w.digest.Write(content)
	}
	if err := w.write(w.frame); err != nil {
		return err
	}
	return w.write(content)
}

func (w *Writer) write(p []byte) error {
	n, err := w.w.Write(p)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	w.info.StreamBytes += uint64(max(n, 0))
	if err != nil {
		w.err = fmt.Errorf("writing a shard stream: %w", err)
	}
	return w.err
}

// appendTrailer appends the content of the trailer.
func appendTrailer(buf []byte, info *Info) []byte {
	buf = appendCounts(buf, info)
	return append(buf, info.Digest[:]...)
}

func appendCounts(buf []byte, info *Info) []byte {
	buf = binary.BigEndian.AppendUint64(buf, info.Entries)
	buf = binary.BigEndian.AppendUint64(buf, info.PayloadBytes)
	return binary.BigEndian.AppendUint32(buf, info.Blocks)
}

// contentDigest ends the digest d of header and blocks with the counts.
func contentDigest(d hash.Hash, info *Info) (sum [digestBytes]byte) {
	d.Write(appendCounts(nil, info))
	d.Sum(sum[:0])
	return sum
}
