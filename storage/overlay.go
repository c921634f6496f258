package storage

import (
	"bytes"
	"hash/maphash"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
)

// ownState says what a batch did to a key.
type ownState int

const (
	ownNothing ownState = iota
	ownSet
	ownDeleted
)

// overlay finds a batch's own writes by key. It costs nothing until the first
// lookup: it then indexes the encoded batch, and at each further lookup only
// what was appended since.
type overlay struct {
	seed    maphash.Seed
	indexed int              // how much of the encoded batch has been indexed
	newest  map[uint64]int32 // hash of a key -> 1 + its newest write in writes
	writes  []ownOp
}

// ownOp is one write, as positions in the encoded batch.
type ownOp struct {
	keyOff, keyLen     int32
	valueOff, valueLen int32
	older              int32 // 1 + the previous write with that hash; 0 = none
	deleted            bool
}

// retainedWrites bounds the index that is kept for the next batch.
const retainedWrites = 4096

// catchUp indexes what was appended to the encoded batch since the last call.
func (o *overlay) catchUp(repr []byte) {
	if o.newest == nil {
		o.seed = maphash.MakeSeed()
		o.newest = make(map[uint64]int32)
	}
	start := max(o.indexed, batchrepr.HeaderLen)
	r := batchrepr.Reader(repr[start:])
	for {
		kind, key, value, ok, err := r.Next()
		if !ok || err != nil {
			break // an error is impossible: the batch was encoded in memory
		}
		op := ownOp{
			keyOff:   offset(repr, key),
			keyLen:   int32(len(key)),
			valueOff: offset(repr, value),
			valueLen: int32(len(value)),
			deleted:  kind == pebble.InternalKeyKindDelete,
		}
		h := maphash.Bytes(o.seed, key)
		op.older = o.newest[h]
		o.writes = append(o.writes, op)
		o.newest[h] = int32(len(o.writes))
	}
	o.indexed = len(repr)
}

// offset returns where part begins in whole, of which it is a subslice.
func offset(whole, part []byte) int32 { return int32(cap(whole) - cap(part)) }

// find returns what the batch last did to a key. The value aliases repr.
func (o *overlay) find(repr, key []byte) ([]byte, ownState) {
	for i := o.newest[maphash.Bytes(o.seed, key)]; i != 0; i = o.writes[i-1].older {
		op := &o.writes[i-1]
		if !bytes.Equal(key, repr[op.keyOff:op.keyOff+op.keyLen]) {
			continue
		}
		if op.deleted {
			return nil, ownDeleted
		}
		return repr[op.valueOff : op.valueOff+op.valueLen], ownSet
	}
	return nil, ownNothing
}

func (o *overlay) reset() {
	if len(o.writes) > retainedWrites {
		*o = overlay{}
		return
	}
	o.indexed = 0
	o.writes = o.writes[:0]
	clear(o.newest)
}
