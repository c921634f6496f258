package metrics

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Latencies are counted in log-linear buckets: each power of two of
// nanoseconds is cut into subBuckets of equal width, so a value read back from
// the middle of its bucket is wrong by an eighth at most. Bucket i holds
// (lower, upper]; the first holds everything up to 128 ns, the last everything
// above 64 s.
const (
	subBits    = 2
	subBuckets = 1 << subBits
	minBits    = 7  // 128 ns
	maxBits    = 36 // 68.7 s
	numBuckets = 1 + (maxBits-minBits)*subBuckets + 1
)

// bucketOf returns the bucket of d.
func bucketOf(d time.Duration) int {
	if d <= 1<<minBits {
		return 0
	}
	v := uint64(d) - 1 // an upper bound belongs to its bucket
	msb := bits.Len64(v) - 1
	if msb >= maxBits {
		return numBuckets - 1
	}
	sub := int(v>>(msb-subBits)) & (subBuckets - 1)
	return 1 + (msb-minBits)<<subBits + sub
}

// upperBound returns the largest duration of bucket i.
func upperBound(i int) time.Duration {
	if i <= 0 {
		return 1 << minBits
	}
	octave, sub := (i-1)>>subBits, (i-1)&(subBuckets-1)
	low := time.Duration(1) << (minBits + octave)
	return low + low>>subBits*time.Duration(sub+1)
}

// cell counts one kind of operation in one stripe.
type cell struct {
	sum      atomic.Int64 // nanoseconds
	max      atomic.Int64
	outcomes [numOutcomes]atomic.Uint64
	buckets  [numBuckets]atomic.Uint64
	_        [64]byte // neighbours do not share a cache line
}

func (c *cell) observe(d time.Duration, o outcome) {
	c.outcomes[o].Add(1)
	c.buckets[bucketOf(d)].Add(1)
	c.sum.Add(int64(d))
	for {
		old := c.max.Load()
		if int64(d) <= old || c.max.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

// histogram is the sum of the cells of one kind of operation at one moment.
type histogram struct {
	count    uint64 // of all buckets
	sum      time.Duration
	max      time.Duration
	outcomes [numOutcomes]uint64
	buckets  [numBuckets]uint64
}

func (h *histogram) add(c *cell) {
	for i := range c.outcomes {
		h.outcomes[i] += c.outcomes[i].Load()
	}
	for i := range c.buckets {
		n := c.buckets[i].Load()
		h.buckets[i] += n
		h.count += n
	}
	h.sum += time.Duration(c.sum.Load())
	h.max = max(h.max, time.Duration(c.max.Load()))
}

func (h *histogram) errors() (n uint64) {
	for o, count := range h.outcomes {
		if outcome(o).failed() {
			n += count
		}
	}
	return n
}

// quantile returns the duration below which the fraction q of all observations
// lie, interpolated inside its bucket; 0 if there are none.
func (h *histogram) quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := q * float64(h.count)
	below := 0.0
	for i, n := range h.buckets {
		if n == 0 || below+float64(n) < rank {
			below += float64(n)
			continue
		}
		if i == numBuckets-1 {
			return h.max // the last bucket has no upper bound
		}
		low := time.Duration(0)
		if i > 0 {
			low = upperBound(i - 1)
		}
		d := low + time.Duration(float64(upperBound(i)-low)*(rank-below)/float64(n))
		return min(d, h.max)
	}
	return h.max
}
