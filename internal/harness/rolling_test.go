package harness

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
)

var rollings = flag.Int("rollings", 1, "how often all nodes are restarted, one after the other, under load")

// leastRolled is how many increments must have been made while nodes restarted for
// the test to say anything.
const leastRolled = 100

// rolled is the load of a rolling restart: counters, which tell in the end whether
// each increment was made once, and rows.
type rolled struct {
	c        *Cluster
	counters int
	up       []sync.RWMutex // for each node: callers hold it, a restart has it alone
	made     []atomic.Int64 // increments that were acknowledged, by counter
	repeated atomic.Int64

	mu     sync.Mutex // protects the rest
	rows   map[base.Key]base.Version
	faults []error
}

func (r *rolled) counter(i int) base.Key { return base.K(fmt.Sprint("counter/", i), "") }

func (r *rolled) blame(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.faults) < maxReported {
		r.faults = append(r.faults, err)
	}
}

// polite is a caller that uses a node only while it is up, and lets its calls return
// before that is stopped: none of them may fail.
func (r *rolled) polite(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		i := rng.IntN(r.c.Nodes())
		if !r.up[i].TryRLock() {
			continue
		}
		if err := r.both(ctx, r.c.node(i), rng); err != nil {
			r.blame(fmt.Errorf("node %d, which was up: %w", i, err))
		}
		r.up[i].RUnlock()
	}
}

// both makes an increment and a row.
func (r *rolled) both(ctx context.Context, n *node.Node, rng *rand.Rand) error {
	call, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	i := rng.IntN(r.counters)
	if _, err := n.Update(call, r.increment(i), base.TxOptions{MaxAttempts: 1000}); err != nil {
		return err
	}
	r.made[i].Add(1)
	row := base.K("row/"+base.NewRequestID().String(), "")
	version, err := n.Write(call, base.Write{Key: row, Value: []byte("v")}, base.RequestID{})
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.rows[row] = version
	r.mu.Unlock()
	_, err = n.Get(call, row, base.ReadOptions{})
	return err
}

func (r *rolled) increment(i int) func(*node.Tx) error {
	return func(tx *node.Tx) error {
		n, err := readInt(tx, r.counter(i))
		if errors.Is(err, base.ErrNotFound) {
			n, err = 0, nil
		}
		if err != nil {
			return err
		}
		return tx.Write(putInt(r.counter(i), n+1))
	}
}

// rude is a caller that does not care whether its node is about to stop, and repeats
// what failed, with its request id, on another one until it is done.
func (r *rolled) rude(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		i, id := rng.IntN(r.counters), base.NewRequestID()
		for try := 0; ; try++ {
			call, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			err := r.c.on(rng.IntN(r.c.Nodes()), func(n *node.Node) error {
				_, err := n.Update(call, r.increment(i), base.TxOptions{RequestID: id, MaxAttempts: 1000})
				return err
			})
			cancel()
			if err == nil {
				r.made[i].Add(1)
				break
			}
			r.repeated.Add(1)
			if try > 100 {
				r.blame(fmt.Errorf("an increment with id %v was never made: %w", id, err))
				return
			}
		}
	}
}

func (r *rolled) total() (n int64) {
	for i := range r.made {
		n += r.made[i].Load()
	}
	return n
}

// TestRollingRestart restarts the nodes of a cluster one after the other while
// callers use all of them. No write is lost or made twice, and whoever calls a node
// that is up does not notice anything but the time it takes.
func TestRollingRestart(t *testing.T) {
	rng := testkit.Rand(t)
	c := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 5, Seed: rng.Uint64(), Elastic: true})
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	r := &rolled{c: c, counters: 40, up: make([]sync.RWMutex, c.Nodes()), rows: map[base.Key]base.Version{}}
	r.made = make([]atomic.Int64, r.counters)
	work, end := context.WithCancel(ctx)
	var callers sync.WaitGroup
	for range 6 {
		polite, rude := testkit.Fork(rng), testkit.Fork(rng)
		callers.Go(func() { r.polite(work, polite) })
		callers.Go(func() { r.rude(work, rude) })
	}
	restarts := 0
	for range *rollings {
		for _, i := range rng.Perm(c.Nodes()) {
			before := r.total()
			testkit.Eventually(t, settlePatience, "increments", func() bool { return r.total() > before+leastRolled/3 })
			r.up[i].Lock()
			c.Stop(i)
			c.Start(i)
			if err := c.node(i).Ready(ctx); err != nil {
				t.Error(err)
			}
			r.up[i].Unlock()
			restarts++
		}
	}
	end()
	callers.Wait()
	r.check(ctx, t)
	c.MustAgree(ctx)
	t.Logf("%d restarts, %d increments, %d calls repeated, %d rows", restarts, r.total(), r.repeated.Load(), len(r.rows))
	if r.total() < leastRolled {
		t.Error("too little happened")
	}
}

// check compares what there is with what was acknowledged.
func (r *rolled) check(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, err := range r.faults {
		t.Error(err)
	}
	for i := range r.made {
		value, _, err := r.c.Client(i).Get(ctx, r.counter(i))
		if have, _ := strconv.Atoi(string(value)); err != nil || int64(have) != r.made[i].Load() {
			t.Errorf("counter %d is %q, %v; %d increments were acknowledged", i, value, err, r.made[i].Load())
		}
	}
	keys := make([]base.Key, 0, len(r.rows))
	for key := range r.rows {
		keys = append(keys, key)
	}
	for batch := range slices.Chunk(keys, 500) {
		items, err := r.c.node(0).MultiGet(ctx, batch, base.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i, it := range items {
			if it.Version != r.rows[batch[i]] {
				t.Errorf("row %v has version %d, %d was acknowledged", batch[i], it.Version, r.rows[batch[i]])
			}
		}
	}
}
