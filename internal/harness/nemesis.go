package harness

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/distributedcache/cache/internal/testkit/faultnet"
)

// Nemesis does bad things to a cluster, one after the other, until its context
// ends, and leaves it whole.
type Nemesis struct {
	Cluster *Cluster
	Rand    *rand.Rand
	// Pause bounds how long a fault lasts, and the time between two.
	Pause time.Duration
	done  map[string]int
}

// fault is something bad; it lasts until the function that it returns is called.
type fault struct {
	name string
	hit  func() (heal func())
}

func (n *Nemesis) faults() []fault {
	c := n.Cluster
	some := func() int { return n.Rand.IntN(c.Nodes()) }
	heal := c.Net.Heal
	restart := func(nodes ...int) func() {
		return func() {
			for _, i := range nodes {
				c.Start(i)
			}
		}
	}
	return []fault{
		{"isolate a node", func() func() { c.Net.Isolate(c.Address(some())); return heal }},
		{"one way", func() func() { a := some(); c.Net.OneWay(c.Address(a), c.Address((a+1)%c.Nodes())); return heal }},
		{"halves", func() func() { c.Net.Partition(n.half()); return heal }},
		{"cut connections", func() func() { c.Net.CutAll(); return func() {} }},
		{"bad frames", func() func() {
			c.Net.SetFaults(faultnet.Faults{Drop: 0.05, Delay: 0.05, Duplicate: 0.05, Reorder: 0.05, Cut: 0.001, MaxDelay: 30 * time.Millisecond})
			return func() { c.Net.SetFaults(faultnet.Faults{}) }
		}},
		{"restart a node", func() func() { i := some(); c.Stop(i); return restart(i) }},
		{"crash a node", func() func() { i := some(); c.Crash(n.Rand, 50*n.Rand.IntN(3), i); return restart(i) }},
		{"crash all nodes", func() func() {
			all := make([]int, c.Nodes())
			for i := range all {
				all[i] = i
			}
			c.Crash(n.Rand, 50*n.Rand.IntN(3), all...)
			return restart(all...)
		}},
		{"clock jump", func() func() {
			c.Jump(some(), time.Duration(n.Rand.IntN(4000)-2000)*time.Millisecond)
			return func() {}
		}},
	}
}

// half returns a random half of the nodes.
func (n *Nemesis) half() []string {
	var group []string
	for _, i := range n.Rand.Perm(n.Cluster.Nodes())[:(n.Cluster.Nodes()+1)/2] {
		group = append(group, n.Cluster.Address(i))
	}
	return group
}

// Run hits the cluster until the context ends.
func (n *Nemesis) Run(ctx context.Context) {
	n.done = make(map[string]int)
	faults := n.faults()
	for ctx.Err() == nil {
		f := faults[n.Rand.IntN(len(faults))]
		n.done[f.name]++
		heal := f.hit()
		n.sleep(ctx)
		heal()
		n.sleep(ctx)
	}
	n.Cluster.Net.SetFaults(faultnet.Faults{})
	n.Cluster.Net.Heal()
	for i := range n.Cluster.Nodes() {
		n.Cluster.Jump(i, 0)
		n.Cluster.Start(i)
	}
}

func (n *Nemesis) sleep(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(n.Pause/4 + time.Duration(n.Rand.Int64N(int64(n.Pause)))):
	}
}

// Total returns how many faults there were.
func (n *Nemesis) Total() (total int) {
	for _, count := range n.done {
		total += count
	}
	return total
}

// String lists the faults.
func (n *Nemesis) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(n.done)) {
		parts = append(parts, fmt.Sprintf("%s: %d", name, n.done[name]))
	}
	return strings.Join(parts, ", ")
}
