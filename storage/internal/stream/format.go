package stream

import (
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
)

// FormatVersion is the version of the layout below. A reader refuses every
// other one.
const FormatVersion = 1

// NodeShard is the shard number of a node's own entries, which belong to no
// shard of the data.
const NodeShard base.ShardID = 0xFFFF

// Limits of one entry. MaxKeyBytes holds the longest physical key: a primary
// in which every byte is escaped, a secondary, and 32 bytes of prefix and
// terminators. MaxValueBytes is twice the largest batch, so that the record
// of any one request fits.
const (
	MaxKeyBytes   = 2*base.MaxPrimaryBytes + base.MaxSecondaryBytes + 32
	MaxValueBytes = 2 * base.HardMaxBatchBytes
)

// targetBlockBytes is when a block is closed: large enough that checksums and
// frames cost nothing, small enough that damage is told to within a screenful
// and that a writer needs no memory to speak of.
const targetBlockBytes = 128 << 10

// maxBlockBytes bounds the content of a block: one that was just short of the
// target may get one entry of the largest size.
const maxBlockBytes = targetBlockBytes + MaxKeyBytes + MaxValueBytes + 2*binary.MaxVarintLen64

// Sizes and places of the fixed parts. Bytes 0..9 and 40..47 of a header mean
// the same in every version to come, so that damage and a newer version can
// be told apart.
const (
	headerBytes  = 48
	digestedHead = 32 // how much of the header the digest covers
	frameBytes   = 32
	trailerBytes = 8 + 8 + 4 + digestBytes
	digestBytes  = 32
)

// magic starts like no text, and a transfer that translates line ends breaks
// it.
const magic = "\x89DCS\r\n\x1a\n"

// The kinds of blocks.
const (
	kindData    = 1
	kindTrailer = 2
)

// compressionNone is the only way in which this version stores a block. The
// byte is there so that another one can be added.
const compressionNone = 0

// Header says what a stream holds.
type Header struct {
	DataFormat uint16       // the version of the keys' and values' own encoding
	Shard      base.ShardID // the shard whose entries these are, or NodeShard
	Shards     uint16       // how many shards the data is spread over
	Created    uint64       // microseconds since the Unix epoch
}

// Validate returns an error that wraps ErrInvalid if no stream can have this
// header.
func (h Header) Validate() error {
	switch {
	case h.DataFormat == 0:
		return fmt.Errorf("%w: data format 0", base.ErrInvalid)
	case h.Shards == 0 || h.Shards > base.MaxShards:
		return fmt.Errorf("%w: %d shards, 1 to %d are possible", base.ErrInvalid, h.Shards, base.MaxShards)
	case h.Shard != NodeShard && h.Shard != base.CatalogShard && uint16(h.Shard) >= h.Shards:
		return fmt.Errorf("%w: shard %d of %d", base.ErrInvalid, h.Shard, h.Shards)
	}
	return nil
}

// appendHeader appends the 48 bytes of h.
func appendHeader(buf []byte, h Header) []byte {
	start := len(buf)
	buf = append(buf, magic...)
	buf = binary.BigEndian.AppendUint16(buf, FormatVersion)
	buf = binary.BigEndian.AppendUint16(buf, h.DataFormat)
	buf = binary.BigEndian.AppendUint16(buf, uint16(h.Shard))
	buf = binary.BigEndian.AppendUint16(buf, h.Shards)
	buf = append(buf, make([]byte, digestedHead-16)...) // reserved
	buf = binary.BigEndian.AppendUint64(buf, h.Created)
	return binary.BigEndian.AppendUint64(buf, xxhash.Sum64(buf[start:]))
}

// decodeHeader decodes headerBytes bytes.
func decodeHeader(buf []byte) (Header, error) {
	at := place{part: partHeader}
	if string(buf[:len(magic)]) != magic {
		return Header{}, at.corrupt("does not start like a shard stream")
	}
	if xxhash.Sum64(buf[:40]) != binary.BigEndian.Uint64(buf[40:]) {
		return Header{}, at.corrupt("checksum does not match")
	}
	if v := binary.BigEndian.Uint16(buf[8:]); v != FormatVersion {
		return Header{}, at.invalid("stream format %d, only %d can be read", v, FormatVersion)
	}
	for _, b := range buf[16:digestedHead] {
		if b != 0 {
			return Header{}, at.corrupt("a reserved byte is not zero")
		}
	}
	h := Header{
		DataFormat: binary.BigEndian.Uint16(buf[10:]),
		Shard:      base.ShardID(binary.BigEndian.Uint16(buf[12:])),
		Shards:     binary.BigEndian.Uint16(buf[14:]),
		Created:    binary.BigEndian.Uint64(buf[32:]),
	}
	if err := h.Validate(); err != nil {
		return Header{}, at.corrupt("%v", err)
	}
	return h, nil
}

// frame is what stands before the content of each block.
type frame struct {
	kind        byte
	compression byte
	number      uint32 // of the block, from 0; the trailer has the next one
	entries     uint32
	length      uint32 // of the content
	sum         uint64 // of the content
}

// appendFrame appends the 32 bytes of f.
func appendFrame(buf []byte, f frame) []byte {
	start := len(buf)
	buf = append(buf, f.kind, f.compression, 0, 0)
	buf = binary.BigEndian.AppendUint32(buf, f.number)
	buf = binary.BigEndian.AppendUint32(buf, f.entries)
	buf = binary.BigEndian.AppendUint32(buf, f.length)
	buf = binary.BigEndian.AppendUint64(buf, f.sum)
	return binary.BigEndian.AppendUint64(buf, xxhash.Sum64(buf[start:]))
}

// decodeFrame decodes frameBytes bytes and checks all that needs no content.
func decodeFrame(buf []byte, at place) (frame, error) {
	if xxhash.Sum64(buf[:24]) != binary.BigEndian.Uint64(buf[24:]) {
		return frame{}, at.corrupt("checksum of its frame does not match")
	}
	f := frame{
		kind:        buf[0],
		compression: buf[1],
		number:      binary.BigEndian.Uint32(buf[4:]),
		entries:     binary.BigEndian.Uint32(buf[8:]),
		length:      binary.BigEndian.Uint32(buf[12:]),
		sum:         binary.BigEndian.Uint64(buf[16:]),
	}
	switch {
	case buf[2] != 0 || buf[3] != 0:
		return frame{}, at.corrupt("a reserved byte is not zero")
	case f.number != uint32(at.block):
		return frame{}, at.corrupt("is number %d: blocks are missing, repeated or out of order", f.number)
	case f.compression != compressionNone:
		return frame{}, at.corrupt("unknown compression %d", f.compression)
	case f.kind == kindTrailer && (f.length != trailerBytes || f.entries != 0):
		return frame{}, at.corrupt("trailer of %d bytes and %d entries", f.length, f.entries)
	case f.kind == kindData && (f.length == 0 || f.length > maxBlockBytes):
		return frame{}, at.corrupt("length %d is out of bounds", f.length)
	case f.kind == kindData && (f.entries == 0 || uint64(f.entries)*minEntryBytes > uint64(f.length)):
		return frame{}, at.corrupt("%d entries in %d bytes", f.entries, f.length)
	case f.kind != kindData && f.kind != kindTrailer:
		return frame{}, at.corrupt("unknown kind %d", f.kind)
	}
	return f, nil
}

// minEntryBytes is the shortest entry: two lengths and a key of one byte.
const minEntryBytes = 3

// Info describes a whole stream, once it was written or read to its end.
type Info struct {
	Header
	Entries      uint64
	PayloadBytes uint64            // of all keys and values
	Blocks       uint32            // without the trailer
	StreamBytes  uint64            // of the whole stream
	Digest       [digestBytes]byte // of the contents; does not depend on Created
}
