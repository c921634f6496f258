package storage

import (
	"github.com/cockroachdb/pebble/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/keyenc"
)

// Snapshot is a consistent view over all shards as of one moment. It keeps
// old versions from being collected, but no files, so it may live for
// minutes; close it all the same. It is safe for concurrent use.
//
// Import of a shard invalidates older snapshots of that shard: reads of it
// give ErrUnavailable from then on.
type Snapshot struct {
	s     *Store
	snap  *pebble.Snapshot
	taken uint64 // see replacements
}

// NewSnapshot returns a view of everything that is applied now.
func (s *Store) NewSnapshot() (*Snapshot, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	taken := s.replaced.taken()
	sn := &Snapshot{s: s, snap: s.db.NewSnapshot(), taken: taken}
	s.register(sn)
	return sn, nil
}

// Close releases the snapshot; its scanners must have been closed. It is
// idempotent.
func (sn *Snapshot) Close() error { return sn.s.release(sn) }

func (sn *Snapshot) closeHandle() error { return sn.snap.Close() }

// valid returns an error if a shard was replaced since the snapshot was taken.
// It is called after each read.
func (sn *Snapshot) valid(shard base.ShardID) error { return sn.s.replaced.check(sn.taken, shard) }

// get calls fn with the value of a physical key of a shard in this snapshot.
func (sn *Snapshot) get(shard base.ShardID, phys []byte, fn func([]byte) error) (found bool, err error) {
	found, err = sn.s.get(sn.snap, phys, fn)
	if invalid := sn.valid(shard); invalid != nil {
		return false, invalid
	}
	return found, err
}

// Get returns the record of key in this snapshot, like Space.Get.
func (sn *Snapshot) Get(shard base.ShardID, key base.Key) (Record, error) {
	var rec Record
	var scratch [physBytes]byte
	_, err := sn.get(shard, keyenc.AppendRecordKey(scratch[:0], shard, key), func(buf []byte) (err error) {
		rec, err = decodeRecord(buf)
		rec.Value = clone(rec.Value)
		return err
	})
	if err != nil {
		return Record{}, err
	}
	return rec, nil
}

// Head returns the head of a record in this snapshot, like Space.Head.
func (sn *Snapshot) Head(shard base.ShardID, key base.Key) (head Head, err error) {
	var scratch [physBytes]byte
	_, err = sn.get(shard, keyenc.AppendRecordKey(scratch[:0], shard, key), func(buf []byte) (err error) {
		head, _, err = decodeHead(buf)
		return err
	})
	if err != nil {
		return Head{}, err
	}
	return head, nil
}

// Value returns a copy of one entry of a space in this snapshot and whether
// it exists.
func (sn *Snapshot) Value(shard base.ShardID, kind Kind, key []byte) (value []byte, found bool, err error) {
	var scratch [physBytes]byte
	phys := append(keyenc.AppendPrefix(scratch[:0], shard, keyenc.Space(kind)), key...)
	found, err = sn.get(shard, phys, func(buf []byte) error {
		value = clone(buf)
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return value, found, nil
}
