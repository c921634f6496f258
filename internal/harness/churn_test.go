package harness

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/testkit"
)

var churn = flag.Int("churn", 4, "how many times nodes come, go, die and come back under load")

// churnCopies is how many replicas each shard is to have whoever is there, and so
// the least number of nodes. churnMost is the largest.
const (
	churnCopies = 3
	churnMost   = 5
)

// churner has the nodes of a cluster come and go. Node i of the cluster is a machine
// on which one node after the other lives.
type churner struct {
	t          *testing.T
	ctx        context.Context
	c          *Cluster
	rng        *rand.Rand
	in         map[int]bool // machines whose node is a member
	generation int
	done       map[string]int
}

// step is something that happens to a cluster of so many nodes at least and at most.
type step struct {
	name        string
	least, most int
	do          func()
}

func (u *churner) steps() []step {
	return []step{
		{"add", churnCopies, churnMost - 1, u.add},
		{"drain and remove", churnCopies + 1, churnMost, u.drain},
		{"kill for good", churnCopies + 1, churnMost, u.kill},
		{"restart", churnCopies, churnMost, u.restart},
		{"wipe", churnCopies, churnMost, u.wipe},
	}
}

// next does what has been done least so far, of what is possible.
func (u *churner) next() {
	var best []step
	for _, s := range u.steps() {
		if len(u.in) < s.least || len(u.in) > s.most {
			continue
		}
		if len(best) > 0 && u.done[s.name] < u.done[best[0].name] {
			best = nil
		}
		if len(best) == 0 || u.done[s.name] == u.done[best[0].name] {
			best = append(best, s)
		}
	}
	s := best[u.rng.IntN(len(best))]
	u.done[s.name]++
	began := time.Now()
	s.do()
	took := time.Since(began)
	u.settled()
	u.t.Logf("%s: %v, settled after %v; %d nodes", s.name, took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), len(u.in))
}

// some returns a machine whose node is a member, and another one.
func (u *churner) some() (one, other int) {
	machines := slices.Sorted(maps.Keys(u.in))
	u.rng.Shuffle(len(machines), func(i, j int) { machines[i], machines[j] = machines[j], machines[i] })
	return machines[0], machines[1]
}

// add takes in a new node.
func (u *churner) add() {
	i := 0
	for u.in[i] {
		i++
	}
	m, p := u.c.members[i], &u.c.peers[i]
	u.generation++
	p.Node, p.Address = fmt.Sprintf("node-%d-%d", i, u.generation), fmt.Sprintf("address-%d-%d", i, u.generation)
	m.disk, m.later = testkit.NewCrashFS(), true
	u.start(i)
	u.in[i] = true
}

func (u *churner) start(i int) {
	u.t.Helper()
	if err := u.c.open(u.ctx, i); err != nil {
		u.t.Fatalf("%s does not start: %v", u.c.peers[i].Node, err)
	}
}

// drain has a node give away all that it has, and takes it out.
func (u *churner) drain() {
	i, other := u.some()
	id := u.c.peers[i].Node
	if err := u.c.node(other).Drain(u.ctx, id, func(base.Progress) {}); err != nil {
		u.t.Fatalf("drain %s: %v", id, err)
	}
	delete(u.in, i)
	u.remove(id)
	u.c.Stop(i)
	replicas, err := replicasOn(u.ctx, u.c.members[i].disk, u.c.cfg.Shards)
	if err != nil {
		u.t.Fatal(err)
	}
	for shard, r := range replicas {
		if r.found || r.info.Entries > 0 {
			u.t.Errorf("%s was drained and has %d entries of shard %d", id, r.info.Entries, shard)
		}
	}
}

// remove takes a node out, which the others may take for alive at first.
func (u *churner) remove(id string) {
	u.t.Helper()
	_, other := u.some()
	var err error
	testkit.Eventually(u.t, settlePatience, "the removal of "+id, func() bool {
		err = u.c.node(other).Remove(u.ctx, id)
		return err == nil
	})
}

// kill takes the power from a node, has it replaced and removes it. Then it comes
// back with what it had, and must not do any harm.
func (u *churner) kill() {
	i, _ := u.some()
	u.c.Crash(u.rng, 50*u.rng.IntN(3), i)
	delete(u.in, i)
	u.settled()
	u.remove(u.c.peers[i].Node)
	short, cancel := context.WithTimeout(u.ctx, time.Second)
	defer cancel()
	if err := u.c.open(short, i); err != nil {
		u.t.Logf("a node that was removed does not start: %v", err)
	}
	<-short.Done() // in which clients use it
	u.c.Stop(i)
}

// restart has a node come back at once, after it was stopped or lost power.
func (u *churner) restart() {
	i, _ := u.some()
	if u.rng.IntN(2) == 0 {
		u.c.Stop(i)
	} else {
		u.c.Crash(u.rng, 50*u.rng.IntN(3), i)
	}
	u.start(i)
}

// wipe has a node come back with nothing.
func (u *churner) wipe() {
	i, _ := u.some()
	u.c.Crash(u.rng, 0, i)
	m := u.c.members[i]
	m.disk, m.later = testkit.NewCrashFS(), true
	u.start(i)
}

// settled waits until every shard has all its replicas, on members only, and nothing
// is to be moved.
func (u *churner) settled() {
	u.t.Helper()
	why := ""
	defer func() {
		if u.t.Failed() {
			u.t.Log(why)
		}
	}()
	testkit.Eventually(u.t, settlePatience, "all replicas", func() bool {
		why = u.unsettled()
		return why == ""
	})
}

func (u *churner) unsettled() string {
	one, _ := u.some()
	shards, err := u.c.node(one).Shards(u.ctx)
	if err != nil {
		return err.Error()
	}
	members := map[string]bool{}
	for i := range u.in {
		members[u.c.peers[i].Node] = true
	}
	for _, s := range shards {
		if len(s.Replicas) != churnCopies || s.State != "serving" {
			return fmt.Sprintf("%+v", s)
		}
		for _, id := range s.Replicas {
			if !members[id] {
				return fmt.Sprintf("%+v is not on %v only", s, members)
			}
		}
	}
	plan, err := u.c.node(one).Rebalance(u.ctx)
	if err != nil || len(plan.Moves) > 0 {
		return fmt.Sprintf("%+v is left to move, %v", plan, err)
	}
	return ""
}

// TestChurn has nodes join, be drained and removed, die for good, restart and lose
// their disk, while clients race on some keys. In the end the history can be
// explained and every shard has its replicas, which agree, and nobody has more.
func TestChurn(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	rng := testkit.Rand(t)
	cfg := ClusterConfig{
		Nodes: churnCopies, Spare: churnMost - churnCopies, Shards: 5, Seed: rng.Uint64(), Elastic: true,
		Grace: 1500 * time.Millisecond, Fast: 10,
	}
	callers := 12
	if invariants.Enabled { // everything takes many times as long
		cfg.Grace, cfg.Fast, callers = 6*time.Second, 3, 3
	}
	c := NewCluster(t, cfg)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute+time.Duration(*churn)*time.Minute)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	u := &churner{t: t, ctx: ctx, c: c, rng: testkit.Fork(rng), in: map[int]bool{0: true, 1: true, 2: true}, done: map[string]int{}}
	rec := NewRecorder(4_000_000)
	w := Workload{Clients: callers, Keys: Keys(200), Timeout: 2 * time.Second, Rand: testkit.Fork(rng)}
	work, end := context.WithCancel(ctx)
	var clients sync.WaitGroup
	clients.Go(func() { w.Run(work, rec, c.Client) })
	defer clients.Wait()
	defer end()
	for range *churn {
		u.next()
	}
	end()
	clients.Wait()
	one, _ := u.some()
	if err := errors.Join(c.Ready(ctx), w.ReadFinally(ctx, rec, c.Client(one))); err != nil {
		t.Fatal(err)
	}
	h := rec.History()
	t.Logf("%v in %v; %v", h.Stats(), h.Span(), u.done)
	mustBeExplained(t, h)
	for shard, on := range c.MustAgree(ctx) {
		if len(on) != churnCopies {
			t.Errorf("shard %d is on the disks of nodes %v", shard, on)
		}
	}
	if h.Stats().OK < leastOperations/10 {
		t.Error("too little happened")
	}
}
