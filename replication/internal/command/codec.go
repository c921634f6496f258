package command

import (
	"fmt"
	"math"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// Version is the version of the binary form, its first byte. Decoders refuse
// any other.
const Version = 1

// Limits of a decoded command. They are wider than what a node accepts from
// its callers, so that a command of a node with larger limits can be applied.
const (
	maxReads   = 1 << 20
	maxRanges  = 1 << 16
	maxExpired = 1 << 16
	maxForget  = 1 << 16
	maxBound   = base.MaxPrimaryBytes + base.MaxSecondaryBytes
)

// Sections of a command; a bit of the second byte says that it is there.
const (
	hasRequest = 1 << iota
	hasReads
	hasRanges
	hasSweep
	hasStep
	hasPositions
	hasForget

	knownSections = 1<<iota - 1
)

// Append appends the binary form of c:
//
//	version u8 | sections u8 | stamp u64
//	[request 16 bytes | digest u64]
//	[count, reads: key, version u64]
//	[count, ranges: start key, end key, digest u64]
//	[count, expired: key, at u64, version u64 | requestsTo uvarint]
//	[step, see appendStep]
//	[count, positions uvarint]
//	[count, forgotten transactions 16 bytes]
//	count, writes
//
// A key is two length-prefixed strings; counts and lengths are uvarints.
func (c *Command) Append(buf []byte) []byte {
	buf = append(buf, Version, c.sections())
	buf = wire.AppendUint64(buf, uint64(c.Stamp))
	if !c.Request.IsZero() {
		buf = append(buf, c.Request[:]...)
		buf = wire.AppendUint64(buf, c.Digest)
	}
	if len(c.Reads) > 0 {
		buf = wire.AppendUvarint(buf, uint64(len(c.Reads)))
		for _, r := range c.Reads {
			buf = wire.AppendUint64(appendKey(buf, r.Key), uint64(r.Version))
		}
	}
	if len(c.Ranges) > 0 {
		buf = wire.AppendUvarint(buf, uint64(len(c.Ranges)))
		for _, r := range c.Ranges {
			buf = appendKey(appendKey(buf, r.Range.Start), r.Range.End)
			buf = wire.AppendUint64(buf, r.Digest)
		}
	}
	if !c.Sweep.Empty() {
		buf = appendSweep(buf, &c.Sweep)
	}
	if c.Step.Kind != StepNone {
		buf = appendStep(buf, &c.Step)
	}
	if len(c.Positions) > 0 {
		buf = wire.AppendUvarint(buf, uint64(len(c.Positions)))
		for _, at := range c.Positions {
			buf = wire.AppendUvarint(buf, uint64(at))
		}
	}
	if len(c.Forget) > 0 {
		buf = wire.AppendUvarint(buf, uint64(len(c.Forget)))
		for _, txn := range c.Forget {
			buf = append(buf, txn[:]...)
		}
	}
	buf = wire.AppendUvarint(buf, uint64(len(c.Writes)))
	for i := range c.Writes {
		buf = appendWrite(buf, &c.Writes[i])
	}
	return buf
}

func (c *Command) sections() (bits byte) {
	if !c.Request.IsZero() {
		bits |= hasRequest
	}
	if len(c.Reads) > 0 {
		bits |= hasReads
	}
	if len(c.Ranges) > 0 {
		bits |= hasRanges
	}
	if !c.Sweep.Empty() {
		bits |= hasSweep
	}
	if c.Step.Kind != StepNone {
		bits |= hasStep
	}
	if len(c.Positions) > 0 {
		bits |= hasPositions
	}
	if len(c.Forget) > 0 {
		bits |= hasForget
	}
	return bits
}

func appendKey(buf []byte, k base.Key) []byte {
	return wire.AppendString(wire.AppendString(buf, k.Primary), k.Secondary)
}

func appendSweep(buf []byte, s *Sweep) []byte {
	buf = wire.AppendUvarint(buf, uint64(len(s.Expired)))
	for _, e := range s.Expired {
		buf = wire.AppendUint64(appendKey(buf, e.Key), e.At)
		buf = wire.AppendUint64(buf, uint64(e.Version))
	}
	return wire.AppendUvarint(buf, s.RequestsTo)
}

// appendWrite appends kind<<4|cond u8, the key, the version of the condition
// if it has one, and for a put its TTL in microseconds and the value.
func appendWrite(buf []byte, w *base.Write) []byte {
	buf = append(buf, byte(w.Kind)<<4|byte(w.Cond.Kind))
	buf = appendKey(buf, w.Key)
	if w.Cond.Kind == base.CondVersion {
		buf = wire.AppendUint64(buf, uint64(w.Cond.Version))
	}
	if w.Kind == base.WritePut {
		buf = wire.AppendUvarint(buf, ttlMicros(w.TTL))
		buf = wire.AppendBytes(buf, w.Value)
	}
	return buf
}

// Decode reads one command that fills buf. The values of its writes alias buf.
// The error wraps base.ErrCorrupt.
func Decode(buf []byte) (*Command, error) {
	r := wire.NewReader(buf)
	if v := r.Byte(); r.Err() == nil && v != Version {
		return nil, fmt.Errorf("%w: command of version %d, known is %d", base.ErrCorrupt, v, Version)
	}
	sections := r.Byte()
	if sections&^knownSections != 0 {
		r.Fail("unknown sections %#x", sections)
	}
	c := &Command{Stamp: base.Version(r.Uint64())}
	if sections&hasRequest != 0 {
		r.Fixed(c.Request[:])
		c.Digest = r.Uint64()
	}
	if sections&hasReads != 0 {
		c.Reads = decodeReads(r)
	}
	if sections&hasRanges != 0 {
		c.Ranges = decodeRanges(r)
	}
	if sections&hasSweep != 0 {
		c.Sweep = decodeSweep(r)
	}
	if sections&hasStep != 0 {
		c.Step = decodeStep(r)
	}
	if sections&hasPositions != 0 {
		c.Positions = decodePositions(r, len(c.Step.Outcome.Versions))
	}
	if sections&hasForget != 0 {
		c.Forget = make([]base.RequestID, r.Count(maxForget, 16))
		for i := range c.Forget {
			r.Fixed(c.Forget[i][:])
		}
	}
	c.Writes = decodeWrites(r)
	if n := len(c.Positions); n != c.positions() {
		r.Fail("%d positions of %d writes", n, len(c.Writes))
	}
	if r.Err() == nil && c.sections() != sections {
		r.Fail("empty section")
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("%w: command: %w", base.ErrCorrupt, err)
	}
	return c, nil
}

func decodeReads(r *wire.Reader) []Read {
	reads := make([]Read, r.Count(maxReads, 10))
	for i := range reads {
		reads[i] = Read{Key: decodeKey(r), Version: base.Version(r.Uint64())}
	}
	return reads
}

func decodeRanges(r *wire.Reader) []RangeRead {
	ranges := make([]RangeRead, r.Count(maxRanges, 12))
	for i := range ranges {
		ranges[i].Range = base.Range{Start: decodeKey(r), End: decodeKey(r)}
		ranges[i].Digest = r.Uint64()
	}
	return ranges
}

func decodeSweep(r *wire.Reader) (s Sweep) {
	if n := r.Count(maxExpired, 18); n > 0 {
		s.Expired = make([]Expired, n)
	}
	for i := range s.Expired {
		s.Expired[i] = Expired{Key: decodeKey(r), At: r.Uint64(), Version: base.Version(r.Uint64())}
	}
	s.RequestsTo = r.Uvarint()
	return s
}

// positions returns how many of them the command has to have.
func (c *Command) positions() int {
	if c.Request.IsZero() || c.Step.Kind != StepDecide && c.Step.Kind != StepRefuse {
		return 0
	}
	return len(c.Writes)
}

// decodePositions reads places among so many versions.
func decodePositions(r *wire.Reader, versions int) []int {
	positions := make([]int, r.Count(versions, 1))
	for i := range positions {
		at := r.Uvarint()
		if at >= uint64(versions) {
			r.Fail("position %d of %d", at, versions)
			return nil
		}
		positions[i] = int(at)
	}
	return positions
}

func decodeWrites(r *wire.Reader) []base.Write {
	n := r.Count(base.HardMaxBatchOps, 3)
	if n == 0 {
		return nil
	}
	writes := make([]base.Write, n)
	for i := range writes {
		decodeWrite(r, &writes[i])
	}
	return writes
}

func decodeWrite(r *wire.Reader, w *base.Write) {
	head := r.Byte()
	w.Kind, w.Cond.Kind = base.WriteKind(head>>4), base.CondKind(head&15)
	if w.Kind > base.WriteCheck || w.Cond.Kind > base.CondPresent {
		r.Fail("unknown write %#x", head)
	}
	w.Key = decodeKey(r)
	if w.Cond.Kind == base.CondVersion {
		w.Cond.Version = base.Version(r.Uint64())
	}
	if w.Kind == base.WritePut {
		ttl := r.Uvarint()
		if ttl > math.MaxInt64/uint64(time.Microsecond) {
			r.Fail("ttl of %d us", ttl)
		}
		w.TTL = time.Duration(ttl) * time.Microsecond
		w.Value = r.Bytes(base.HardMaxValueBytes)
	}
}

func decodeKey(r *wire.Reader) base.Key {
	return base.Key{Primary: r.String(maxBound), Secondary: r.String(maxBound)}
}
