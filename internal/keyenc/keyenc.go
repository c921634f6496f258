// Package keyenc maps keys of the cache to the keys of the storage engine.
//
// A physical key is
//
//	[shard u16 BE][space byte][rest]
//
// so that everything of one shard is one range, and everything of one space
// of it a smaller one. In the record space, rest is the primary with 0x00
// escaped as 0x00 0xFF, the terminator 0x00 0x01, and the raw secondary.
// Bytewise order of such keys is exactly base.Key.Compare. In the expiry
// space that is preceded by the expiry time as u64 BE. In the other spaces,
// rest is whatever the owner of the space writes.
//
// The mapping is part of the storage format: it is held by golden bytes and
// never changes for a space that exists.
package keyenc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/distributedcache/cache/internal/base"
)

// Space is the byte that separates the kinds of data of one shard. The gaps
// leave room for spaces that must sort between others. No space is 0x00 or
// 0xFF: those bound the range of a shard.
type Space byte

// The spaces of a shard.
const (
	SpaceMeta    Space = 0x10 // applied index, clock, dedupe heads
	SpaceRecord  Space = 0x20 // the values
	SpaceLock    Space = 0x30 // transaction intents
	SpaceTxn     Space = 0x40 // transaction records
	SpaceRequest Space = 0x50 // exactly-once results
	SpaceExpiry  Space = 0x60 // which records expire when
	SpaceHistory Space = 0x70 // reserved
	SpaceChange  Space = 0x80 // reserved
)

// PrefixLen is the length of the prefix that every physical key has.
const PrefixLen = 3

// ExpiryPrefixLen is the length of everything in front of the key in an
// expiry entry.
const ExpiryPrefixLen = PrefixLen + 8

const (
	escape     = 0x00 // introduces an escape or the terminator
	escaped00  = 0xFF // after escape: a 0x00 of the primary
	terminator = 0x01 // after escape: the primary ends
)

// ErrMalformed is the cause of every decoding error.
var ErrMalformed = errors.New("malformed physical key")

// AppendPrefix appends the prefix of one space of a shard.
func AppendPrefix(buf []byte, shard base.ShardID, space Space) []byte {
	return append(buf, byte(shard>>8), byte(shard), byte(space))
}

// AppendShardStart appends the smallest physical key that a shard can have.
func AppendShardStart(buf []byte, shard base.ShardID) []byte {
	return append(buf, byte(shard>>8), byte(shard), 0x00)
}

// AppendShardEnd appends a bound after every physical key of a shard.
func AppendShardEnd(buf []byte, shard base.ShardID) []byte {
	return append(buf, byte(shard>>8), byte(shard), 0xFF)
}

// RecordKeyLen returns the length of the physical key of a record.
func RecordKeyLen(key base.Key) int {
	return PrefixLen + encodedLen(key)
}

// ExpiryKeyLen returns the length of the physical key of an expiry entry.
func ExpiryKeyLen(key base.Key) int {
	return ExpiryPrefixLen + encodedLen(key)
}

func encodedLen(key base.Key) int {
	return len(key.Primary) + strings.Count(key.Primary, "\x00") + 2 + len(key.Secondary)
}

// AppendRecordKey appends the physical key of a record.
func AppendRecordKey(buf []byte, shard base.ShardID, key base.Key) []byte {
	return appendKey(AppendPrefix(buf, shard, SpaceRecord), key)
}

// AppendBound appends the physical key of a bound of a range, so that for
// every key k: k.Compare(bound) has the sign of comparing the physical keys.
// A bound may hold any bytes and be longer than a key may.
func AppendBound(buf []byte, shard base.ShardID, bound base.Key) []byte {
	return AppendRecordKey(buf, shard, bound)
}

// AppendRangeEnd is AppendBound for the end of a range, where the zero key
// stands for the end of the shard's records.
func AppendRangeEnd(buf []byte, shard base.ShardID, end base.Key) []byte {
	if end.IsZero() {
		return AppendPrefix(buf, shard, SpaceRecord+1)
	}
	return AppendBound(buf, shard, end)
}

// AppendExpiryKey appends the physical key of the expiry entry of a record
// that expires at the given time in microseconds.
func AppendExpiryKey(buf []byte, shard base.ShardID, at uint64, key base.Key) []byte {
	buf = AppendPrefix(buf, shard, SpaceExpiry)
	buf = binary.BigEndian.AppendUint64(buf, at)
	return appendKey(buf, key)
}

func appendKey(buf []byte, key base.Key) []byte {
	primary := key.Primary
	for {
		i := strings.IndexByte(primary, escape)
		if i < 0 {
			break
		}
		buf = append(buf, primary[:i]...)
		buf = append(buf, escape, escaped00)
		primary = primary[i+1:]
	}
	buf = append(buf, primary...)
	buf = append(buf, escape, terminator)
	return append(buf, key.Secondary...)
}

// Shard returns the shard of a physical key that has a prefix.
func Shard(phys []byte) base.ShardID {
	return base.ShardID(binary.BigEndian.Uint16(phys))
}

// SplitPrefix splits a physical key into shard, space and rest.
func SplitPrefix(phys []byte) (base.ShardID, Space, []byte, error) {
	if len(phys) < PrefixLen {
		return 0, 0, nil, fmt.Errorf("%w: %d bytes, shorter than the prefix", ErrMalformed, len(phys))
	}
	return Shard(phys), Space(phys[2]), phys[PrefixLen:], nil
}

// EncodedPrimaryLen returns how many bytes the primary and its terminator
// take at the front of body, which is a physical record key without its
// prefix; 0 if body has no terminator or a broken escape.
func EncodedPrimaryLen(body []byte) int {
	for i := 0; ; {
		at := bytes.IndexByte(body[i:], escape)
		if at < 0 || i+at+1 >= len(body) {
			return 0
		}
		i += at + 2
		switch body[i-1] {
		case terminator:
			return i
		case escaped00:
		default:
			return 0
		}
	}
}

// AppendPrimary appends the primary that encoded stands for; encoded is what
// EncodedPrimaryLen measured, terminator included.
func AppendPrimary(buf, encoded []byte) []byte {
	encoded = encoded[:len(encoded)-2]
	for i := 0; i < len(encoded); i++ {
		buf = append(buf, encoded[i])
		if encoded[i] == escape {
			i++ // skip escaped00
		}
	}
	return buf
}

// DecodeRecordKey splits a physical record key. The key's strings are copies.
func DecodeRecordKey(phys []byte) (base.ShardID, base.Key, error) {
	shard, space, body, err := SplitPrefix(phys)
	if err != nil {
		return 0, base.Key{}, err
	}
	if space != SpaceRecord {
		return 0, base.Key{}, fmt.Errorf("%w: space %#x is not the record space", ErrMalformed, byte(space))
	}
	key, err := decodeKey(body)
	return shard, key, err
}

// DecodeExpiryKey splits the physical key of an expiry entry. The key's
// strings are copies.
func DecodeExpiryKey(phys []byte) (shard base.ShardID, at uint64, key base.Key, err error) {
	shard, space, body, err := SplitPrefix(phys)
	if err != nil {
		return 0, 0, base.Key{}, err
	}
	if space != SpaceExpiry || len(body) < 8 {
		return 0, 0, base.Key{}, fmt.Errorf("%w: not an expiry entry", ErrMalformed)
	}
	key, err = decodeKey(body[8:])
	return shard, binary.BigEndian.Uint64(body), key, err
}

func decodeKey(body []byte) (base.Key, error) {
	n := EncodedPrimaryLen(body)
	if n == 0 {
		return base.Key{}, fmt.Errorf("%w: primary has no end", ErrMalformed)
	}
	var scratch [64]byte
	key := base.Key{
		Primary:   string(AppendPrimary(scratch[:0], body[:n])),
		Secondary: string(body[n:]),
	}
	if err := key.Validate(); err != nil {
		return base.Key{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return key, nil
}
