package logstore

import (
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/base"
)

// SaveRaftState implements raftio.ILogDB: one batch and at most one fsync for
// all updates. When it returns, entries, terms, votes and snapshot records are
// durable. An update that only moves the commit index is mostly not even
// written: a replica that restarts behind learns that index again.
func (s *Store) SaveRaftState(updates []raftpb.Update, _ uint64) error {
	if len(updates) == 0 {
		return nil
	}
	if err := s.enter(); err != nil {
		return err
	}
	s.leave("save raft state", s.save(updates))
	return nil
}

// SaveSnapshots implements raftio.ILogDB.
func (s *Store) SaveSnapshots(updates []raftpb.Update) error {
	if !hasSnapshot(updates) {
		return nil
	}
	if err := s.enter(); err != nil {
		return err
	}
	s.leave("save snapshot record", s.saveSnapshots(updates))
	return nil
}

func hasSnapshot(updates []raftpb.Update) bool {
	for i := range updates {
		if !raftpb.IsEmptySnapshot(updates[i].Snapshot) {
			return true
		}
	}
	return false
}

func idOf(u *raftpb.Update) raftio.NodeInfo {
	return raftio.NodeInfo{ShardID: u.ShardID, ReplicaID: u.ReplicaID}
}

func (s *Store) save(updates []raftpb.Update) (err error) {
	defer recovered(s.cfg.Logger, "save raft state", &err)
	b := s.db.NewBatch()
	defer func() { _ = b.Close() }()
	if hasSnapshot(updates) {
		s.snapshots.Lock()
		defer s.snapshots.Unlock()
	}
	durable := false
	for i := range updates {
		must, err := s.putUpdate(b, &updates[i])
		if err != nil {
			return err
		}
		durable = durable || must
	}
	if err := s.commit(b, durable); err != nil || !durable {
		return err
	}
	return s.saved(updates)
}

// saved notes which entries are durable now.
func (s *Store) saved(updates []raftpb.Update) error {
	for i := range updates {
		u := &updates[i]
		if len(u.EntriesToSave) == 0 && raftpb.IsEmptySnapshot(u.Snapshot) {
			continue
		}
		n, err := s.node(idOf(u))
		if err != nil {
			return err
		}
		n.mu.Lock()
		n.saved = n.last
		n.mu.Unlock()
	}
	return nil
}

func (s *Store) saveSnapshots(updates []raftpb.Update) (err error) {
	defer recovered(s.cfg.Logger, "save snapshot record", &err)
	b := s.db.NewBatch()
	defer func() { _ = b.Close() }()
	s.snapshots.Lock()
	defer s.snapshots.Unlock()
	for i := range updates {
		u := &updates[i]
		if raftpb.IsEmptySnapshot(u.Snapshot) {
			continue
		}
		n, err := s.node(idOf(u))
		if err != nil {
			return err
		}
		n.mu.Lock()
		err = n.putSnapshot(b, u)
		n.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return s.commit(b, true)
}

// commit writes a batch; one that holds nothing costs nothing.
func (s *Store) commit(b *pebble.Batch, durable bool) error {
	if b.Empty() {
		return nil
	}
	s.batches.Add(1)
	if durable {
		return s.db.Apply(b, pebble.Sync)
	}
	return s.db.Apply(b, pebble.NoSync)
}

// putUpdate adds an update to a batch and reports whether that must be durable.
func (s *Store) putUpdate(b *pebble.Batch, u *raftpb.Update) (durable bool, err error) {
	n, err := s.node(idOf(u))
	if err != nil {
		return false, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	durable, err = n.putState(b, u, s.cfg.commitLag)
	if err == nil && !raftpb.IsEmptySnapshot(u.Snapshot) {
		durable = true
		err = n.installSnapshot(b, u)
	}
	if err == nil && len(u.EntriesToSave) > 0 {
		durable = true
		err = n.putEntries(b, u)
	}
	return durable, err
}

// putState adds the hard state if term or vote are others than in the last one, or if
// the commit index has gone so far ahead of it. The caller holds n.mu.
func (n *node) putState(b *pebble.Batch, u *raftpb.Update, commitLag uint64) (durable bool, err error) {
	if raftpb.IsEmptyState(u.State) || raftpb.IsStateEqual(u.State, n.state) {
		return false, nil
	}
	durable = u.State.Term != n.state.Term || u.State.Vote != n.state.Vote
	n.state = u.State
	if !durable && n.state.Commit < n.commit+commitLag {
		return false, nil
	}
	return durable, n.writeState(b, idOf(u))
}

// writeState adds the hard state. The caller holds n.mu.
func (n *node) writeState(b *pebble.Batch, id raftio.NodeInfo) error {
	n.commit = n.state.Commit
	op := b.SetDeferred(nodeKeyLen, 1+n.state.Size())
	appendNodeKey(op.Key[:0], kindState, id)
	op.Value[0] = recordVersion
	if err := marshalTo(op.Value[1:], &n.state); err != nil {
		return err
	}
	return op.Finish()
}

// putSnapshot adds the record of a snapshot if it is newer than the last one, and a
// hard state by which what it covers is committed: raft does not start with less. The
// caller holds n.mu.
func (n *node) putSnapshot(b *pebble.Batch, u *raftpb.Update) error {
	if u.Snapshot.Index <= n.snapshot {
		return nil
	}
	value, err := encode(&u.Snapshot)
	if err != nil {
		return err
	}
	n.snapshot = u.Snapshot.Index
	if n.commit < n.snapshot && n.state.Term > 0 {
		n.state.Commit = max(n.state.Commit, n.snapshot)
		if err := n.writeState(b, idOf(u)); err != nil {
			return err
		}
	}
	return b.Set(nodeKey(kindSnapshot, idOf(u)), value, nil)
}

// installSnapshot adds the record of a snapshot that was received and replaces
// the log: none of its entries may be seen again. The caller holds n.mu.
func (n *node) installSnapshot(b *pebble.Batch, u *raftpb.Update) error {
	if err := n.putSnapshot(b, u); err != nil {
		return err
	}
	return n.clear(b, idOf(u), u.Snapshot.Index+1)
}

// clear removes all entries; the next one will be first. The caller holds n.mu.
func (n *node) clear(b *pebble.Batch, id raftio.NodeInfo, first uint64) error {
	empty := n.first > n.last
	n.first, n.last = first, first-1
	if empty {
		return nil
	}
	return b.DeleteRange(entryKey(id, 0), afterEntry(id, math.MaxUint64), nil)
}

// putEntries adds entries, which follow or replace those that are there. Those
// behind the last of them were proposed in a term that lost and are removed.
// The caller holds n.mu.
func (n *node) putEntries(b *pebble.Batch, u *raftpb.Update) error {
	id, entries := idOf(u), u.EntriesToSave
	first, last := entries[0].Index, entries[len(entries)-1].Index
	if first > n.last+1 || first < n.first { // unreachable from the new ones, or behind them
		if err := n.clear(b, id, first); err != nil {
			return err
		}
	}
	if last < n.last {
		if err := b.DeleteRange(entryKey(id, last+1), afterEntry(id, n.last), nil); err != nil {
			return err
		}
	}
	n.last = last
	for i := range entries {
		if err := putEntry(b, id, &entries[i]); err != nil {
			return err
		}
	}
	return nil
}

// marshalTo fills buf, which has the size of m, exactly.
func marshalTo(buf []byte, m interface{ MarshalTo([]byte) (int, error) }) error {
	n, err := m.MarshalTo(buf)
	if err == nil && n != len(buf) {
		err = fmt.Errorf("%w: raft log: a record of %d bytes marshals to %d", base.ErrInvalid, len(buf), n)
	}
	return err
}

func putEntry(b *pebble.Batch, id raftio.NodeInfo, e *raftpb.Entry) error {
	op := b.SetDeferred(entryKeyLen, 1+e.Size())
	appendEntryKey(op.Key[:0], id, e.Index)
	op.Value[0] = recordVersion
	if err := marshalTo(op.Value[1:], e); err != nil {
		return err
	}
	return op.Finish()
}

// SaveBootstrapInfo implements raftio.ILogDB.
func (s *Store) SaveBootstrapInfo(shard, replica uint64, bootstrap raftpb.Bootstrap) error {
	if err := s.enter(); err != nil {
		return err
	}
	id := raftio.NodeInfo{ShardID: shard, ReplicaID: replica}
	s.leave("save bootstrap info", s.write(true, func(b *pebble.Batch) error { return putBootstrap(b, id, &bootstrap) }))
	return nil
}

func putBootstrap(b *pebble.Batch, id raftio.NodeInfo, bootstrap *raftpb.Bootstrap) error {
	value, err := encode(bootstrap)
	if err != nil {
		return err
	}
	return b.Set(nodeKey(kindBootstrap, id), value, nil)
}

// write commits a batch that fill fills.
func (s *Store) write(durable bool, fill func(b *pebble.Batch) error) (err error) {
	defer recovered(s.cfg.Logger, "write", &err)
	b := s.db.NewBatch()
	defer func() { _ = b.Close() }()
	if err := fill(b); err != nil {
		return err
	}
	return s.commit(b, durable)
}

// RemoveEntriesTo implements raftio.ILogDB. It is not synced: entries that are
// back after a crash lie before the snapshot that made them superfluous, which
// is durable. The space they took is reclaimed in the background.
func (s *Store) RemoveEntriesTo(shard, replica, index uint64) error {
	if err := s.enter(); err != nil {
		return err
	}
	id := raftio.NodeInfo{ShardID: shard, ReplicaID: replica}
	s.leave("remove entries", s.removeEntries(id, index))
	return nil
}

func (s *Store) removeEntries(id raftio.NodeInfo, index uint64) error {
	n, err := s.node(id)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.first > n.last || index < n.first {
		return nil
	}
	if err := s.write(false, func(b *pebble.Batch) error {
		return b.DeleteRange(entryKey(id, 0), afterEntry(id, index), nil)
	}); err != nil {
		return err
	}
	n.first = min(index, n.last) + 1
	s.compactor.add(id, index)
	return nil
}

// RemoveNodeData implements raftio.ILogDB. When it returns, it is durable that
// nothing is there.
func (s *Store) RemoveNodeData(shard, replica uint64) error {
	if err := s.enter(); err != nil {
		return err
	}
	id := raftio.NodeInfo{ShardID: shard, ReplicaID: replica}
	err := s.replaceNode(id, func(*pebble.Batch) error { return nil })
	if err == nil {
		s.compactor.add(id, math.MaxUint64)
	}
	s.leave("remove node data", err)
	return nil
}

// ImportSnapshot implements raftio.ILogDB. No NodeHost runs on the store when
// it is called, so it may refuse.
func (s *Store) ImportSnapshot(snapshot raftpb.Snapshot, replica uint64) error {
	if snapshot.Type == raftpb.UnknownStateMachine {
		return fmt.Errorf("%w: raft log: import of a snapshot of an unknown type", base.ErrInvalid)
	}
	if err := s.enter(); err != nil {
		return err
	}
	id := raftio.NodeInfo{ShardID: snapshot.ShardID, ReplicaID: replica}
	s.leave("import snapshot", s.replaceNode(id, func(b *pebble.Batch) error {
		state := raftpb.State{Term: snapshot.Term, Commit: snapshot.Index}
		stateValue, err1 := encode(&state)
		snapshotValue, err2 := encode(&snapshot)
		for _, err := range []error{err1, err2} {
			if err != nil {
				return err
			}
		}
		if err := putBootstrap(b, id, &raftpb.Bootstrap{Join: true, Type: snapshot.Type}); err != nil {
			return err
		}
		if err := b.Set(nodeKey(kindState, id), stateValue, nil); err != nil {
			return err
		}
		return b.Set(nodeKey(kindSnapshot, id), snapshotValue, nil)
	}))
	return nil
}

// replaceNode removes all that is there of a replica and writes what fill adds
// in its place, in one durable step.
func (s *Store) replaceNode(id raftio.NodeInfo, fill func(b *pebble.Batch) error) error {
	s.snapshots.Lock()
	defer s.snapshots.Unlock()
	defer s.forget(id)
	return s.write(true, func(b *pebble.Batch) error {
		for _, kind := range []byte{kindBootstrap, kindSnapshot, kindState} {
			if err := b.Delete(nodeKey(kind, id), nil); err != nil {
				return err
			}
		}
		if err := b.DeleteRange(entryKey(id, 0), afterEntry(id, math.MaxUint64), nil); err != nil {
			return err
		}
		return fill(b)
	})
}
