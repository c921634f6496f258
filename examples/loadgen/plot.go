package main

import (
	"flag"
	"fmt"
	"io"
	"math"
	"os"
)

// commandPlot is loadgen plot.
func commandPlot(args []string, stdout, stderr io.Writer) error {
	fs := flag.NewFlagSet("loadgen plot", flag.ContinueOnError)
	fs.SetOutput(stderr)
	out := fs.String("out", "", "`file` for the picture, in SVG; default: stdout")
	files, err := parseFlags(fs, args)
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return usageError{fmt.Errorf("plot wants one result file; got %d", len(files))}
	}
	r, err := readResult(files[0])
	if err != nil {
		return err
	}
	picture := plot(r)
	if *out == "" {
		_, err = stdout.Write(picture)
		return err
	}
	return os.WriteFile(*out, picture, 0o644)
}

// plot draws a result: latency by percentile and throughput over time, or by
// number of nodes.
func plot(r *result) []byte {
	if r.Scale {
		return svg(scaleCharts(r)...)
	}
	return svg(latencyChart(&r.Runs[0]), timeChart(&r.Runs[0]))
}

// latencyChart has a line for each operation, over all repeats. Percentiles are
// spread by how many nines they have.
func latencyChart(all *runs) chart {
	c := chart{
		title: "latency by percentile", x: axis{label: "percentile", name: ninesName}, y: axis{label: "ms", log: true, name: tickName},
	}
	for _, name := range opNames(all) {
		h := newHistogram()
		for i := range all.Repeats {
			for _, o := range append(all.Repeats[i].Ops, all.Repeats[i].All) {
				if o.Name == name {
					h.Merge(o.Histogram.Histogram)
				}
			}
		}
		if h.TotalCount() == 0 {
			continue
		}
		l := line{name: name}
		most := math.Log10(float64(h.TotalCount()))
		for nines := 0.0; nines <= most; nines += 0.05 {
			q := 1 - math.Pow(10, -nines)
			l.points = append(l.points, point{nines, milliseconds(h.at(q))})
		}
		c.lines = append(c.lines, l)
	}
	return c
}

// ninesName names the percentile that has so many nines.
func ninesName(nines float64) string {
	return fmt.Sprintf("%.*f", max(int(math.Ceil(nines))-2, 0), 100-math.Pow(10, 2-nines))
}

// timeChart has a line for each repeat.
func timeChart(all *runs) chart {
	c := chart{
		title: "throughput over time", x: axis{label: "seconds", zero: true, name: tickName}, y: axis{label: "operations per second", zero: true, name: tickName},
	}
	for i := range all.Repeats {
		r := &all.Repeats[i]
		l := line{name: fmt.Sprintf("repeat %d", i+1)}
		for n, count := range r.Timeline {
			l.points = append(l.points, point{(float64(n) + 0.5) * r.IntervalSeconds, float64(count) / r.IntervalSeconds})
		}
		c.lines = append(c.lines, l)
	}
	return c
}

// scaleCharts show throughput and latency by number of nodes.
func scaleCharts(r *result) []chart {
	rate := chart{
		title: "throughput by number of nodes, equal CPU for each", x: axis{label: "nodes", zero: true, name: tickName},
		y: axis{label: "operations per second", zero: true, name: tickName},
	}
	delay := chart{
		title: "latency by number of nodes", x: axis{label: "nodes", zero: true, name: tickName}, y: axis{label: "ms", log: true, name: tickName},
	}
	measured, p50, p99, p999 := line{name: "measured"}, line{name: "p50"}, line{name: "p99"}, line{name: "p99.9"}
	var lines []line
	last := newScaleRow(&r.Runs[len(r.Runs)-1]).nodes
	for i := range r.Runs {
		s := newScaleRow(&r.Runs[i])
		n := float64(s.nodes)
		measured.points = append(measured.points, point{n, s.perSecond})
		p50.points = append(p50.points, point{n, s.p50})
		p99.points = append(p99.points, point{n, s.p99})
		p999.points = append(p999.points, point{n, s.p999})
		if (s.nodes == 1 || s.nodes == 3) && last > s.nodes {
			lines = append(lines, line{
				name: fmt.Sprintf("linear from %d", s.nodes), dashed: true,
				points: []point{{n, s.perSecond}, {float64(last), s.perSecond * float64(last) / n}},
			})
		}
	}
	rate.lines = append([]line{measured}, lines...)
	delay.lines = []line{p50, p99, p999}
	return []chart{rate, delay}
}

// tickName prints a value beside an axis.
func tickName(v float64) string { return fmt.Sprintf("%.10g", v) }
