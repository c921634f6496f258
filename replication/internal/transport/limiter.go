package transport

import (
	"sync"
	"time"
)

// limiter spreads bytes over time. Whoever is to send waits until all before
// it would have been sent at the rate, so there is no burst to catch up with
// after a pause.
type limiter struct {
	perSecond int64 // 0 is no limit

	mu struct {
		sync.Mutex
		free time.Time // when all that was reserved so far is sent
	}
}

func newLimiter(perSecond int64) *limiter { return &limiter{perSecond: perSecond} }

// reserve takes n bytes and returns how long to wait before sending them.
func (l *limiter) reserve(n int, now time.Time) time.Duration {
	if l.perSecond <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.free.Before(now) {
		l.mu.free = now
	}
	wait := l.mu.free.Sub(now)
	l.mu.free = l.mu.free.Add(time.Duration(float64(n) / float64(l.perSecond) * float64(time.Second)))
	return wait
}

// wait waits until n bytes may be sent. It reports false if done was closed
// before that.
func (l *limiter) wait(done <-chan struct{}, n int) bool {
	pause := l.reserve(n, time.Now())
	if pause <= 0 {
		return true
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	}
}
