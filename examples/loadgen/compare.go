package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// commandCompare is loadgen compare.
func commandCompare(args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("loadgen compare", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { _, _ = fmt.Fprintln(stderr, "usage: loadgen compare before.json after.json") }
	files, err := parseFlags(fs, args)
	if err != nil {
		return err
	}
	if len(files) != 2 {
		return usageError{fmt.Errorf("compare wants two files, before and after; got %d", len(files))}
	}
	before, err := readResult(files[0])
	if err != nil {
		return err
	}
	after, err := readResult(files[1])
	if err != nil {
		return err
	}
	return compare(stdout, before, after)
}

// metric is a figure of one operation in one repeat. Of some more is better, of
// others less.
type metric struct {
	name string
	more bool
	of   func(r *repeat, o *outcome) float64
}

func metrics() []metric {
	return []metric{
		{"per second", true, func(_ *repeat, o *outcome) float64 { return o.PerSecond }},
		{"p50 ms", false, func(_ *repeat, o *outcome) float64 { return o.Latency.P50 }},
		{"p99 ms", false, func(_ *repeat, o *outcome) float64 { return o.Latency.P99 }},
		{"p99.9 ms", false, func(_ *repeat, o *outcome) float64 { return o.Latency.P999 }},
	}
}

// compare prints how runs of after relate to those of before.
func compare(out io.Writer, before, after *result) error {
	if len(before.Runs) != len(after.Runs) {
		return fmt.Errorf("one has %d runs and the other %d; compare two of a kind", len(before.Runs), len(after.Runs))
	}
	_, _ = fmt.Fprintf(out, "ratios after/before of geometric means, with %.0f %% confidence intervals (Welch's t-test on logarithms)\n", confidence*100)
	if differ := differences(before.Machine, after.Machine); len(differ) > 0 {
		_, _ = fmt.Fprintf(out, "THE MACHINES DIFFER: %v\n", differ)
	}
	for i := range before.Runs {
		a, b := &before.Runs[i], &after.Runs[i]
		_, _ = fmt.Fprintf(out, "\n%s, %s; %d and %d repeats\n", plural(a.Config.Nodes, "node", "nodes"), a.Config.Work.Mix.String(), len(a.Repeats), len(b.Repeats))
		if differ := differences(a.Config, b.Config); len(differ) > 0 {
			_, _ = fmt.Fprintf(out, "the configurations differ: %v\n", differ)
		}
		if len(a.Repeats) < 2 || len(b.Repeats) < 2 {
			_, _ = fmt.Fprintln(out, "no intervals: they need two repeats on each side (--repeat)")
		}
		compareRuns(out, a, b)
	}
	return nil
}

func compareRuns(out io.Writer, a, b *runs) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "operation\tfigure\tbefore\tafter\tratio\tinterval\tverdict\t")
	row := func(op string, m metric, x, y []float64) {
		r, ok := ratioOf(x, y)
		if !ok {
			return
		}
		interval, verdict := "-", "-"
		if r.known {
			interval, verdict = fmt.Sprintf("%.3f..%.3f", r.low, r.high), r.verdict(m.more)
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%.3f\t%s\t%s\t\n", op, m.name, figure(geometricMean(x)), figure(geometricMean(y)), r.value, interval, verdict)
	}
	for _, name := range opNames(a) {
		for _, m := range metrics() {
			row(name, m, values(a, name, m), values(b, name, m))
		}
	}
	cpu := metric{"CPU s/1000", false, func(r *repeat, _ *outcome) float64 { return r.CPUPer1000 }}
	row("all", cpu, values(a, "all", cpu), values(b, "all", cpu))
	_ = table.Flush()
}

// verdict says what an interval shows.
func (r ratio) verdict(more bool) string {
	switch {
	case r.low <= 1 && r.high >= 1:
		return "no difference shown"
	case (r.value > 1) == more:
		return "better"
	default:
		return "worse"
	}
}

// opNames returns the names of the operations of all repeats, and of all of them
// together if there is more than one.
func opNames(a *runs) (names []string) {
	for _, o := range a.Repeats[0].Ops {
		names = append(names, o.Name)
	}
	if len(names) != 1 {
		names = append(names, a.Repeats[0].All.Name)
	}
	return names
}

// values returns a figure of every repeat.
func values(a *runs, name string, m metric) (all []float64) {
	for i := range a.Repeats {
		r := &a.Repeats[i]
		for _, o := range append(slices.Clone(r.Ops), r.All) {
			if o.Name == name {
				all = append(all, m.of(r, &o))
			}
		}
	}
	return all
}

// differences names what two structs do not have in common, by their JSON.
func differences(a, b any) (names []string) {
	x, y := fields(a), fields(b)
	for name, value := range x {
		if inner, ok := value.(map[string]any); ok {
			for _, n := range differences(inner, y[name]) {
				names = append(names, name+"."+n)
			}
		} else if value != y[name] {
			names = append(names, fmt.Sprintf("%s (%v, %v)", name, value, y[name]))
		}
	}
	for name := range maps.Keys(y) {
		if _, ok := x[name]; !ok {
			names = append(names, fmt.Sprintf("%s (none, %v)", name, y[name]))
		}
	}
	slices.Sort(names)
	return names
}

func fields(of any) (all map[string]any) {
	text, err := json.Marshal(of)
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil
	}
	return all
}
