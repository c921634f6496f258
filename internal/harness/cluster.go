package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/testkit/faultnet"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/storage"
)

// Cluster is nodes in this process, on a faulty network, on disks that lose power
// and under clocks that jump.
type Cluster struct {
	t       testing.TB
	cfg     ClusterConfig
	Net     *faultnet.Net
	peers   []replication.Peer
	members []*member
	closing sync.WaitGroup // of nodes that have crashed
}

// ClusterConfig says what a cluster is like.
type ClusterConfig struct {
	Nodes, Shards int
	// Spare is how many more nodes there are, which do not run at first. Only an
	// elastic cluster can take them in.
	Spare int
	Seed  uint64
	Tick  time.Duration // 0 = 10 ms
	// Elastic has the nodes found the cluster together and keep its catalog, as in
	// production. Else the replicas are fixed.
	Elastic bool
	// Grace is how long a node of an elastic cluster may be dead before it is
	// replaced, and Fast what divides the intervals of such a cluster; 0 = 1 min and 5,
	// or as much as a machine can take.
	Grace time.Duration
	Fast  float64
	// Tune may change the configuration of a node before it opens.
	Tune func(*node.Config)
}

// member is a node over all its lives.
type member struct {
	disk   testkit.CrashFS
	offset atomic.Int64 // of its clock
	later  bool         // it joins the others
	life   atomic.Pointer[life]
}

// life is a node from one start to the next stop.
type life struct {
	*node.Node
	endpoint *faultnet.Endpoint
	// over says that the node has lost power or is about to: whatever it answers
	// from then on never reached anybody.
	over atomic.Bool
}

// NewCluster starts a cluster, which ends with the test.
func NewCluster(t testing.TB, cfg ClusterConfig) *Cluster {
	t.Helper()
	c := newCluster(t, cfg)
	var founding sync.WaitGroup
	for i := range cfg.Nodes {
		founding.Go(func() { c.Start(i) })
	}
	founding.Wait()
	return c
}

// newCluster returns a cluster of which no node runs.
func newCluster(t testing.TB, cfg ClusterConfig) *Cluster {
	t.Helper()
	tick, fast := 10*time.Millisecond, 5.0
	if cfg.Elastic && invariants.Enabled { // with the race detector all takes many times as long
		tick, fast = 40*time.Millisecond, 2
	}
	cfg.Tick, cfg.Grace, cfg.Fast = cmp.Or(cfg.Tick, tick), cmp.Or(cfg.Grace, time.Minute), cmp.Or(cfg.Fast, fast)
	c := &Cluster{t: t, cfg: cfg, Net: faultnet.New(cfg.Seed)}
	for i := range cfg.Nodes + cfg.Spare {
		c.peers = append(c.peers, replication.Peer{
			Replica: uint64(i + 1), Node: fmt.Sprint("node-", i), Address: fmt.Sprint("address-", i),
		})
		c.members = append(c.members, &member{disk: testkit.NewCrashFS()})
	}
	t.Cleanup(c.close)
	return c
}

func (c *Cluster) close() {
	for i := range c.members {
		c.Stop(i)
	}
	c.closing.Wait()
	c.Net.Close()
}

// Nodes returns how many nodes there are, up or down.
func (c *Cluster) Nodes() int { return len(c.members) }

// Address returns where a node is on the network.
func (c *Cluster) Address(i int) string { return c.peers[i].Address }

// Start starts a node that is down.
func (c *Cluster) Start(i int) {
	c.t.Helper()
	if err := c.open(context.Background(), i); err != nil {
		c.t.Errorf("node %d does not start: %v", i, err)
	}
}

// open starts a node that is down, or returns why it cannot be.
func (c *Cluster) open(ctx context.Context, i int) error {
	m := c.members[i]
	if m.life.Load() != nil {
		return nil
	}
	l := &life{endpoint: c.Net.Node(c.peers[i].Address)}
	cfg := node.Config{
		Dir: "/data", Shards: c.cfg.Shards, Limits: base.DefaultLimits(),
		Clock: func() time.Time { return time.Now().Add(time.Duration(m.offset.Load())) },
		Storage: storage.Config{
			FS: m.disk, DiskReserveBytes: -1, MemTableBytes: 2 << 20, BlockCacheBytes: 4 << 20, ReadCacheBytes: 2 << 20,
		},
		Requests: node.RequestConfig{Retention: time.Minute, MaxPerShard: 1000},
		Raft: &replication.RaftConfig{
			Dir: "/raft", Node: c.peers[i].Node, Peers: c.peers, Network: l.endpoint, Forward: true,
			Tick: c.cfg.Tick, SnapshotEntries: 2000, KeepEntries: 200,
		},
	}
	if os.Getenv(logEnv) != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("on", c.peers[i].Node)
	}
	if c.cfg.Elastic {
		cfg.NodeID, cfg.Raft, cfg.Cluster = c.peers[i].Node, nil, c.elastic(i, l)
	}
	if c.cfg.Tune != nil {
		c.cfg.Tune(&cfg)
	}
	var err error
	if l.Node, err = node.Open(ctx, cfg); err != nil {
		_ = l.endpoint.Close()
		return err
	}
	m.life.Store(l)
	return nil
}

// elastic is how a node finds the others: those that found the cluster, or, if it
// comes later, those that run.
func (c *Cluster) elastic(i int, l *life) *node.ClusterConfig {
	cc := &node.ClusterConfig{
		Advertise: c.peers[i].Address, Name: "harness", Replication: 3, Network: l.endpoint,
		DeadNodeGrace: c.cfg.Grace, MaxClockOffset: 500 * time.Millisecond, Tick: c.cfg.Tick, Fast: c.cfg.Fast,
		SnapshotEntries: 2000, KeepEntries: 200,
	}
	if c.members[i].later {
		for _, j := range c.running() {
			cc.Peers = append(cc.Peers, c.peers[j].Address)
		}
		return cc
	}
	cc.Expect = c.cfg.Nodes
	for _, p := range c.peers[:c.cfg.Nodes] {
		cc.Peers = append(cc.Peers, p.Address)
	}
	return cc
}

// running returns the nodes that run.
func (c *Cluster) running() (up []int) {
	for i, m := range c.members {
		if m.life.Load() != nil {
			up = append(up, i)
		}
	}
	return up
}

// Stop stops a node in an orderly way.
func (c *Cluster) Stop(i int) {
	l := c.members[i].life.Swap(nil)
	if l == nil {
		return
	}
	if err := l.Close(); err != nil {
		c.t.Errorf("node %d: close: %v", i, err)
	}
	_ = l.endpoint.Close()
}

// Crash takes the power from some nodes at once. Their disks keep the given
// percentage of what was not synced.
func (c *Cluster) Crash(rng *rand.Rand, keep int, nodes ...int) {
	var lives []*life
	for _, i := range nodes {
		if l := c.members[i].life.Swap(nil); l != nil {
			l.over.Store(true)
			lives = append(lives, l)
		}
	}
	for _, l := range lives {
		_ = l.endpoint.Close()
	}
	for _, i := range nodes {
		m := c.members[i]
		m.disk = m.disk.Crash(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: testkit.Fork(rng)})
	}
	for _, l := range lives {
		c.closing.Go(func() { _ = l.Close() }) // a ghost by now
	}
}

// Jump sets the clock of a node ahead or back.
func (c *Cluster) Jump(i int, offset time.Duration) { c.members[i].offset.Store(int64(offset)) }

// Ready waits until every node that is up answers for every shard.
func (c *Cluster) Ready(ctx context.Context) error {
	for i, m := range c.members {
		if l := m.life.Load(); l != nil {
			if err := l.Ready(ctx); err != nil {
				return fmt.Errorf("node %d: %w", i, err)
			}
		}
	}
	return nil
}

// down is what a caller knows whose nodes are all down.
func down() error {
	return &base.Error{Op: "call", Shard: -1, Outcome: base.OutcomeNotApplied, Err: fmt.Errorf("%w: the node is down", base.ErrUnavailable)}
}

// crashed is what a caller knows whose node lost power before it answered.
func crashed() error {
	return &base.Error{Op: "call", Shard: -1, Err: fmt.Errorf("%w: the node has crashed", base.ErrIndeterminate)}
}

// on calls fn with a node, or with the next one that is up.
func (c *Cluster) on(i int, fn func(*node.Node) error) error {
	for j := range c.members {
		l := c.members[(i+j)%len(c.members)].life.Load()
		if l == nil {
			continue
		}
		err := fn(l.Node)
		if l.over.Load() {
			return crashed()
		}
		return err
	}
	time.Sleep(10 * time.Millisecond) // all are down: do not spin
	return down()
}

// Client returns a client that talks to one node as long as that is up.
func (c *Cluster) Client(i int) Client { return clusterClient{c, i % len(c.members)} }

type clusterClient struct {
	*Cluster
	home int
}

// Get implements Client.
func (c clusterClient) Get(ctx context.Context, key base.Key) (value []byte, version base.Version, err error) {
	err = c.on(c.home, func(n *node.Node) error {
		it, err := n.Get(ctx, key, base.ReadOptions{})
		value, version = it.Value, it.Version
		return err
	})
	if errors.Is(err, base.ErrNotFound) {
		return nil, 0, nil
	}
	return value, version, err
}

// Put implements Client.
func (c clusterClient) Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	return c.write(ctx, base.Write{Key: key, Value: value, Cond: cond})
}

// Delete implements Client.
func (c clusterClient) Delete(ctx context.Context, key base.Key, cond base.Cond) (base.Version, error) {
	return c.write(ctx, base.Write{Kind: base.WriteDelete, Key: key, Cond: cond})
}

func (c clusterClient) write(ctx context.Context, w base.Write) (version base.Version, err error) {
	err = c.on(c.home, func(n *node.Node) (err error) {
		version, err = n.Write(ctx, w, base.RequestID{})
		return err
	})
	return version, err
}
