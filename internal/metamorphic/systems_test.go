package metamorphic

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/testkit/faultnet"
	"github.com/distributedcache/cache/storage"
)

var steps = flag.Int("steps", 50_000, "steps of the metamorphic tests")

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

const shards = 7

// config is that of every node under test.
func config(clock *testkit.Clock) node.Config {
	return node.Config{
		Dir: "/db", Shards: shards, Clock: clock.Now, Limits: base.DefaultLimits(),
		Storage: storage.Config{
			FS: vfs.NewMem(), DiskReserveBytes: -1,
			MemTableBytes: 1 << 20, BlockCacheBytes: 1 << 20, ReadCacheBytes: 1 << 18,
		},
		Requests:      node.RequestConfig{Retention: time.Minute, MaxPerShard: 100},
		SweepInterval: time.Millisecond,
	}
}

// run runs a history on the nodes of the given configurations.
func run(t *testing.T, clock *testkit.Clock, n int, clockOf func(base.Key) any, configs ...node.Config) {
	if testing.Short() {
		n /= 10
	}
	sys := &system{clockOf: clockOf}
	sys.reopen = func() (nodes []*node.Node) {
		for _, cfg := range configs {
			n, err := node.Open(testkit.Context(t), cfg)
			if err != nil {
				t.Fatal(err)
			}
			nodes = append(nodes, n)
		}
		return nodes
	}
	sys.nodes = sys.reopen()
	newHistory(t, testkit.Rand(t), clock, sys).run(n)
	sys.close(t)
}

// newClock returns a clock that stands between the seconds.
func newClock() *testkit.Clock {
	clock := testkit.NewClock(time.Time{})
	clock.Advance(500 * time.Millisecond)
	return clock
}

func TestSoloAgreesWithModel(t *testing.T) {
	clock := newClock()
	run(t, clock, *steps, func(base.Key) any { return 0 }, config(clock))
}

// raftSteps is how many steps the clusters take for each hundred of -steps.
var raftSteps = map[int]int{1: 10, 4: 1}

// Of four nodes each lacks a part of the shards, which have three replicas, and
// these move while the history goes on: the nodes join one after the other.
func TestClusterAgreesWithModel(t *testing.T) {
	for _, nodes := range []int{1, 4} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			net := faultnet.New(testkit.Seed(t))
			defer net.Close()
			clock := newClock()
			var configs []node.Config
			for i := range nodes {
				cfg := config(clock)
				cfg.Cluster = &node.ClusterConfig{
					Advertise: fmt.Sprint("address-", i), Name: "history", Replication: 3, Network: net.Node(fmt.Sprint("address-", i)),
					DeadNodeGrace: time.Hour, MaxClockOffset: time.Second, Tick: 20 * time.Millisecond, Fast: 10,
				}
				if i > 0 {
					cfg.Cluster.Peers = []string{"address-0"}
				}
				configs = append(configs, cfg)
			}
			run(t, clock, *steps*raftSteps[nodes]/100, func(key base.Key) any { return key }, configs...)
		})
	}
}
