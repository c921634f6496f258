package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
)

// acknowledged writes keys and returns them, all acknowledged.
func acknowledged(ctx context.Context, t testing.TB, c Client, what string, n int) (keys []base.Key) {
	t.Helper()
	for i := range n {
		key := base.K(fmt.Sprint(what, "/", i), "")
		if _, err := c.Put(ctx, key, []byte(what), base.Cond{}); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

// mustFind reads keys that were acknowledged.
func mustFind(ctx context.Context, t testing.TB, c Client, keys []base.Key) {
	t.Helper()
	for _, key := range keys {
		if _, version, err := c.Get(ctx, key); err != nil || version == 0 {
			t.Errorf("%v was acknowledged: version %d, %v", key, version, err)
			return
		}
	}
}

// TestANodeWithoutItsData removes the data of a node and leaves it its raft log. A
// log that is whole brings everything back; one that begins later is refused.
func TestANodeWithoutItsData(t *testing.T) {
	for _, c := range []struct {
		name      string
		snapshots uint64
		refused   bool
	}{
		{"the log is whole", 100_000, false},
		{"the log begins later", 20, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := testkit.Rand(t)
			d := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 2, Seed: rng.Uint64(), Tune: func(cfg *node.Config) {
				cfg.Raft.SnapshotEntries, cfg.Raft.KeepEntries = c.snapshots, 1
			}})
			ctx := testkit.Context(t)
			keys := acknowledged(ctx, t, d.Client(0), "before", 200)
			if err := d.Ready(ctx); err != nil {
				t.Fatal(err)
			}
			d.Stop(1)
			if err := d.members[1].disk.RemoveAll("/data"); err != nil {
				t.Fatal(err)
			}
			err := d.open(ctx, 1)
			if refused := errors.Is(err, base.ErrCorrupt); refused != c.refused || err != nil && !refused {
				t.Fatalf("opened without its data: %v", err)
			}
			keys = append(keys, acknowledged(ctx, t, d.Client(2), "after", 20)...)
			for i := range d.Nodes() {
				mustFind(ctx, t, d.Client(i), keys)
			}
			if err == nil {
				d.MustAgree(ctx)
			}
		})
	}
}

// TestAnEmptiedNodeVotes: a write that two of three have acknowledged must not be
// lost because one of them comes back with nothing and elects the third one.
func TestAnEmptiedNodeVotes(t *testing.T) {
	rng := testkit.Rand(t)
	c := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 2, Seed: rng.Uint64(), Elastic: true})
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	c.Net.Isolate(c.Address(2))
	keys := acknowledged(ctx, t, c.Client(0), "by two", 20)
	c.Crash(rng, 100, 0, 1)
	c.Net.Heal()
	c.members[1].disk = testkit.NewCrashFS()
	opening, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if err := c.open(opening, 1); err != nil {
		t.Log("refused: ", err)
	} else {
		t.Error("taken in by one of three")
	}
	// With the other one that has them they are a majority, and take it in.
	c.Start(0)
	c.Start(1)
	for i := range c.Nodes() {
		mustFind(ctx, t, c.Client(i), keys)
	}
}

// TestAnEmptiedNodeLives: a process whose directory was emptied must not die of what
// the others send to it, nor answer wrong.
func TestAnEmptiedNodeLives(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	c := NewProcesses(t, 3, 2)
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	keys := acknowledged(ctx, t, c.Client(0), "before", 50)
	c.Kill(1)
	if err := os.RemoveAll(c.nodes[1].cfg.Dir); err != nil {
		t.Fatal(err)
	}
	c.Start(1)
	call, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for c.nodes[1].call(call, "Control.Ready", &Call{Timeout: time.Second}, &Answer{}) != nil {
		if call.Err() != nil {
			t.Fatal("the process does not answer any more")
		}
		time.Sleep(20 * time.Millisecond)
	}
	mustFind(ctx, t, c.Client(1), keys)
}
