package main

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// workload says what each generator does. A child process gets it as JSON.
type workload struct {
	Mix          mix     `json:"mix"`
	Keys         int     `json:"keys"`
	ValueBytes   int     `json:"value_bytes"`
	Distribution string  `json:"distribution"`
	Theta        float64 `json:"theta"`
	HotKeys      float64 `json:"hot_keys"`
	HotOps       float64 `json:"hot_ops"`
	Accounts     int     `json:"accounts"`

	// Clients are at work at once in each generator. Rate is how many operations
	// all generators together start in a second, whether or not earlier ones have
	// ended; 0 is a closed loop: each client starts one when its last has ended.
	Clients  int     `json:"clients"`
	Rate     float64 `json:"rate"`
	Arrivals string  `json:"arrivals"`

	Consistency string        `json:"consistency"`
	MaxStale    time.Duration `json:"max_stale_ns"`
	WarmUp      time.Duration `json:"warm_up_ns"`
	Duration    time.Duration `json:"duration_ns"`
	Timeout     time.Duration `json:"timeout_ns"`
	Seed        uint64        `json:"seed"`
}

// The values of --consistency and --arrivals.
const (
	linearizable    = "linearizable"
	stale           = "stale"
	arrivalsEven    = "even"
	arrivalsPoisson = "poisson"
)

// The bounds of a workload. Each client is a goroutine; each second of a run at the highest rate is as many draws of a start.
const (
	maxKeys       = 100_000_000
	maxValueBytes = 1 << 20
	minAccounts   = 2
	maxAccounts   = 100_000 // all are read in one transaction
	maxClients    = 10_000
	maxRate       = 10_000_000
	maxTheta      = 5
	maxDuration   = 24 * time.Hour

	defaultClients     = 64
	defaultOpenClients = 512
)

// checker collects the faults of flags.
type checker struct{ faults []error }

func (c *checker) want(ok bool, format string, args ...any) {
	if !ok {
		c.faults = append(c.faults, fmt.Errorf(format, args...))
	}
}

func (c *checker) within(name string, n, low, high int) {
	c.want(n >= low && n <= high, "--%s is %d; want %d to %d", name, n, low, high)
}

func (c *checker) lasts(name string, d, low, high time.Duration) {
	c.want(d >= low && d <= high, "--%s is %v; want %v to %v", name, d, low, high)
}

func (c *checker) oneOf(name, value string, values ...string) {
	c.want(slices.Contains(values, value), "--%s is %q; want one of %q", name, value, values)
}

func (c *checker) err() error {
	if err := errors.Join(c.faults...); err != nil {
		return usageError{err}
	}
	return nil
}

// check adds what is wrong with w.
func (w *workload) check(c *checker) {
	c.within("keys", w.Keys, 1, maxKeys)
	if w.Mix.has(opMultiGet, opMultiPut, opScan) {
		c.want(w.Keys >= scanSize, "--keys is %d; batches and scans across primaries want at least %d", w.Keys, scanSize)
	}
	c.within("value-bytes", w.ValueBytes, 0, maxValueBytes)
	c.oneOf("dist", w.Distribution, distUniform, distZipf, distHotSet)
	c.want(w.Theta >= 0 && w.Theta <= maxTheta, "--theta is %v; want 0 to %v", w.Theta, maxTheta)
	c.want(w.HotKeys > 0 && w.HotKeys <= 1, "--hot-keys is %v; want a part of 1", w.HotKeys)
	c.want(w.HotOps >= 0 && w.HotOps <= 1, "--hot-ops is %v; want a part of 1", w.HotOps)
	c.within("accounts", w.Accounts, minAccounts, maxAccounts)
	c.within("clients", w.Clients, 1, maxClients)
	c.want(w.Rate >= 0 && w.Rate <= maxRate, "--rate is %v; want 0 (closed loop) to %d", w.Rate, maxRate)
	c.oneOf("arrivals", w.Arrivals, arrivalsEven, arrivalsPoisson)
	c.oneOf("consistency", w.Consistency, linearizable, stale)
	c.lasts("max-stale", w.MaxStale, 0, time.Hour)
	c.lasts("warmup", w.WarmUp, 0, time.Hour)
	c.lasts("for", w.Duration, 100*time.Millisecond, maxDuration)
	c.lasts("timeout", w.Timeout, 10*time.Millisecond, 10*time.Minute)
}

// interval is how long each count of the throughput over time is for: fine
// enough to see something, and a few hundred at most.
func (w *workload) interval() time.Duration {
	return max(100*time.Millisecond, w.Duration/300)
}
