package cache_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/security"
)

// openPeer opens a node of a cluster on loopback.
func openPeer(t *testing.T, dir string, peers ...string) *cache.Cache {
	t.Helper()
	c, err := cache.OpenContext(testkit.Context(t), cache.Options{
		Dir: dir, Shards: 6,
		Storage: cache.StorageOptions{MemTableBytes: 2 << 20, BlockCacheBytes: 1 << 20, ReadCacheBytes: 1 << 20},
		Cluster: cache.ClusterOptions{Addr: "127.0.0.1:0", Insecure: true, Peers: peers},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// addrOf returns where a node listens.
func addrOf(t *testing.T, c *cache.Cache) string {
	t.Helper()
	nodes, err := c.Admin().Nodes(testkit.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if n.Self {
			return n.Addr
		}
	}
	t.Fatal("the node does not know itself")
	return ""
}

func TestThreePeers(t *testing.T) {
	ctx := testkit.Context(t)
	first := openPeer(t, t.TempDir())
	if _, err := first.Put(ctx, cache.K("a", "1"), []byte("one")); err != nil {
		t.Fatal(err)
	}
	addr := addrOf(t, first)
	nodes := []*cache.Cache{first, openPeer(t, t.TempDir(), addr), openPeer(t, t.TempDir(), addr)}
	for i, c := range nodes {
		it, err := c.Get(ctx, cache.K("a", "1"))
		if err != nil || string(it.Value) != "one" {
			t.Errorf("node %d: %q, %v", i, it.Value, err)
		}
	}
	var writers sync.WaitGroup
	for i, c := range nodes {
		writers.Go(func() {
			for n := range 50 {
				if _, err := c.Put(ctx, cache.K(fmt.Sprint("k", n), fmt.Sprint(i)), []byte("v")); err != nil {
					t.Errorf("node %d: %v", i, err)
				}
			}
		})
	}
	writers.Wait()
	for i, c := range nodes {
		n := 0
		for _, err := range c.RangeScan(ctx, cache.PrimaryPrefix("k")) {
			if err != nil {
				t.Fatalf("node %d: %v", i, err)
			}
			n++
		}
		if n != 150 {
			t.Errorf("node %d: %d items", i, n)
		}
	}
	testkit.Eventually(t, time.Minute, "three replicas of every shard", func() bool {
		shards, err := first.Admin().Shards(ctx)
		if err != nil {
			return false
		}
		for _, s := range shards {
			if len(s.Replicas) != 3 {
				return false
			}
		}
		return true
	})
}

// A directory of a node by itself becomes the first node of a cluster, and what is
// in it reaches the others.
func TestAloneThenClustered(t *testing.T) {
	ctx, dir := testkit.Context(t), t.TempDir()
	alone, err := cache.Open(cache.Options{Dir: dir, Shards: 6})
	if err != nil {
		t.Fatal(err)
	}
	versions := map[string]cache.Version{}
	for i := range 100 {
		key := fmt.Sprint("k", i)
		if versions[key], err = alone.Put(ctx, cache.K(key, ""), []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := alone.Close(); err != nil {
		t.Fatal(err)
	}
	first := openPeer(t, dir)
	addr := addrOf(t, first)
	second, third := openPeer(t, t.TempDir(), addr), openPeer(t, t.TempDir(), addr)
	testkit.Eventually(t, time.Minute, "three replicas of every shard", func() bool {
		nodes, err := third.Admin().Nodes(ctx)
		for _, n := range nodes {
			if n.Shards != 6 {
				return false
			}
		}
		return err == nil && len(nodes) == 3
	})
	for i, c := range []*cache.Cache{first, second, third} {
		for key, version := range versions {
			it, err := c.Get(ctx, cache.K(key, ""))
			if err != nil || string(it.Value) != key || it.Version != version {
				t.Fatalf("node %d: %s: %q version %d, %v; want version %d", i, key, it.Value, it.Version, err, version)
			}
		}
		if v, err := c.Put(ctx, cache.K("k0", ""), []byte("newer")); err != nil || v <= versions["k99"] {
			t.Errorf("node %d: version %d after %d, %v", i, v, versions["k99"], err)
		}
		versions["k0"] = 0
		delete(versions, "k0")
	}
	_ = first.Close()
	if _, err := cache.Open(cache.Options{Dir: dir}); !errors.Is(err, cache.ErrInvalid) {
		t.Errorf("opened a directory of a cluster without one: %v", err)
	}
}

// Nodes with certificates of one CA are a cluster; whoever has none, or one of
// another CA, is not let in.
func TestPeersWithCertificates(t *testing.T) {
	ctx, dir := testkit.Context(t), t.TempDir()
	options := func(ca, node string, peers ...string) cache.Options {
		authority, err := security.OpenDevCA(filepath.Join(dir, ca))
		if err != nil {
			authority, err = security.NewDevCA(filepath.Join(dir, ca), "bank")
		}
		if err != nil {
			t.Fatal(err)
		}
		files, err := authority.Issue(node, "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		return cache.Options{
			Dir: filepath.Join(dir, ca+"-"+node), Shards: 4, NodeID: node,
			Cluster:  cache.ClusterOptions{Addr: "127.0.0.1:0", Peers: peers},
			Security: cache.SecurityOptions{TLS: cache.TLSOptions{CertFile: files.CertFile, KeyFile: files.KeyFile, CAFile: files.CAFile}},
		}
	}
	open := func(ctx context.Context, o cache.Options) (*cache.Cache, error) {
		c, err := cache.OpenContext(ctx, o)
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		return c, err
	}
	first, err := open(ctx, options("ours", "one"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Put(ctx, cache.K("k", ""), []byte("v")); err != nil {
		t.Fatal(err)
	}
	addr := addrOf(t, first)
	second, err := open(ctx, options("ours", "two", addr))
	if err != nil {
		t.Fatal(err)
	}
	if it, err := second.Get(ctx, cache.K("k", "")); err != nil || string(it.Value) != "v" {
		t.Errorf("%q, %v", it.Value, err)
	}
	plain := cache.Options{Dir: filepath.Join(dir, "plain"), Cluster: cache.ClusterOptions{Addr: "127.0.0.1:0", Insecure: true, Peers: []string{addr}}}
	for name, o := range map[string]cache.Options{"another CA": options("theirs", "three", addr), "no certificate": plain} {
		short, cancel := context.WithTimeout(ctx, time.Second)
		_, err := open(short, o)
		cancel()
		if !errors.Is(err, cache.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
}
