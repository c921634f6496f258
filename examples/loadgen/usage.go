package main

import (
	"context"
	"time"
)

// usage is what a process has used.
type usage struct {
	cpu       time.Duration // of all its threads, since it began
	rss, peak int64         // bytes of memory now, and at most so far
}

// processUsage is what a repeat cost one process.
type processUsage struct {
	Nodes      string  `json:"nodes"` // that are in the process
	CPUSeconds float64 `json:"cpu_seconds"`
	RSSBytes   int64   `json:"rss_bytes"`      // the most that was seen while it measured
	PeakBytes  int64   `json:"peak_rss_bytes"` // since the process began
	// Throttled is in which part of its periods it had used up its quota, if it
	// has one.
	Throttled float64 `json:"throttled_part,omitempty"`
}

// cost is what a repeat cost all processes. It is empty where the system does
// not tell.
type cost struct {
	processes []processUsage
	others    float64 // how many CPUs were busy with other processes meanwhile
}

// cpu returns the CPU seconds of all processes.
func (c cost) cpu() (seconds float64) {
	for _, p := range c.processes {
		seconds += p.CPUSeconds
	}
	return seconds
}

// samplePause is between two looks at the memory.
const samplePause = 500 * time.Millisecond

// watch measures the processes of a fleet over the window.
func watch(ctx context.Context, f *fleet, w window) (c cost) {
	names, pids := processes(f)
	if !pause(ctx, time.Until(w.from)) {
		return cost{}
	}
	busy := busyCPU()
	before := make([]usage, len(pids))
	quotas := make([]periods, len(pids))
	for i, pid := range pids {
		before[i], quotas[i] = usageOf(pid), f.held.periods(names[i])
	}
	c.processes = make([]processUsage, len(pids))
	for more := true; more; {
		more = pause(ctx, min(samplePause, time.Until(w.to))) && time.Now().Before(w.to)
		for i, pid := range pids {
			u, p := usageOf(pid), &c.processes[i]
			p.CPUSeconds = (u.cpu - before[i].cpu).Seconds()
			p.RSSBytes, p.PeakBytes = max(p.RSSBytes, u.rss), u.peak
		}
	}
	c.others = (busyCPU() - busy).Seconds()
	for i := range pids {
		p := &c.processes[i]
		if p.PeakBytes == 0 {
			return cost{}
		}
		p.Nodes, p.Throttled = names[i], f.held.periods(names[i]).since(quotas[i])
		c.others -= p.CPUSeconds
	}
	c.others = max(c.others, 0) / w.to.Sub(w.from).Seconds()
	return c
}

// periods are those of a CPU quota.
type periods struct{ all, throttled float64 }

// since returns in which part of the periods after before the quota was used up.
func (p periods) since(before periods) float64 {
	if p.all <= before.all {
		return 0
	}
	return (p.throttled - before.throttled) / (p.all - before.all)
}

// processes returns the processes that peers are in, each once, with the nodes
// in them.
func processes(f *fleet) (names []string, pids []int) {
	for i, p := range f.peers {
		name := nodeName(i)
		if n := len(pids); n > 0 && pids[n-1] == p.pid() {
			names[n-1] = nodeName(0) + " to " + name
			continue
		}
		names, pids = append(names, name), append(pids, p.pid())
	}
	return names, pids
}
