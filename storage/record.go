package storage

import (
	"encoding/binary"
	"fmt"

	"github.com/distributedcache/cache/internal/base"
)

// Record is one stored value. ExpiresAt is in microseconds since the Unix
// epoch, 0 for never. The zero Record stands for an absent key.
type Record struct {
	Version   base.Version
	ExpiresAt uint64
	Value     []byte
}

// Exists reports whether the record was found.
func (r Record) Exists() bool { return r.Version != 0 }

func (r Record) head() Head { return Head{Version: r.Version, ExpiresAt: r.ExpiresAt} }

// Head is a Record without its value; the zero Head stands for an absent key.
type Head struct {
	Version   base.Version
	ExpiresAt uint64
}

// Exists reports whether the record was found.
func (h Head) Exists() bool { return h.Version != 0 }

// A record is stored as
//
//	[format u8 = 1][flags u8][version u64 BE]([expiry u64 BE])[value]
//
// with the expiry if flagExpiry is set.
const (
	recordFormat    = 1
	flagExpiry      = 1 << 0
	recordHeaderLen = 2 + 8
	recordMaxHeader = recordHeaderLen + 8
)

func recordLen(rec Record) int {
	if rec.ExpiresAt != 0 {
		return recordMaxHeader + len(rec.Value)
	}
	return recordHeaderLen + len(rec.Value)
}

// appendRecord appends the stored form of rec.
func appendRecord(buf []byte, rec Record) []byte {
	var flags byte
	if rec.ExpiresAt != 0 {
		flags |= flagExpiry
	}
	buf = append(buf, recordFormat, flags)
	buf = binary.BigEndian.AppendUint64(buf, uint64(rec.Version))
	if rec.ExpiresAt != 0 {
		buf = binary.BigEndian.AppendUint64(buf, rec.ExpiresAt)
	}
	return append(buf, rec.Value...)
}

// decodeRecord decodes what appendRecord appended. Value aliases buf.
func decodeRecord(buf []byte) (Record, error) {
	head, n, err := decodeHead(buf)
	if err != nil {
		return Record{}, err
	}
	return Record{Version: head.Version, ExpiresAt: head.ExpiresAt, Value: buf[n:]}, nil
}

// decodeHead decodes the header of a record and returns where the value
// starts.
func decodeHead(buf []byte) (Head, int, error) {
	if len(buf) < recordHeaderLen {
		return Head{}, 0, fmt.Errorf("%w: record of %d bytes, shorter than its header", base.ErrCorrupt, len(buf))
	}
	if buf[0] != recordFormat || buf[1]&^flagExpiry != 0 {
		return Head{}, 0, fmt.Errorf("%w: record of unknown format %d, flags %#x", base.ErrCorrupt, buf[0], buf[1])
	}
	head := Head{Version: base.Version(binary.BigEndian.Uint64(buf[2:]))}
	n := recordHeaderLen
	if buf[1]&flagExpiry != 0 {
		if len(buf) < recordMaxHeader {
			return Head{}, 0, fmt.Errorf("%w: record cut inside its header", base.ErrCorrupt)
		}
		head.ExpiresAt = binary.BigEndian.Uint64(buf[n:])
		n = recordMaxHeader
	}
	if head.Version == 0 || (n == recordMaxHeader && head.ExpiresAt == 0) {
		return Head{}, 0, fmt.Errorf("%w: record without a version or expiry", base.ErrCorrupt)
	}
	return head, n, nil
}

// An expiry entry's value is the version of the record it was written for.
const expiryValueLen = 8

func decodeExpiryValue(buf []byte) (base.Version, error) {
	if len(buf) != expiryValueLen {
		return 0, fmt.Errorf("%w: expiry entry with a value of %d bytes", base.ErrCorrupt, len(buf))
	}
	return base.Version(binary.BigEndian.Uint64(buf)), nil
}
