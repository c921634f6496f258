package metrics_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/metrics"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// stats returns the counters of one kind of operation.
func stats(t *testing.T, s *metrics.Set, op metrics.Op) base.OpStats {
	t.Helper()
	for _, st := range s.Ops() {
		if st.Op == op.String() {
			return st
		}
	}
	t.Fatalf("no statistics of %v", op)
	return base.OpStats{}
}

func TestOpsCountsAnswersAndErrorsApart(t *testing.T) {
	s := metrics.New(metrics.Config{})
	wrapped := &base.Error{Op: "get", Err: fmt.Errorf("%w: x", base.ErrNotFound)}
	for _, err := range []error{nil, nil, wrapped, &base.VersionError{}, base.ErrOverloaded, errors.New("odd")} {
		s.Observe(metrics.OpGet, time.Millisecond, err)
	}
	s.Observe(metrics.Op(200), time.Millisecond, nil) // ignored
	got := stats(t, s, metrics.OpGet)
	if got.Count != 6 || got.Errors != 2 || got.Max != time.Millisecond {
		t.Fatalf("got %+v, want 6 operations, 2 errors, max 1ms", got)
	}
	if p := stats(t, s, metrics.OpPut); p != (base.OpStats{Op: "put"}) {
		t.Fatalf("put was never called: %+v", p)
	}
}

func TestQuantilesAreWithinAnEighth(t *testing.T) {
	r := testkit.Rand(t)
	s := metrics.New(metrics.Config{})
	// 98 % around d, 2 % around 100 d: the median and the 99th percentile are
	// far apart.
	d := time.Duration(1_000 + r.IntN(1_000_000))
	for i := range 10_000 {
		x := d
		if i%50 == 0 {
			x = 100 * d
		}
		s.Observe(metrics.OpPut, x, nil)
	}
	got := stats(t, s, metrics.OpPut)
	near := func(got, want time.Duration) bool { return got >= want*3/4 && got <= want*5/4 }
	if !near(got.P50, d) || !near(got.P99, 100*d) || got.Max != 100*d {
		t.Fatalf("p50 %v p99 %v max %v, want about %v, %v, %v", got.P50, got.P99, got.Max, d, 100*d, 100*d)
	}
}

func TestExtremeDurations(t *testing.T) {
	s := metrics.New(metrics.Config{})
	for _, d := range []time.Duration{-time.Second, 0, 1, time.Hour, 1 << 62} {
		s.Observe(metrics.OpView, d, nil)
	}
	if got := stats(t, s, metrics.OpView); got.Count != 5 || got.P99 > got.Max || got.Max != 1<<62 {
		t.Fatalf("%+v", got)
	}
}

func TestObserveIsConcurrentAndLosesNothing(t *testing.T) {
	const workers, each = 8, 2_000
	s := metrics.New(metrics.Config{SlowOp: time.Nanosecond})
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				key := base.K("p", strconv.Itoa(i%10))
				s.Done(metrics.OpPut, s.Start(), key, 1, nil)
				s.TouchKey(key)
				if w == 0 && i%100 == 0 {
					s.Ops()
					s.Hot(3)
					s.SlowOps(10)
				}
			}
		})
	}
	wg.Wait()
	if got := stats(t, s, metrics.OpPut).Count; got != workers*each {
		t.Fatalf("%d operations, want %d", got, workers*each)
	}
}

func TestSlowOps(t *testing.T) {
	var log bytes.Buffer
	clock := testkit.NewClock(time.Time{})
	s := metrics.New(metrics.Config{
		SlowOp: time.Nanosecond,
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Clock:  clock.Now,
	})
	long := strings.Repeat("k", 3000)
	s.Slow(base.SlowOp{Op: "get", Key: base.K("p", long), Keys: 1, Duration: time.Second, Err: strings.Repeat("é", 1000)})
	for i := range 400 {
		s.Slow(base.SlowOp{Op: "put", Key: base.K("p", strconv.Itoa(i)), Keys: 1, Duration: time.Second})
	}
	ops := s.SlowOps(1000)
	if len(ops) != 256 || ops[0].Key != base.K("p", "399") || ops[255].Key != base.K("p", "144") {
		t.Fatalf("%d operations kept, the latest %v", len(ops), ops[0].Key)
	}
	if !ops[0].At.Equal(clock.Now()) {
		t.Errorf("dated %v", ops[0].At)
	}
	if got := s.SlowOps(2); len(got) != 2 || len(s.SlowOps(-1)) != 0 {
		t.Errorf("asked for 2, got %d", len(got))
	}
	lines := strings.Count(log.String(), "SLOW")
	if lines < 10 || lines > 100 { // 10 for each second that this test takes
		t.Errorf("%d lines logged", lines)
	}
	if first, _, _ := strings.Cut(log.String(), "\n"); len(first) > 1000 {
		t.Errorf("a line of %d bytes", len(first))
	}
}

func TestDoneKeepsOnlySlowOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := metrics.New(metrics.Config{SlowOp: time.Second})
		off := metrics.New(metrics.Config{})
		for _, d := range []time.Duration{time.Millisecond, time.Second, 2 * time.Second} {
			m, n := s.Start(), off.Start()
			time.Sleep(d)
			s.Done(metrics.OpGet, m, base.K("p", d.String()), 1, context.DeadlineExceeded)
			off.Done(metrics.OpGet, n, base.Key{}, 1, nil)
		}
		ops := s.SlowOps(10)
		if len(ops) != 2 || ops[0].Duration != 2*time.Second || ops[0].Err == "" || ops[0].Op != "get" {
			t.Fatalf("%+v", ops)
		}
		if len(off.SlowOps(10)) != 0 {
			t.Fatal("slow operations without a limit")
		}
	})
}

func TestHotKeysFindsTheHottest(t *testing.T) {
	r := testkit.Rand(t)
	s := metrics.New(metrics.Config{})
	const touches = 400_000
	exact := map[string]int{}
	for range touches {
		// 30 % of the touches on three keys, the others on a million.
		name := strconv.Itoa(r.IntN(1_000_000))
		if x := r.IntN(100); x < 15 {
			name = "hot"
		} else if x < 25 {
			name = "warm"
		} else if x < 30 {
			name = "mild"
		}
		exact[name]++
		s.TouchKey(base.K(name, ""))
	}
	hot := s.Hot(3)
	for i, want := range []string{"hot", "warm", "mild"} {
		if i >= len(hot) || hot[i].Key.Primary != want {
			t.Fatalf("hottest keys %v, want hot, warm, mild", hot)
		}
		low := hot[i].Count - hot[i].Error
		if n := uint64(exact[want]); n < low*9/10 || n > (hot[i].Count+hot[i].Error)*11/10 {
			t.Errorf("%s: %d touches, estimated %+v", want, n, hot[i])
		}
	}
	if got := len(s.Hot(1 << 20)); got > 512 {
		t.Errorf("%d keys tracked", got)
	}
}

func TestHotKeysAreExactAtLowRates(t *testing.T) {
	s := metrics.New(metrics.Config{})
	for i := range 300 {
		s.TouchKey(base.K("p", strconv.Itoa(i%3*i%2)))
	}
	total := uint64(0)
	for _, h := range s.Hot(10) {
		total += h.Count
		if h.Error != 0 {
			t.Errorf("%+v: an error although every touch was sampled", h)
		}
	}
	if total != 300 || len(s.Hot(0)) != 0 {
		t.Errorf("%d touches counted, want 300", total)
	}
}

func TestHotKeysDecay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := metrics.New(metrics.Config{})
		for range 64 {
			s.TouchKey(base.K("old", ""))
		}
		time.Sleep(2 * time.Minute)
		for range 10 {
			s.TouchKey(base.K("new", ""))
		}
		if hot := s.Hot(2); len(hot) != 2 || hot[0].Key.Primary != "new" || hot[1].Count != 4 {
			t.Fatalf("%+v, want new before old with 4", hot)
		}
		time.Sleep(time.Hour)
		if hot := s.Hot(2); len(hot) != 0 {
			t.Fatalf("still hot after an hour: %+v", hot)
		}
	})
}

func TestAlerts(t *testing.T) {
	clock := testkit.NewClock(time.Time{})
	var told []string
	var s *metrics.Set
	s = metrics.New(metrics.Config{Clock: clock.Now, OnAlert: func(a base.Alert) {
		told = append(told, fmt.Sprint(a.Name, " ", a.Active))
		if a.Name == "disk" && a.Active {
			s.Raise("nested", "raised by the listener") // must not deadlock
		}
	}})
	s.Raise("disk", "nearly full")
	clock.Advance(time.Second)
	s.Raise("clock", "is off")
	s.Raise("disk", "quite full") // only the message is new
	s.Clear("clock")
	s.Clear("clock")
	s.Clear("unknown")
	want := "[disk true nested true clock true clock false]"
	if got := fmt.Sprint(told); got != want {
		t.Errorf("told %v, want %v", got, want)
	}
	active := s.Alerts()
	if len(active) != 2 || active[0].Name != "disk" || active[0].Message != "quite full" || !active[0].Active {
		t.Errorf("active: %+v", active)
	}
	for i := range 1000 {
		s.Raise(strconv.Itoa(i), "flood")
	}
	if n := len(s.Alerts()); n != 256 {
		t.Errorf("%d alerts active, want the bound of 256", n)
	}
}

func TestAlertsToldInOrder(t *testing.T) {
	var told []bool // the listener is called one at a time, so no lock
	s := metrics.New(metrics.Config{OnAlert: func(a base.Alert) { told = append(told, a.Active) }})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				s.Raise("a", "m")
				s.Clear("a")
			}
		})
	}
	wg.Wait()
	for i, active := range told {
		if active != (i%2 == 0) {
			t.Fatalf("change %d of %d tells active=%v", i, len(told), active)
		}
	}
	if len(told) == 0 || len(told)%2 != 0 {
		t.Fatalf("%d changes told", len(told))
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	s := metrics.New(metrics.Config{SlowOp: time.Hour})
	key := base.K("p", "s")
	s.TouchKey(key)
	var err error = &base.Error{Op: "get", Err: base.ErrNotFound}
	if n := testing.AllocsPerRun(1000, func() {
		s.TouchKey(key)
		s.Done(metrics.OpGet, s.Start(), key, 1, nil)
		s.Observe(metrics.OpGet, time.Microsecond, err)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
