package harness

import (
	"context"
	"errors"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/testkit"
)

var processTime = flag.Duration("processtime", 8*time.Second, "how long the linearizability test of real processes lasts")

// leastProcessOperations is leastOperations with real disks.
const leastProcessOperations = 500

func TestNodeProcess(t *testing.T) { RunProcess(t) }

// TestProcessesAreLinearizable lets clients race on keys of three real processes
// that are killed and frozen, one or all at once.
func TestProcessesAreLinearizable(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	rng := testkit.Rand(t)
	c := NewProcesses(t, 3, 5)
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	rec := NewRecorder(2_000_000)
	w := Workload{Clients: 32, Keys: Keys(300), Duration: *processTime, AtLeast: leastProcessOperations, Timeout: time.Second, Rand: testkit.Fork(rng)}
	faults := 0
	attack, end := context.WithCancel(ctx)
	var attacker sync.WaitGroup
	r := testkit.Fork(rng)
	attacker.Go(func() { faults = c.attack(attack, r) })
	w.Run(ctx, rec, c.Client)
	end()
	attacker.Wait()
	if err := errors.Join(c.Ready(ctx), w.ReadFinally(ctx, rec, c.Client(0))); err != nil {
		t.Fatal(err)
	}
	h := rec.History()
	stats := h.Stats()
	t.Logf("%v in %v; %d faults", stats, h.Span(), faults)
	mustBeExplained(t, h)
	if stats.OK < leastProcessOperations || faults < 3 {
		t.Errorf("too little happened: %v, %d faults", stats, faults)
	}
}

// attack kills and freezes processes until the context ends, and leaves all of
// them running.
func (c *Processes) attack(ctx context.Context, rng *rand.Rand) (faults int) {
	pause := func(bound time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(bound/2 + time.Duration(rng.Int64N(int64(bound)))):
		}
	}
	for ctx.Err() == nil {
		pause(600 * time.Millisecond)
		faults++
		i := rng.IntN(len(c.nodes))
		switch rng.IntN(4) {
		case 0:
			c.Freeze(i)
			pause(time.Second)
			c.Thaw(i)
		case 1:
			for j := range c.nodes {
				c.Kill(j)
			}
			for j := range c.nodes {
				c.Start(j)
			}
		default:
			c.Kill(i)
			pause(300 * time.Millisecond)
			c.Start(i)
		}
	}
	return faults
}
