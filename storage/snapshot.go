package storage

import (
	"github.com/cockroachdb/pebble/v2"

	"github.com/distributedcache/cache/internal/base"
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

// Get returns the record of key in this snapshot, like Space.Get.
func (sn *Snapshot) Get(shard base.ShardID, key base.Key) (Record, error) {
	rec, err := sn.s.readRecord(sn.snap, shard, key, true)
	if invalid := sn.valid(shard); invalid != nil {
		return Record{}, invalid
	}
	return rec, err
}

// Head returns the head of a record in this snapshot, like Space.Head.
func (sn *Snapshot) Head(shard base.ShardID, key base.Key) (Head, error) {
	rec, err := sn.s.readRecord(sn.snap, shard, key, false)
	if invalid := sn.valid(shard); invalid != nil {
		return Head{}, invalid
	}
	return rec.head(), err
}

// Value returns a copy of one entry of a space in this snapshot and whether
// it exists.
func (sn *Snapshot) Value(shard base.ShardID, kind Kind, key []byte) (value []byte, found bool, err error) {
	value, found, err = sn.s.readValue(sn.snap, shard, kind, key)
	if invalid := sn.valid(shard); invalid != nil {
		return nil, false, invalid
	}
	return value, found, err
}
