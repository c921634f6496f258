package command

import (
	"bytes"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// StepKind says which part of a transaction over several shards a command is.
type StepKind uint8

// The steps of a transaction. Their numbers are part of the format.
const (
	// StepNone: the command is a whole by itself.
	StepNone StepKind = iota
	// StepPrepare, on all shards but the anchor, checks the command and holds what it
	// reads and writes until the transaction is resolved. The result has the least
	// version that it can get here.
	StepPrepare
	_ // was a decision about what the anchor had prepared
	// StepCommit applies what the shard holds of the transaction, with At.
	StepCommit
	// StepAbort drops what the shard holds of the transaction.
	StepAbort
	// StepExpire, on the anchor, ends a transaction that is past its deadline.
	// The result is StatusApplied with its version if it was applied,
	// StatusPending if it may still be, StatusExpired if it never will.
	StepExpire
	// StepForget, on an anchor, drops the records that the transactions in Forget
	// were applied, once every shard has applied its part.
	StepForget
	// StepHold is StepPrepare of a command that only reads, without the check: what
	// is read stays as it is until StepAbort, whatever it is.
	StepHold
	// StepDecide, on the anchor, checks the command as StepPrepare does, and applies
	// it if it passes, with a version of at least At. With it the transaction is
	// applied: that is recorded, for all other shards hold their parts. Outcome has
	// what a repetition of the request is to be answered, but for the version and
	// the anchor's own writes.
	StepDecide
	// StepRefuse, on the anchor, ends a transaction that is not applied since a
	// condition does not hold, here or elsewhere. Outcome is as for StepDecide.
	StepRefuse

	lastStep = StepRefuse
)

const retiredStep = StepPrepare + 1

// Step makes a command part of a transaction over several shards.
type Step struct {
	Kind StepKind
	Holder
	At      base.Version   // of the transaction, for StepDecide and StepCommit
	Shards  []base.ShardID // that take part, for StepDecide
	Outcome Result         // of the transaction, for StepDecide and StepRefuse
}

// Holder names a transaction that holds keys of a shard.
type Holder struct {
	Txn      base.RequestID
	Anchor   base.ShardID // where it is decided
	Deadline base.Version // after which others may end it
}

// Before orders holders by age: the one whose deadline comes first is the older. So
// all replicas name the same one of several, and of two that are in each other's way
// both sides know which waits.
func (h Holder) Before(other Holder) bool {
	if h.Deadline != other.Deadline {
		return h.Deadline < other.Deadline
	}
	return bytes.Compare(h.Txn[:], other.Txn[:]) < 0
}

// appendStep appends kind u8 | holder | at u64 | count, shards uvarint | status
// u8 | outcome.
func appendStep(buf []byte, s *Step) []byte {
	buf = appendHolder(append(buf, byte(s.Kind)), s.Holder)
	buf = wire.AppendUint64(buf, uint64(s.At))
	buf = wire.AppendUvarint(buf, uint64(len(s.Shards)))
	for _, id := range s.Shards {
		buf = wire.AppendUvarint(buf, uint64(id))
	}
	return appendOutcome(append(buf, byte(s.Outcome.Status)), &s.Outcome)
}

func decodeStep(r *wire.Reader) (s Step) {
	s.Kind = StepKind(r.Byte())
	if s.Kind == StepNone || s.Kind == retiredStep || s.Kind > lastStep {
		r.Fail("unknown step %d", s.Kind)
	}
	s.Holder = readHolder(r)
	s.At = base.Version(r.Uint64())
	for range r.Count(base.MaxShards, 1) {
		s.Shards = append(s.Shards, readShard(r))
	}
	s.Outcome.Status = Status(r.Byte())
	if s.Outcome.Status > lastStatus {
		r.Fail("unknown status %d", s.Outcome.Status)
	}
	readOutcome(r, &s.Outcome)
	return s
}

// appendHolder appends txn 16 bytes | anchor uvarint | deadline u64.
func appendHolder(buf []byte, h Holder) []byte {
	buf = wire.AppendUvarint(append(buf, h.Txn[:]...), uint64(h.Anchor))
	return wire.AppendUint64(buf, uint64(h.Deadline))
}

func readHolder(r *wire.Reader) (h Holder) {
	r.Fixed(h.Txn[:])
	h.Anchor = readShard(r)
	h.Deadline = base.Version(r.Uint64())
	return h
}

func readShard(r *wire.Reader) base.ShardID {
	id := r.Uvarint()
	if id >= base.MaxShards {
		r.Fail("shard %d", id)
		return 0
	}
	return base.ShardID(id)
}
