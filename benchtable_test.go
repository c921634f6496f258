package cache_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	benchTable   = flag.Bool("benchtable", false, "print the table of benchmarks against the bare storage engine")
	benchFor     = flag.Duration("benchfor", time.Second, "with -benchtable: how long each side runs at a time")
	benchRepeats = flag.Int("benchrepeats", 5, "with -benchtable: how often")
	benchOnly    = flag.String("benchonly", "", "with -benchtable: a regular expression of workload names")
)

func wantItems(n int) error {
	if n != scanItems {
		return fmt.Errorf("the scan found %d items, want %d", n, scanItems)
	}
	return nil
}

// TestBenchTable runs every workload on the bare storage engine and on the
// cache in turn, several times, and prints the medians and their ratio. It
// asserts nothing about speed.
//
//	go test -run '^TestBenchTable$' -benchtable -timeout 20m .
func TestBenchTable(t *testing.T) {
	if !*benchTable {
		t.Skip("run with -benchtable")
	}
	only := regexp.MustCompile(*benchOnly)
	fmt.Printf("\nMedians of %d x %v on each side, in turn; ratio = cache/raw, in operations per second.\n", *benchRepeats, *benchFor)
	fmt.Printf("Latency is per operation of one worker, CPU is that of the whole process per operation.\n\n")
	fmt.Printf(rowFormat, "workload", "raw op/s", "cache op/s", "ratio", "from..to", "aim", "raw us", "cache us", "raw CPU", "our CPU")
	for _, w := range workloads() {
		if !only.MatchString(w.name) {
			continue
		}
		t.Run(w.name, func(t *testing.T) { w.compare(t).print(&w) })
	}
	single(t, only, "OpenEmpty", `([\d.]+) ns/op`, 1e-6, "ms", "< 100 ms", "20x")
	single(t, only, "Memory1M", `([\d.-]+) MB-over-caches`, 1, "MB beyond the caches", "<= 150 MB", "1x")
}

const rowFormat = "%-22s %10s %10s %6s %12s  %-13s %9s %9s %9s %9s\n"

// single runs a benchmark that has no raw side in a process of its own, whose
// memory nothing else has touched.
func single(t *testing.T, only *regexp.Regexp, name, metric string, scale float64, unit, aim, times string) {
	if !only.MatchString(name) {
		return
	}
	t.Run(name, func(t *testing.T) {
		text, err := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^Benchmark"+name+"$", "-test.benchtime="+times).CombinedOutput()
		found := regexp.MustCompile(metric).FindSubmatch(text)
		if err != nil || found == nil {
			t.Fatalf("%v: %s", err, text)
		}
		value, err := strconv.ParseFloat(string(found[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%-22s %.1f %s (aim %s)\n", name, value*scale, unit, aim)
	})
}

// comparison has the medians of both sides and the ratios of all pairs.
type comparison struct {
	raw, ours sample
	ratios    []float64 // sorted
}

// sample is one side measured once, or the medians of several such.
type sample struct {
	rate, cpuMicros float64 // operations per second; CPU time of the process per operation
}

func (w *workload) compare(t *testing.T) comparison {
	raw, ours := w.setup(t)
	var raws, oursAll []sample
	var c comparison
	for i := range *benchRepeats + 1 {
		sides := []operation{raw, ours}
		var got [2]sample
		for j := range sides {
			side := (i + j) % 2 // take turns in going first
			var err error
			if got[side], err = w.measure(sides[side], *benchFor); err != nil {
				t.Fatal(err)
			}
		}
		if i == 0 {
			continue // warming up
		}
		raws, oursAll = append(raws, got[0]), append(oursAll, got[1])
		c.ratios = append(c.ratios, got[1].rate/got[0].rate)
	}
	c.raw, c.ours = medians(raws), medians(oursAll)
	slices.Sort(c.ratios)
	return c
}

func (c comparison) print(w *workload) {
	n := len(c.ratios)
	whole := func(v float64) string { return strconv.FormatFloat(v, 'f', 0, 64) }
	hundredths := func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }
	micros := func(s sample) string { return hundredths(1e6 * float64(w.workers) / s.rate) }
	fmt.Printf(rowFormat, w.name, whole(c.raw.rate), whole(c.ours.rate), hundredths(c.ratios[n/2]),
		hundredths(c.ratios[0])+".."+hundredths(c.ratios[n-1]), w.aim,
		micros(c.raw), micros(c.ours), hundredths(c.raw.cpuMicros), hundredths(c.ours.cpuMicros))
}

func medians(all []sample) sample {
	median := func(get func(sample) float64) float64 {
		var values []float64
		for _, s := range all {
			values = append(values, get(s))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return sample{
		rate:      median(func(s sample) float64 { return s.rate }),
		cpuMicros: median(func(s sample) float64 { return s.cpuMicros }),
	}
}

// measure lets the workers of w repeat op for a while.
func (w *workload) measure(op operation, howLong time.Duration) (sample, error) {
	settle()
	var stop atomic.Bool
	var done atomic.Int64
	errs := make([]error, w.workers)
	var wg sync.WaitGroup
	start, cpu := time.Now(), cpuTime()
	for i := range w.workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(rand.Uint64(), uint64(i)))
			n := int64(0)
			for ; !stop.Load(); n++ {
				if errs[i] = op(r); errs[i] != nil {
					break
				}
			}
			done.Add(n)
		})
	}
	time.Sleep(howLong)
	stop.Store(true)
	wg.Wait()
	took, used := time.Since(start), cpuTime()-cpu
	n := float64(max(done.Load(), 1))
	return sample{rate: n / took.Seconds(), cpuMicros: float64(used.Microseconds()) / n}, errors.Join(errs...)
}

// cpuTime returns the CPU time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
