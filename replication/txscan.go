package replication

import (
	"iter"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
)

// scanRecord notes what one scan of a transaction saw, shard by shard, so that
// the commit can be refused if any of it has changed: also if a key was added
// where the scan found none.
type scanRecord struct {
	tx      *Tx
	r       base.Range
	reverse bool
	last    base.Key // the last item seen
	ended   bool     // the scan came to the end of its range
	digests map[base.ShardID]*command.RangeDigest
}

func newScanRecord(tx *Tx, r base.Range, reverse bool) *scanRecord {
	return &scanRecord{tx: tx, r: r, reverse: reverse, digests: make(map[base.ShardID]*command.RangeDigest)}
}

// record passes the items through and notes them.
func (s *scanRecord) record(items iter.Seq2[base.Item, error]) iter.Seq2[base.Item, error] {
	if !s.tx.track {
		return items
	}
	return func(yield func(base.Item, error) bool) {
		for it, err := range items {
			if err == nil {
				s.add(it)
			}
			if !yield(it, err) || err != nil {
				return
			}
		}
		s.ended = true
	}
}

func (s *scanRecord) add(it base.Item) {
	id := s.tx.h.shardOf(it.Key)
	d := s.digests[id]
	if d == nil {
		d = &command.RangeDigest{}
		s.digests[id] = d
	}
	d.Add(it.Key, it.Version)
	s.last = it.Key
}

// save hands what was seen to the transaction: the whole range if the scan
// came to its end, else the part up to the last item.
func (s *scanRecord) save() {
	if !s.tx.track || s.r.Empty() || (!s.ended && s.last.IsZero()) {
		return
	}
	seen := s.r
	if !s.ended {
		seen = seen.Through(s.last, s.reverse)
	}
	if p, single := seen.SinglePrimary(); single {
		s.saveShard(s.tx.h.shardOf(base.Key{Primary: p}), seen)
		return
	}
	for i := range s.tx.h.groups {
		s.saveShard(base.ShardID(i), seen)
	}
}

func (s *scanRecord) saveShard(id base.ShardID, seen base.Range) {
	read := command.RangeRead{Range: seen}
	if d := s.digests[id]; d != nil {
		read.Digest = d.Sum()
	}
	s.tx.ranges = append(s.tx.ranges, rangeRead{shard: id, read: read})
}
