package stream

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/cespare/xxhash/v2"
)

// growBytes is how much is allocated ahead of what has been read: a frame
// that promises a huge block costs no memory until the bytes are there.
const growBytes = 1 << 20

// Reader reads one stream and checks all of it. What it returned before the
// end is checked block by block; only io.EOF says that the stream is whole,
// so whoever cannot undo what it did with the entries must wait for it.
type Reader struct {
	r      io.Reader
	info   Info
	digest hash.Hash
	frame  [frameBytes]byte
	block  []byte // content of the current block, grown and reused
	rest   []byte // what is left of it
	left   uint32 // entries left of it
	at     place  // the current block
	last   []byte // copy of the newest key of the block before
	key    []byte // the newest key, within block
	err    error  // sticks
}

// NewReader reads and checks the header. An error wraps ErrCorrupt,
// ErrInvalid (another version) or the error of r.
func NewReader(r io.Reader) (*Reader, error) {
	sr := &Reader{r: r, digest: sha256.New()}
	var head [headerBytes]byte
	if err := sr.fill(head[:], place{part: partHeader}); err != nil {
		return nil, err
	}
	h, err := decodeHeader(head[:])
	if err != nil {
		return nil, err
	}
	sr.info.Header = h
	sr.digest.Write(head[:digestedHead])
	return sr, nil
}

// Header returns the header.
func (r *Reader) Header() Header { return r.info.Header }

// Info returns what the whole stream holds. It is complete once Next has
// returned io.EOF.
func (r *Reader) Info() Info { return r.info }

// Next returns the next entry. Both slices are valid until the following
// call and must not be changed. After the last entry, and only if the whole
// stream was sound and nothing follows it, the error is io.EOF. Errors stick.
func (r *Reader) Next() (key, value []byte, err error) {
	if r.err == nil && r.left == 0 {
		r.err = r.nextBlock()
	}
	if r.err != nil {
		return nil, nil, r.err
	}
	key, value, err = r.entry()
	if err != nil {
		r.err = err
		return nil, nil, err
	}
	r.key = key
	r.left--
	r.info.Entries++
	r.info.PayloadBytes += uint64(len(key) + len(value))
	return key, value, nil
}

// entry decodes one entry of the current block.
func (r *Reader) entry() (key, value []byte, err error) {
	keyLen, n := uvarint(r.rest)
	if n <= 0 || keyLen == 0 || keyLen > MaxKeyBytes {
		return nil, nil, r.at.corrupt("length of a key is out of bounds")
	}
	rest := r.rest[n:]
	valueLen, n := uvarint(rest)
	if n <= 0 || valueLen > MaxValueBytes {
		return nil, nil, r.at.corrupt("length of a value is out of bounds")
	}
	rest = rest[n:]
	if keyLen+valueLen > uint64(len(rest)) {
		return nil, nil, r.at.corrupt("an entry is longer than its block")
	}
	key = rest[:keyLen:keyLen]
	value = rest[keyLen : keyLen+valueLen : keyLen+valueLen]
	r.rest = rest[keyLen+valueLen:]
	before := r.key
	if before == nil {
		before = r.last
	}
	if c := bytes.Compare(key, before); c == 0 {
		return nil, nil, r.at.corrupt("key %.40x comes twice", key)
	} else if c < 0 {
		return nil, nil, r.at.corrupt("key %.40x after %.40x: not sorted", key, before)
	}
	return key, value, nil
}

// uvarint decodes a number in its shortest form; equal entries have equal
// bytes. n <= 0 tells that there is none.
func uvarint(buf []byte) (v uint64, n int) {
	v, n = binary.Uvarint(buf)
	if n > 1 && buf[n-1] == 0 {
		return 0, 0
	}
	return v, n
}

// nextBlock reads up to the first entry of the next block. At the end of a
// sound stream it returns io.EOF.
func (r *Reader) nextBlock() error {
	if len(r.rest) > 0 {
		return r.at.corrupt("%d bytes after its last entry", len(r.rest))
	}
	if r.key != nil {
		r.last = append(r.last[:0], r.key...)
		r.key = nil
	}
	r.at = place{part: partBlock, block: int64(r.info.Blocks), offset: int64(r.info.StreamBytes)}
	if err := r.fill(r.frame[:], r.at); err != nil {
		return err
	}
	f, err := decodeFrame(r.frame[:], r.at)
	if err != nil {
		return err
	}
	if f.kind == kindTrailer {
		r.at.part = partTrailer
	}
	if err := r.content(f); err != nil {
		return err
	}
	if f.kind == kindTrailer {
		return r.trailer()
	}
	r.digest.Write(r.frame[:])
	r.digest.Write(r.block)
	r.rest, r.left = r.block, f.entries
	r.info.Blocks++
	return nil
}

// content reads the content of a block into r.block and checks it.
func (r *Reader) content(f frame) error {
	r.block = r.block[:0]
	for len(r.block) < int(f.length) {
		n := min(int(f.length)-len(r.block), growBytes)
		have := len(r.block)
		if cap(r.block) < have+n {
			r.block = append(make([]byte, 0, have+max(n, min(have, int(f.length)-have))), r.block...)
		}
		r.block = r.block[:have+n]
		if err := r.fill(r.block[have:], r.at); err != nil {
			return err
		}
	}
	if xxhash.Sum64(r.block) != f.sum {
		return r.at.corrupt("checksum of its content does not match")
	}
	return nil
}

// trailer checks the trailer in r.block and that nothing follows it.
func (r *Reader) trailer() error {
	entries := binary.BigEndian.Uint64(r.block)
	payload := binary.BigEndian.Uint64(r.block[8:])
	blocks := binary.BigEndian.Uint32(r.block[16:])
	switch {
	case entries != r.info.Entries:
		return r.at.corrupt("promises %d entries, there are %d", entries, r.info.Entries)
	case payload != r.info.PayloadBytes:
		return r.at.corrupt("promises %d bytes of keys and values, there are %d", payload, r.info.PayloadBytes)
	case blocks != r.info.Blocks:
		return r.at.corrupt("promises %d blocks, there are %d", blocks, r.info.Blocks)
	}
	r.info.Digest = contentDigest(r.digest, &r.info)
	if string(r.block[20:]) != string(r.info.Digest[:]) {
		return r.at.corrupt("digest does not match")
	}
	var extra [1]byte
	switch n, err := io.ReadFull(r.r, extra[:]); {
	case n > 0:
		return r.at.corrupt("more bytes follow the end")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("reading a shard stream: %w", err)
	}
	return io.EOF
}

// fill reads len(p) bytes. A stream that ends before that was cut.
func (r *Reader) fill(p []byte, at place) error {
	n, err := io.ReadFull(r.r, p)
	r.info.StreamBytes += uint64(n)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return at.corrupt("the stream ends here, at byte %d: it was cut", r.info.StreamBytes)
	default:
		return fmt.Errorf("reading a shard stream: %w", err)
	}
}
