package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/keyenc"
)

// Kind names the spaces of a shard, besides the records, that owners of a
// shard may use freely. Keys and values in them are plain bytes.
type Kind byte

// The kinds of spaces.
const (
	KindMeta    = Kind(keyenc.SpaceMeta)    // applied index, clock, dedupe heads
	KindLock    = Kind(keyenc.SpaceLock)    // transaction intents
	KindTxn     = Kind(keyenc.SpaceTxn)     // transaction records
	KindRequest = Kind(keyenc.SpaceRequest) // exactly-once results
)

// KV is one entry of a space. Both slices belong to whoever received them.
type KV struct {
	Key, Value []byte
}

// Expired is one entry of the expiry index: the record Key of version Version
// was written to expire at At, in microseconds since the Unix epoch. The
// record may have been overwritten or deleted since.
type Expired struct {
	Key     base.Key
	At      uint64
	Version base.Version
}

// Space is the view of one shard. Its methods read the newest applied state;
// each call is atomic, several calls are not. The zero Space is not usable.
type Space struct {
	s     *Store
	shard base.ShardID
}

// Get returns the record of key, or the zero Record if there is none. The
// value is a copy and belongs to the caller; it is not nil if the record
// exists. A record whose ExpiresAt has passed is returned like any other.
func (sp Space) Get(key base.Key) (Record, error) {
	if err := sp.s.usable(); err != nil {
		return Record{}, err
	}
	e, ticket := sp.s.reads.get(sp.shard, key)
	if e != nil {
		return Record{Version: e.head.Version, ExpiresAt: e.head.ExpiresAt, Value: clone(e.value)}, nil
	}
	rec, err := sp.s.readRecord(sp.s.db, sp.shard, key, true)
	if err == nil && rec.Exists() {
		sp.s.reads.offer(ticket, sp.shard, key, rec)
	}
	return rec, err
}

// Head is Get without the value.
func (sp Space) Head(key base.Key) (Head, error) {
	if err := sp.s.usable(); err != nil {
		return Head{}, err
	}
	if e, _ := sp.s.reads.get(sp.shard, key); e != nil {
		return e.head, nil
	}
	rec, err := sp.s.readRecord(sp.s.db, sp.shard, key, false)
	return rec.head(), err
}

// Value returns a copy of one entry of a space and whether it exists.
func (sp Space) Value(kind Kind, key []byte) (value []byte, found bool, err error) {
	return sp.s.readValue(sp.s.db, sp.shard, kind, key)
}

// clone returns a copy that is never nil.
func clone(b []byte) []byte {
	c := make([]byte, len(b))
	copy(c, b)
	return c
}

// lookup is a reused buffer for the physical key of a point read, which the
// engine would make escape to the heap each time.
type lookup struct{ phys []byte }

// readRecord reads one record from the newest state or from a snapshot.
func (s *Store) readRecord(from pebble.Reader, shard base.ShardID, key base.Key, withValue bool) (rec Record, err error) {
	if err := s.enter(); err != nil {
		return Record{}, err
	}
	defer s.leave()
	defer recovered(s.cfg.Logger, "get", &err)
	l := s.lookups.Get().(*lookup)
	defer s.lookups.Put(l)
	l.phys = keyenc.AppendRecordKey(l.phys[:0], shard, key)
	buf, closer, err := from.Get(l.phys)
	if err != nil {
		return Record{}, s.getError(err)
	}
	rec, err = decodeRecord(buf)
	if withValue && err == nil {
		rec.Value = clone(rec.Value)
	} else {
		rec.Value = nil
	}
	if closeErr := closer.Close(); err == nil && closeErr != nil {
		return Record{}, s.ioError("get", closeErr)
	}
	return rec, err
}

// readValue reads one entry of a space from the newest state or a snapshot.
func (s *Store) readValue(from pebble.Reader, shard base.ShardID, kind Kind, key []byte) (value []byte, found bool, err error) {
	l := s.lookups.Get().(*lookup)
	defer s.lookups.Put(l)
	l.phys = append(keyenc.AppendPrefix(l.phys[:0], shard, keyenc.Space(kind)), key...)
	return s.readEntry(from, l.phys)
}

// readEntry returns a copy of the value of a physical key.
func (s *Store) readEntry(from pebble.Reader, phys []byte) (value []byte, found bool, err error) {
	if err := s.enter(); err != nil {
		return nil, false, err
	}
	defer s.leave()
	defer recovered(s.cfg.Logger, "get", &err)
	buf, closer, err := from.Get(phys)
	if err != nil {
		return nil, false, s.getError(err)
	}
	value = clone(buf)
	if err := closer.Close(); err != nil {
		return nil, false, s.ioError("get", err)
	}
	return value, true, nil
}

// getError types an error of a point read; absence is none.
func (s *Store) getError(err error) error {
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	return s.ioError("get", err)
}

// valuesChunk is how many entries Values reads at a time, and
// valuesChunkBytes after how many bytes it stops earlier.
const (
	valuesChunk      = 256
	valuesChunkBytes = 1 << 20
)

// Values iterates over at most limit entries of a space in the order of their
// keys, starting at from; limit 0 means all. The entries are those of one
// moment, whatever the loop writes. After an error the iteration ends.
func (sp Space) Values(kind Kind, from []byte, limit int) iter.Seq2[KV, error] {
	return func(yield func(KV, error) bool) {
		sn, err := sp.s.NewSnapshot()
		if err != nil {
			yield(KV{}, err)
			return
		}
		defer func() { _ = sn.Close() }()
		for kv, err := range sn.Values(sp.shard, kind, from, limit) {
			if !yield(kv, err) {
				return
			}
		}
	}
}

// Values iterates like Space.Values, over what the snapshot holds. It reads
// chunk by chunk, so that nothing of the engine is held while the loop body
// runs.
func (sn *Snapshot) Values(shard base.ShardID, kind Kind, from []byte, limit int) iter.Seq2[KV, error] {
	return func(yield func(KV, error) bool) {
		lower := append(keyenc.AppendPrefix(nil, shard, keyenc.Space(kind)), from...)
		upper := keyenc.AppendPrefix(nil, shard, keyenc.Space(kind)+1)
		for left := limit; limit == 0 || left > 0; {
			chunk := valuesChunk
			if limit > 0 {
				chunk = min(chunk, left)
			}
			kvs, more, err := sn.valuesChunk(lower, upper, chunk)
			for _, kv := range kvs {
				if !yield(kv, nil) {
					return
				}
			}
			if err != nil {
				yield(KV{}, err)
				return
			}
			if !more {
				return
			}
			left -= len(kvs)
			lower = append(lower[:keyenc.PrefixLen], kvs[len(kvs)-1].Key...)
			lower = append(lower, 0)
		}
	}
}

func (sn *Snapshot) valuesChunk(lower, upper []byte, limit int) (kvs []KV, more bool, err error) {
	size := 0
	err = sn.s.scan(sn.snap, lower, upper, func(key, value []byte) error {
		if len(kvs) == limit || size > valuesChunkBytes {
			more = true
			return errEnough
		}
		size += len(key) + len(value)
		kvs = append(kvs, KV{Key: clone(key[keyenc.PrefixLen:]), Value: clone(value)})
		return nil
	})
	if invalid := sn.valid(keyenc.Shard(lower)); invalid != nil {
		return nil, false, invalid
	}
	return kvs, more, err
}

// errEnough ends a scan early.
var errEnough = errors.New("enough")

// scan calls fn with the entries of [lower, upper) until it returns an error.
func (s *Store) scan(from pebble.Reader, lower, upper []byte, fn func(key, value []byte) error) (err error) {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	defer recovered(s.cfg.Logger, "scan", &err)
	it, err := from.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return s.ioError("scan", err)
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var value []byte
		if value, err = it.ValueAndErr(); err != nil {
			err = s.ioError("scan", err)
			break
		}
		err = fn(it.Key(), value)
	}
	closeErr := it.Close()
	if err == nil && closeErr != nil {
		return s.ioError("scan", closeErr)
	}
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// Expired returns at most limit entries of the expiry index whose time is at
// or before the given one, oldest first; limit 0 means all.
func (sp Space) Expired(before uint64, limit int) ([]Expired, error) {
	lower := keyenc.AppendPrefix(nil, sp.shard, keyenc.SpaceExpiry)
	upper := keyenc.AppendPrefix(nil, sp.shard, keyenc.SpaceExpiry+1)
	if before < ^uint64(0) {
		upper = binary.BigEndian.AppendUint64(slices.Clone(lower), before+1)
	}
	var found []Expired
	err := sp.s.scan(sp.s.db, lower, upper, func(key, value []byte) error {
		e, err := decodeExpired(key, value)
		if err != nil {
			return err
		}
		found = append(found, e)
		if len(found) == limit {
			return errEnough
		}
		return nil
	})
	return found, err
}

// Last returns the last entry of a space, in the order of the keys, and
// whether there is one.
func (sp Space) Last(kind Kind) (kv KV, found bool, err error) {
	s := sp.s
	if err := s.enter(); err != nil {
		return KV{}, false, err
	}
	defer s.leave()
	defer recovered(s.cfg.Logger, "scan", &err)
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: keyenc.AppendPrefix(nil, sp.shard, keyenc.Space(kind)),
		UpperBound: keyenc.AppendPrefix(nil, sp.shard, keyenc.Space(kind)+1),
	})
	if err != nil {
		return KV{}, false, s.ioError("scan", err)
	}
	if it.Last() {
		found = true
		kv = KV{Key: clone(it.Key()[keyenc.PrefixLen:]), Value: clone(it.Value())}
	}
	if err := it.Close(); err != nil {
		return KV{}, false, s.ioError("scan", err)
	}
	return kv, found, nil
}

func decodeExpired(key, value []byte) (e Expired, err error) {
	if _, e.At, e.Key, err = keyenc.DecodeExpiryKey(key); err != nil {
		return e, fmt.Errorf("%w: expiry index: %w", base.ErrCorrupt, err)
	}
	e.Version, err = decodeExpiryValue(value)
	return e, err
}
