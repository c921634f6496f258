package logstore

import (
	"errors"
	"math"

	"github.com/cockroachdb/pebble/v2"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// get reads one record into m and reports whether it is there.
func (s *Store) get(key []byte, m raftpb.Unmarshaler) (found bool, err error) {
	defer recovered(s.cfg.Logger, "read", &err)
	value, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = closer.Close() }()
	return true, decode(key, value, m)
}

// scan calls fn for the records in [from, to) until it returns false.
func (s *Store) scan(from, to []byte, fn func(key, value []byte) (more bool, err error)) (err error) {
	defer recovered(s.cfg.Logger, "read", &err)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if more, err := fn(it.Key(), value); !more || err != nil {
			return err
		}
	}
	return nil // Close returns what ended the iteration
}

// bounds returns the first entry of a replica at or behind index, and its last
// one.
func (s *Store) bounds(id raftio.NodeInfo, index uint64) (first, last uint64, found bool, err error) {
	defer recovered(s.cfg.Logger, "read", &err)
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: entryKey(id, index), UpperBound: afterEntry(id, math.MaxUint64)})
	if err != nil {
		return 0, 0, false, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if !it.First() {
		return 0, 0, false, nil
	}
	if first, err = entryIndex(it.Key()); err != nil || !it.Last() {
		return 0, 0, false, err
	}
	last, err = entryIndex(it.Key())
	return first, last, err == nil, err
}

// Name implements raftio.ILogDB. It is stored by NodeHost and never changes.
func (s *Store) Name() string { return storeName }

// BinaryFormat implements raftio.ILogDB. It is stored by NodeHost and never
// changes; see FormatVersion for what does.
func (s *Store) BinaryFormat() uint32 { return binaryFormat }

// ListNodeInfo implements raftio.ILogDB: the replicas with bootstrap info.
func (s *Store) ListNodeInfo() ([]raftio.NodeInfo, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	nodes := []raftio.NodeInfo{}
	err := s.scan([]byte{kindBootstrap}, []byte{kindBootstrap + 1}, func(key, _ []byte) (bool, error) {
		id, err := decodeNodeKey(key)
		nodes = append(nodes, id)
		return true, err
	})
	s.leave("list nodes", err)
	return nodes, nil
}

// GetBootstrapInfo implements raftio.ILogDB.
func (s *Store) GetBootstrapInfo(shard, replica uint64) (raftpb.Bootstrap, error) {
	if err := s.enter(); err != nil {
		return raftpb.Bootstrap{}, err
	}
	var bootstrap raftpb.Bootstrap
	found, err := s.get(nodeKey(kindBootstrap, raftio.NodeInfo{ShardID: shard, ReplicaID: replica}), &bootstrap)
	s.leave("read bootstrap info", err)
	if err == nil && !found {
		return raftpb.Bootstrap{}, raftio.ErrNoBootstrapInfo
	}
	return bootstrap, nil
}

// GetSnapshot implements raftio.ILogDB. The snapshot is empty if there is none.
func (s *Store) GetSnapshot(shard, replica uint64) (raftpb.Snapshot, error) {
	if err := s.enter(); err != nil {
		return raftpb.Snapshot{}, err
	}
	var snapshot raftpb.Snapshot
	_, err := s.get(nodeKey(kindSnapshot, raftio.NodeInfo{ShardID: shard, ReplicaID: replica}), &snapshot)
	s.leave("read snapshot record", err)
	return snapshot, nil
}

// ReadRaftState implements raftio.ILogDB: the hard state and the range of
// entries at or behind lastIndex, which is the index of the snapshot. Without
// entries behind it, that is where the log begins.
func (s *Store) ReadRaftState(shard, replica, lastIndex uint64) (raftio.RaftState, error) {
	if err := s.enter(); err != nil {
		return raftio.RaftState{}, err
	}
	state, found, err := s.readState(raftio.NodeInfo{ShardID: shard, ReplicaID: replica}, lastIndex)
	s.leave("read raft state", err)
	if err == nil && !found {
		return raftio.RaftState{}, raftio.ErrNoSavedLog
	}
	return state, nil
}

// Term returns the newest term that a replica has taken part in, as this store has
// it or is about to: the replica has not voted in a later one, since it votes only
// after that is saved. known is false for a replica that was not used since the store
// was opened, or of which the store has no state.
func (s *Store) Term(shard, replica uint64) (term uint64, known bool) {
	n := s.known(shard, replica)
	if n == nil {
		return 0, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state.Term, n.state.Term > 0
}

// Saved returns the last entry of a replica that is durable here; 0 if that is not
// known.
func (s *Store) Saved(shard, replica uint64) uint64 {
	n := s.known(shard, replica)
	if n == nil {
		return 0
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.saved
}

// known returns a replica that was used since the store was opened; nil if it was not.
func (s *Store) known(shard, replica uint64) *node {
	s.nodes.RLock()
	defer s.nodes.RUnlock()
	return s.nodes.byID[raftio.NodeInfo{ShardID: shard, ReplicaID: replica}]
}

func (s *Store) readState(id raftio.NodeInfo, lastIndex uint64) (rs raftio.RaftState, found bool, err error) {
	if found, err = s.get(nodeKey(kindState, id), &rs.State); err != nil || !found {
		return rs, false, err
	}
	if n := s.known(id.ShardID, id.ReplicaID); n != nil {
		n.mu.Lock()
		rs.State = n.state // its commit index may not be written
		n.mu.Unlock()
	}
	rs.FirstIndex = lastIndex
	first, last, some, err := s.bounds(id, lastIndex)
	if err == nil && some && last != lastIndex {
		rs.FirstIndex, rs.EntryCount = first, last-first+1
	}
	return rs, true, err
}

// maxReadBytes bounds what one read returns, if its caller would take some part
// of what is there. Dragonboat asks for up to 64 MiB, for each message to a
// follower that lags behind, of which there may be many at a time.
const maxReadBytes = 1 << 20

// IterateEntries implements raftio.ILogDB: it appends the entries in
// [low, high) that follow each other without a gap, and adds their sizes. Like
// its callers expect, it ends with the entry that takes the size over maxSize. If
// it ends earlier, it says that it did not.
func (s *Store) IterateEntries(
	entries []raftpb.Entry, size, shard, replica, low, high, maxSize uint64,
) ([]raftpb.Entry, uint64, error) {
	if err := s.enter(); err != nil {
		return nil, 0, err
	}
	id := raftio.NodeInfo{ShardID: shard, ReplicaID: replica}
	next := low
	add := func(key, value []byte) (bool, error) {
		if index, err := entryIndex(key); err != nil || index != next {
			return false, err
		}
		n := len(entries)
		entries = append(entries, raftpb.Entry{})
		if err := decodeEntry(key, value, next, &entries[n]); err != nil {
			entries = entries[:n]
			return false, err
		}
		next++
		size += uint64(entries[n].SizeUpperLimit())
		if maxSize != math.MaxUint64 && maxSize > maxReadBytes && size > maxReadBytes && next < high {
			size = maxSize + 1
		}
		return size <= maxSize, nil
	}
	var err error
	switch {
	case low >= high:
	case high-low == 1:
		err = s.getEntry(entryKey(id, low), add)
	default:
		err = s.scan(entryKey(id, low), entryKey(id, high), add)
	}
	s.leave("read entries", err)
	return entries, size, nil
}

// getEntry calls add for one entry if it is there.
func (s *Store) getEntry(key []byte, add func(key, value []byte) (bool, error)) (err error) {
	defer recovered(s.cfg.Logger, "read", &err)
	value, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = closer.Close() }()
	_, err = add(key, value)
	return err
}
