package transport_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/lni/dragonboat/v4/raftio"

	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/transport"
)

// resolves fails the test unless the replica is at addr; "" is unknown.
func resolves(t *testing.T, r raftio.INodeRegistry, shard, id uint64, addr string) {
	t.Helper()
	got, key, err := r.Resolve(shard, id)
	if got != addr || key != addr || (addr == "") != errors.Is(err, transport.ErrUnknownTarget) {
		t.Errorf("replica %d of shard %d: %q, key %q, %v, want %q", id, shard, got, key, err, addr)
	}
}

func TestRegistry(t *testing.T) {
	r := transport.NewRegistry()
	resolves(t, r, 1, 1, "")
	r.Add(1, 1, nodeID(1))
	resolves(t, r, 1, 1, "")
	r.SetAddress(nodeID(1), "x:1")
	resolves(t, r, 1, 1, "x:1")
	r.SetAddress(nodeID(1), "x:2")
	resolves(t, r, 1, 1, "x:2")
	r.SetAddress(nodeID(2), "y:1")
	r.Add(1, 2, nodeID(2))
	r.Add(257, 2, nodeID(2)) // shares a bucket with shard 1
	r.Add(1, 1, nodeID(1))
	if r.Refused() != 0 {
		t.Errorf("%d refused", r.Refused())
	}

	r.Add(1, 1, nodeID(2)) // a replica does not move
	resolves(t, r, 1, 1, "x:2")
	if r.Refused() != 1 {
		t.Errorf("%d refused", r.Refused())
	}
	r.Remove(1, 1)
	r.Remove(1, 99)
	resolves(t, r, 1, 1, "")
	r.Add(1, 1, nodeID(2))
	resolves(t, r, 1, 1, "y:1")
	r.RemoveAddress(nodeID(2))
	r.RemoveAddress(nodeID(77))
	resolves(t, r, 1, 2, "")
	r.SetAddress(nodeID(2), "y:2")
	resolves(t, r, 1, 2, "y:2")
	r.RemoveShard(1)
	resolves(t, r, 1, 1, "")
	resolves(t, r, 1, 2, "")
	resolves(t, r, 257, 2, "y:2")
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestRegistryNames(t *testing.T) {
	r := transport.NewRegistry()
	name := "ABCDEF00-0000-4000-8000-00000000000A"
	nodes, err := r.Factory().Create("", 4, func(target string) bool { return strings.Count(target, "-") == 4 })
	if err != nil {
		t.Fatal(err)
	}
	r.SetAddress(strings.ToLower(name), "x:1")
	nodes.Add(1, 1, name)
	nodes.Add(1, 1, strings.ToLower(name))
	resolves(t, nodes, 1, 1, "x:1")
	nodes.Add(1, 2, "10.0.0.1:7000")
	resolves(t, nodes, 1, 2, "")
	if r.Refused() != 1 {
		t.Errorf("%d refused", r.Refused())
	}
}

// TestRegistryLimits: senders of messages decide what is added.
func TestRegistryLimits(t *testing.T) {
	r := transport.NewRegistry()
	for i := range uint64(1<<16 + 10) {
		r.Add(i, 1, nodeID(1))
	}
	if r.Refused() != 10 {
		t.Errorf("%d replicas over the limit were refused", r.Refused())
	}
	r.Remove(0, 1)
	r.Add(1<<20, 1, nodeID(1))
	if r.Refused() != 10 {
		t.Error("no replica is accepted in place of a removed one")
	}
	r = transport.NewRegistry()
	for i := range 1<<12 + 10 {
		r.Add(1, uint64(i), nodeID(i))
		r.SetAddress(nodeID(i), "x")
	}
	if r.Refused() != 20 {
		t.Errorf("%d over the limit of nodes were refused", r.Refused())
	}
}

func TestRegistryConcurrently(t *testing.T) {
	r := transport.NewRegistry()
	var wg sync.WaitGroup
	for w := range 4 {
		rnd := testkit.NewRand(uint64(w))
		wg.Go(func() {
			for range 3000 {
				shard, id := rnd.Uint64N(5), rnd.Uint64N(3)
				switch node := nodeID(int(id)); rnd.IntN(6) {
				case 0:
					r.Add(shard, id, node)
				case 1:
					r.Remove(shard, id)
				case 2:
					r.SetAddress(node, fmt.Sprintf("node%d:%d", id, rnd.IntN(9)))
				case 3:
					r.RemoveAddress(node)
				case 4:
					r.RemoveShard(shard)
				default:
					addr, key, err := r.Resolve(shard, id)
					if addr != key || (err == nil && !strings.HasPrefix(addr, fmt.Sprintf("node%d:", id))) {
						t.Errorf("replica %d: %q, %q, %v", id, addr, key, err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkResolve(b *testing.B) {
	r := transport.NewRegistry()
	for shard := range uint64(1024) {
		r.Add(shard, 1, nodeID(1))
	}
	r.SetAddress(nodeID(1), "127.0.0.1:7000")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for shard := uint64(0); pb.Next(); shard++ {
			if _, _, err := r.Resolve(shard%1024, 1); err != nil {
				b.Error(err)
			}
		}
	})
}
