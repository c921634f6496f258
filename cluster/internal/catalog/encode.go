package catalog

import (
	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

const (
	stateVersion = 1
	sumBytes     = 8

	// MaxStateBytes bounds an encoded State: 1,025 shards with sixteen founders
	// and sixteen replicas each, and 8,192 nodes with sixteen past directories,
	// all names as long as they may be, have less.
	MaxStateBytes = 24 << 20
	// maxItems leaves room for records of others.
	maxItems = 64 << 10
)

// Encode returns the State as bytes, for another node or for a file:
//
//	version    1 byte
//	count      of items; for each, ordered by key:
//	           primary, secondary, version, value
//	checksum   8 bytes, xxhash64 of all above
func (s *State) Encode() []byte {
	size := 16
	for i := range s.items {
		size += s.items[i].Key.Bytes() + len(s.items[i].Value) + 16
	}
	buf := append(make([]byte, 0, size), stateVersion)
	buf = wire.AppendUvarint(buf, uint64(len(s.items)))
	for i := range s.items {
		item := &s.items[i]
		buf = wire.AppendString(buf, item.Key.Primary)
		buf = wire.AppendString(buf, item.Key.Secondary)
		buf = wire.AppendUvarint(buf, uint64(item.Version))
		buf = wire.AppendBytes(buf, item.Value)
	}
	return wire.AppendUint64(buf, xxhash.Sum64(buf))
}

// Decode is the inverse of Encode. The State keeps buf, which must not be
// changed afterwards. The error wraps base.ErrCorrupt, or base.ErrInvalid if a
// newer version wrote the bytes.
func Decode(buf []byte) (*State, error) {
	if len(buf) <= sumBytes || len(buf) > MaxStateBytes {
		return nil, corrupt("a state of %d bytes", len(buf))
	}
	body := buf[:len(buf)-sumBytes]
	if wire.NewReader(buf[len(body):]).Uint64() != xxhash.Sum64(body) {
		return nil, corrupt("the checksum of a state does not match")
	}
	if body[0] != stateVersion {
		return nil, invalid("a newer version of the cache wrote this state of the catalog (format %d, this one knows %d); update this node", body[0], stateVersion)
	}
	r := wire.NewReader(body[1:])
	items := make([]base.Item, 0, r.Count(maxItems, 4))
	for range cap(items) {
		items = append(items, base.Item{
			Key:     base.Key{Primary: r.String(base.MaxPrimaryBytes), Secondary: r.String(base.MaxSecondaryBytes)},
			Version: base.Version(r.Uvarint()),
			Value:   r.Bytes(base.HardMaxValueBytes),
		})
		if n := len(items); n > 1 && r.Err() == nil && items[n-2].Key.Compare(items[n-1].Key) >= 0 {
			r.Fail("items out of order")
		}
	}
	if err := r.Close(); err != nil {
		return nil, corrupt("state: %w", err)
	}
	return Build(items)
}
