package metrics

import (
	"cmp"
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

const (
	// hotTracked is how many keys are tracked. SpaceSaving finds every key
	// with more than 1/hotTracked of all touches; with the longest keys it
	// costs 2 MiB.
	hotTracked = 512
	// hotHalfLife is how long it takes until a touch weighs half.
	hotHalfLife = 30 * time.Second
	// hotWindow is the period over which the sampling rate is adapted, and
	// hotSamples how many samples are wanted in one at most: at half a
	// microsecond each they take 0.1 % of one core.
	hotWindow  = time.Second
	hotSamples = 2000
	// hotMaxShift bounds the sampling to 1 in 65536.
	hotMaxShift = 16
)

// hotKeys finds the keys that are touched most, with the SpaceSaving sketch
// (Metwally, Agrawal, El Abbadi 2005) over a sample of the touches. At low
// rates each touch is sampled; the rate is halved whenever there are too many
// samples in a window. Counts decay with a half-life.
type hotKeys struct {
	shift atomic.Uint32 // one touch in 1<<shift is sampled

	// mu protects the fields below. touch never waits for it.
	mu      sync.Mutex
	epoch   time.Time
	entries map[base.Key]*hotEntry
	heap    hotHeap       // the least count first
	decayed time.Duration // when counts were last halved, since epoch
	window  time.Duration // when the present window began, since epoch
	samples int           // in the present window
}

// hotEntry is one tracked key. Its count is at most over too high, but for
// the noise of sampling.
type hotEntry struct {
	key      base.Key
	count    float64
	over     float64
	variance float64 // of count, from sampling
	index    int     // in the heap
}

func (h *hotKeys) init() {
	h.epoch = time.Now()
	h.entries = make(map[base.Key]*hotEntry, hotTracked)
}

// touch counts key if it is sampled. A sample that would have to wait for
// another is dropped: that thins out all keys alike.
func (h *hotKeys) touch(key base.Key) {
	shift := h.shift.Load()
	if rand.Uint32()&(1<<shift-1) != 0 || !h.mu.TryLock() {
		return
	}
	defer h.mu.Unlock()
	now := time.Since(h.epoch)
	h.adapt(now)
	h.decay(now)
	h.add(key, float64(uint32(1)<<shift))
}

// adapt counts a sample and chooses the sampling rate.
// REQUIRES: mu is held.
func (h *hotKeys) adapt(now time.Duration) {
	h.samples++
	shift := h.shift.Load()
	switch {
	case h.samples > hotSamples:
		h.shift.Store(min(shift+1, hotMaxShift))
	case now-h.window < hotWindow:
		return
	case h.samples < hotSamples/4 && shift > 0:
		h.shift.Store(shift - 1)
	}
	h.window, h.samples = now, 0
}

// decay halves all counts once for each half-life that has passed.
// REQUIRES: mu is held.
func (h *hotKeys) decay(now time.Duration) {
	halvings := int((now - h.decayed) / hotHalfLife)
	if halvings == 0 {
		return
	}
	h.decayed += time.Duration(halvings) * hotHalfLife
	factor := math.Ldexp(1, -halvings)
	for _, e := range h.heap { // keeps the order, so the heap stays one
		e.count *= factor
		e.over *= factor
		e.variance *= factor * factor
	}
	for len(h.heap) > 0 && h.heap[0].count < 0.5 {
		delete(h.entries, h.heap[0].key)
		heap.Pop(&h.heap)
	}
}

// add counts weight touches of key. A key that is not tracked takes the place
// of the one with the least count, and inherits that count as its error.
// REQUIRES: mu is held.
func (h *hotKeys) add(key base.Key, weight float64) {
	e := h.entries[key]
	switch {
	case e != nil:
	case len(h.heap) < hotTracked:
		e = &hotEntry{index: len(h.heap)}
		heap.Push(&h.heap, e)
		h.track(e, key)
	default:
		e = h.heap[0]
		delete(h.entries, e.key)
		e.over, e.variance = e.count, 0
		h.track(e, key)
	}
	e.count += weight
	e.variance += weight * (weight - 1)
	heap.Fix(&h.heap, e.index)
}

// track makes e the entry of key, which it copies: the caller's strings may
// be parts of something large.
func (h *hotKeys) track(e *hotEntry, key base.Key) {
	e.key = base.Key{Primary: strings.Clone(key.Primary), Secondary: strings.Clone(key.Secondary)}
	h.entries[e.key] = e
}

// top returns the k hottest keys.
func (h *hotKeys) top(k int) []base.HotKey {
	h.mu.Lock()
	h.decay(time.Since(h.epoch))
	keys := make([]base.HotKey, 0, len(h.heap))
	for _, e := range h.heap {
		// Three standard deviations of the sampling on top of the bound.
		over := min(e.over+3*math.Sqrt(e.variance), e.count)
		keys = append(keys, base.HotKey{Key: e.key, Count: uint64(math.Round(e.count)), Error: uint64(math.Ceil(over))})
	}
	h.mu.Unlock()
	slices.SortFunc(keys, func(a, b base.HotKey) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), a.Key.Compare(b.Key))
	})
	return keys[:min(max(k, 0), len(keys))]
}

// hotHeap is a heap.Interface that keeps each entry's index.
type hotHeap []*hotEntry

func (h hotHeap) Len() int           { return len(h) }
func (h hotHeap) Less(i, j int) bool { return h[i].count < h[j].count }
func (h hotHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *hotHeap) Push(x any) { *h = append(*h, x.(*hotEntry)) }
func (h *hotHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return last
}
