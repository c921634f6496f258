package metrics

import (
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

const (
	// slowKept is how many slow operations are kept; with the longest keys
	// they take 1.5 MiB.
	slowKept = 256
	// slowLines is how many of them are logged in one second. When a disk
	// stalls, everything is slow, and a line for each would make it worse.
	slowLines = 10
	// slowKeyBytes is how much of a key a log line shows.
	slowKeyBytes = 128
	// slowErrBytes is how much of an error is kept.
	slowErrBytes = 256
)

// slowLog is a ring of the latest slow operations.
type slowLog struct {
	logger *slog.Logger
	clock  base.Clock
	epoch  time.Time

	// mu protects the fields below. It is not held while a line is logged.
	mu         sync.Mutex
	ring       []base.SlowOp // up to slowKept; then next is the oldest
	next       int
	second     time.Duration // the one that lines counts, since epoch
	lines      int
	suppressed int // lines not logged since the last one that was
}

func (l *slowLog) init(logger *slog.Logger, clock base.Clock) {
	l.logger, l.clock, l.epoch = logger, clock, time.Now()
}

func (l *slowLog) record(op base.SlowOp) {
	if op.At.IsZero() {
		op.At = l.clock()
	}
	op.Key = base.Key{Primary: strings.Clone(op.Key.Primary), Secondary: strings.Clone(op.Key.Secondary)}
	op.Err = cut(op.Err, slowErrBytes)
	suppressed, ok := l.keep(op)
	if !ok {
		return
	}
	l.logger.Warn("SLOW operation",
		"op", op.Op, "key", cut(op.Key.String(), slowKeyBytes), "keys", op.Keys,
		"duration", op.Duration, "error", op.Err, "suppressed", suppressed)
}

// keep puts op into the ring and reports whether to log it, and how many were
// not logged before it.
func (l *slowLog) keep(op base.SlowOp) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < slowKept {
		l.ring = append(l.ring, op)
	} else {
		l.ring[l.next] = op
	}
	l.next = (l.next + 1) % slowKept

	if second := time.Since(l.epoch).Truncate(time.Second); second != l.second {
		l.second, l.lines = second, 0
	}
	if l.lines >= slowLines {
		l.suppressed++
		return 0, false
	}
	l.lines++
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}

func (l *slowLog) latest(k int) []base.SlowOp {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(max(k, 0), len(l.ring))
	ops := make([]base.SlowOp, n)
	for i := range ops {
		ops[i] = l.ring[(l.next-1-i+slowKept)%slowKept]
	}
	return ops
}

// cut returns at most n bytes of s, valid UTF-8, in memory of its own.
func cut(s string, n int) string {
	if len(s) <= n {
		return strings.Clone(s)
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
