package harness

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/storage"
)

var (
	measureHolds = flag.Int64("measureholds", 256<<20, "with -measure: what a cluster holds when a node joins it and when one dies")
	measureOnly  = flag.String("measureonly", "", "with -measure: the parts of TestMeasureElastic whose names begin with this")
)

const (
	measureKeys   = 6000
	measureValues = 256 // bytes
	measureFor    = 3 * time.Second
	measureRounds = 3
	measureGrace  = 10 * time.Second
)

// TestMeasureElastic prints how three processes on one disk with three replicas of
// 30 shards compare when one node alone is used: what it leads itself beside what
// others lead; and what becomes of the traffic while nodes come and go. It asserts
// nothing about speed.
//
//	go test ./internal/harness -run '^TestMeasureElastic$' -v -timeout 30m -measure
func TestMeasureElastic(t *testing.T) {
	if !*measure {
		t.Skip("run with -measure")
	}
	if strings.HasPrefix("ten", *measureOnly) {
		measureTen(t)
	}
	if *measureOnly == "ten" {
		return
	}
	c := StartProcesses(t, ProcessesConfig{Nodes: 3, Shards: 30, Grace: measureGrace})
	ctx := context.Background()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	d := c.balanced(ctx, t, 0, 1, 2)
	for _, n := range d.Nodes {
		fmt.Printf("at rest: %s has %d replicas and leads %d shards\n", n.ID, n.Shards, n.Leaders)
	}
	c.preload(ctx, t)
	for _, part := range []struct {
		name string
		fn   func(context.Context, *testing.T)
	}{
		{"forward", c.measureForward}, {"grow", c.measureGrow}, {"leave", c.measureLeave},
	} {
		if strings.HasPrefix(part.name, *measureOnly) {
			part.fn(ctx, t)
		}
	}
}

// describe asks a node about the cluster.
func (c *Processes) describe(ctx context.Context, i int) (a Answer, err error) {
	err = c.nodes[i].call(ctx, "Control.Describe", &Call{Timeout: 20 * time.Second}, &a)
	return a, err
}

// balanced waits until every shard has three replicas, on the given nodes only, and
// nothing is to be moved, not even leaders. It asks the first of them, and says from
// time to time what is left.
func (c *Processes) balanced(ctx context.Context, t *testing.T, nodes ...int) (a Answer) {
	t.Helper()
	var why string
	defer func() {
		if t.Failed() {
			t.Log(why)
		}
	}()
	started := time.Now()
	said := started
	testkit.Eventually(t, 10*time.Minute, "balance", func() bool {
		var err error
		a, err = c.describe(ctx, nodes[0])
		why = c.unbalanced(a, nodes)
		if err == nil && why == "" {
			return true
		}
		if time.Since(said) > 20*time.Second {
			said = time.Now()
			fmt.Printf("not balanced after %v: %v, %s\n", said.Sub(started).Round(time.Second), err, why)
		}
		return false
	})
	return a
}

func (c *Processes) unbalanced(a Answer, nodes []int) string {
	for _, s := range a.Shards {
		if len(s.Replicas) != 3 || s.State != "serving" {
			return fmt.Sprintf("%+v", s)
		}
		for _, id := range s.Replicas {
			if !slices.ContainsFunc(nodes, func(i int) bool { return c.nodes[i].cfg.Node == id }) {
				return fmt.Sprintf("%+v", s)
			}
		}
	}
	if a.Moves > 0 || len(a.Shards) == 0 || !ledEvenly(a.Nodes) {
		return fmt.Sprintf("%d moves are left: %+v", a.Moves, a.Nodes)
	}
	return ""
}

// preload writes the keys that are measured.
func (c *Processes) preload(ctx context.Context, t *testing.T) {
	t.Helper()
	var writers sync.WaitGroup
	const atOnce = 100
	for w := range atOnce {
		writers.Go(func() {
			value := bytes.Repeat([]byte{'v'}, measureValues)
			for i := w; i < measureKeys; i += atOnce {
				if _, err := c.Client(w).Put(ctx, TrafficKey(i), value, base.Cond{}); err != nil {
					t.Errorf("preload: %v", err)
					return
				}
			}
		})
	}
	writers.Wait()
}

// run has a node make traffic for a while.
func (c *Processes) run(ctx context.Context, t *testing.T, i int, load Traffic, during func()) Measured {
	t.Helper()
	load.Keys, load.ValueBytes = measureKeys, measureValues
	if err := c.begin(ctx, i, load); err != nil {
		t.Fatal(err)
	}
	during()
	m, err := c.end(ctx, i)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func lasting() { time.Sleep(measureFor) }

// measureForward compares two kinds of traffic in turns, so that both have the same
// of a machine that others use too.
func (c *Processes) measureForward(ctx context.Context, t *testing.T) {
	for _, pair := range []struct {
		name string
		a, b Traffic
	}{
		{"get, 64 in flight, led here / elsewhere", Traffic{Op: Get, Where: Here, InFlight: 64}, Traffic{Op: Get, Where: Elsewhere, InFlight: 64}},
		{"put, 256 in flight, led here / elsewhere", Traffic{Op: Put, Where: Here, InFlight: 256}, Traffic{Op: Put, Where: Elsewhere, InFlight: 256}},
		{"put, 256 in flight, led here / by one other node", Traffic{Op: Put, Where: Here, InFlight: 256}, Traffic{Op: Put, Where: Beside, InFlight: 256}},
		{"one get / multiget of 50, one in flight", Traffic{Op: Get, InFlight: 1}, Traffic{Op: Get, InFlight: 1, Batch: 50}},
		{"one get led elsewhere / multiget of 50, one in flight", Traffic{Op: Get, Where: Elsewhere, InFlight: 1}, Traffic{Op: Get, InFlight: 1, Batch: 50}},
		{"get, one in flight, led here / elsewhere", Traffic{Op: Get, Where: Here, InFlight: 1}, Traffic{Op: Get, Where: Elsewhere, InFlight: 1}},
	} {
		fmt.Println(pair.name)
		var rates, halves []float64
		for range measureRounds {
			a := c.run(ctx, t, 0, pair.a, lasting)
			b := c.run(ctx, t, 0, pair.b, lasting)
			fmt.Printf("    %v\n    %v\n", a, b)
			rates = append(rates, b.Rate()/a.Rate())
			halves = append(halves, float64(b.P50)/float64(a.P50))
		}
		slices.Sort(rates)
		slices.Sort(halves)
		fmt.Printf("    median ratio of rates %.2f, of p50 %.2f\n", rates[measureRounds/2], halves[measureRounds/2])
	}
}

// traffic is what goes on while nodes come and go.
func traffic() Traffic { return Traffic{Op: mixed, InFlight: 8} }

// measureGrow adds a node to a cluster that holds something, and kills it for good
// when it has its share.
func (c *Processes) measureGrow(ctx context.Context, t *testing.T) {
	c.fill(ctx, t, *measureHolds)
	before := c.run(ctx, t, 0, traffic(), func() { time.Sleep(2 * measureFor) })
	fmt.Printf("%d MiB held; traffic before: %v\n", *measureHolds>>20, before)
	added := 0
	meanwhile := c.run(ctx, t, 0, traffic(), func() {
		start := time.Now()
		added = c.Add()
		c.ready(ctx, t, added)
		fmt.Printf("a fourth node serves after %v", time.Since(start).Round(time.Millisecond))
		d := c.balanced(ctx, t, 0, 1, 2, added)
		fmt.Printf(", all is balanced after %v\n", time.Since(start).Round(time.Millisecond))
		for _, n := range d.Nodes {
			fmt.Printf("    %s has %d replicas and leads %d shards\n", n.ID, n.Shards, n.Leaders)
		}
	})
	fmt.Printf("traffic meanwhile: %v\n    ratio of p99: %.1f\n", meanwhile, float64(meanwhile.P99)/float64(before.P99))
	meanwhile = c.run(ctx, t, 0, traffic(), func() {
		c.Kill(added)
		start := time.Now()
		c.balanced(ctx, t, 0, 1, 2)
		took := time.Since(start)
		fmt.Printf("killed for good: all replicas are back after %v, which is %v after the grace\n",
			took.Round(time.Millisecond), (took - measureGrace).Round(time.Millisecond))
	})
	fmt.Printf("traffic meanwhile: %v\n    ratio of p99: %.1f\n", meanwhile, float64(meanwhile.P99)/float64(before.P99))
}

// measureLeave stops a node in good order while others are used.
func (c *Processes) measureLeave(ctx context.Context, t *testing.T) {
	before := c.run(ctx, t, 0, traffic(), func() { time.Sleep(2 * measureFor) })
	leaving := c.run(ctx, t, 0, traffic(), func() {
		start := time.Now()
		c.Stop(ctx, 2)
		fmt.Printf("a node has left after %v\n", time.Since(start).Round(time.Millisecond))
		lasting()
	})
	fmt.Printf("traffic before: %v\nand as it leaves: %v\n    longest extra latency %v, failed requests %d\n", before, leaving,
		(leaving.Worst - before.Worst).Round(time.Millisecond), leaving.Failed)
}

// measureTen starts ten nodes in this process, on loopback and one disk.
func measureTen(t *testing.T) {
	ctx := testkit.Context(t)
	start := time.Now()
	all := openTen(ctx, t)
	opened := time.Since(start)
	for _, n := range all {
		if err := n.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
	ready := time.Since(start)
	var infos []base.NodeInfo
	even := false
	for !even && time.Since(start) < time.Minute {
		plan, err := all[0].Rebalance(ctx)
		if err == nil {
			infos, err = all[0].Nodes(ctx)
		}
		even = err == nil && len(plan.Moves) == 0 && ledEvenly(infos)
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Printf("ten nodes in one process: open after %v, ready after %v, replicas and leaders even: %t, after %v\n",
		opened.Round(time.Millisecond), ready.Round(time.Millisecond), even, time.Since(start).Round(time.Millisecond))
	for _, n := range infos {
		fmt.Printf("    %s has %d replicas and leads %d shards\n", n.ID, n.Shards, n.Leaders)
	}
	time.Sleep(measureFor) // until the last work of the start is done
	const idle = 10 * time.Second
	before, err := CPUTime()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(idle)
	after, err := CPUTime()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("    idle: %.2f cores for all ten\n", (after-before).Seconds()/idle.Seconds())
	start = time.Now()
	var closing sync.WaitGroup
	for _, n := range all {
		closing.Go(func() { _ = n.Close() })
	}
	closing.Wait()
	fmt.Printf("    all closed at once in %v\n", time.Since(start).Round(time.Millisecond))
}

// openTen opens ten nodes that found a cluster.
func openTen(ctx context.Context, t *testing.T) []*node.Node {
	t.Helper()
	all := make([]*node.Node, 10)
	var addrs []string
	for range all {
		addrs = append(addrs, freeAddress(t))
	}
	var opening sync.WaitGroup
	for i := range all {
		dir := t.TempDir()
		opening.Go(func() {
			var err error
			all[i], err = node.Open(ctx, node.Config{
				Dir: dir, NodeID: fmt.Sprint("node-", i), Shards: 30, Limits: base.DefaultLimits(),
				Storage: storage.Config{DiskReserveBytes: -1, MemTableBytes: 4 << 20, BlockCacheBytes: 4 << 20, ReadCacheBytes: 4 << 20},
				Cluster: &node.ClusterConfig{
					Addr: addrs[i], Advertise: addrs[i], Peers: addrs, Name: "ten", Expect: len(all), Replication: 3, Insecure: true,
					DeadNodeGrace: time.Minute, MaxClockOffset: 500 * time.Millisecond,
				},
			})
			if err != nil {
				t.Errorf("node %d: %v", i, err)
			}
		})
	}
	opening.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// ledEvenly reports whether each node leads as many shards as the mean, or one more or
// less.
func ledEvenly(nodes []base.NodeInfo) bool {
	active, led := 0, 0
	for _, n := range nodes {
		if n.State == "active" {
			active, led = active+1, led+n.Leaders
		}
	}
	return !slices.ContainsFunc(nodes, func(n base.NodeInfo) bool {
		return n.State == "active" && (n.Leaders*active > led+active || n.Leaders*active < led-active)
	})
}
