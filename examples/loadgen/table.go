package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// printRuns prints all repeats of one configuration.
func printRuns(out io.Writer, r *result, all *runs) {
	for _, line := range all.Config.describe(r.Machine) {
		_, _ = fmt.Fprintln(out, line)
	}
	for _, note := range all.Notes {
		_, _ = fmt.Fprintln(out, "note: "+note)
	}
	for i := range all.Repeats {
		if len(all.Repeats) > 1 {
			_, _ = fmt.Fprintf(out, "\nrepeat %d of %d", i+1, len(all.Repeats))
		}
		printRepeat(out, &all.Repeats[i])
		printOthers(out, "", all.Repeats[i].OthersCPUs, r.Machine.CPUs)
	}
	if len(all.Repeats) > 1 {
		printSummary(out, all)
	}
}

// printSummary prints one line for each operation over all repeats.
func printSummary(out io.Writer, all *runs) {
	_, _ = fmt.Fprintf(out, "\nover %d repeats: geometric means (and the lowest and highest)\n", len(all.Repeats))
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprint(table, "operation\t")
	for _, m := range metrics() {
		_, _ = fmt.Fprintf(table, "%s\t", m.name)
	}
	_, _ = fmt.Fprintln(table)
	for _, name := range opNames(all) {
		_, _ = fmt.Fprintf(table, "%s\t", name)
		for _, m := range metrics() {
			cell := "-"
			if v := values(all, name, m); len(v) > 0 {
				cell = fmt.Sprintf("%s (%s..%s)", figure(geometricMean(v)), figure(slices.Min(v)), figure(slices.Max(v)))
			}
			_, _ = fmt.Fprintf(table, "%s\t", cell)
		}
		_, _ = fmt.Fprintln(table)
	}
	_ = table.Flush()
}

// describe says in words what was measured.
func (c *config) describe(m machine) []string {
	w := &c.Work
	nodes := "one node"
	switch {
	case c.Topology == topologyInProcess:
		nodes = fmt.Sprintf("%s in one process", plural(c.Nodes, "node", "nodes"))
	case c.Topology == topologyProcesses:
		nodes = plural(c.Nodes, "process", "processes")
	}
	if c.Topology != topologySolo {
		nodes += fmt.Sprintf(", replication factor %d, calls from %s", c.Replication, map[string]string{callersFirst: "node-1", callersAll: "all nodes"}[c.Callers])
	}
	loop := fmt.Sprintf("closed loop, %d clients", w.Clients)
	if w.Rate > 0 {
		loop = fmt.Sprintf("open loop, %g starts a second (%s), at most %d at once", w.Rate, w.Arrivals, w.Clients)
	}
	if c.Callers == callersAll {
		loop += " in each node"
	}
	keys := fmt.Sprintf("%d keys, %s", w.Keys, w.Distribution)
	switch w.Distribution {
	case distZipf:
		keys += fmt.Sprintf(" %g", w.Theta)
	case distHotSet:
		keys += fmt.Sprintf(" (%g %% of the operations on %g %% of the keys)", w.HotOps*100, w.HotKeys*100)
	}
	lines := []string{
		fmt.Sprintf("%s, %d shards, %s, %s; %s/%s, %d CPUs, %s", nodes, c.Shards, c.Durability, w.Consistency, m.OS, m.Arch, m.CPUs, m.Go),
		fmt.Sprintf("%s; %s; values of %d bytes; %s; %v after %v of warm-up", loop, w.Mix.String(), w.ValueBytes, keys, w.Duration, w.WarmUp),
	}
	if c.CPU > 0 {
		lines = append(lines, fmt.Sprintf("each node is held to %.3g of a CPU, in periods of %v", c.CPU, c.CPUPeriod))
	}
	return lines
}

// printRepeat prints one repeat.
func printRepeat(out io.Writer, r *repeat) {
	_, _ = fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "operation\tcount\tfailed\tper second\tp50 ms\tp90 ms\tp99 ms\tp99.9 ms\tmax ms\t")
	rows := r.Ops
	if len(rows) != 1 {
		rows = append(slices.Clone(rows), r.All)
	}
	for _, o := range rows {
		l := o.Latency
		_, _ = fmt.Fprintf(table, "%s\t%d\t%d\t%.0f\t%s\t%s\t%s\t%s\t%s\t\n",
			o.Name, o.Count, o.Failed, o.PerSecond, figure(l.P50), figure(l.P90), figure(l.P99), figure(l.P999), figure(l.Max))
	}
	_ = table.Flush()
	for _, o := range r.Ops {
		if o.Failed > 0 {
			_, _ = fmt.Fprintf(out, "%s failed: %s\n", o.Name, counts(o.Errors))
			for _, kind := range slices.Sorted(maps.Keys(o.Samples)) {
				_, _ = fmt.Fprintf(out, "  %s: %s\n", kind, o.Samples[kind])
			}
		}
	}
	if r.Stuck > 0 {
		_, _ = fmt.Fprintf(out, "STUCK: %d calls began before the measured time and ended behind it; nothing above has them; one came to: %s\n",
			r.Stuck, cmp.Or(r.StuckError, "success"))
	}
	if r.Open != nil {
		printOpen(out, r)
	}
	printCost(out, r)
	if r.IdleCPUs > 0 {
		_, _ = fmt.Fprintf(out, "idle: all processes together had %s of a CPU before the load\n", figure(r.IdleCPUs))
	}
	if len(r.Leaders) > 1 {
		even := ""
		if !r.LeadersEven {
			even = " (not even: nodes that lead more do more)"
		}
		_, _ = fmt.Fprintf(out, "leaders: %s%s; all nodes were open after %.2f s\n", counts(r.Leaders), even, r.OpenSeconds)
	}
	if a := r.Transfers; a != nil {
		verdict := "adds up"
		if !a.AddsUp {
			verdict = "WRONG"
		}
		_, _ = fmt.Fprintf(out, "money: %d in %d accounts, %d transfers in the books, %d confirmed, %d unknown: %s\n",
			a.Books.Balance, a.Books.Accounts, a.Books.Sent, a.Confirmed, a.Unknown, verdict)
	}
}

func printOpen(out io.Writer, r *repeat) {
	o := r.Open
	_, _ = fmt.Fprintf(out, "starts: %d late by more than %v, %d missed; delay p50 %s, p99 %s, max %s ms; latency counts from the intended start\n",
		o.Late, lateStart, o.Missed, figure(o.Delay.P50), figure(o.Delay.P99), figure(o.Delay.Max))
	if o.Missed > 0 {
		_, _ = fmt.Fprintf(out, "THE RATE WAS NOT KEPT: the latencies of the calls that were missed would be longer than any here\n")
	}
}

func printCost(out io.Writer, r *repeat) {
	if r.Processes == nil {
		_, _ = fmt.Fprintln(out, "CPU and memory: this system does not tell")
		return
	}
	var parts []string
	for _, p := range r.Processes {
		parts = append(parts, fmt.Sprintf("%s %.2f s, %d MiB", p.Nodes, p.CPUSeconds, p.RSSBytes>>20))
	}
	_, _ = fmt.Fprintf(out, "cost: %s CPU seconds per 1,000 operations, generators included (%s)\n", figure(r.CPUPer1000), strings.Join(parts, "; "))
}

// manyOthers is how many CPUs may be busy with other processes before that is
// worth a word.
const manyOthers = 0.1

func printOthers(out io.Writer, before string, others float64, of int) {
	if others >= manyOthers {
		_, _ = fmt.Fprintf(out, "%sTHE MACHINE WAS BUSY: other processes had %.1f of its %d CPUs\n", before, others, of)
	}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// figure prints three significant digits, and none after the point that do not
// count.
func figure(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 1:
		return fmt.Sprintf("%.2f", x)
	default:
		return fmt.Sprintf("%.3g", x)
	}
}

// counts prints what there is how often, in the order of names.
func counts[N int | int64](of map[string]N) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%d %s", of[name], name))
	}
	return strings.Join(parts, ", ")
}
