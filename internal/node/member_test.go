package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/testkit/faultnet"
	"github.com/distributedcache/cache/storage"
)

// memberConfig is a small node of a cluster at an address of a network.
func memberConfig(t *testing.T, net *faultnet.Net, disk storage.FS, addr string, peers ...string) Config {
	end := net.Node(addr)
	t.Cleanup(func() { _ = end.Close() }) // after the node, which is opened later
	cfg := testConfig(disk, storage.Volatile)
	cfg.Cluster = &ClusterConfig{
		Advertise: addr, Peers: peers, Name: "test", Replication: 3, Network: end,
		DeadNodeGrace: time.Minute, MaxClockOffset: time.Second, Tick: 20 * time.Millisecond, Fast: 10,
	}
	return cfg
}

func newNet(t *testing.T) *faultnet.Net {
	net := faultnet.New(testkit.Seed(t))
	t.Cleanup(net.Close)
	return net
}

func TestMembersShareEverything(t *testing.T) {
	net, ctx := newNet(t), testkit.Context(t)
	first := openTest(t, memberConfig(t, net, testkit.NewCrashFS(), "a:1"))
	mustWrite(t, first, put(base.K("k", ""), "v"))
	second := openTest(t, memberConfig(t, net, testkit.NewCrashFS(), "b:1", "a:1"))
	third := openTest(t, memberConfig(t, net, testkit.NewCrashFS(), "c:1", "b:1"))
	for i, n := range []*Node{first, second, third} {
		it, err := n.Get(ctx, base.K("k", ""), base.ReadOptions{})
		if err != nil || string(it.Value) != "v" {
			t.Fatalf("node %d: %q, %v", i, it.Value, err)
		}
		for k := range 20 {
			mustWrite(t, n, put(base.K(fmt.Sprint("k", k), fmt.Sprint(i)), "v"))
		}
	}
}

// A cluster of three that found it together is one cluster, whoever comes first, and
// has everything after all have lost power.
func TestFoundedTogether(t *testing.T) {
	net, ctx := newNet(t), testkit.Context(t)
	rng := testkit.Rand(t)
	addrs := []string{"a:1", "b:1", "c:1"}
	disks := make([]testkit.CrashFS, len(addrs))
	for i := range disks {
		disks[i] = testkit.NewCrashFS()
	}
	openAll := func() []*Node {
		nodes := make([]*Node, len(addrs))
		var group sync.WaitGroup
		for _, i := range rng.Perm(len(addrs)) {
			cfg := memberConfig(t, net, disks[i], addrs[i], addrs...)
			cfg.Cluster.Expect = len(addrs)
			group.Go(func() {
				var err error
				if nodes[i], err = Open(ctx, cfg); err != nil {
					t.Errorf("node %d: %v", i, err)
				}
			})
		}
		group.Wait()
		if t.Failed() {
			t.FailNow()
		}
		return nodes
	}
	t0 := time.Now()
	nodes := openAll()
	t.Log("founded", time.Since(t0))
	for k := range 30 {
		mustWrite(t, nodes[k%3], put(base.K(fmt.Sprint("k", k), ""), "v"))
	}
	cluster := nodes[0].store.Identity().ClusterID
	for i, n := range nodes {
		if id := n.store.Identity().ClusterID; id != cluster || id == "" {
			t.Errorf("node %d is in cluster %q, node 0 in %q", i, id, cluster)
		}
		disks[i] = disks[i].Crash(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: testkit.Fork(rng)})
	}
	for _, n := range nodes {
		_ = n.Close() // it is a ghost by now
	}
	t0 = time.Now()
	nodes = openAll()
	t.Log("reopened", time.Since(t0))
	for i, n := range nodes {
		t.Cleanup(func() { _ = n.Close() })
		for k := range 30 {
			if _, err := n.Get(ctx, base.K(fmt.Sprint("k", k), ""), base.ReadOptions{}); err != nil {
				t.Fatalf("node %d, key %d: %v", i, k, err)
			}
		}
	}
}

// Whoever does not fit is refused, and is told why.
func TestMisfitsAreRefused(t *testing.T) {
	net := newNet(t)
	disk := testkit.NewCrashFS()
	cfg := memberConfig(t, net, disk, "a:1")
	cfg.NodeID = "first"
	first := openTest(t, cfg)
	mustWrite(t, first, put(base.K("k", ""), "v"))
	alone := testkit.NewCrashFS()
	if n, err := Open(testkit.Context(t), testConfig(alone, storage.Synced)); err != nil {
		t.Fatal(err)
	} else if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		name  string
		disk  storage.FS
		spoil func(*Config)
		want  error
	}{
		{"another cluster", testkit.NewCrashFS(), func(c *Config) { c.Cluster.Name = "other" }, base.ErrInvalid},
		{"another shard count", testkit.NewCrashFS(), func(c *Config) { c.Shards = 7 }, base.ErrInvalid},
		{"the id of a node that runs", testkit.NewCrashFS(), func(c *Config) { c.NodeID = "first" }, base.ErrInvalid},
		{"data of a node by itself", alone, func(*Config) {}, base.ErrInvalid},
		{"nobody there", testkit.NewCrashFS(), func(c *Config) { c.Cluster.Peers = []string{"nowhere:1"} }, base.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := memberConfig(t, net, c.disk, fmt.Sprintf("m%d:1", i), "a:1")
			c.spoil(&cfg)
			ctx, cancel := context.WithTimeout(testkit.Context(t), time.Minute)
			if errors.Is(c.want, base.ErrUnavailable) {
				cancel()
				ctx, cancel = context.WithTimeout(testkit.Context(t), 300*time.Millisecond)
			}
			defer cancel()
			n, err := Open(ctx, cfg)
			if err == nil {
				_ = n.Close()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			t.Log(err)
		})
	}
	// The directory of a member does not open without its cluster.
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(testkit.Context(t), testConfig(disk, storage.Synced)); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("opened by itself: %v", err)
	}
}

// Seven found a cluster, of which five have the catalog; then all come back at other
// addresses at once, and know of one another only what their peer lists say.
func TestAllMoveElsewhere(t *testing.T) {
	if testing.Short() {
		t.Skip("seven nodes with the race detector are more than two cores can run")
	}
	net, ctx := newNet(t), testkit.Context(t)
	const nodes = 7
	disks := make([]testkit.CrashFS, nodes)
	for i := range disks {
		disks[i] = testkit.NewCrashFS()
	}
	open := func(where string) []*Node {
		var addrs []string
		for i := range nodes {
			addrs = append(addrs, fmt.Sprintf("%s%d:1", where, i))
		}
		all := make([]*Node, nodes)
		var group sync.WaitGroup
		for i := range all {
			cfg := memberConfig(t, net, disks[i], addrs[i], addrs...)
			cfg.Cluster.Expect, cfg.Cluster.Tick = nodes, 50*time.Millisecond
			group.Go(func() {
				var err error
				if all[i], err = Open(ctx, cfg); err != nil {
					t.Errorf("node %d: %v", i, err)
				}
			})
		}
		group.Wait()
		if t.Failed() {
			t.FailNow()
		}
		return all
	}
	all := open("here")
	for i, n := range all {
		mustWrite(t, n, put(base.K(fmt.Sprint("k", i), ""), "v"))
	}
	closeAll := func() {
		var group sync.WaitGroup
		for _, n := range all {
			group.Go(func() { _ = n.Close() })
		}
		group.Wait()
	}
	closeAll()
	all = open("there")
	t.Cleanup(closeAll)
	for i, n := range all {
		if _, err := n.Get(ctx, base.K(fmt.Sprint("k", nodes-1-i), ""), base.ReadOptions{}); err != nil {
			t.Errorf("node %d: %v", i, err)
		}
	}
}
