package harness

import (
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/storage"
)

// TestDifferingReplicasAreFound changes one byte of one replica behind the back of
// its log.
func TestDifferingReplicasAreFound(t *testing.T) {
	rng := testkit.Rand(t)
	c := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 2, Seed: rng.Uint64()})
	ctx := testkit.Context(t)
	acknowledged(ctx, t, c.Client(0), "value", 30)
	c.MustAgree(ctx)
	store, err := storage.Open(storage.Config{Dir: "/data", FS: c.members[1].disk, Durability: storage.Volatile, DiskReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	b := store.NewBatch()
	b.Put(1, base.K("value/0", ""), storage.Record{Version: 1, Value: []byte("valuf")})
	if err := b.Apply(); err != nil {
		t.Fatal(err)
	}
	b.Release()
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	_, apart, err := c.compare(ctx, []int{0, 1, 2})
	if apart != "" || err == nil {
		t.Errorf("a replica that differs passed: %q, %v", apart, err)
	}
}
