package metrics

import (
	"log/slog"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// maxStripes bounds how many copies of the counters there are. Each takes
// about 14 KiB; beyond 16 the cores of one machine hardly meet on one.
const maxStripes = 16

// Config says what a Set is for.
type Config struct {
	// Node is the value of the label "node" of every metric.
	Node string
	// SlowOp is how long an operation may take before it is kept and logged
	// as slow; 0 = none is.
	SlowOp time.Duration
	// Logger takes the lines about slow operations and alerts; nil = silent.
	Logger *slog.Logger
	// OnAlert is called when an alert is raised and when it is cleared, one
	// call at a time and in order; nil = nobody is. It must not block.
	OnAlert func(base.Alert)
	// Clock dates slow operations and alerts; nil = time.Now. Latencies are
	// always measured with the monotonic clock.
	Clock base.Clock
}

// Set holds the instruments of one cache. All its methods are safe for
// concurrent use.
type Set struct {
	node    string
	slowOp  time.Duration
	epoch   time.Time // Marks count from here
	stripes []stripe  // a power of two of them
	mask    uint32
	slowN   atomic.Uint64

	hot    hotKeys
	slow   slowLog
	alerts alerts
}

// stripe is one copy of all counters. Operations spread over the stripes at
// random, so that cores seldom write to the same cache line; a reader adds
// the stripes up.
type stripe struct {
	ops [numOps]cell
}

// New returns an empty Set.
func New(cfg Config) *Set {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	n := stripeCount(runtime.GOMAXPROCS(0))
	s := &Set{
		node:    cfg.Node,
		slowOp:  cfg.SlowOp,
		epoch:   time.Now(),
		stripes: make([]stripe, n),
		mask:    uint32(n - 1),
	}
	s.hot.init()
	s.slow.init(cfg.Logger, cfg.Clock)
	s.alerts.init(cfg.Logger, cfg.Clock, cfg.OnAlert)
	return s
}

// stripeCount returns the smallest power of two that is not below procs, at
// most maxStripes.
func stripeCount(procs int) int {
	return min(1<<bits.Len(uint(max(procs, 1)-1)), maxStripes)
}

// Mark is a moment of the monotonic clock.
type Mark int64

// Start returns the present moment, for Done. It costs one reading of the
// monotonic clock, about half of what time.Now costs.
func (s *Set) Start() Mark { return Mark(time.Since(s.epoch)) }

// Done counts an operation that began at start and ended now with err, and
// keeps it as slow if it was. key is the key it concerned, zero if there was
// not just one; keys is how many it touched.
func (s *Set) Done(op Op, start Mark, key base.Key, keys int, err error) {
	d := time.Since(s.epoch) - time.Duration(start)
	s.Observe(op, d, err)
	if s.slowOp > 0 && d >= s.slowOp {
		s.recordSlow(op, d, key, keys, err)
	}
}

// recordSlow is apart from Done to keep that small.
func (s *Set) recordSlow(op Op, d time.Duration, key base.Key, keys int, err error) {
	slow := base.SlowOp{Op: op.String(), Key: key, Keys: keys, Duration: d}
	if err != nil {
		slow.Err = err.Error()
	}
	s.Slow(slow)
}

// Observe counts one operation that took d and ended with err.
func (s *Set) Observe(op Op, d time.Duration, err error) {
	if op >= numOps {
		return
	}
	s.stripes[rand.Uint32()&s.mask].ops[op].observe(max(d, 0), classify(err))
}

// histogram adds up the stripes of op.
func (s *Set) histogram(op Op) histogram {
	var h histogram
	for i := range s.stripes {
		h.add(&s.stripes[i].ops[op])
	}
	return h
}

// Ops returns the counters of every kind of operation since New, in a fixed
// order. That a key was not found or had another version is an answer and not
// counted in Errors. P50 and P99 are estimates, off by an eighth at most; Max
// is exact.
func (s *Set) Ops() []base.OpStats {
	stats := make([]base.OpStats, numOps)
	for op := range numOps {
		h := s.histogram(op)
		stats[op] = base.OpStats{
			Op:     op.String(),
			Count:  int64(h.count),
			Errors: int64(h.errors()),
			P50:    h.quantile(0.50),
			P99:    h.quantile(0.99),
			Max:    h.max,
		}
	}
	return stats
}

// TouchKey notes that an operation touched key. Only a sample of the calls
// does more than draw a random number.
func (s *Set) TouchKey(key base.Key) { s.hot.touch(key) }

// Hot returns up to k of the keys that were touched most in the last minutes,
// the hottest first. Counts are estimates in which each half minute weighs
// half as much as the next.
func (s *Set) Hot(k int) []base.HotKey { return s.hot.top(k) }

// Slow keeps op as a slow operation, and logs it unless too many lines were
// logged in this second. A zero At is replaced by the present time.
func (s *Set) Slow(op base.SlowOp) {
	s.slowN.Add(1)
	s.slow.record(op)
}

// SlowOps returns up to k slow operations, the latest first.
func (s *Set) SlowOps(k int) []base.SlowOp { return s.slow.latest(k) }

// Raise makes the alert called name active, with a message that says what is
// wrong and what to do. If it is active already only its message is renewed.
// Names are constants of the code: they become label values.
func (s *Set) Raise(name, message string) { s.alerts.raise(name, message) }

// Clear ends the alert called name, if it is active.
func (s *Set) Clear(name string) { s.alerts.clear(name) }

// Alerts returns the active alerts, the oldest first.
func (s *Set) Alerts() []base.Alert { return s.alerts.list() }
