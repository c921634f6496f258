package harness

import (
	"context"
	"errors"
	"flag"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/testkit"
)

var (
	rounds    = flag.Int("rounds", 1, "rounds of the linearizability test under faults")
	roundTime = flag.Duration("roundtime", 10*time.Second, "how long a round lasts")
)

// leastOperations must have succeeded in a round for it to say anything.
const leastOperations = 1000

// TestClusterIsLinearizable lets clients race on some keys of a cluster while all
// kinds of faults hit it, and checks the history of every key.
func TestClusterIsLinearizable(t *testing.T) {
	for round := range *rounds {
		linearRound(t, ClusterConfig{Nodes: 3, Shards: 5, Elastic: round%2 == 0})
		if t.Failed() {
			return
		}
	}
}

func linearRound(t *testing.T, cfg ClusterConfig) {
	rng := testkit.Rand(t)
	cfg.Seed = rng.Uint64()
	c := NewCluster(t, cfg)
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	rec := NewRecorder(4_000_000)
	w := Workload{
		Clients: 48, Keys: Keys(300), Duration: *roundTime, AtLeast: leastOperations, Timeout: 500 * time.Millisecond, Rand: testkit.Fork(rng),
	}
	nemesis := &Nemesis{Cluster: c, Rand: testkit.Fork(rng), Pause: 150 * time.Millisecond}
	attack, end := context.WithCancel(ctx)
	var attacker sync.WaitGroup
	attacker.Go(func() { nemesis.Run(attack) })
	w.Run(ctx, rec, c.Client)
	end()
	attacker.Wait()
	if err := errors.Join(c.Ready(ctx), w.ReadFinally(ctx, rec, c.Client(0))); err != nil {
		t.Fatal(err)
	}
	h := rec.History()
	stats := h.Stats()
	t.Logf("%v in %v; %d faults (%v); network %+v", stats, h.Span(), nemesis.Total(), nemesis, c.Net.Stats())
	mustBeExplained(t, h)
	c.MustAgree(ctx)
	if stats.OK < leastOperations || nemesis.Total() < 5 {
		t.Errorf("too little happened: %v, %d faults", stats, nemesis.Total())
	}
}

// mustBeExplained fails the test if the history breaks a rule.
func mustBeExplained(t *testing.T, h History) {
	t.Helper()
	if err := errors.Join(CheckSessions(h), CheckLinear(h, LinearConfig{Dir: t.TempDir()})); err != nil {
		t.Error(err)
	}
}
