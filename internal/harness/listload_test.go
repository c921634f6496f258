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
	listRounds = flag.Int("listrounds", 1, "rounds of the test of transactions on lists under faults")
	listTime   = flag.Duration("listtime", 5*time.Second, "how long a round of it lasts")
)

// leastListTxns must succeed in each second of a round for it to say anything.
const leastListTxns = 10

// TestTransactionsAreStrictlySerializable lets clients append to lists and read them
// while all kinds of faults hit the cluster, and looks for an order that explains
// what they saw.
func TestTransactionsAreStrictlySerializable(t *testing.T) {
	for round := range *listRounds {
		listRound(t, round%2 == 1)
		if t.Failed() {
			return
		}
	}
}

func listRound(t *testing.T, elastic bool) {
	rng := testkit.Rand(t)
	c := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 5, Seed: rng.Uint64(), Elastic: elastic})
	defer c.close()
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	least := leastListTxns * int(listTime.Seconds())
	l := &ListLoad{Cluster: c, Clients: 24, Duration: *listTime, AtLeast: least, Timeout: 2 * time.Second, Rand: testkit.Fork(rng)}
	nemesis := &Nemesis{Cluster: c, Rand: testkit.Fork(rng), Pause: 300 * time.Millisecond}
	attack, end := context.WithCancel(ctx)
	var attacker sync.WaitGroup
	attacker.Go(func() { nemesis.Run(attack) })
	l.Run(ctx)
	end()
	attacker.Wait()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	txns, err := l.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stats := listStats(txns)
	t.Logf("%v; %d faults (%v)", stats, nemesis.Total(), nemesis)
	if err := CheckLists(txns); err != nil {
		t.Error(err)
	}
	if stats.OK < least || nemesis.Total() < int(listTime.Seconds())/2 {
		t.Errorf("too little happened: %v, %d faults", stats, nemesis.Total())
	}
}

// Lists that are read one by one are of different moments: that must be found.
func TestTornReadsAreFound(t *testing.T) {
	rng := testkit.Rand(t)
	c := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 5, Seed: rng.Uint64()})
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	l := &ListLoad{Cluster: c, Clients: 16, Duration: time.Second, Timeout: 10 * time.Second, Rand: testkit.Fork(rng), Torn: true}
	for range 20 {
		l.Run(ctx)
		var fault *ListError
		if err := CheckLists(l.recorded); errors.As(err, &fault) {
			t.Log(fault)
			return
		}
		l.recorded = nil // its lists are known no more, so it begins with others
		l.appends.Add(activeLists * listElements)
	}
	t.Error("reads of different moments pass for one")
}
