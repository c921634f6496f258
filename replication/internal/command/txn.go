package command

import (
	"slices"

	"github.com/distributedcache/cache/internal/base"
)

// Txn is an atomic change of any shards, as it is handed to a log: one command
// for each shard, and the result once it has been decided.
type Txn struct {
	// Request and Digest are remembered on the shard of Parts[Anchor].
	Request base.RequestID
	Digest  uint64
	Anchor  int
	Parts   []Part
	Result  Result // in the order of the caller's writes
}

// Part is what a transaction does on one shard.
type Part struct {
	Shard   base.ShardID
	Command Command
	// Positions has, for each write of Command, its index among the writes of
	// the whole transaction; nil if this is the only part.
	Positions []int
	Result    Result
}

// Writes returns how many writes the parts have together.
func (t *Txn) Writes() int {
	n := 0
	for i := range t.Parts {
		n += len(t.Parts[i].Command.Writes)
	}
	return n
}

// HasRanges reports whether any part depends on what a range held.
func (t *Txn) HasRanges() bool {
	for i := range t.Parts {
		if len(t.Parts[i].Command.Ranges) > 0 {
			return true
		}
	}
	return false
}

// Merge gathers the results of the parts into the result of the transaction,
// in the order of the caller's writes. Status and Version are set by whoever
// decided.
func (t *Txn) Merge() {
	res := &t.Result
	n := t.Writes()
	if cap(res.Versions) < n {
		res.Versions = make([]base.Version, n)
	}
	res.Versions, res.Failed = res.Versions[:n], res.Failed[:0]
	clear(res.Versions)
	for i := range t.Parts {
		part := &t.Parts[i]
		for j, v := range part.Result.Versions {
			res.Versions[part.Positions[j]] = v
		}
		for _, j := range part.Result.Failed {
			res.Failed = append(res.Failed, part.Positions[j])
		}
	}
	slices.Sort(res.Failed)
}
