package command

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

const rememberedVersion = 1

// Remembered is what a shard keeps of a request: enough to tell a repetition
// from a reuse of the id, and to answer it.
type Remembered struct {
	Sequence uint64 // position among the remembered requests of the shard
	Digest   uint64
	At       base.Version // when it was decided
	Result   Result
}

// Append appends the binary form:
//
//	version u8 | status u8 | sequence u64 | digest u64 | at u64 | version u64
//	count, versions u64 | count, failed uvarint
func (m *Remembered) Append(buf []byte) []byte {
	buf = append(buf, rememberedVersion, byte(m.Result.Status))
	buf = wire.AppendUint64(buf, m.Sequence)
	buf = wire.AppendUint64(buf, m.Digest)
	buf = wire.AppendUint64(buf, uint64(m.At))
	return appendOutcome(buf, &m.Result)
}

// DecodeRemembered is the inverse of Append. The error wraps base.ErrCorrupt.
func DecodeRemembered(buf []byte) (*Remembered, error) {
	r := wire.NewReader(buf)
	if v := r.Byte(); r.Err() == nil && v != rememberedVersion {
		return nil, fmt.Errorf("%w: remembered request of version %d, known is %d", base.ErrCorrupt, v, rememberedVersion)
	}
	m := &Remembered{}
	m.Result.Status = Status(r.Byte())
	if m.Result.Status > StatusReused {
		r.Fail("unknown status %d", m.Result.Status)
	}
	m.Sequence, m.Digest = r.Uint64(), r.Uint64()
	m.At = base.Version(r.Uint64())
	readOutcome(r, &m.Result)
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("%w: remembered request: %w", base.ErrCorrupt, err)
	}
	return m, nil
}

// appendOutcome appends version u64 | count, versions u64 | count, failed uvarint.
func appendOutcome(buf []byte, res *Result) []byte {
	buf = wire.AppendUint64(buf, uint64(res.Version))
	buf = wire.AppendUvarint(buf, uint64(len(res.Versions)))
	for _, v := range res.Versions {
		buf = wire.AppendUint64(buf, uint64(v))
	}
	buf = wire.AppendUvarint(buf, uint64(len(res.Failed)))
	for _, i := range res.Failed {
		buf = wire.AppendUvarint(buf, uint64(i))
	}
	return buf
}

// readOutcome is the inverse of appendOutcome. It reuses the memory of res.
func readOutcome(r *wire.Reader, res *Result) {
	res.Version = base.Version(r.Uint64())
	res.Versions, res.Failed = res.Versions[:0], res.Failed[:0]
	for range r.Count(base.HardMaxBatchOps, 8) {
		res.Versions = append(res.Versions, base.Version(r.Uint64()))
	}
	for range r.Count(len(res.Versions), 1) {
		at := r.Uvarint()
		if at >= uint64(len(res.Versions)) {
			r.Fail("failed write %d of %d", at, len(res.Versions))
			return
		}
		res.Failed = append(res.Failed, int(at))
	}
}
