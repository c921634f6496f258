package ask

import (
	"fmt"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// RequestVersion is the version of the binary form of a request, its first byte.
const RequestVersion = 1

// Kind says what a request asks for.
type Kind uint8

// The kinds of requests. Their numbers are part of the format.
const (
	// Propose has the leader of Shard decide the log entry in Bytes. The answer
	// has the results of the entry.
	Propose Kind = iota + 1
	// Barrier returns once the leader of Shard has made sure that it leads.
	Barrier
	// Get reads Keys. The answer is Items and Marks.
	Get
	// Scan reads Range on Shards, in pieces: Marks first, then pages.
	Scan
	// Outcome asks the anchor Shard about the transaction ID.
	Outcome
	// Recall asks Shard for the request ID. The answer is what it remembers.
	Recall
	// Check asks whether the reads in Bytes, a command, hold on Shard.
	Check
	// Status asks a node for the state of its replicas.
	Status
	// AddLearner, Promote, DropMember and TransferLeader change the group of
	// Shard; see Member and Node.
	AddLearner
	Promote
	DropMember
	TransferLeader
	// Confirm asks a node about the claims in Bytes, of many shards at once. The
	// answer has a Confirmed for each.
	Confirm

	lastKind = Confirm
)

// Request is one request. Which fields count depends on Kind.
type Request struct {
	Kind   Kind
	Shard  base.ShardID
	Shards []base.ShardID
	Keys   []base.Key
	Range  base.Range
	Read   base.ReadOptions // without After and Cursor
	ID     base.RequestID
	Bytes  []byte
	Member uint64
	Node   string
	// ConfigChange is the number of the membership that a change was planned from.
	ConfigChange uint64
}

// Limits of a request beside those of keys.
const (
	maxKeys      = base.HardMaxBatchOps
	maxNodeBytes = 128
	maxBoundKey  = base.MaxSecondaryBytes + 1
)

// The bits of flags.
const (
	flagStale = 1 << iota
	flagKeysOnly
	flagReverse
)

// Append appends the binary form:
//
//	version u8 | kind u8 | shard u16 | count, shards uvarint | count, keys
//	start, end keys | flags u8 | max-stale u64 | limit uvarint | id 16 bytes
//	member, config change u64 | node string | bytes
func (q *Request) Append(buf []byte) []byte {
	buf = append(buf, RequestVersion, byte(q.Kind), byte(q.Shard>>8), byte(q.Shard))
	buf = wire.AppendUvarint(buf, uint64(len(q.Shards)))
	for _, id := range q.Shards {
		buf = wire.AppendUvarint(buf, uint64(id))
	}
	buf = wire.AppendUvarint(buf, uint64(len(q.Keys)))
	for _, key := range q.Keys {
		buf = appendKey(buf, key)
	}
	buf = appendKey(appendKey(buf, q.Range.Start), q.Range.End)
	buf = wire.AppendUint64(append(buf, flagsOf(q.Read)), uint64(q.Read.MaxStale))
	buf = wire.AppendUvarint(buf, uint64(q.Read.Limit))
	buf = wire.AppendUint64(append(buf, q.ID[:]...), q.Member)
	buf = wire.AppendUint64(buf, q.ConfigChange)
	buf = wire.AppendString(buf, q.Node)
	return append(buf, q.Bytes...)
}

func flagsOf(ro base.ReadOptions) (flags byte) {
	if ro.Stale {
		flags |= flagStale
	}
	if ro.KeysOnly {
		flags |= flagKeysOnly
	}
	if ro.Reverse {
		flags |= flagReverse
	}
	return flags
}

// Decode is the inverse of Append. Bytes aliases buf. The error wraps
// base.ErrInvalid: the other node speaks another version, or no language at all.
func Decode(buf []byte) (*Request, error) {
	r := wire.NewReader(buf)
	if v := r.Byte(); r.Err() == nil && v != RequestVersion {
		return nil, fmt.Errorf("%w: request of version %d, known is %d", base.ErrInvalid, v, RequestVersion)
	}
	q := &Request{Kind: Kind(r.Byte()), Shard: base.ShardID(r.Byte())<<8 | base.ShardID(r.Byte())}
	if q.Kind == 0 || q.Kind > lastKind || q.Shard > base.CatalogShard {
		r.Fail("kind %d for shard %d", q.Kind, q.Shard)
	}
	for range r.Count(base.MaxShards+1, 1) {
		q.Shards = append(q.Shards, readShard(r))
	}
	n := r.Count(maxKeys, 2)
	if n > 0 {
		q.Keys = make([]base.Key, 0, n)
	}
	for range n {
		q.Keys = append(q.Keys, readKey(r))
	}
	q.Range = base.Range{Start: readKey(r), End: readKey(r)}
	flags := r.Byte()
	if flags >= flagReverse<<1 {
		r.Fail("flags %#x", flags)
	}
	q.Read = base.ReadOptions{
		Stale: flags&flagStale != 0, KeysOnly: flags&flagKeysOnly != 0, Reverse: flags&flagReverse != 0,
		MaxStale: time.Duration(r.Uint64()), Limit: int(r.Uvarint()),
	}
	if q.Read.MaxStale < 0 || q.Read.Limit < 0 {
		r.Fail("negative limits")
	}
	r.Fixed(q.ID[:])
	q.Member, q.ConfigChange, q.Node = r.Uint64(), r.Uint64(), r.String(maxNodeBytes)
	q.Bytes = r.Rest()
	if r.Err() != nil {
		return nil, fmt.Errorf("%w: request: %w", base.ErrInvalid, r.Err())
	}
	return q, nil
}

func appendKey(buf []byte, key base.Key) []byte {
	return wire.AppendString(wire.AppendString(buf, key.Primary), key.Secondary)
}

// readKey reads a key or a bound, which may be one byte longer than a key.
func readKey(r *wire.Reader) base.Key {
	return base.Key{Primary: r.String(base.MaxPrimaryBytes + 1), Secondary: r.String(maxBoundKey)}
}

func readShard(r *wire.Reader) base.ShardID {
	id := r.Uvarint()
	if id > uint64(base.CatalogShard) {
		r.Fail("shard %d", id)
		return 0
	}
	return base.ShardID(id)
}
