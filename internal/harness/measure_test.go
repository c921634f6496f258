package harness

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

var (
	measure      = flag.Bool("measure", false, "measure failover, catching up and restart of three real processes")
	measureBytes = flag.Int64("measurebytes", 1<<30, "with -measure: how much to write while a node is frozen")
)

const measureValueBytes = 16 << 10

// TestMeasureCluster prints how three processes with 30 shards behave when one
// is frozen while much is written, when all are killed and start again, and when
// leaders are killed. It asserts nothing about speed.
//
//	go test ./internal/harness -run '^TestMeasureCluster$' -v -timeout 30m -measure
func TestMeasureCluster(t *testing.T) {
	if !*measure {
		t.Skip("run with -measure")
	}
	c := NewProcesses(t, 3, 30)
	ctx := context.Background()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	c.fill(ctx, t, 16<<20) // warm
	before := []int64{c.rss(t, 0), c.rss(t, 1)}
	c.Freeze(2)
	start := time.Now()
	c.fill(ctx, t, *measureBytes)
	fmt.Printf("wrote %d MiB in %v with one of three nodes frozen\n", *measureBytes>>20, time.Since(start).Round(time.Millisecond))
	for i := range before {
		fmt.Printf("node %d: resident memory grew from %d to %d MiB\n", i, before[i]>>20, c.rss(t, i)>>20)
	}
	c.Thaw(2)
	start = time.Now()
	c.ready(ctx, t, 2)
	fmt.Printf("the frozen node answers for all shards after %v\n", time.Since(start).Round(time.Millisecond))
	for i := range c.nodes {
		c.Kill(i)
		fmt.Printf("node %d: %d MiB on disk\n", i, diskBytes(t, c.nodes[i].cfg.Dir)>>20)
	}
	start = time.Now()
	for i := range c.nodes {
		c.Start(i)
	}
	c.ready(ctx, t, 0)
	fmt.Printf("after kill -9 of all: serving again after %v\n", time.Since(start).Round(time.Millisecond))
	c.failovers(ctx, t)
}

// fill writes values to all shards.
func (c *Processes) fill(ctx context.Context, t *testing.T, total int64) {
	t.Helper()
	var written atomic.Int64
	var writers sync.WaitGroup
	for w := range 32 {
		writers.Go(func() {
			value := bytes.Repeat([]byte{byte(w)}, measureValueBytes)
			for i := 0; written.Add(measureValueBytes) <= total; i++ {
				call, cancel := context.WithTimeout(ctx, time.Minute)
				_, err := c.Client(w%2).Put(call, base.K(fmt.Sprintf("fill/%d/%d", w, i), ""), value, base.Cond{})
				cancel()
				if err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	writers.Wait()
}

func (c *Processes) ready(ctx context.Context, t *testing.T, i int) {
	t.Helper()
	for c.nodes[i].call(ctx, "Control.Ready", &Call{Timeout: time.Minute}, &Answer{}) != nil {
		time.Sleep(5 * time.Millisecond)
	}
}

// failovers kills nodes and measures how long keys of all shards cannot be
// written through another.
func (c *Processes) failovers(ctx context.Context, t *testing.T) {
	t.Helper()
	var gaps []time.Duration
	for round := range 10 {
		victim, other := round%3, (round+1)%3
		for i := range c.nodes {
			c.ready(ctx, t, i)
		}
		c.Kill(victim)
		start := time.Now()
		var writers sync.WaitGroup
		for k := range 60 { // keys of about all shards
			writers.Go(func() {
				call, cancel := context.WithTimeout(ctx, 20*time.Second)
				defer cancel()
				for {
					_, err := c.Client(other).Put(call, base.K(fmt.Sprint("failover/", k), ""), []byte("v"), base.Cond{})
					if err == nil || call.Err() != nil {
						return
					}
				}
			})
		}
		writers.Wait()
		gaps = append(gaps, time.Since(start))
		c.Start(victim)
	}
	slices.Sort(gaps)
	fmt.Printf("writes to all shards after a node was killed: p50 %v, worst %v of %d\n",
		gaps[len(gaps)/2].Round(time.Millisecond), gaps[len(gaps)-1].Round(time.Millisecond), len(gaps))
}

// rss returns the resident memory of a process.
func (c *Processes) rss(t *testing.T, i int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.nodes[i].cmd.Process.Pid))
	if err != nil {
		t.Skip("no resident memory to be read here: ", err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func diskBytes(t *testing.T, dir string) (total int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}
