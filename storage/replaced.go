package storage

import (
	"fmt"
	"math"
	"sync/atomic"

	"github.com/distributedcache/cache/internal/base"
)

// replacements remembers which shards were replaced as a whole, by Import.
// The engine does that by cutting the shard's range out of its files at once,
// which reaches into snapshots that were taken before: they would show the
// new contents, or a part of them, instead of the old. So such a snapshot
// refuses that shard from then on.
type replacements struct {
	count atomic.Uint64
	// last is, for each shard, the count with its latest replacement; the
	// catalog comes after the shards, and the node's own space is the last one.
	last [base.MaxShards + 2]atomic.Uint64
}

// taken returns the count to keep with a snapshot. It must be called before
// the snapshot is taken.
func (r *replacements) taken() uint64 { return r.count.Load() }

// begin marks a shard as being replaced, and the function it returns as
// replaced. No snapshot that was taken before the latter is valid for it.
func (r *replacements) begin(shard base.ShardID) (end func()) {
	last := &r.last[min(int(shard), len(r.last)-1)]
	last.Store(math.MaxUint64)
	return func() { last.Store(r.count.Add(1)) }
}

// check returns an error if a snapshot with this count must not be asked for
// the shard. It is called after each read of the snapshot, so that a
// replacement during the read is noticed.
func (r *replacements) check(taken uint64, shard base.ShardID) error {
	if r.last[min(int(shard), len(r.last)-1)].Load() > taken {
		return fmt.Errorf("%w: shard %d was replaced after the snapshot was taken; take a new one", base.ErrUnavailable, shard)
	}
	return nil
}
