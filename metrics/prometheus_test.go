package metrics_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/metrics"
)

// gather returns the metric families by name.
func gather(t *testing.T, reg prometheus.Gatherer) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]*dto.MetricFamily{}
	for _, f := range families {
		byName[f.GetName()] = f
	}
	return byName
}

// value returns the number of the metric of this family that has all these
// labels, as name=value.
func value(t *testing.T, f *dto.MetricFamily, labels ...string) float64 {
	t.Helper()
	for _, m := range f.GetMetric() {
		have := map[string]bool{}
		for _, l := range m.GetLabel() {
			have[l.GetName()+"="+l.GetValue()] = true
		}
		match := true
		for _, l := range labels {
			match = match && have[l]
		}
		if match {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	t.Fatalf("%s has no metric with %v", f.GetName(), labels)
	return 0
}

func noStats() base.Stats { return base.Stats{} }

func TestCollector(t *testing.T) {
	s := metrics.New(metrics.Config{Node: "n1"})
	reg := prometheus.NewPedanticRegistry()
	unregister, err := s.Register(reg, func() base.Stats {
		return base.Stats{InFlight: 7, Storage: base.StorageStats{WALBytes: 99}}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []time.Duration{time.Nanosecond, time.Millisecond, 1024, time.Hour} {
		s.Observe(metrics.OpGet, d, nil)
	}
	s.Observe(metrics.OpGet, time.Second, base.ErrOverloaded)
	s.Slow(base.SlowOp{Op: "get"})
	s.Raise("disk_reserve", "low")

	got := gather(t, reg)
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"cache_operations_total", []string{"op=get", "outcome=ok", "node=n1"}, 4},
		{"cache_operations_total", []string{"op=get", "outcome=overloaded"}, 1},
		{"cache_operations_total", []string{"op=put", "outcome=ok"}, 0},
		{"cache_operation_duration_seconds", []string{"op=get"}, 5},
		{"cache_slow_operations_total", nil, 1},
		{"cache_alert_active", []string{"alert=disk_reserve"}, 1},
		{"cache_in_flight_writes", []string{"node=n1"}, 7},
		{"cache_storage_wal_bytes", nil, 99},
	} {
		if v := value(t, got[c.name], c.labels...); v != c.want {
			t.Errorf("%s%v = %v, want %v", c.name, c.labels, v, c.want)
		}
	}
	checkHistogram(t, got["cache_operation_duration_seconds"])
	unregister()
	if left := gather(t, reg); len(left) != 0 {
		t.Errorf("%d families left after unregister", len(left))
	}
}

// checkHistogram wants the buckets of "get" to rise and to hold what
// TestCollector observed.
func checkHistogram(t *testing.T, f *dto.MetricFamily) {
	t.Helper()
	for _, m := range f.GetMetric() {
		if !strings.Contains(m.String(), `"get"`) {
			continue
		}
		last := uint64(0)
		for i, b := range m.GetHistogram().GetBucket() {
			if b.GetCumulativeCount() < last {
				t.Errorf("bucket %d falls", i)
			}
			last = b.GetCumulativeCount()
			if i == 0 && last != 2 { // 1 ns and exactly 1024 ns
				t.Errorf("first bucket le=%v holds %d, want 2", b.GetUpperBound(), last)
			}
		}
		if last != 4 { // not the hour
			t.Errorf("buckets hold %d, want 4", last)
		}
		return
	}
	t.Error("no histogram of get")
}

func TestRegisterTwoNodes(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	one, two, twin := metrics.New(metrics.Config{Node: "1"}), metrics.New(metrics.Config{Node: "2"}), metrics.New(metrics.Config{Node: "1"})
	un1, err := one.Register(reg, noStats)
	if err != nil {
		t.Fatal(err)
	}
	un2, err := two.Register(reg, noStats)
	if err != nil {
		t.Fatalf("a second node in one registry: %v", err)
	}
	if _, err := twin.Register(reg, noStats); !errors.Is(err, base.ErrInvalid) {
		t.Fatalf("a second node of one name: %v", err)
	}
	two.Observe(metrics.OpPut, time.Second, nil)
	ops := gather(t, reg)["cache_operations_total"]
	if value(t, ops, "node=1", "op=put") != 0 || value(t, ops, "node=2", "op=put") != 1 {
		t.Error("the two nodes are mixed up")
	}
	un1()
	if un3, err := twin.Register(reg, noStats); err != nil {
		t.Errorf("the name is not free after unregister: %v", err)
	} else {
		un3()
	}
	un2()
	if un, err := one.Register(nil, noStats); err != nil {
		t.Error(err)
	} else {
		un()
	}
}
