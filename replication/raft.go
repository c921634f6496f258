package replication

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/config"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/replication/internal/far"
	"github.com/distributedcache/cache/replication/internal/hostfs"
	"github.com/distributedcache/cache/replication/internal/inflight"
	"github.com/distributedcache/cache/replication/internal/rafthost"
	"github.com/distributedcache/cache/replication/internal/transport"
	"github.com/distributedcache/cache/storage"
)

// Remote reaches the shards of which a node has no replica that can serve.
type Remote = far.Remote

// Network opens and accepts the connections between nodes.
type Network = transport.Network

// Peer is one replica of every shard, on one node.
type Peer struct {
	Replica uint64 // at least 1; never used again for another node
	Node    string
	Address string // what Network.Dial is given
}

// RaftConfig says how the shards of a node are replicated.
type RaftConfig struct {
	// Dir is where the raft log and what belongs to it is kept, on FS; nil is that
	// of the operating system.
	Dir string
	FS  storage.FS
	// Node is this node. If there are Peers it is one of them: they are the first
	// members of every shard. Else replicas come and go by StartReplica and
	// RemoveReplica, the node is at Address, and Remote must be given.
	Node    string
	Address string
	Peers   []Peer
	Network Network
	// Remote reaches the shards that this node has no replica of; nil if it has all.
	Remote Remote
	// Tick is the unit of raft's clock. A leader that is silent for ElectionTicks
	// is replaced; it says something every HeartbeatTicks.
	Tick           time.Duration // 0 = 30 ms, and then ElectionTicks is 10
	ElectionTicks  int           // 0 = 15
	HeartbeatTicks int           // 0 = 2
	// SnapshotEntries is after how many entries a shard forgets its log, but for
	// the newest KeepEntries.
	SnapshotEntries uint64 // 0 = 50,000
	KeepEntries     uint64 // 0 = 5,000
	// SnapshotBytesPerSecond bounds what shards that are sent to other nodes may
	// take of the network; 0 = no bound.
	SnapshotBytesPerSecond int64
	// Forward lets raft pass on writes for shards that another node leads. If it
	// is not set, they get a NotLeaderError.
	Forward bool
	// GiveUp is after what time a write without a decision ends as unknown.
	GiveUp time.Duration // 0 = 30 s
	// OnFail is called once, on a goroutine of the Host, when the node has failed:
	// its disk, for instance. It must not call Close. The process lives on, and so
	// do the other nodes.
	OnFail func(error)

	tune func(*config.NodeHostConfig) // for measurements
	full int                          // see raftlog; 0 = fullCommands
}

func (c RaftConfig) withDefaults() RaftConfig {
	if c.FS == nil {
		c.FS = storage.OSFS()
	}
	if c.Tick == 0 { // each tick of each shard costs, so they are as few as elections allow
		c.Tick, c.ElectionTicks = 30*time.Millisecond, cmp.Or(c.ElectionTicks, 10)
	}
	c.ElectionTicks = cmp.Or(c.ElectionTicks, 15)
	if c.HeartbeatTicks == 0 {
		c.HeartbeatTicks = 2
	}
	if c.SnapshotEntries == 0 {
		c.SnapshotEntries = 50_000
	}
	if c.KeepEntries == 0 {
		c.KeepEntries = 5_000
	}
	if c.GiveUp == 0 {
		c.GiveUp = 30 * time.Second
	}
	return c
}

// beat is what other waits are counted in: a fifteenth of what an election takes to
// begin.
func (c RaftConfig) beat() time.Duration { return c.Tick * time.Duration(c.ElectionTicks) / 15 }

// validate reports what OpenRaft cannot work with.
func (c RaftConfig) validate() error {
	if c.Network == nil || c.Dir == "" || (len(c.Peers) == 0 && c.Remote == nil) {
		return fmt.Errorf("%w: a replicated node needs a network, a directory, and peers or a way to them", base.ErrInvalid)
	}
	if c.Tick < time.Millisecond || c.ElectionTicks < 5*c.HeartbeatTicks {
		return fmt.Errorf("%w: a tick of %v, elections after %d of them and heartbeats after %d", base.ErrInvalid, c.Tick, c.ElectionTicks, c.HeartbeatTicks)
	}
	nodes, replicas := map[string]bool{}, map[uint64]bool{}
	for _, p := range c.Peers {
		if p.Replica == 0 || p.Node == "" || nodes[p.Node] || replicas[p.Replica] {
			return fmt.Errorf("%w: peer %+v is incomplete or not the only one of its name or number", base.ErrInvalid, p)
		}
		nodes[p.Node], replicas[p.Replica] = true, true
	}
	if len(c.Peers) > 0 && !nodes[c.Node] {
		return fmt.Errorf("%w: node %q is not among its peers", base.ErrInvalid, c.Node)
	}
	if len(c.Peers) == 0 && (c.Node == "" || c.Address == "") {
		return fmt.Errorf("%w: a replicated node has a name and an address", base.ErrInvalid)
	}
	return hostfs.CheckSettingsFiles()
}

// self returns this node's place among its peers, if there are any.
func (c RaftConfig) self() Peer {
	for _, p := range c.Peers {
		if p.Node == c.Node {
			return p
		}
	}
	return Peer{Node: c.Node, Address: c.Address}
}

// host returns what is below the log.
func (c RaftConfig) host(cfg Config) rafthost.Config {
	return rafthost.Config{
		Store: cfg.Store, Logger: cfg.Logger, Dir: c.Dir, FS: c.FS, Node: c.Node, Address: c.self().Address, Network: c.Network,
		Tick: c.Tick, ElectionTicks: c.ElectionTicks, HeartbeatTicks: c.HeartbeatTicks,
		SnapshotEntries: c.SnapshotEntries, KeepEntries: c.KeepEntries, SnapshotBytesPerSecond: c.SnapshotBytesPerSecond,
		OwnProposals: c.Remote != nil, // the confirmation of leaders relies on it
		OnFail:       c.OnFail, Tune: c.tune,
	}
}

// raftNode is what the shards of a replicated node share.
type raftNode struct {
	cfg      RaftConfig
	host     *rafthost.Host
	fence    *diskio.Fence
	log      *raftlog
	changing sync.Mutex // held while a replica starts or is removed
}

// OpenRaft opens a store whose shards are replicas of raft groups. The store must
// be Volatile, as the raft log is what makes writes durable. It returns before the
// groups have leaders.
func OpenRaft(cfg Config, rc RaftConfig) (*Host, error) {
	rc = rc.withDefaults()
	if err := rc.validate(); err != nil {
		return nil, err
	}
	h := newHost(cfg)
	h.catalog, h.far = newGroup(cfg.Store, base.CatalogShard), far.New(rc.Remote)
	n := &raftNode{cfg: rc}
	below := rc.host(cfg)
	below.OnLeader = func(id base.ShardID) { n.log.group(id).turns.turn() } // not before there are replicas
	host, err := rafthost.Open(below)
	if err != nil {
		return nil, err
	}
	n.host, n.fence = host, host.Fence()
	h.raft = n
	n.log = n.newLog(cfg, h)
	h.log = n.log
	if err := n.startFirst(h); err != nil {
		n.log.Close()
		host.Close()
		return nil, err
	}
	h.workers.Go(host.Watch)
	h.start()
	return h, nil
}

// startFirst starts a replica of every shard if the peers are known from the
// start.
func (n *raftNode) startFirst(h *Host) error {
	var founders []Member
	for _, p := range n.cfg.Peers {
		n.host.SetAddress(p.Node, p.Address)
		founders = append(founders, Member{Replica: p.Replica, Node: p.Node})
	}
	if len(founders) == 0 {
		return nil
	}
	for _, g := range h.groups {
		if err := n.start(g, ReplicaSpec{Shard: g.id, Replica: n.cfg.self().Replica, Founders: founders}); err != nil {
			return err
		}
	}
	return n.fence.Err()
}

func (n *raftNode) newLog(cfg Config, h *Host) *raftlog {
	l := &raftlog{
		host: n.host, raft: n.host.Raft(), fence: n.fence, clock: cfg.Clock, forward: n.cfg.Forward, store: cfg.Store, far: h.far,
		session: newSession(), opened: time.Now(), stop: make(chan struct{}), nodeOf: n.nodeOf,
		resolving: make(chan struct{}, maxResolving), forgetter: forgetter{hurry: make(chan struct{})},
		admission: inflight.New(cfg.MaxInFlight),
		tick:      n.cfg.beat(), look: 2 * n.cfg.beat(), attempt: 25 * n.cfg.beat(), maxAttempt: 250 * n.cfg.beat(), giveUp: n.cfg.GiveUp, full: cmp.Or(n.cfg.full, fullCommands),
	}
	l.ending, l.end = context.WithCancel(context.Background())
	for _, g := range h.groups {
		l.groups = append(l.groups, l.newGroup(g))
	}
	l.catalog = l.newGroup(h.catalog)
	l.confirmer.log = l
	return l
}

func (l *raftlog) newGroup(g *group) *raftGroup {
	rg := &raftGroup{group: g, log: l, session: l.raft.GetNoOPSession(rafthost.GroupID(g.id))}
	rg.mu.next = 1
	return rg
}

// newSession returns a number that no other session has.
func newSession() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}
