package harness

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
)

// The tests here break a cluster on purpose: what finds no fault in a sound one
// must find it in these.

// staleClient reads whatever its node has.
type staleClient struct{ clusterClient }

func (c staleClient) Get(ctx context.Context, key base.Key) (value []byte, version base.Version, err error) {
	err = c.on(c.home, func(n *node.Node) error {
		it, err := n.Get(ctx, key, base.ReadOptions{Stale: true, MaxStale: time.Hour})
		value, version = it.Value, it.Version
		return err
	})
	if errors.Is(err, base.ErrNotFound) {
		return nil, 0, nil
	}
	return value, version, err
}

func TestStaleFollowersAreFound(t *testing.T) {
	rng := testkit.Rand(t)
	c := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 2, Seed: rng.Uint64()})
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		rec := NewRecorder(100_000)
		w := Workload{Clients: 12, Keys: Keys(6), Ops: 5000, Duration: 5 * time.Second, Rand: testkit.Fork(rng)}
		w.Run(ctx, rec, func(i int) Client { return staleClient{clusterClient{c, i % 3}} })
		var fault *LinearError
		if err := CheckLinear(rec.History(), LinearConfig{}); errors.As(err, &fault) {
			return
		}
		for _, key := range w.Keys { // the next history starts with absent keys
			if _, err := c.Client(0).Delete(ctx, key, base.Cond{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Error("reads of followers without a barrier passed for linearizable")
}

// lyingFS says that it has synced and has not.
type lyingFS struct{ vfs.FS }

type lyingFile struct{ vfs.File }

func (lyingFile) Sync() error                { return nil }
func (lyingFile) SyncData() error            { return nil }
func (lyingFile) SyncTo(int64) (bool, error) { return true, nil }

func lie(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return lyingFile{f}, nil
}

func (l lyingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.Create(name, c)
	return lie(f, err)
}

func (l lyingFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := l.FS.ReuseForWrite(from, to, c)
	return lie(f, err)
}

// TestDisksThatLieAreFound takes the power from nodes that answer before the
// fsync: the test of power losses must miss writes then.
func TestDisksThatLieAreFound(t *testing.T) {
	rng := testkit.Rand(t)
	c := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 2, Seed: rng.Uint64(), Tune: func(cfg *node.Config) {
		cfg.Storage.FS = lyingFS{cfg.Storage.FS}
	}})
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	const keys = 20
	for i := range keys {
		if _, err := c.Client(i).Put(ctx, base.K(fmt.Sprint("key/", i), ""), binary.BigEndian.AppendUint64(nil, 1), base.Cond{}); err != nil {
			t.Fatal(err)
		}
	}
	c.Crash(rng, 0, 0, 1, 2)
	// Without its identity or its log a node may rightly refuse to start. That
	// counts as found.
	found := 0
	for i := range c.members {
		if err := c.open(context.Background(), i); err != nil {
			found++
		}
	}
	if found == 0 {
		if err := c.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		for i := range keys {
			if _, version, err := c.Client(i).Get(ctx, base.K(fmt.Sprint("key/", i), "")); err == nil && version == 0 {
				found++
			}
		}
	}
	if found == 0 {
		t.Error("nothing is missing after a power loss on disks that lie")
	}
}
