package logstore

import (
	"encoding/binary"
	"fmt"

	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/base"
)

// The kinds of records, the first byte of every key.
const (
	kindBootstrap byte = 'b'
	kindEntry     byte = 'e'
	kindSnapshot  byte = 'n'
	kindState     byte = 's'
)

// recordVersion is the first byte of every value. What follows it is the
// record as raftpb marshals it.
const recordVersion byte = 1

const (
	nodeKeyLen  = 1 + 8 + 8
	entryKeyLen = nodeKeyLen + 8
)

// appendNodeKey appends the key of a record of which a replica has one.
func appendNodeKey(buf []byte, kind byte, id raftio.NodeInfo) []byte {
	buf = append(buf, kind)
	buf = binary.BigEndian.AppendUint64(buf, id.ShardID)
	return binary.BigEndian.AppendUint64(buf, id.ReplicaID)
}

func nodeKey(kind byte, id raftio.NodeInfo) []byte {
	return appendNodeKey(make([]byte, 0, nodeKeyLen), kind, id)
}

// appendEntryKey appends the key of an entry.
func appendEntryKey(buf []byte, id raftio.NodeInfo, index uint64) []byte {
	return binary.BigEndian.AppendUint64(appendNodeKey(buf, kindEntry, id), index)
}

func entryKey(id raftio.NodeInfo, index uint64) []byte {
	return appendEntryKey(make([]byte, 0, entryKeyLen+1), id, index)
}

// afterEntry returns the end of a key range whose last entry is index.
func afterEntry(id raftio.NodeInfo, index uint64) []byte {
	return append(entryKey(id, index), 0)
}

// decodeNodeKey is the inverse of nodeKey.
func decodeNodeKey(key []byte) (raftio.NodeInfo, error) {
	if len(key) != nodeKeyLen {
		return raftio.NodeInfo{}, fmt.Errorf("%w: raft log: key %x", base.ErrCorrupt, key)
	}
	return raftio.NodeInfo{
		ShardID:   binary.BigEndian.Uint64(key[1:]),
		ReplicaID: binary.BigEndian.Uint64(key[9:]),
	}, nil
}

// entryIndex returns the index of the entry that a key is of.
func entryIndex(key []byte) (uint64, error) {
	if len(key) != entryKeyLen {
		return 0, fmt.Errorf("%w: raft log: key %x", base.ErrCorrupt, key)
	}
	return binary.BigEndian.Uint64(key[nodeKeyLen:]), nil
}

// encode returns a record as it is stored.
func encode(m raftpb.Marshaler) ([]byte, error) {
	body, err := m.Marshal()
	if err != nil {
		return nil, fmt.Errorf("%w: raft log: marshal: %w", base.ErrInvalid, err)
	}
	return append([]byte{recordVersion}, body...), nil
}

// decode is the inverse of encode. m keeps no reference to value.
func decode(key, value []byte, m raftpb.Unmarshaler) error {
	if len(value) == 0 || value[0] != recordVersion {
		return fmt.Errorf("%w: raft log: record %x has an unknown version", base.ErrCorrupt, key)
	}
	if err := m.Unmarshal(value[1:]); err != nil {
		return fmt.Errorf("%w: raft log: record %x: %w", base.ErrCorrupt, key, err)
	}
	return nil
}

// decodeEntry decodes the value of an entry into e and checks that it is the
// one the key promises.
func decodeEntry(key, value []byte, index uint64, e *raftpb.Entry) error {
	if err := decode(key, value, e); err != nil {
		return err
	}
	if e.Index != index {
		return fmt.Errorf("%w: raft log: record %x is of entry %d", base.ErrCorrupt, key, e.Index)
	}
	return nil
}
