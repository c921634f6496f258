package metrics

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/distributedcache/cache/internal/base"
)

// Collector exposes a Set, and the sizes that a snapshot function returns, as
// Prometheus metrics. Every metric has the label "node".
type Collector struct {
	set   *Set
	stats func() base.Stats

	operations *prometheus.Desc
	durations  *prometheus.Desc
	slow       *prometheus.Desc
	alerts     *prometheus.Desc
	gauges     []gauge
}

// gauge is a metric that is read from base.Stats.
type gauge struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*base.Stats) float64
}

// NewCollector returns a collector over the set and what stats returns, which
// is called once per scrape and must be safe for concurrent use. It ignores
// Stats.Ops.
func NewCollector(set *Set, stats func() base.Stats) *Collector {
	labels := prometheus.Labels{"node": set.node}
	desc := func(name, help string, variable ...string) *prometheus.Desc {
		return prometheus.NewDesc("cache_"+name, help, variable, labels)
	}
	c := &Collector{
		set:        set,
		stats:      stats,
		operations: desc("operations_total", "Operations by kind and outcome.", "op", "outcome"),
		durations:  desc("operation_duration_seconds", "How long operations took.", "op"),
		slow:       desc("slow_operations_total", "Operations that took longer than the slow-operation limit."),
		alerts:     desc("alert_active", "1 for each active alert.", "alert"),
	}
	for _, f := range fields() {
		c.gauges = append(c.gauges, gauge{desc(f.name, f.help), f.kind, f.value})
	}
	return c
}

// Register registers a collector with reg and returns the function that takes
// it out again. Two caches can share a Registerer if their nodes have
// different names; a second one with the same name gives an error that wraps
// base.ErrInvalid. A nil reg is allowed and does nothing.
func (s *Set) Register(reg prometheus.Registerer, stats func() base.Stats) (unregister func(), err error) {
	if reg == nil {
		return func() {}, nil
	}
	c := NewCollector(s, stats)
	if err := reg.Register(c); err != nil {
		return nil, fmt.Errorf("%w: registering the metrics of node %q: %w", base.ErrInvalid, s.node, err)
	}
	return func() { reg.Unregister(c) }, nil
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.operations, c.durations, c.slow, c.alerts} {
		ch <- d
	}
	for _, g := range c.gauges {
		ch <- g.desc
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	for op := range numOps {
		h := c.set.histogram(op)
		c.collectOp(ch, op, &h)
	}
	emit(ch, c.slow, prometheus.CounterValue, float64(c.set.slowN.Load()))
	for _, alert := range c.set.Alerts() {
		emit(ch, c.alerts, prometheus.GaugeValue, 1, alert.Name)
	}
	stats := c.stats()
	for _, g := range c.gauges {
		emit(ch, g.desc, g.kind, g.value(&stats))
	}
}

// collectOp emits the metrics of one kind of operation. Outcomes that never
// happened are left out, but for "ok", so that rates start from 0.
func (c *Collector) collectOp(ch chan<- prometheus.Metric, op Op, h *histogram) {
	for o, name := range outcomeNames() {
		if n := h.outcomes[o]; n > 0 || outcome(o) == outcomeOK {
			emit(ch, c.operations, prometheus.CounterValue, float64(n), op.String(), name)
		}
	}
	m, err := prometheus.NewConstHistogram(c.durations, h.count, h.sum.Seconds(), h.cumulative(), op.String())
	if err != nil {
		m = prometheus.NewInvalidMetric(c.durations, err)
	}
	ch <- m
}

// The exposed buckets are the powers of two of nanoseconds from 2^10 (about
// 1 us) to 2^34 (about 17 s).
const (
	exposedMinBits = 10
	exposedMaxBits = 34
)

// cumulative returns the exposed buckets: how many observations were at most
// so many seconds.
func (h *histogram) cumulative() map[float64]uint64 {
	buckets := make(map[float64]uint64, exposedMaxBits-exposedMinBits+1)
	total, next := uint64(0), 0
	for exp := exposedMinBits; exp <= exposedMaxBits; exp++ {
		le := time.Duration(1) << exp
		for ; next < numBuckets && upperBound(next) <= le; next++ {
			total += h.buckets[next]
		}
		buckets[le.Seconds()] = total
	}
	return buckets
}

func emit(ch chan<- prometheus.Metric, d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
	m, err := prometheus.NewConstMetric(d, kind, v, labels...)
	if err != nil {
		m = prometheus.NewInvalidMetric(d, err)
	}
	ch <- m
}
