package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/config"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/testkit/faultnet"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/inflight"
	"github.com/distributedcache/cache/replication/internal/logtest"
	"github.com/distributedcache/cache/storage"
)

const testShards = 4

// cluster is some nodes in one process, on file systems that outlive them.
type cluster struct {
	t     *testing.T
	net   *faultnet.Net
	clock *testkit.Clock // nil = that of the system
	// apart says that the nodes have the replicas only that they are told to start.
	apart bool
	// reserve is how much of a disk stays free; 0: the disks have no end.
	reserve int64
	// full is how many commands make an entry go beside another; 0 = as always.
	full int
	// tune, if there is one, changes how a node is opened.
	tune func(*Config)
	// tuneRaft does that for dragonboat.
	tuneRaft func(*config.NodeHostConfig)
	peers    []Peer
	nodes    []*clusterNode
	mu       sync.RWMutex // protects the hosts of the nodes; held while one stops
}

type clusterNode struct {
	fs    vfs.FS
	store *storage.Store
	host  *Host
	fail  chan error
	// endpoint is where the node is on the network.
	endpoint *faultnet.Endpoint
	// remote is how it reaches the others, if they are apart.
	remote *testRemote
}

func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{t: t, net: faultnet.New(testkit.Seed(t))}
	for i := range n {
		c.peers = append(c.peers, Peer{Replica: uint64(i + 1), Node: fmt.Sprintf("node-%d", i), Address: fmt.Sprintf("n%d:1", i)})
		c.nodes = append(c.nodes, &clusterNode{fs: vfs.NewMem()})
	}
	t.Cleanup(func() {
		c.stopAll()
		c.net.Close()
	})
	return c
}

func (c *cluster) startAll() {
	for i := range c.nodes {
		c.start(i)
	}
}

func (c *cluster) stopAll() {
	for i := range c.nodes {
		c.stop(i)
	}
}

func (c *cluster) start(i int) {
	c.t.Helper()
	if err := c.open(i); err != nil {
		c.t.Fatalf("node %d: %v", i, err)
	}
}

// open opens a node and returns why it cannot be.
func (c *cluster) open(i int) error {
	n := c.nodes[i]
	store, err := storage.Open(storage.Config{
		Dir: "/data", FS: n.fs, Shards: testShards, Durability: storage.Volatile, DiskReserveBytes: cmp.Or(c.reserve, -1), MemTableBytes: 4 << 20,
	})
	if err != nil {
		return err
	}
	clock := base.Clock(time.Now)
	if c.clock != nil {
		clock = c.clock.Now
	}
	n.fail = make(chan error, 1)
	n.endpoint = c.net.Node(c.peers[i].Address)
	rc := RaftConfig{
		Dir: "/raft", FS: n.fs, Node: c.peers[i].Node, Peers: c.peers, Network: n.endpoint,
		Tick: 5 * time.Millisecond, OnFail: func(err error) { n.fail <- err },
	}
	rc.tune, rc.full = c.tuneRaft, c.full
	if c.apart {
		n.remote = newTestRemote(c, c.peers[i].Node)
		rc.Tick = 20 * time.Millisecond // elections must end while every core is busy
		rc.Peers, rc.Address, rc.Remote = nil, c.peers[i].Address, n.remote
	}
	cfg := Config{
		Store: store, Clock: clock, Logger: slog.New(slog.DiscardHandler), MaxInFlight: 10_000,
		RequestRetention: time.Hour, MaxRequests: 10_000,
	}
	if c.tune != nil {
		c.tune(&cfg)
	}
	host, err := OpenRaft(cfg, rc)
	if err != nil {
		return errors.Join(err, store.Close())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n.store, n.host = store, host
	return nil
}

// hostOf returns a node's host; nil if the node is down.
func (c *cluster) hostOf(i int) *Host {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.nodes[i].host
}

func (c *cluster) stop(i int) {
	n := c.nodes[i]
	host := c.hostOf(i)
	if host == nil {
		return
	}
	c.mu.Lock()
	n.host = nil
	c.mu.Unlock()
	host.Close()
	if err := n.store.Close(); err != nil {
		c.t.Errorf("node %d: %v", i, err)
	}
	n.store = nil
}

// leader returns the node that leads a shard, once there is one.
func (c *cluster) leader(shard base.ShardID) *clusterNode {
	c.t.Helper()
	var found *clusterNode
	testkit.Eventually(c.t, time.Minute, fmt.Sprintf("a leader of shard %d", shard), func() bool {
		for i, n := range c.nodes {
			if host := c.hostOf(i); host != nil && host.log.Leads(shard) {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// do calls fn with the leader of a shard until it is that.
func (c *cluster) do(ctx context.Context, shard base.ShardID, fn func(*Host) error) error {
	for {
		err := fn(c.leader(shard).host)
		var other *NotLeaderError
		if !errors.As(err, &other) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Millisecond):
		}
	}
}

// clusterLog is the log of a whole cluster: each call goes to the leader.
type clusterLog struct{ *cluster }

func (l clusterLog) Propose(ctx context.Context, txn *command.Txn) error {
	shard := base.ShardID(0)
	if len(txn.Parts) > 0 {
		shard = txn.Parts[0].Shard
	}
	if l.nodes[0].host == nil {
		return inflight.NotApplied(base.ErrClosed)
	}
	return l.do(ctx, shard, func(h *Host) error { return h.log.Propose(ctx, txn) })
}

func (l clusterLog) Current(ctx context.Context, shards []base.ShardID) error {
	for _, id := range shards {
		if err := l.leader(id).host.log.Current(ctx, []base.ShardID{id}); err != nil {
			return err
		}
	}
	return nil
}

func (l clusterLog) Settle(ctx context.Context, shard base.ShardID, v base.Version) error {
	return l.leader(shard).host.log.Settle(ctx, shard, v)
}

func (l clusterLog) Ordered() (newest base.Version) {
	for _, n := range l.nodes {
		newest = max(newest, n.host.log.Ordered())
	}
	return newest
}

func (l clusterLog) InFlight() (waiting, refused int64) {
	for _, n := range l.nodes {
		w, r := n.host.InFlight()
		waiting, refused = waiting+w, refused+r
	}
	return waiting, refused
}

func (l clusterLog) Close() { l.stopAll() }

func TestRaftlog(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			logtest.Run(t, func(t *testing.T) *logtest.Fixture {
				c := newCluster(t, nodes)
				c.clock = testkit.NewClock(time.Time{})
				c.startAll()
				f := &logtest.Fixture{Log: clusterLog{c}}
				f.Read = func(shard base.ShardID, key base.Key) storage.Record {
					n := c.leader(shard)
					it, err := n.host.Get(context.Background(), shard, key, base.ReadOptions{})
					if err != nil {
						t.Error(err)
					}
					rec := storage.Record{Version: it.Version, Value: it.Value}
					if !it.ExpiresAt.IsZero() {
						rec.ExpiresAt = uint64(base.VersionAt(it.ExpiresAt))
					}
					return rec
				}
				f.Reopen = func() {
					c.stopAll()
					c.startAll()
				}
				return f
			})
		})
	}
}
