package harness

import (
	"context"
	"errors"
	"flag"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
)

var (
	bankRounds = flag.Int("bankrounds", 1, "rounds of the bank test under faults")
	bankTime   = flag.Duration("banktime", 6*time.Second, "how long a round of it lasts")
)

// TestBank moves money over all shards of a cluster while all kinds of faults hit
// it. No reader may ever see money that is not there, and every transfer must be
// applied once or not at all, as its client was told.
func TestBank(t *testing.T) {
	for round := range *bankRounds {
		bankRound(t, round%2 == 1)
		if t.Failed() {
			return
		}
	}
}

// bankRound makes transfers between accounts on five shards, so that four of five
// have theirs on two of them.
func bankRound(t *testing.T, elastic bool) {
	rng := testkit.Rand(t)
	c := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 5, Seed: rng.Uint64(), Elastic: elastic, Tune: func(cfg *node.Config) {
		cfg.Requests = node.RequestConfig{Retention: time.Hour, MaxPerShard: 1_000_000}
	}})
	defer c.close() // the rounds must not pile up
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	accounts, tellers := 1000, 96
	if testing.Short() { // under the race detector, nobody could sum up so many
		accounts, tellers = 100, 12
	}
	b := &Bank{
		Cluster: c, Accounts: accounts, Balance: 100, Tellers: tellers, Auditors: 3,
		Duration: *bankTime, AtLeast: leastTransfers(), Timeout: 2 * time.Second, Rand: testkit.Fork(rng),
	}
	if err := b.Open(ctx); err != nil {
		t.Fatal(err)
	}
	nemesis := &Nemesis{Cluster: c, Rand: testkit.Fork(rng), Pause: 500 * time.Millisecond}
	attack, end := context.WithCancel(ctx)
	var attacker sync.WaitGroup
	attacker.Go(func() { nemesis.Run(attack) })
	began := time.Now()
	b.Run(ctx)
	took := time.Since(began)
	end()
	attacker.Wait()
	if err := errors.Join(c.Ready(ctx), b.Check(ctx)); err != nil {
		t.Error(err)
	}
	c.MustAgree(ctx)
	stats := b.Stats()
	t.Logf("%v in %v; %d faults (%v)", stats, took, nemesis.Total(), nemesis)
	if !b.shown() || nemesis.Total() < int(bankTime.Seconds())/2 {
		t.Errorf("too little happened: %v, %d faults", stats, nemesis.Total())
	}
}

// leastTransfers must have been applied in a round for it to say anything.
func leastTransfers() int { return 10 * int(bankTime.Seconds()) }

// The check of the bank must find what it is there to find.
func TestBankFindsFaults(t *testing.T) {
	made := func(outcome base.Outcome) *transfer {
		return &transfer{id: base.NewRequestID(), from: 0, to: 1, amount: 30, outcome: outcome}
	}
	for _, c := range []struct {
		name    string
		outcome base.Outcome
		row     bool
		left    string
		right   string
		fault   bool
	}{
		{"applied", base.OutcomeApplied, true, "70", "130", false},
		{"not applied", base.OutcomeNotApplied, false, "100", "100", false},
		{"unknown", base.OutcomeUnknown, true, "70", "130", false},
		{"unknown and not applied", base.OutcomeUnknown, false, "100", "100", false},
		{"lost", base.OutcomeApplied, false, "100", "100", true},
		{"refused and applied", base.OutcomeNotApplied, true, "70", "130", true},
		{"half of it", base.OutcomeApplied, true, "70", "100", true},
		{"twice", base.OutcomeApplied, true, "40", "160", true},
		{"a lost account", base.OutcomeApplied, true, "70", "", true},
	} {
		b := &Bank{Accounts: 2, Balance: 100}
		tr := made(c.outcome)
		b.mu.transfers = append(b.mu.transfers, tr)
		rows := map[base.Key]string{}
		if c.row {
			rows[tr.row()] = tr.text()
		}
		b.compare(map[base.Key]string{bankAccount(0): c.left, bankAccount(1): c.right}, rows)
		if found := len(b.mu.faults) > 0; found != c.fault {
			t.Errorf("%s: found %v", c.name, b.mu.faults)
		}
	}
}
