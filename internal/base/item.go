package base

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Version is the commit timestamp of a write in microseconds since the Unix
// epoch. Versions of one shard rise strictly and never repeat: not after a
// delete, an expiry, a failover or a restore. 0 stands for an absent key. A
// Version fits the integers of a JSON number.
type Version uint64

// Time returns the commit time that v stands for, in UTC; the zero Time for
// version 0.
func (v Version) Time() time.Time {
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(v)).UTC()
}

// VersionAt returns the version that a commit at t would have.
func VersionAt(t time.Time) Version {
	if us := t.UnixMicro(); us > 0 {
		return Version(us)
	}
	return 0
}

// Item is one key with its value. Value belongs to the caller: it is never
// changed or reused by the cache. ExpiresAt is the zero Time for an item that
// does not expire.
type Item struct {
	Key       Key
	Value     []byte
	Version   Version
	ExpiresAt time.Time
}

// Exists reports whether the item was found; MultiGet returns items that do
// not exist for missing keys.
func (i Item) Exists() bool { return i.Version != 0 }

// Cursor returns an opaque, URL-safe string from which a RangeScan resumes
// right after this item, in either direction.
func (i Item) Cursor() string { return EncodeCursor(i.Key) }

const cursorVersion = 1

// EncodeCursor returns the cursor of a scan whose last item was key.
func EncodeCursor(key Key) string {
	buf := make([]byte, 0, 1+3+key.Bytes()+4)
	buf = append(buf, cursorVersion)
	buf = binary.AppendUvarint(buf, uint64(len(key.Primary)))
	buf = append(buf, key.Primary...)
	buf = append(buf, key.Secondary...)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(xxhash.Sum64(buf)))
	return base64.RawURLEncoding.EncodeToString(buf)
}

// DecodeCursor is the inverse of EncodeCursor. A cursor that is damaged or of
// another version gives an error that wraps ErrInvalid.
func DecodeCursor(cursor string) (Key, error) {
	bad := func(why string) (Key, error) {
		return Key{}, fmt.Errorf("%w: cursor %s; start the scan anew", ErrInvalid, why)
	}
	if len(cursor) > base64.RawURLEncoding.EncodedLen(16+MaxPrimaryBytes+MaxSecondaryBytes) {
		return bad("is too long")
	}
	buf, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(buf) < 6 {
		return bad("is not one of ours")
	}
	body, sum := buf[:len(buf)-4], binary.LittleEndian.Uint32(buf[len(buf)-4:])
	if uint32(xxhash.Sum64(body)) != sum {
		return bad("is damaged")
	}
	if body[0] != cursorVersion {
		return bad("has an unknown version")
	}
	n, used := binary.Uvarint(body[1:])
	if used <= 0 || n > uint64(len(body)-1-used) {
		return bad("is damaged")
	}
	rest := body[1+used:]
	key := Key{Primary: string(rest[:n]), Secondary: string(rest[n:])}
	if err := key.Validate(); err != nil {
		return bad("names no valid key")
	}
	if EncodeCursor(key) != cursor { // one key has one cursor
		return bad("is damaged")
	}
	return key, nil
}
