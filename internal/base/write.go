package base

import (
	"time"
)

// ShardID numbers the shards of a directory from 0.
type ShardID uint16

// MaxShards is the largest shard count a directory may be created with.
const MaxShards = 1024

// CatalogShard is the shard of what a cluster records about itself. It comes
// after every shard that keys can live on.
const CatalogShard ShardID = MaxShards

// WriteKind says what a Write does.
type WriteKind uint8

// The kinds of writes. Their numbers are part of the command format.
const (
	WritePut WriteKind = iota
	WriteDelete
	WriteCheck // a condition without a write
)

// CondKind says which condition a write carries.
type CondKind uint8

// The kinds of conditions. Their numbers are part of the command format.
const (
	CondNone CondKind = iota
	CondVersion
	CondPresent
)

// Cond is the condition under which a write is applied. With CondVersion and
// version 0 the key must be absent.
type Cond struct {
	Kind    CondKind
	Version Version
}

// Holds reports whether the condition holds for a key of version have, 0 if
// it is absent.
func (c Cond) Holds(have Version) bool {
	switch c.Kind {
	case CondVersion:
		return have == c.Version
	case CondPresent:
		return have != 0
	default:
		return true
	}
}

// Want returns what VersionError.Want reports for this condition.
func (c Cond) Want() Version {
	if c.Kind == CondPresent {
		return AnyVersion
	}
	return c.Version
}

// Write is one operation of a write request.
type Write struct {
	Kind  WriteKind
	Cond  Cond
	Key   Key
	Value []byte        // WritePut only
	TTL   time.Duration // WritePut only; 0 = does not expire
}

// Bytes returns how much the write counts against the limit of a batch.
func (w *Write) Bytes() int { return w.Key.Bytes() + len(w.Value) }

// Result is what became of one operation of a batch. Version is the new
// version of a put, the removed version of a delete (0 if there was nothing),
// or the version that a check found. Err is nil if the operation was applied.
type Result struct {
	Key     Key
	Version Version
	Err     error
}

// ReadOptions are the resolved options of one read.
type ReadOptions struct {
	Stale    bool          // read this node's replica ...
	MaxStale time.Duration // ... if it is at most this far behind
	Limit    int           // of a scan; 0 = none
	KeysOnly bool
	Reverse  bool
	After    Key    // scans start right after (Reverse: before) this key, if not zero
	Cursor   string // the same, encoded; wins over After
}

// Narrow returns the part of r that is left to scan under these options.
func (ro *ReadOptions) Narrow(r Range) (Range, error) {
	after := ro.After
	if ro.Cursor != "" {
		var err error
		if after, err = DecodeCursor(ro.Cursor); err != nil {
			return Range{}, err
		}
	}
	return r.After(after, ro.Reverse), nil
}

// PendingVersion is the version of an item that the transaction itself has
// written and not yet committed.
const PendingVersion = Version(1<<53 - 1)

// TxOptions are the resolved options of one batch or transaction.
type TxOptions struct {
	Independent bool
	MaxAttempts int // 0 = default
	RequestID   RequestID
}

// Limits bound what one request may ask for.
type Limits struct {
	MaxValueBytes int
	MaxBatchOps   int
	MaxBatchBytes int
	MaxInFlight   int // writes that may wait at once
}

// HardMaxValueBytes bounds MaxValueBytes; HardMaxBatchOps and
// HardMaxBatchBytes bound the others. The decoders of the command format
// refuse anything larger before they allocate.
const (
	HardMaxValueBytes = 4 << 20
	HardMaxBatchOps   = 100_000
	HardMaxBatchBytes = 16 << 20
)

// Clock tells the time. The system clock is time.Now.
type Clock func() time.Time
