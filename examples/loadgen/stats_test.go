package main

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/distributedcache/cache/internal/testkit"
)

func TestStudentQuantile(t *testing.T) {
	for _, test := range []struct{ p, freedom, want float64 }{
		{0.975, 1, 12.706204736}, {0.975, 2, 4.302652730}, {0.975, 2.5, 3.574654842}, {0.975, 10, 2.228138852},
		{0.975, 24.98852929, 2.059586491}, {0.95, 30, 1.697260887}, {0.995, 5, 4.032142984}, {0.975, 1e6, 1.959966},
		{0.5, 3, 0},
	} {
		if got := studentQuantile(test.p, test.freedom); math.Abs(got-test.want) > 1e-6*max(test.want, 1) {
			t.Errorf("t(%v, %v) = %v, want %v", test.p, test.freedom, got, test.want)
		}
	}
}

// A textbook example of Welch's test (t = -2.455, 24.99 degrees of freedom), on
// logarithms.
func TestRatio(t *testing.T) {
	exp := func(values ...float64) (all []float64) {
		for _, v := range values {
			all = append(all, math.Exp(v/10))
		}
		return all
	}
	a := exp(27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4)
	b := exp(27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4)
	r, ok := ratioOf(a, b)
	for name, pair := range map[string][2]float64{
		"ratio": {math.Log(r.value) * 10, 2.166666667}, "low": {math.Log(r.low) * 10, 0.349237066}, "high": {math.Log(r.high) * 10, 3.984096267},
	} {
		if math.Abs(pair[0]-pair[1]) > 1e-6 {
			t.Errorf("%s is %v, want %v", name, pair[0], pair[1])
		}
	}
	if !ok || !r.known || r.verdict(true) != "better" || r.verdict(false) != "worse" {
		t.Errorf("%+v, %v", r, ok)
	}
	if back, _ := ratioOf(b, a); math.Abs(back.value*r.value-1) > 1e-9 || back.verdict(true) != "worse" {
		t.Errorf("the other way round: %+v", back)
	}
	if r, _ := ratioOf([]float64{1, 2, 3}, []float64{2, 3, 1}); r.verdict(true) != "no difference shown" {
		t.Errorf("the same values: %+v", r)
	}
	if r, ok := ratioOf([]float64{2}, []float64{4, 4}); !ok || r.known || math.Abs(r.value-2) > 1e-12 {
		t.Errorf("one repeat: %+v", r)
	}
	if r, ok := ratioOf([]float64{2, 2}, []float64{4, 4}); !ok || !r.known || math.Abs(r.low-2) > 1e-12 {
		t.Errorf("no variance: %+v", r)
	}
	for _, bad := range [][]float64{nil, {0}, {-1, 2}, {math.NaN()}, {math.Inf(1)}} {
		if _, ok := ratioOf(bad, a); ok {
			t.Errorf("%v was compared", bad)
		}
	}
}

// Of intervals with 95 % confidence 95 % have the true ratio in them.
func TestCoverage(t *testing.T) {
	r := testkit.Rand(t)
	const trials = 4000
	hits := 0
	for range trials {
		var a, b []float64
		for range 4 {
			a = append(a, math.Exp(0.1*r.NormFloat64()))
		}
		for range 6 {
			b = append(b, 1.5*math.Exp(0.3*r.NormFloat64()))
		}
		if got, _ := ratioOf(a, b); got.low <= 1.5 && 1.5 <= got.high {
			hits++
		}
	}
	// Some six standard deviations, and a percent because Welch's test is an
	// approximation.
	if part := float64(hits) / trials; part < 0.92 || part > 0.98 {
		t.Errorf("%v of the intervals have it", part)
	}
}

func TestCompareTellsDifferences(t *testing.T) {
	a, err := readResult("testdata/result.json")
	if err != nil {
		t.Fatal(err)
	}
	b, err := readResult("testdata/result.json")
	if err != nil {
		t.Fatal(err)
	}
	b.Machine.CPUs++
	b.Runs[0].Config.Work.Keys++
	for i := range b.Runs[0].Repeats {
		b.Runs[0].Repeats[i].All.PerSecond *= 3
	}
	var out bytes.Buffer
	if err := compare(&out, a, b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"THE MACHINES DIFFER", "cpus (2, 3)", "workload.keys", "3.000", "better", "no difference shown"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	b.Runs = append(b.Runs, b.Runs[0])
	if compare(&out, a, b) == nil {
		t.Error("one run was compared with two")
	}
}
