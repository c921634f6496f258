package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// scaleConfig is what the flags of scale say.
type scaleConfig struct {
	config
	steps stepList
}

// stepList is numbers of nodes, rising.
type stepList []int

// Set implements flag.Value.
func (l *stepList) Set(text string) error {
	var steps []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 || n > maxNodes {
			return fmt.Errorf("%q is no number of nodes; want 1 to %d", part, maxNodes)
		}
		steps = append(steps, n)
	}
	slices.Sort(steps)
	*l = slices.Compact(steps)
	return nil
}

// String implements flag.Value.
func (l *stepList) String() string { return strings.Trim(fmt.Sprint([]int(*l)), "[]") }

const (
	// spareCPU is left to the rest of the machine, and to this process.
	spareCPU = 0.1
	// minPeriod is what the kernel allows; minQuota too.
	minPeriod = time.Millisecond
	maxPeriod = time.Second
	minQuota  = time.Millisecond
	// memoryPerNode is what the files of a node may grow to, beside the data: a
	// raft log, memory tables on their way to a file.
	memoryPerNode = 200 << 20
	// scaleIdle shows what part of its share a node needs to be there at all,
	// which can be most of a small one.
	scaleIdle = 2 * time.Second
)

// commandScale is loadgen scale.
func commandScale(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	c, err := parseScale(args, stderr)
	if err != nil {
		return err
	}
	most := c.steps[len(c.steps)-1]
	if err := checkMemory(c.dir, uint64(most)*memoryPerNode); err != nil {
		return fmt.Errorf("scale: %w", err)
	}
	q, err := newQuotas(c.CPU, c.CPUPeriod)
	if err != nil {
		return fmt.Errorf("scale cannot hold nodes to the same share of CPU, and without that it would measure how many nodes fit on this machine.\n"+
			"It needs the right to make control groups with CPU quotas (as root, or in a group that was delegated with the cpu controller): %w", err)
	}
	defer func() { err = errors.Join(err, q.close()) }()
	dir, err := os.MkdirTemp(c.dir, "loadgen-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := result{
		Format: formatVersion, Command: append([]string{"loadgen", "scale"}, args...), Time: time.Now().UTC().Truncate(time.Second),
		Machine: thisMachine(), Scale: true,
	}
	for _, n := range c.steps {
		_, _ = fmt.Fprintln(stderr, plural(n, "node", "nodes"))
		step := c.forNodes(n)
		all, failed := doRuns(ctx, &step, dir, q, stderr)
		all.Notes = scaleNotes(&step)
		if len(all.Repeats) > 0 {
			r.Runs = append(r.Runs, all)
		}
		if failed != nil {
			err = fmt.Errorf("%s: %w", plural(n, "node", "nodes"), failed)
			break
		}
	}
	if len(r.Runs) == 0 {
		return err
	}
	printScale(stdout, &r)
	return errors.Join(err, r.write(c.json))
}

// forNodes returns the configuration of a step: as many clients, keys and
// accounts for each node, whatever their number.
func (c *scaleConfig) forNodes(n int) config {
	step := c.config
	step.Nodes = n
	step.Work.Keys *= n
	step.Work.Accounts *= n
	step.Work.Rate *= float64(n)
	return step
}

func parseScale(args []string, stderr io.Writer) (scaleConfig, error) {
	c := scaleConfig{steps: stepList{1, 3, 5, 10}}
	c.Topology, c.Callers, c.Idle = topologyProcesses, callersAll, scaleIdle
	fs := flag.NewFlagSet("loadgen scale", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Var(&c.steps, "nodes", "`numbers` of nodes, with commas between")
	fs.Float64Var(&c.CPU, "cpu", 0, "which `part` of a CPU each node gets; default: what lets the largest number of nodes fit on the machine")
	fs.DurationVar(&c.CPUPeriod, "cpu-period", 10*time.Millisecond, "`period` of the CPU quota: a node that has used it up waits for the next")
	fs.StringVar(&c.dir, "dir", memoryDir, "`directory` on a tmpfs to put the data in, in one that is removed in the end")
	c.bind(fs)
	fs.Lookup("keys").Usage += ", for each node"
	fs.Lookup("accounts").Usage += ", for each node"
	fs.Lookup("rate").Usage += "; for each node"
	rest, err := parseFlags(fs, args)
	if err != nil {
		return c, err
	}
	c.fitClients(fs)
	most := c.steps[len(c.steps)-1]
	room := float64(runtime.NumCPU()) * (1 - spareCPU) / float64(most)
	if !flagGiven(fs, "cpu") {
		c.CPU = min(room, 1)
	}
	var k checker
	k.want(len(rest) == 0, "unexpected arguments %q", rest)
	k.lasts("cpu-period", c.CPUPeriod, minPeriod, maxPeriod)
	k.want(c.CPU > 0 && c.CPU <= room, "--cpu is %.3g; %d nodes on %d CPUs can be held to at most %.3g each", c.CPU, most, runtime.NumCPU(), room)
	k.want(c.CPU <= 0 || c.CPU*float64(c.CPUPeriod) >= float64(minQuota),
		"--cpu %.3g of a period of %v is less than the %v that Linux can tell apart; take a longer --cpu-period or fewer nodes", c.CPU, c.CPUPeriod, minQuota)
	c.check(&k)
	largest := c.forNodes(most)
	largest.check(&k)
	return c, k.err()
}

// scaleNotes says what has to be known to read the figures.
func scaleNotes(c *config) []string {
	return []string{
		"data and raft logs are on a tmpfs, so that one disk which all nodes would share is not what is measured: a sync costs next to nothing here",
		fmt.Sprintf("every node makes calls with %d clients of its own, on all keys, and its generator runs inside its share of CPU", c.Work.Clients),
		"one node has no replicas to write to; from 3 nodes on each write is on as many nodes as the replication factor says",
	}
}

// printScale prints one line for each number of nodes.
func printScale(out io.Writer, r *result) {
	for i, line := range r.Runs[0].Config.describe(r.Machine) {
		if i == 0 {
			line = "smallest step: " + line
		}
		_, _ = fmt.Fprintln(out, line)
	}
	for _, note := range r.Runs[0].Notes {
		_, _ = fmt.Fprintln(out, "note: "+note)
	}
	_, _ = fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(table, "nodes\tper second\tfailed\tof linear from 1\tfrom 3\tp50 ms\tp99 ms\tp99.9 ms\tmax ms\tCPU s/1000\tCPU used\tidle\tthrottled\tleaders even\t")
	for i := range r.Runs {
		s := newScaleRow(&r.Runs[i])
		_, _ = fmt.Fprintf(table, "%d\t%.0f\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f %%\t%v\t\n", s.nodes, s.perSecond, s.failed,
			linear(r, 1, s), linear(r, 3, s), figure(s.p50), figure(s.p99), figure(s.p999), figure(s.max),
			figure(s.cpuPer1000), percent(s.cpuUsed), percent(s.cpuIdle), s.throttled*100, s.even)
	}
	_ = table.Flush()
	printScaleFaults(out, r)
	_, _ = fmt.Fprintln(out, "\nof linear: throughput over that of 1 (3) nodes times as many nodes; with repeats, of geometric means")
	_, _ = fmt.Fprintln(out, "CPU used: of the share of all nodes; well below 100 % something else than CPU limits, such as the number of clients")
	_, _ = fmt.Fprintln(out, "idle: the same before the load; what is left of the share is for work, and where that is little the rest of the line says little")
}

// printScaleFaults prints what speaks against the figures.
func printScaleFaults(out io.Writer, r *result) {
	for i := range r.Runs {
		errs := map[string]int64{}
		for _, rep := range r.Runs[i].Repeats {
			for kind, n := range rep.All.Errors {
				errs[kind] += n
			}
		}
		s := newScaleRow(&r.Runs[i])
		if len(errs) > 0 {
			_, _ = fmt.Fprintf(out, "%s, failed: %s\n", plural(s.nodes, "node", "nodes"), counts(errs))
		}
		printOthers(out, plural(s.nodes, "node", "nodes")+": ", s.others, r.Machine.CPUs)
	}
}

// scaleRow is the figures of one number of nodes: geometric means over repeats,
// but the worst of what is a maximum or a count.
type scaleRow struct {
	nodes               int
	perSecond           float64
	failed              int64
	p50, p99, p999, max float64
	cpuPer1000, cpuUsed float64
	cpuIdle             float64
	throttled, others   float64
	even                bool
}

func newScaleRow(all *runs) scaleRow {
	s := scaleRow{nodes: all.Config.Nodes, even: true}
	mean := func(of func(r *repeat) float64) float64 {
		var values []float64
		for i := range all.Repeats {
			values = append(values, of(&all.Repeats[i]))
		}
		return geometricMean(values)
	}
	s.perSecond = mean(func(r *repeat) float64 { return r.All.PerSecond })
	s.p50 = mean(func(r *repeat) float64 { return r.All.Latency.P50 })
	s.p99 = mean(func(r *repeat) float64 { return r.All.Latency.P99 })
	s.p999 = mean(func(r *repeat) float64 { return r.All.Latency.P999 })
	s.cpuPer1000 = mean(func(r *repeat) float64 { return r.CPUPer1000 })
	s.cpuUsed = mean(func(r *repeat) float64 {
		return r.CPUPer1000 * float64(r.All.Count) / 1000 / r.Seconds / (all.Config.CPU * float64(s.nodes))
	})
	s.cpuIdle = mean(func(r *repeat) float64 { return r.IdleCPUs / (all.Config.CPU * float64(s.nodes)) })
	for i := range all.Repeats {
		r := &all.Repeats[i]
		s.failed += r.All.Failed
		s.max = max(s.max, r.All.Latency.Max)
		for _, p := range r.Processes {
			s.throttled = max(s.throttled, p.Throttled)
		}
		s.others = max(s.others, r.OthersCPUs)
		s.even = s.even && r.LeadersEven
	}
	return s
}

// linear returns which part of linear growth from a number of nodes came about.
func linear(r *result, from int, s scaleRow) string {
	for i := range r.Runs {
		if base := newScaleRow(&r.Runs[i]); base.nodes == from && base.perSecond > 0 && s.nodes >= from {
			return fmt.Sprintf("%.3f", s.perSecond/base.perSecond*float64(from)/float64(s.nodes))
		}
	}
	return "-"
}

func percent(x float64) string { return fmt.Sprintf("%.0f %%", x*100) }
