package shard

import (
	"slices"

	"github.com/distributedcache/cache/internal/base"
)

// Entry is where one shard is.
type Entry struct {
	Shard  base.ShardID
	Nodes  []string // those that have a replica, in the order in which to try them
	Leader string   // the one that was last known to lead; "" if unknown
}

// Map says where each shard is, as of an epoch of the catalog. It never
// changes, so it may be shared without locks. The nil Map is empty and has
// epoch 0.
type Map struct {
	epoch   uint64
	entries []Entry // by shard, up to the highest that is known
	shards  int
}

// NewMap returns a map of these entries, which it copies. If a shard is in it
// twice, the last entry counts. It panics on a shard over base.MaxShards, which
// is that of the catalog.
func NewMap(epoch uint64, entries []Entry) *Map {
	m := &Map{epoch: epoch}
	for _, e := range entries {
		if e.Shard > base.MaxShards {
			panic("shard: shard out of range")
		}
		for int(e.Shard) >= len(m.entries) {
			m.entries = append(m.entries, Entry{})
		}
		if m.entries[e.Shard].Nodes == nil {
			m.shards++
		}
		e.Nodes = append([]string{}, e.Nodes...)
		m.entries[e.Shard] = e
	}
	return m
}

// Epoch returns the epoch of the catalog that the map was made from.
func (m *Map) Epoch() uint64 {
	if m == nil {
		return 0
	}
	return m.epoch
}

// Len returns the number of shards that the map knows.
func (m *Map) Len() int {
	if m == nil {
		return 0
	}
	return m.shards
}

// Nodes returns the nodes that have a replica of a shard. The slice belongs to
// the map and must not be changed. It is empty for a shard that is not known.
func (m *Map) Nodes(shard base.ShardID) []string {
	if m == nil || int(shard) >= len(m.entries) {
		return nil
	}
	return slices.Clip(m.entries[shard].Nodes)
}

// Leader returns the node that was last known to lead a shard, or "".
func (m *Map) Leader(shard base.ShardID) string {
	if m == nil || int(shard) >= len(m.entries) {
		return ""
	}
	return m.entries[shard].Leader
}
