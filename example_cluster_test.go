package cache_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/distributedcache/cache"
)

// threeNodes opens a cluster of three nodes in this process and waits until every
// shard is on all of them. They would be on three machines, with TLS; all else is
// the same.
func threeNodes(ctx context.Context, dir string) []*cache.Cache {
	var nodes []*cache.Cache
	var peers []string
	for i := range 3 {
		c := must(cache.OpenContext(ctx, cache.Options{
			Dir: filepath.Join(dir, fmt.Sprint(i)), NodeID: fmt.Sprintf("teller-%d", i+1), Shards: 3,
			Cluster: cache.ClusterOptions{Addr: "127.0.0.1:0", Peers: peers, Insecure: true},
		}))
		nodes = append(nodes, c)
		peers = []string{addressOf(ctx, c)}
	}
	serving(ctx, nodes[0], 3)
	return nodes
}

// addressOf returns where other nodes reach this one.
func addressOf(ctx context.Context, c *cache.Cache) string {
	for _, n := range must(c.Admin().Nodes(ctx)) {
		if n.Self {
			return n.Addr
		}
	}
	panic("a node does not know itself")
}

// serving returns the shards at a moment at which n nodes have each of them and one
// leads. While a new node gets its share, leaders still move.
func serving(ctx context.Context, c *cache.Cache, n int) []cache.ShardInfo {
	for {
		shards := must(c.Admin().Shards(ctx))
		if !slices.ContainsFunc(shards, func(s cache.ShardInfo) bool { return s.State != "serving" || len(s.Replicas) != n }) {
			return shards
		}
		select {
		case <-ctx.Done():
			panic(context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// exampleContext bounds an example; it is many times what a slow machine needs.
func exampleContext() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 4*time.Minute)
}

func closeAll(nodes []*cache.Cache) {
	for _, c := range nodes {
		check(c.Close())
	}
}

// Three nodes that are told one another's addresses, and that they are three, found
// a cluster. Whatever one of them has written, the others read.
func ExampleClusterOptions() {
	ctx, cancel := exampleContext()
	defer cancel()
	dir := must(os.MkdirTemp("", "cache-example"))
	defer os.RemoveAll(dir)

	peers := freeAddresses(3) // 10.0.0.1:7000, 10.0.0.2:7000, 10.0.0.3:7000
	nodes := make([]*cache.Cache, 3)
	var opening sync.WaitGroup
	for i := range nodes { // each in a process of its own
		opening.Go(func() {
			nodes[i] = must(cache.OpenContext(ctx, cache.Options{
				Dir:     filepath.Join(dir, fmt.Sprint(i)),
				Shards:  3,
				Cluster: cache.ClusterOptions{Addr: peers[i], Peers: peers, Expect: 3, Insecure: true},
			}))
		})
	}
	opening.Wait()
	defer closeAll(nodes)

	must(nodes[0].Put(ctx, cache.K("account/ann", "balance"), []byte("100")))
	for _, c := range nodes {
		item := must(c.Get(ctx, cache.K("account/ann", "balance")))
		fmt.Printf("%s = %s\n", item.Key, item.Value)
	}
	// Output:
	// account/ann:balance = 100
	// account/ann:balance = 100
	// account/ann:balance = 100
}

// A node that is gone is no matter to the others.
func ExampleCache_cluster() {
	ctx, cancel := exampleContext()
	defer cancel()
	dir := must(os.MkdirTemp("", "cache-example"))
	defer os.RemoveAll(dir)
	nodes := threeNodes(ctx, dir)
	key := cache.K("account/ann", "balance")
	must(nodes[2].Put(ctx, key, []byte("100")))
	check(nodes[2].Close())
	defer closeAll(nodes[:2])

	// A shard that was led there is led elsewhere soon. Until then calls wait; one
	// that gives up is repeated with the same id, so that it cannot happen twice.
	id := cache.NewRequestID()
	for {
		_, err := nodes[0].Put(ctx, key, []byte("90"), cache.WithRequestID(id))
		if err == nil {
			break
		}
		if !cache.Retryable(err) && !errors.Is(err, cache.ErrIndeterminate) {
			panic(err)
		}
	}
	fmt.Println(string(must(nodes[1].Get(ctx, key)).Value))
	// Output: 90
}

func ExampleAdmin_Nodes_cluster() {
	ctx, cancel := exampleContext()
	defer cancel()
	dir := must(os.MkdirTemp("", "cache-example"))
	defer os.RemoveAll(dir)
	nodes := threeNodes(ctx, dir)
	defer closeAll(nodes)

	for _, n := range must(nodes[1].Admin().Nodes(ctx)) {
		fmt.Println(n.ID, n.State, n.Self, n.Shards)
	}
	// Output:
	// teller-1 active false 3
	// teller-2 active true 3
	// teller-3 active false 3
}

func ExampleAdmin_Shards_cluster() {
	ctx, cancel := exampleContext()
	defer cancel()
	dir := must(os.MkdirTemp("", "cache-example"))
	defer os.RemoveAll(dir)
	nodes := threeNodes(ctx, dir)
	defer closeAll(nodes)

	for _, s := range serving(ctx, nodes[0], 3) { // of nodes[0].Admin().Shards(ctx)
		fmt.Println(s.Shard, s.State, len(s.Replicas), s.Leader != "")
	}
	// Output:
	// 0 serving 3 true
	// 1 serving 3 true
	// 2 serving 3 true
}

// To take a node out, have it give away what it has, then remove it.
func ExampleAdmin_Drain_cluster() {
	ctx, cancel := exampleContext()
	defer cancel()
	dir := must(os.MkdirTemp("", "cache-example"))
	defer os.RemoveAll(dir)
	nodes := threeNodes(ctx, dir)
	defer closeAll(nodes)
	admin := nodes[0].Admin()

	for p, err := range admin.Drain(ctx, "teller-3") {
		if err != nil {
			panic(err)
		}
		_ = p // p.Done of p.Total replicas are elsewhere, or not needed
	}
	fmt.Println("removed:", admin.Remove(ctx, "teller-3"))
	for _, n := range must(admin.Nodes(ctx)) {
		fmt.Println(n.ID, n.State)
	}
	// Output:
	// removed: <nil>
	// teller-1 active
	// teller-2 active
}

// freeAddresses returns loopback addresses that nobody listens on.
func freeAddresses(n int) (addrs []string) {
	for range n {
		l := must(net.Listen("tcp", "127.0.0.1:0"))
		defer func() { check(l.Close()) }() // when all have one
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}
