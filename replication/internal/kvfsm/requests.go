package kvfsm

import (
	"fmt"
	"sync/atomic"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// The request space of a shard has two entries for each remembered request:
//
//	'i' request id            -> command.Remembered
//	's' sequence number u64   -> at u64 | request id
//
// Sequence numbers are dense and requests are forgotten from the oldest on, so
// the first and the last entry tell how many there are.
const (
	byID       = 'i'
	bySequence = 's'
)

// requestLog knows the remembered requests by their sequence numbers.
type requestLog struct {
	first, next uint64 // the remembered ones are [first, next)
	count       atomic.Int64
}

func idKey(id base.RequestID) []byte { return append([]byte{byID}, id[:]...) }

func sequenceKey(seq uint64) []byte { return wire.AppendUint64([]byte{bySequence}, seq) }

func (l *requestLog) open(space storage.Space) error {
	l.first, l.next = 1, 1
	oldest, found, err := firstRequest(space)
	if err != nil || !found {
		return err
	}
	newest, err := lastSequence(space)
	if err != nil {
		return err
	}
	l.set(oldest.Sequence, newest+1)
	return nil
}

func (l *requestLog) set(first, next uint64) {
	l.first, l.next = first, next
	l.count.Store(int64(next - first))
}

// OldestRequest describes the request that a shard will forget next.
type OldestRequest struct {
	Sequence uint64
	At       base.Version
	ID       base.RequestID
}

func firstRequest(space storage.Space) (OldestRequest, bool, error) {
	for kv, err := range space.Values(storage.KindRequest, []byte{bySequence}, 1) {
		if err != nil {
			return OldestRequest{}, false, err
		}
		r, err := decodeSequence(kv.Key, kv.Value)
		return r, err == nil, err
	}
	return OldestRequest{}, false, nil
}

func lastSequence(space storage.Space) (uint64, error) {
	kv, found, err := space.Last(storage.KindRequest)
	if err != nil {
		return 0, err
	}
	if !found {
		return 0, fmt.Errorf("%w: request index of a shard", base.ErrCorrupt)
	}
	r, err := decodeSequence(kv.Key, kv.Value)
	return r.Sequence, err
}

func decodeSequence(key, value []byte) (OldestRequest, error) {
	var r OldestRequest
	k := wire.NewReader(key)
	if k.Byte() != bySequence {
		k.Fail("not a sequence entry")
	}
	r.Sequence = k.Uint64()
	v := wire.NewReader(value)
	r.At = base.Version(v.Uint64())
	v.Fixed(r.ID[:])
	if k.Close() != nil || v.Close() != nil {
		return r, fmt.Errorf("%w: request index of a shard", base.ErrCorrupt)
	}
	return r, nil
}

// Expiring returns the requests that were decided before the given version or
// are more than keep, oldest first and at most limit, as the sequence number
// up to which they may be forgotten; 0 if there are none.
func Expiring(space storage.Space, count, keep int, before base.Version, limit int) (uint64, error) {
	to := uint64(0)
	excess := min(count-keep, limit)
	seen := 0
	for kv, err := range space.Values(storage.KindRequest, []byte{bySequence}, limit) {
		if err != nil {
			return 0, err
		}
		r, err := decodeSequence(kv.Key, kv.Value)
		if err != nil {
			return 0, err
		}
		if seen++; seen > excess && r.At >= before {
			break
		}
		to = r.Sequence
	}
	return to, nil
}

// Recall looks the request up among the remembered ones. If it is there, res
// gets the first result, or StatusReused if that was a different request.
func (m *Machine) Recall(b *storage.Batch, id base.RequestID, digest uint64, res *command.Result) (bool, error) {
	buf, found, err := b.Value(m.shard, storage.KindRequest, idKey(id))
	if err != nil || !found {
		return false, err
	}
	old, err := command.DecodeRemembered(buf)
	if err != nil {
		return false, err
	}
	if old.Digest != digest {
		res.Status = command.StatusReused
		return true, nil
	}
	*res = old.Result
	res.Replayed = true
	return true, nil
}

// Remember keeps the result of a request that was decided at the given
// version, which becomes the clock of the shard.
func (m *Machine) Remember(b *storage.Batch, id base.RequestID, digest uint64, at base.Version, res *command.Result) error {
	m.clock.Store(uint64(max(m.Clock(), at)))
	l := &m.requests
	entry := command.Remembered{Sequence: l.next, Digest: digest, At: at, Result: *res}
	b.Set(m.shard, storage.KindRequest, idKey(id), entry.Append(nil))
	index := append(wire.AppendUint64(nil, uint64(at)), id[:]...)
	b.Set(m.shard, storage.KindRequest, sequenceKey(l.next), index)
	l.set(l.first, l.next+1)
	return nil
}

// forget removes the remembered requests up to the given sequence number.
func (l *requestLog) forget(b *storage.Batch, shard base.ShardID, to uint64) error {
	for seq := l.first; seq <= to && seq < l.next; seq++ {
		value, found, err := b.Value(shard, storage.KindRequest, sequenceKey(seq))
		if err != nil {
			return err
		}
		if found {
			r, err := decodeSequence(sequenceKey(seq), value)
			if err != nil {
				return err
			}
			b.Unset(shard, storage.KindRequest, idKey(r.ID))
		}
		b.Unset(shard, storage.KindRequest, sequenceKey(seq))
	}
	l.set(min(max(l.first, to+1), l.next), l.next)
	return nil
}

// Lookup returns what a shard remembers of a request.
func Lookup(space storage.Space, id base.RequestID) (*command.Remembered, bool, error) {
	buf, found, err := space.Value(storage.KindRequest, idKey(id))
	if err != nil || !found {
		return nil, false, err
	}
	m, err := command.DecodeRemembered(buf)
	return m, err == nil, err
}
