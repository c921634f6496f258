package metrics_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/metrics"
)

func BenchmarkObserve(b *testing.B) {
	s := metrics.New(metrics.Config{})
	b.Run("serial", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Observe(metrics.OpGet, 700*time.Nanosecond, nil)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				s.Observe(metrics.OpGet, 700*time.Nanosecond, nil)
			}
		})
	})
	b.Run("notfound", func(b *testing.B) {
		b.ReportAllocs()
		var err error = &base.Error{Op: "get", Err: base.ErrNotFound}
		for b.Loop() {
			s.Observe(metrics.OpGet, 700*time.Nanosecond, err)
		}
	})
}

// BenchmarkStartDone is what an operation pays for its latency: two readings
// of the clock and Observe.
func BenchmarkStartDone(b *testing.B) {
	s := metrics.New(metrics.Config{SlowOp: time.Hour})
	key := base.K("p", "s")
	b.ReportAllocs()
	for b.Loop() {
		s.Done(metrics.OpGet, s.Start(), key, 1, nil)
	}
}

func BenchmarkTouchKey(b *testing.B) {
	s := metrics.New(metrics.Config{})
	keys := make([]base.Key, 10_000)
	for i := range keys {
		keys[i] = base.K("user:"+strconv.Itoa(i), "balance")
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			s.TouchKey(keys[i%len(keys)])
		}
	})
}

func BenchmarkCollect(b *testing.B) {
	s := metrics.New(metrics.Config{})
	s.Observe(metrics.OpGet, time.Microsecond, nil)
	for b.Loop() {
		s.Ops()
	}
}
