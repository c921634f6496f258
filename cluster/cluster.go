package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/cluster/internal/catalog"
	"github.com/distributedcache/cache/cluster/internal/founding"
	"github.com/distributedcache/cache/cluster/internal/gossip"
	"github.com/distributedcache/cache/cluster/internal/peer"
	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication"
)

// Cluster is this node's part of a cluster. Its methods may be called
// concurrently.
type Cluster struct {
	cfg     Config
	known   *membership // does not change after Open
	fresh   bool        // this start founded or joined the cluster
	founder *founding.Founder
	cache   *catalog.Cache
	editor  catalog.Editor
	router  *router
	pool    *peer.Pool
	server  *peer.Server
	gossip  *gossip.Gossip
	host    atomic.Pointer[replication.Host]  // nil before Start
	member  atomic.Bool                       // others may be served
	heard   atomic.Pointer[map[string]string] // where gossip hears nodes
	leaving atomic.Bool
	// clockOff says that the clock of this node is wrong, so that it leads nothing.
	clockOff atomic.Bool
	// remembered is the epoch of the catalog that was found on the disk. blank says
	// that there should have been one: then only the catalog itself is believed.
	remembered base.Version
	blank      bool // after Start used by keepFresh only

	refresh chan struct{} // has room for one wish
	placed  chan struct{} // closed once the agent has followed the catalog
	once    sync.Once     // closes placed
	stopped chan struct{}
	stop    context.CancelFunc
	workers sync.WaitGroup
	repair  *reconciler
}

// Open makes the node reachable and finds out which cluster it belongs to: the one
// that its directory names; or one that it founds, alone or with others; or that of
// its peers, which it joins. ctx bounds how long that may take. Nothing but Start
// and Close may be called before Start.
func Open(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	known, err := loadMembership(cfg.Files, cfg.NodeID)
	if err != nil {
		return nil, err
	}
	cfg.NodeID = known.Node
	known.Boot = max(known.Boot+1, uint64(cfg.Clock().UnixMicro()))
	c := &Cluster{
		cfg: cfg, known: known, cache: catalog.NewCache(nil),
		refresh: make(chan struct{}, 1), placed: make(chan struct{}), stopped: make(chan struct{}), stop: func() {},
		repair: newReconciler(),
	}
	c.router = &router{c: c}
	if err := c.save(); err != nil { // the directory has its id before anyone hears of it
		return nil, err
	}
	if err := c.listen(); err != nil {
		return nil, err
	}
	if err := c.belong(ctx); err != nil {
		c.hangUp()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) save() error { return c.cfg.Files.Save(membershipFile, c.known.encode()) }

// NodeID returns the name of this node.
func (c *Cluster) NodeID() string { return c.cfg.NodeID }

// Address returns where other nodes reach this one.
func (c *Cluster) Address() string { return c.cfg.Address }

// Shards returns how many shards the cluster has.
func (c *Cluster) Shards() int { return c.known.Shards }

// ID returns the id of the cluster.
func (c *Cluster) ID() string { return c.known.Cluster }

// Remote returns what a Host of this node needs to reach the shards of others.
func (c *Cluster) Remote() replication.Remote { return c.router }

// listen begins to answer other nodes, and makes it possible to ask them.
func (c *Cluster) listen() (err error) {
	saved, err := c.cfg.Files.Load(foundingFile)
	if err != nil {
		return err
	}
	c.pool = peer.NewPool(c.calls())
	c.founder, err = founding.New(founding.Config{
		Self:           founding.Peer{Node: c.cfg.NodeID, Directory: c.known.Directory, Addr: c.cfg.Address, Zone: c.cfg.Zone},
		Terms:          c.terms(),
		OldestProtocol: OldestProtocol, NewestProtocol: Protocol,
		Peers: c.cfg.Peers, Saved: saved, Logger: c.cfg.Logger, Interval: c.cfg.every(foundingInterval),
		Save: func(data []byte) error { return c.cfg.Files.Save(foundingFile, data) },
		Call: func(ctx context.Context, addr string, request []byte) ([]byte, error) {
			return c.pool.Call(ctx, addr, methodHello, request)
		},
	})
	if err == nil {
		c.server, err = peer.NewServer(c.calls(), handler{c})
	}
	if err != nil {
		c.pool.Close()
	}
	return err
}

// calls is how nodes are called. A node that was cut off has to be found again as
// fast as raft finds it, or it leads what others cannot reach.
func (c *Cluster) calls() peer.Config {
	return peer.Config{
		Network: c.cfg.Network, Logger: c.cfg.Logger,
		DialTimeout: time.Second, MaxBackoff: 200 * time.Millisecond, Heartbeat: 400 * time.Millisecond, DeadAfter: 1500 * time.Millisecond,
	}
}

// foundingInterval is between two rounds of asking peers while a cluster is looked
// for.
const foundingInterval = 50 * time.Millisecond

// terms are what this node and others have to agree on to found a cluster.
func (c *Cluster) terms() founding.Terms {
	t := founding.Terms{Name: c.cfg.Name, Expect: c.cfg.Expect, Shards: c.cfg.Shards, Replication: c.cfg.Replication}
	if t.Expect > 0 && t.Shards == 0 {
		t.Shards = DefaultShards
	}
	return t
}

// hangUp ends all connections.
func (c *Cluster) hangUp() {
	c.server.Close()
	c.pool.Close()
}

// belong finds out which cluster the node belongs to, and notes it durably.
func (c *Cluster) belong(ctx context.Context) error {
	switch {
	case c.known.Cluster != "":
		c.remember()
	case len(c.cfg.Peers) == 0:
		c.fresh = true
		c.foundWith(randomID(), c.cfg.Shards, []founder{c.self()})
	default:
		c.fresh = true
		res, err := c.founder.Run(ctx)
		if err != nil {
			return err
		}
		if res.Member != nil {
			return c.join(ctx, res.Member)
		}
		var founders []founder
		for _, p := range res.Founded.Founders {
			founders = append(founders, founder{ID: p.Node, Directory: p.Directory, Addr: p.Addr, Zone: p.Zone})
		}
		c.foundWith(res.Founded.Cluster, res.Founded.Terms.Shards, founders)
	}
	if err := c.save(); err != nil {
		return err
	}
	return c.tellFounder()
}

// tellFounder lets fresh nodes hear that this one is in a cluster.
func (c *Cluster) tellFounder() error {
	m := founding.Membership{Cluster: c.known.Cluster, Name: c.cfg.Name, Shards: c.known.Shards, Addresses: []string{c.cfg.Address}}
	for _, f := range c.known.Founders {
		if f.Addr != c.cfg.Address && len(m.Addresses) < maxTold {
			m.Addresses = append(m.Addresses, f.Addr)
		}
	}
	return c.founder.SetMember(m)
}

// maxTold is how many addresses of members a fresh node is told.
const maxTold = 16

func (c *Cluster) self() founder {
	return founder{ID: c.cfg.NodeID, Directory: c.known.Directory, Addr: c.cfg.Address, Zone: c.cfg.Zone}
}

// foundWith notes that this node founds a cluster with others.
func (c *Cluster) foundWith(cluster string, shards int, founders []founder) {
	if shards == 0 {
		shards = DefaultShards
	}
	c.known.Cluster, c.known.Shards, c.known.Founders = cluster, shards, founders
	c.known.Founded = c.cfg.Clock().UnixMicro()
}

// remember takes the catalog as this node has seen it last. It tells whom to ask,
// no more, so a damaged file does no harm.
func (c *Cluster) remember() {
	buf, err := c.cfg.Files.Load(catalogFile)
	var state *catalog.State
	if err == nil && buf != nil {
		state, err = catalog.Decode(buf)
	}
	if err != nil {
		c.cfg.Logger.Warn("the remembered catalog cannot be read", "error", err)
	}
	if state == nil {
		c.blank = true
		return
	}
	c.cache.Update(state)
	c.remembered = state.Epoch()
}

// join asks the members of a cluster, one after the other, to be taken in.
func (c *Cluster) join(ctx context.Context, m *founding.Membership) error {
	if c.cfg.Shards != 0 && c.cfg.Shards != m.Shards {
		return fmt.Errorf("%w: the cluster has %d shards, not %d; the number never changes", base.ErrInvalid, m.Shards, c.cfg.Shards)
	}
	q := joinRequest{Cluster: m.Cluster, Node: c.self()}
	for {
		var last error
		for _, addr := range m.Addresses {
			buf, err := c.pool.Call(ctx, addr, methodJoin, q.append(nil))
			if err == nil {
				return c.joined(m, buf)
			}
			if errors.Is(err, base.ErrInvalid) {
				return err
			}
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: no member took this node in: %w", base.ErrUnavailable, last)
		case <-time.After(c.cfg.every(joinPause)):
		}
	}
}

// joinPause is between two rounds of asking to be taken in.
const joinPause = 200 * time.Millisecond

// joined notes that the node was taken in.
func (c *Cluster) joined(m *founding.Membership, buf []byte) error {
	state, err := catalog.Decode(buf)
	if err != nil {
		return fmt.Errorf("%w: the catalog of the cluster cannot be read: %w", base.ErrUnavailable, err)
	}
	c.known.Cluster, c.known.Shards = m.Cluster, m.Shards
	c.cache.Update(state)
	if err := c.save(); err != nil {
		return err
	}
	return c.tellFounder()
}

// Start lets the node take part, with a Host that has the store of the node and was
// given Remote. It returns once the node is a member whose replicas have been
// started; of a cluster that this node was in before it returns after a while even
// if the others cannot be reached.
func (c *Cluster) Start(ctx context.Context, host *replication.Host) error {
	c.host.Store(host)
	c.editor = catalog.Editor{KV: host, Cache: c.cache}
	c.followAddresses()
	if err := c.startCatalog(ctx, host); err != nil {
		return err
	}
	c.member.Store(true)
	if err := c.startGossip(ctx); err != nil {
		return err
	}
	background, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	c.workers.Go(func() { c.keepFresh(background) })
	c.workers.Go(func() { c.follow(background) })
	c.workers.Go(func() { c.watchGossip(background) })
	c.workers.Go(func() { c.introduce(background) })
	c.workers.Go(func() { c.reconcile(background) })
	c.workers.Go(func() { c.watchSelf(background) })
	return c.awaitPlace(ctx)
}

// awaitPlace waits until the node has followed the catalog once.
func (c *Cluster) awaitPlace(ctx context.Context) error {
	patience := time.Duration(1<<63 - 1)
	if !c.fresh {
		patience = rejoinPatience
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.placed:
	case <-timer.C:
		c.cfg.Logger.Warn("started without having reached the cluster")
	case <-ctx.Done():
		return fmt.Errorf("%w: the cluster was not reached: %w", base.ErrUnavailable, context.Cause(ctx))
	}
	return nil
}

// rejoinPatience is how long a node that comes back waits for the others.
const rejoinPatience = 5 * time.Second

// startCatalog starts this node's replica of the catalog, if it has or founds one.
// All others follow from what is in there.
func (c *Cluster) startCatalog(ctx context.Context, host *replication.Host) error {
	var spec replication.ReplicaSpec
	if rec, found := c.cache.State().Shard(base.CatalogShard); found {
		mine, found := rec.On(c.cfg.NodeID)
		if !found || mine.Directory != c.known.Directory {
			return nil
		}
		spec = specOf(&rec, mine)
	} else {
		first := c.firstCatalog()
		for _, r := range first {
			spec.Founders = append(spec.Founders, replication.Member{Replica: r.ID, Node: r.Node})
			if r.Node == c.cfg.NodeID {
				spec.Replica = r.ID
			}
		}
		if spec.Replica == 0 {
			return nil
		}
		spec.Shard = base.CatalogShard
	}
	return host.StartReplica(ctx, spec)
}

// maxCatalog is on how many nodes the catalog is: any two may fail.
const maxCatalog = 5

// firstCatalog returns the replicas that the catalog is founded with.
func (c *Cluster) firstCatalog() []catalog.Replica {
	n := min(len(c.known.Founders), maxCatalog)
	if n%2 == 0 {
		n = max(n-1, 0)
	}
	return catalog.FirstReplicas(c.founderRecords()[:n])
}

func (c *Cluster) founderRecords() []catalog.NodeRecord {
	founded := time.UnixMicro(c.known.Founded).UTC()
	nodes := make([]catalog.NodeRecord, 0, len(c.known.Founders))
	for _, f := range c.known.Founders {
		nodes = append(nodes, catalog.NodeRecord{
			ID: f.ID, Directory: f.Directory, Addr: f.Addr, Zone: f.Zone, State: catalog.Active, Joined: founded, Changed: founded,
		})
	}
	return nodes
}

// founderRecord returns a founder as the catalog will have it.
func (c *Cluster) founderRecord(node string) (catalog.NodeRecord, bool) {
	for _, n := range c.founderRecords() {
		if n.ID == node {
			return n, true
		}
	}
	return catalog.NodeRecord{}, false
}

// catalogFounders returns the nodes that have the catalog before it says so itself.
func (c *Cluster) catalogFounders() []string {
	var nodes []string
	for _, r := range c.firstCatalog() {
		nodes = append(nodes, r.Node)
	}
	return nodes
}

// Close hands leadership over and ends the node's part in the cluster. The Host
// must be open still, and is closed by its owner afterwards.
func (c *Cluster) Close() {
	c.leaving.Store(true)
	if host := c.host.Load(); host != nil {
		host.Retire()
		c.handOver(host)
	}
	c.stop()
	close(c.stopped)
	c.workers.Wait()
	if c.gossip != nil {
		ctx, cancel := context.WithTimeout(context.Background(), leavePatience)
		_ = c.gossip.Leave(ctx) // who does not hear of it takes the node for dead
		cancel()
		_ = c.gossip.Close()
	}
	c.hangUp()
}

const (
	// leavePatience bounds saying good-bye.
	leavePatience = time.Second
	// handOverPatience bounds handing over all leadership; a shard takes some
	// milliseconds.
	handOverPatience = 3 * time.Second
)

// handOver lets other nodes lead what this one does, so that nobody has to wait for
// an election.
func (c *Cluster) handOver(host *replication.Host) {
	ctx, cancel := context.WithTimeout(context.Background(), handOverPatience)
	defer cancel()
	for ctx.Err() == nil && host.Err() == nil {
		left := 0 // with somebody to lead them
		for _, s := range host.NodeStatus(ctx) {
			if s.Leader != s.Replica {
				continue
			}
			if to := c.heir(s); to != 0 {
				left++
				_ = host.TransferLeader(ctx, s.Shard, to) // looked at again below
			}
		}
		if left == 0 {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(handOverPause):
		}
	}
}

// handOverPause is how long a shard may take to get another leader before it is
// asked again.
const handOverPause = 50 * time.Millisecond

// heir returns the voter that is to lead after this node: one that is not known to
// be silent.
func (c *Cluster) heir(s replication.ReplicaStatus) uint64 {
	silent := c.silent()
	candidates := make([]uint64, 0, len(s.Voters))
	for _, m := range s.Voters {
		if m.Replica != s.Replica && !silent[m.Node] {
			candidates = append(candidates, m.Replica)
		}
	}
	if len(candidates) == 0 {
		return 0
	}
	return candidates[int(s.Shard)%len(candidates)]
}
