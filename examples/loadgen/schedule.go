package main

import (
	"math/rand/v2"
	"sync"
	"time"
)

// lateStart is how much later than intended a call may start before it counts as
// late. Timers of the Go runtime alone may be more than a millisecond late on a
// machine that is otherwise idle.
const lateStart = 2 * time.Millisecond

// schedule says when calls are to be started in an open loop: independently of
// when earlier calls end. A call that is started late because earlier ones took
// long is as late for whoever wanted it, so its latency counts from here: what
// Gil Tene named coordinated omission is to leave that out.
type schedule struct {
	to  time.Time
	gap float64 // nanoseconds

	mu     sync.Mutex // protects the fields below
	random *rand.Rand // nil if all gaps are the same
	base   time.Time
	count  int64     // starts since base, for even gaps
	next   time.Time // for random gaps
}

// newSchedule returns the starts from..to at so many a second. A random source
// makes the gaps exponential: calls of many users who do not know one another.
func newSchedule(from, to time.Time, perSecond float64, random *rand.Rand) *schedule {
	return &schedule{to: to, gap: float64(time.Second) / perSecond, random: random, base: from, next: from}
}

// take returns the next start; false if there are no more.
func (s *schedule) take() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.next
	if !at.Before(s.to) {
		return time.Time{}, false
	}
	if s.random != nil {
		s.next = at.Add(time.Duration(s.random.ExpFloat64() * s.gap))
	} else {
		s.count++
		s.next = s.base.Add(time.Duration(float64(s.count) * s.gap))
	}
	return at, true
}
