package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
)

// formatVersion is that of result files. It changes when a reader of the old
// would take the new for something else.
const formatVersion = 1

// result is a result file.
type result struct {
	Format  int       `json:"format"`
	Command []string  `json:"command"`
	Time    time.Time `json:"time"`
	Machine machine   `json:"machine"`
	Scale   bool      `json:"scale"` // runs differ by their number of nodes
	Runs    []runs    `json:"runs"`
}

// machine is where it was measured.
type machine struct {
	OS   string `json:"os"`
	Arch string `json:"arch"`
	CPUs int    `json:"cpus"`
	Go   string `json:"go"`
}

// runs is all repeats of one configuration.
type runs struct {
	Config  config   `json:"config"`
	Notes   []string `json:"notes,omitempty"`
	Repeats []repeat `json:"repeats"`
}

// repeat is what one run came to.
type repeat struct {
	Seconds float64   `json:"seconds"` // of the window
	Ops     []outcome `json:"ops"`
	All     outcome   `json:"all"` // of all operations together

	IntervalSeconds float64 `json:"interval_seconds"`
	Timeline        []int64 `json:"timeline"` // calls that succeeded in each interval

	// Stuck calls began before the window and ended behind it, so that no other
	// figure has them.
	Stuck      int64  `json:"stuck,omitempty"`
	StuckError string `json:"stuck_error,omitempty"`

	Open *openLoop `json:"open_loop,omitempty"`

	// Processes is absent where the system does not tell.
	Processes   []processUsage `json:"processes,omitempty"`
	CPUPer1000  float64        `json:"cpu_seconds_per_1000,omitempty"` // of all processes; operations that succeeded
	Leaders     map[string]int `json:"leaders"`
	LeadersEven bool           `json:"leaders_even"`
	OpenSeconds float64        `json:"open_seconds"`          // until all nodes were open
	IdleCPUs    float64        `json:"idle_cpus,omitempty"`   // how many all processes had in use before the load
	OthersCPUs  float64        `json:"others_cpus,omitempty"` // how many were busy with other processes meanwhile
	Transfers   *audit         `json:"transfers,omitempty"`
}

// outcome is about one operation.
type outcome struct {
	Name      string            `json:"name"`
	Count     int64             `json:"count"` // that succeeded
	Failed    int64             `json:"failed"`
	Errors    map[string]int64  `json:"errors"`
	Samples   map[string]string `json:"samples,omitempty"` // the text of one error of each kind
	PerSecond float64           `json:"per_second"`
	Latency   latency           `json:"latency"`
	Histogram histogram         `json:"histogram"`
}

// latency is of calls that succeeded, in milliseconds.
type latency struct {
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p99_9_ms"`
	Max  float64 `json:"max_ms"`
}

// openLoop is how well the starts were kept.
type openLoop struct {
	Rate   float64 `json:"rate"`   // that was asked for
	Late   int64   `json:"late"`   // started more than lateStart late
	Missed int64   `json:"missed"` // not started before the end
	Delay  latency `json:"delay"`  // from the intended to the real start
}

func thisMachine() machine {
	return machine{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version()}
}

// summarize returns the repeat of a tally.
func summarize(t tally, w *workload) repeat {
	r := repeat{Seconds: w.Duration.Seconds(), IntervalSeconds: w.interval().Seconds(), Timeline: t.Timeline}
	for o := range operations {
		if ops := t.Ops[o]; ops != nil {
			r.Ops = append(r.Ops, newOutcome(o.String(), *ops, r.Seconds))
		}
	}
	r.Stuck, r.StuckError = t.Stuck, t.StuckError
	r.All = newOutcome("all", t.all(), r.Seconds)
	if w.Rate > 0 {
		r.Open = &openLoop{Rate: w.Rate, Late: t.Late, Missed: t.Missed, Delay: newLatency(t.Delay)}
	}
	return r
}

func newOutcome(name string, t opTally, seconds float64) outcome {
	o := outcome{Name: name, Count: t.Latency.TotalCount(), Errors: t.Errors, Samples: t.Samples, Latency: newLatency(t.Latency), Histogram: t.Latency}
	for _, n := range t.Errors {
		o.Failed += n
	}
	o.PerSecond = float64(o.Count) / seconds
	return o
}

func newLatency(h histogram) latency {
	if h.TotalCount() == 0 {
		return latency{}
	}
	return latency{
		P50: milliseconds(h.at(0.5)), P90: milliseconds(h.at(0.9)), P99: milliseconds(h.at(0.99)),
		P999: milliseconds(h.at(0.999)), Max: milliseconds(time.Duration(h.Max())),
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// account adds the cost of a repeat, if it is known.
func (r *repeat) account(c cost) {
	r.Processes, r.OthersCPUs = c.processes, c.others
	if r.All.Count == 0 {
		return
	}
	r.CPUPer1000 = c.cpu() / float64(r.All.Count) * 1000
}

// write writes a result file, unless no name is given.
func (r *result) write(name string) error {
	if name == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}

// maxResultBytes is far more than a result has: a hundred repeats of everything.
const maxResultBytes = 256 << 20

func readResult(name string) (*result, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxResultBytes {
		return nil, fmt.Errorf("%s has %d bytes; no result is so large", name, info.Size())
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	r, err := decodeResult(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

// decodeResult reads a result file. What it returns has at least one run, each
// with at least one repeat and histograms everywhere.
func decodeResult(text []byte) (*result, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, fmt.Errorf("this is no result of loadgen: %w", err)
	}
	if head.Format != formatVersion {
		return nil, fmt.Errorf("it has format %d; this loadgen reads format %d", head.Format, formatVersion)
	}
	var r result
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	if len(r.Runs) == 0 {
		return nil, errors.New("it has no runs")
	}
	for _, run := range r.Runs {
		if len(run.Repeats) == 0 {
			return nil, errors.New("it has a run without repeats")
		}
		for _, rep := range run.Repeats {
			for _, o := range append(rep.Ops, rep.All) {
				if o.Histogram.Histogram == nil {
					return nil, fmt.Errorf("%s has no histogram", o.Name)
				}
			}
		}
	}
	return &r, nil
}
