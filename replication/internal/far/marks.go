package far

import (
	"sync"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
)

// Marks has, for each shard of other nodes that a transaction has read, the mark
// from before the first read. The zero value has none.
type Marks struct {
	mu    sync.Mutex // protects first; pages of several nodes come at once
	first map[base.ShardID]base.Version
}

// Note keeps a mark, if it is the first of its shard. A nil Marks keeps none.
func (m *Marks) Note(mark ask.Mark) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first == nil {
		m.first = make(map[base.ShardID]base.Version)
	}
	if _, known := m.first[mark.Shard]; !known {
		m.first[mark.Shard] = mark.Removed
	}
}

// First returns the first mark of a shard; found is false if it was not read.
func (m *Marks) First(shard base.ShardID) (removed base.Version, found bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	removed, found = m.first[shard]
	return removed, found
}

// Any reports whether any shard was read.
func (m *Marks) Any() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.first) > 0
}
