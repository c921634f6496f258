package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distributedcache/cache"
	"github.com/distributedcache/cache/internal/testkit"
)

// fake is a caller that takes its time. These tests run on synctest's clock: all
// that passes is what they sleep.
type fake struct {
	took  func(n int64) time.Duration
	calls *atomic.Int64
	err   error
}

func (f fake) next() operation { return opGet }

func (f fake) call(ctx context.Context, _ operation) error {
	n := f.calls.Add(1)
	if f.took != nil && !pause(ctx, f.took(n)) {
		return ctx.Err()
	}
	return f.err
}

func always(d time.Duration) func(int64) time.Duration {
	return func(int64) time.Duration { return d }
}

func run1(t *testing.T, w *workload, f fake) tally {
	t.Helper()
	f.calls = new(atomic.Int64)
	g := &generator{work: w, rate: w.Rate}
	for range w.Clients {
		g.callers = append(g.callers, f)
	}
	from := time.Now().Add(w.WarmUp)
	return g.run(t.Context(), window{from, from.Add(w.Duration)})
}

func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &workload{Clients: 3, WarmUp: time.Second, Duration: 10 * time.Second, Timeout: time.Minute}
		got := run1(t, w, fake{took: always(10 * time.Millisecond)})
		h := got.Ops[opGet].Latency
		if h.TotalCount() != 3000 || !about(h.at(0.5), 10*time.Millisecond) || !about(h.at(1), 10*time.Millisecond) {
			t.Errorf("%d calls, p50 %v, max %v", h.TotalCount(), h.at(0.5), h.at(1))
		}
		if got.Late != 0 || got.Missed != 0 {
			t.Errorf("%d late, %d missed", got.Late, got.Missed)
		}
		sum := int64(0)
		for _, n := range got.Timeline {
			sum += n
		}
		if len(got.Timeline) != 100 || sum < 2997 || sum > 3000 { // the last ones end at the end
			t.Errorf("%d intervals with %d calls", len(got.Timeline), sum)
		}
	})
}

// about allows what the histogram does not tell apart.
func about(got, want time.Duration) bool {
	return math.Abs(float64(got-want)) <= 0.002*float64(want)
}

// A store that stands still for a second makes everybody wait who came in that
// second, not just those whose calls were under way: coordinated omission.
func TestOpenLoopCountsFromIntendedStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &workload{Clients: 1, Rate: 100, Arrivals: arrivalsEven, Duration: 10 * time.Second, Timeout: time.Minute}
		stands := func(n int64) time.Duration {
			if n == 500 {
				return time.Second
			}
			return time.Millisecond
		}
		got := run1(t, w, fake{took: stands})
		h := got.Ops[opGet].Latency
		if h.TotalCount() != 1000 || got.Missed != 0 {
			t.Fatalf("%d calls, %d missed", h.TotalCount(), got.Missed)
		}
		// While it stands 100 starts come, a 100th of a second apart; behind them
		// it catches up by 9 ms with each.
		if slow := 1 - cumulative(h, 10*time.Millisecond); slow < 0.105 || slow > 0.115 {
			t.Errorf("%v of the calls took more than 10 ms, want 0.11", slow)
		}
		if !about(h.at(1), time.Second) || !about(h.at(0.5), time.Millisecond) {
			t.Errorf("p50 %v, max %v", h.at(0.5), h.at(1))
		}
		if got.Late < 105 || got.Late > 115 {
			t.Errorf("%d late starts", got.Late)
		}
	})
}

// cumulative returns which part of the times is at most d.
func cumulative(h histogram, d time.Duration) float64 {
	part := 0.0
	for q := 0.0; q <= 1; q += 0.0005 {
		if h.at(q) <= d {
			part = q
		}
	}
	return part
}

// Calls that outlast the whole window are not in it, and not lost either.
func TestStuckCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &workload{Clients: 3, WarmUp: time.Second, Duration: 5 * time.Second, Timeout: time.Hour}
		got := run1(t, w, fake{took: always(time.Minute), err: errors.New("at last")})
		if got.Stuck != 3 || got.StuckError != "at last" || len(got.Ops) > 0 {
			t.Errorf("%+v", got)
		}
	})
}

// What a store cannot keep up with is missed, and does not pile up.
func TestOpenLoopOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &workload{Clients: 2, Rate: 1000, Arrivals: arrivalsEven, WarmUp: time.Second, Duration: 5 * time.Second, Timeout: time.Minute}
		began := time.Now()
		got := run1(t, w, fake{took: always(100 * time.Millisecond)}) // 20 a second
		// In six seconds 120 are done; they are those that were intended first, in
		// the warm-up.
		if len(got.Ops) > 0 || got.Missed != 5000 {
			t.Errorf("%d missed, want 5000; %v", got.Missed, got.Ops)
		}
		if took := time.Since(began); took > 6200*time.Millisecond {
			t.Errorf("it took %v to end", took)
		}
	})
}

func TestPoissonArrivals(t *testing.T) {
	r := testkit.Rand(t)
	from := time.Unix(0, 0)
	const rate, seconds = 1000, 100
	s := newSchedule(from, from.Add(seconds*time.Second), rate, r)
	n, last, squares := 0, from, 0.0
	for at, ok := s.take(); ok; at, ok = s.take() {
		if at.Before(last) {
			t.Fatal("time goes backwards")
		}
		gap := at.Sub(last).Seconds() * rate
		squares += gap * gap
		last = at
		n++
	}
	if d := math.Abs(float64(n) - rate*seconds); d > 6*math.Sqrt(rate*seconds) {
		t.Errorf("%d starts, want %d", n, rate*seconds)
	}
	if m := squares / float64(n); m < 1.8 || m > 2.2 { // the second moment of an exponential
		t.Errorf("the gaps have the second moment %v, want 2", m)
	}
}

func TestEvenArrivals(t *testing.T) {
	from := time.Unix(0, 0)
	s := newSchedule(from, from.Add(time.Hour), 3, nil)
	n := 0
	for at, ok := s.take(); ok; at, ok = s.take() {
		if want := from.Add(time.Duration(n) * time.Second / 3); at.Sub(want).Abs() > time.Microsecond {
			t.Fatalf("start %d is at %v, want %v", n, at, want)
		}
		n++
	}
	if n != 3*3600 {
		t.Errorf("%d starts in an hour", n)
	}
}

// A client that was refused waits as long as the refusal says, and counts it.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &workload{Clients: 1, Duration: time.Second, Timeout: time.Minute}
		busy := &cache.Error{Op: "put", RetryAfter: 50 * time.Millisecond, Err: cache.ErrOverloaded}
		got := run1(t, w, fake{err: busy})
		if got.Ops[opGet].Samples["overloaded"] != busy.Error() {
			t.Errorf("samples: %v", got.Ops[opGet].Samples)
		}
		if n := got.Ops[opGet].Errors["overloaded"]; n != 20 || got.Ops[opGet].Latency.TotalCount() != 0 {
			t.Errorf("refused %d times, want 20: %v", n, got.Ops[opGet])
		}
	})
}

// Each call has a deadline, and an end of the run ends what is under way.
func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &workload{Clients: 1, Duration: 10 * time.Second, Timeout: time.Second}
		got := run1(t, w, fake{took: always(time.Hour)})
		if n := got.Ops[opGet].Errors["timeout"]; n != 10 {
			t.Errorf("%d timeouts, want 10: %v", n, got.Ops[opGet].Errors)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		began := time.Now()
		g := &generator{work: w, callers: []caller{fake{took: always(time.Hour), calls: new(atomic.Int64)}}}
		g.run(ctx, window{began, began.Add(w.Duration)})
		if took := time.Since(began); took != 1500*time.Millisecond {
			t.Errorf("it ended after %v", took)
		}
	})
}

func TestKinds(t *testing.T) {
	wrapped := func(err error) error { return &cache.Error{Err: fmt.Errorf("because: %w", err)} }
	for err, want := range map[error]string{
		wrapped(cache.ErrOverloaded): "overloaded", wrapped(cache.ErrQuota): "quota", wrapped(cache.ErrNoSpace): "no_space",
		wrapped(cache.ErrIndeterminate): "indeterminate", wrapped(cache.ErrUnavailable): "unavailable", wrapped(cache.ErrConflict): "conflict",
		context.DeadlineExceeded: "timeout", errors.New("?"): "other",
	} {
		if got := kindOf(err); got != want {
			t.Errorf("%v counts as %s, want %s", err, got, want)
		}
	}
	if retryAfter(wrapped(cache.ErrConflict)) != 0 || retryAfter(wrapped(cache.ErrOverloaded)) != minRetryPause ||
		retryAfter(&cache.Error{RetryAfter: time.Hour, Err: cache.ErrOverloaded}) != maxRetryPause {
		t.Error("pauses")
	}
	if mayBeApplied(&cache.Error{Outcome: cache.OutcomeNotApplied, Err: cache.ErrConflict}) || !mayBeApplied(wrapped(cache.ErrIndeterminate)) {
		t.Error("outcomes")
	}
}

// The audit has to notice what it is there to notice.
func TestJudge(t *testing.T) {
	right := books{Accounts: 3, Balance: 3 * openingBalance, Sent: 7}
	if !judge(right, 3, 7, 0).AddsUp || !judge(right, 3, 5, 2).AddsUp {
		t.Error("all is well, but")
	}
	for _, wrong := range []*audit{
		judge(books{3, 3*openingBalance + 1, 7}, 3, 7, 0), judge(books{2, 3 * openingBalance, 7}, 3, 7, 0),
		judge(right, 3, 8, 0), judge(right, 3, 5, 1),
	} {
		if wrong.AddsUp {
			t.Errorf("%+v", wrong)
		}
	}
}
