package gossip

import (
	"maps"
	"sync"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// Offset is how far the clock of another node is ahead of ours.
type Offset struct {
	Offset      time.Duration
	Uncertainty time.Duration // either way; half of the round trip
	At          time.Time     // when it was measured, by our clock
}

const (
	clockVersion = 1
	// maxClocks bounds the peers whose clocks are remembered.
	maxClocks = 1024
	// driftPerSecond is by how much a measurement gets less certain with
	// each second: clocks of computers drift by a tenth of that at most.
	driftPerSecond = time.Millisecond
)

// appendClock appends what an answer to a ping says about our clock: a version
// byte and the Unix time in microseconds.
func appendClock(buf []byte, now time.Time) []byte {
	return wire.AppendUint64(append(buf, clockVersion), uint64(now.UnixMicro()))
}

// decodeClock reads what appendClock wrote.
func decodeClock(buf []byte) (time.Time, bool) {
	r := wire.NewReader(buf)
	version, micros := r.Byte(), r.Uint64()
	return time.UnixMicro(int64(micros)), r.Close() == nil && version == clockVersion
}

// measure returns what a ping that has just come back says. The reading may
// have happened at any time of the round trip. What passes between the arrival
// of the answer and now is not part of the round trip and goes unnoticed; on a
// busy machine that is some milliseconds.
func measure(remote, now time.Time, roundTrip time.Duration) Offset {
	half := max(roundTrip, 0) / 2
	return Offset{Offset: remote.Sub(now.Add(-half)), Uncertainty: half, At: now}
}

// better returns the one of two measurements of a clock to keep: the newer
// one, unless the older is more certain even at its age and they do not
// contradict one another.
func better(older, newer Offset) Offset {
	grown := older.Uncertainty + time.Duration(newer.At.Sub(older.At).Seconds()*float64(driftPerSecond))
	apart := (newer.Offset - older.Offset).Abs() > grown+newer.Uncertainty
	if apart || newer.Uncertainty <= grown || newer.At.Before(older.At) {
		return newer
	}
	return older
}

// clocks has the offsets of the peers.
type clocks struct {
	now base.Clock

	mu      sync.Mutex
	offsets map[string]Offset // by node id
}

// saw takes in an answer to a ping.
func (c *clocks) saw(id string, roundTrip time.Duration, payload []byte) {
	remote, ok := decodeClock(payload)
	if !ok {
		return
	}
	found := measure(remote, c.now(), roundTrip)
	c.mu.Lock()
	defer c.mu.Unlock()
	older, ok := c.offsets[id]
	switch {
	case ok:
		found = better(older, found)
	case len(c.offsets) >= maxClocks:
		return
	}
	c.offsets[id] = found
}

// keep forgets the clocks of all nodes but those.
func (c *clocks) keep(id func(string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.offsets, func(have string, _ Offset) bool { return !id(have) })
}

// all returns a copy of the offsets.
func (c *clocks) all() map[string]Offset {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.offsets)
}
