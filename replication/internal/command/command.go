// Package command defines what changes a shard. A Command is the only thing
// that does: a client's write becomes one, and so does every internal chore
// such as the removal of expired keys. The package has the types, their binary
// form and nothing that acts.
//
// The binary form is versioned and canonical: equal commands have equal bytes,
// and the decoder refuses what the encoder would not have written.
package command

import (
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// Command is one atomic change of one shard: if every check holds, all writes
// are applied with one version, else none.
type Command struct {
	// Stamp is the clock of whoever ordered the command. It decides which
	// keys have expired and is the least version that the command can get, so
	// every replica comes to the same result without a clock of its own.
	Stamp base.Version
	// Request, if not zero, makes the shard remember the result, so that a
	// repetition gets the same answer. Digest tells a repetition from another
	// request with the same id.
	Request base.RequestID
	Digest  uint64
	// Reads and Ranges are what a transaction has seen; if any of it has
	// changed, the command is refused with StatusConflict.
	Reads  []Read
	Ranges []RangeRead
	// Writes are applied in order. A condition that does not hold refuses the
	// command with StatusMismatch.
	Writes []base.Write
	// Sweep removes what has run out. Only chores carry it.
	Sweep Sweep
	// Step makes the command part of a transaction over several shards.
	Step Step
	// Positions says where the writes stand in Step.Outcome: for StepDecide and
	// StepRefuse of a request.
	Positions []int
	// Forget is what StepForget is about.
	Forget []base.RequestID
}

// Read says that a transaction saw Key at Version; 0 = absent.
type Read struct {
	Key     base.Key
	Version base.Version
}

// RangeRead says that a transaction saw, in its part of Range that lies on the
// shard, items of the given digest.
type RangeRead struct {
	Range  base.Range
	Digest uint64
}

// Sweep lists expired entries to remove, and the last of the remembered
// requests to forget. Both were found by the proposer; the shard looks again.
type Sweep struct {
	Expired    []Expired
	RequestsTo uint64 // requests up to this sequence number are forgotten; 0 = none
}

// Expired names one entry of the expiry index.
type Expired struct {
	Key     base.Key
	At      uint64 // microseconds since the Unix epoch
	Version base.Version
}

// Empty reports whether the sweep does nothing.
func (s *Sweep) Empty() bool { return len(s.Expired) == 0 && s.RequestsTo == 0 }

// Status says how a command ended.
type Status uint8

// The ends of a command. Their numbers are part of the format of remembered
// results.
const (
	StatusApplied  Status = iota // every write was applied
	StatusMismatch               // a condition did not hold; nothing was applied
	StatusConflict               // something read has changed; nothing was applied
	StatusReused                 // the request id belongs to another request; nothing was applied
	StatusLocked                 // a transaction holds a key; nothing was applied, see Holder
	StatusExpired                // the transaction has ended without being applied
	StatusPending                // the transaction may still be applied

	lastStatus = StatusPending
)

// Result is what became of a command. A replayed result is that of the first
// command with the same request id.
type Result struct {
	Status   Status
	Replayed bool
	// Version is the version that the command got; 0 if it was refused.
	Version base.Version
	// Versions has one element for each write: the new version of a put, the
	// removed version of a delete, the version that a check found. With
	// StatusMismatch it has what each conditional write found.
	Versions []base.Version
	// Failed lists, with StatusMismatch, the writes whose condition failed.
	Failed []int
	// Holder is, with StatusLocked, a transaction that holds a key.
	Holder Holder
}

// Reset empties the result and keeps its memory.
func (r *Result) Reset() {
	*r = Result{Versions: r.Versions[:0], Failed: r.Failed[:0]}
}

// Digest returns a fingerprint of what the writes ask for. Equal requests have
// equal digests, whenever they are made.
func Digest(writes []base.Write) uint64 {
	var buf []byte
	h := xxhash.New()
	for i := range writes {
		buf = appendWrite(buf[:0], &writes[i])
		_, _ = h.Write(buf)
	}
	return h.Sum64()
}

// RangeDigest sums up the items of a range: their keys and versions, in any
// order, so that scans in both directions agree. Values need not be hashed, as
// a version stands for one value. The zero RangeDigest is that of no items.
type RangeDigest struct {
	sum uint64
	buf []byte
}

// Add adds an item.
func (d *RangeDigest) Add(key base.Key, version base.Version) {
	d.buf = appendKey(d.buf[:0], key)
	d.buf = wire.AppendUint64(d.buf, uint64(version))
	d.sum += xxhash.Sum64(d.buf)
}

// Sum returns the digest of the items added so far.
func (d *RangeDigest) Sum() uint64 { return d.sum }

// ttlMicros rounds a TTL up to microseconds, so that a positive one never
// becomes "for ever".
func ttlMicros(ttl time.Duration) uint64 {
	if ttl <= 0 {
		return 0
	}
	return uint64((ttl + time.Microsecond - 1) / time.Microsecond)
}

// ExpiresAt returns when a value of this version and TTL expires, in microseconds
// since the epoch; 0 = never. A version is a time of the shard's clock, by which
// it is judged too.
func ExpiresAt(version base.Version, ttl time.Duration) uint64 {
	if ttl <= 0 {
		return 0
	}
	return uint64(version) + ttlMicros(ttl)
}
