package cluster

import (
	"context"
	"time"

	"github.com/distributedcache/cache/cluster/internal/gossip"
	"github.com/distributedcache/cache/internal/base"
)

// startGossip begins to tell others that this node is there.
func (c *Cluster) startGossip(ctx context.Context) (err error) {
	c.gossip, err = gossip.Start(ctx, gossip.Config{
		Network: c.cfg.Network, NodeID: c.cfg.NodeID, BootEpoch: c.known.Boot, Advertise: c.cfg.Address,
		ClusterID: c.known.Cluster, ProtocolMin: OldestProtocol, ProtocolMax: Protocol,
		Seeds: c.seeds, OnLeaders: c.takeHints, Logger: c.cfg.Logger, Clock: c.cfg.Clock, Fast: c.cfg.Fast,
	})
	return err
}

// seeds returns where other nodes may be found.
func (c *Cluster) seeds() []string {
	seen := map[string]bool{c.cfg.Address: true}
	var seeds []string
	add := func(addr string) {
		if addr != "" && !seen[addr] {
			seen[addr] = true
			seeds = append(seeds, addr)
		}
	}
	for _, n := range c.cache.State().Members() {
		add(n.Addr)
	}
	for _, f := range c.known.Founders {
		add(f.Addr)
	}
	for _, p := range c.cfg.Peers {
		add(p)
	}
	return seeds
}

// takeHints notes who others say leads shards.
func (c *Cluster) takeHints(hints []gossip.LeaderHint) {
	for _, h := range hints {
		c.router.hint(h.Shard, h.Node, h.Term)
	}
}

// hintEvery is how often a node looks at what it leads, to tell the others.
const hintEvery = 200 * time.Millisecond

// watchGossip tells others what this node leads and how new its catalog is, and
// hears of theirs.
func (c *Cluster) watchGossip(ctx context.Context) {
	ticker := time.NewTicker(c.cfg.every(hintEvery))
	defer ticker.Stop()
	told := map[base.ShardID]uint64{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.gossip.Changed():
			c.noteMembers()
		case <-ticker.C:
			c.tellLeaders(told)
		}
	}
}

// noteMembers notes where nodes are heard, which may be elsewhere than the catalog
// knows yet, and looks whether somebody knows a newer catalog.
func (c *Cluster) noteMembers() {
	epoch := c.cache.State().Epoch()
	heard := map[string]string{}
	for _, m := range c.gossip.Members() {
		if m.State == gossip.Alive || m.State == gossip.Suspect {
			heard[m.ID] = m.Addr
		}
		if base.Version(m.Meta.CatalogEpoch) > epoch {
			c.wakeRefresh()
		}
	}
	c.heard.Store(&heard)
	c.followAddresses()
}

// addressOf returns where a node that the catalog knows is reached. Nodes that all
// come back at other addresses at once can tell the catalog only once they have found
// one another.
func (c *Cluster) addressOf(node, recorded string) string {
	if heard := c.heard.Load(); heard != nil && (*heard)[node] != "" {
		return (*heard)[node]
	}
	return recorded
}

// tellLeaders spreads which shards this node has come to lead.
func (c *Cluster) tellLeaders(told map[base.ShardID]uint64) {
	var hints []gossip.LeaderHint
	leads, hasCatalog := 0, false
	for _, l := range c.host.Load().Led() {
		leads++
		if told[l.Shard] != l.Term {
			told[l.Shard] = l.Term
			hints = append(hints, gossip.LeaderHint{Shard: l.Shard, Node: c.cfg.NodeID, Term: l.Term})
			c.router.hint(l.Shard, c.cfg.NodeID, l.Term)
		}
		hasCatalog = hasCatalog || l.Shard == base.CatalogShard
	}
	if len(hints) > 0 {
		c.gossip.BroadcastLeaders(hints)
	}
	c.gossip.SetMeta(func(m *gossip.Meta) {
		m.CatalogEpoch = uint64(c.cache.State().Epoch())
		m.CatalogMember, m.Leaders, m.Draining = hasCatalog, uint16(leads), c.leaving.Load() || c.clockOff.Load()
	})
}

// silent returns the nodes that gossip has not heard of lately.
func (c *Cluster) silent() map[string]bool {
	silent := map[string]bool{}
	if c.gossip == nil {
		return silent
	}
	heard := map[string]bool{c.cfg.NodeID: true}
	for _, m := range c.gossip.Members() {
		if m.State == gossip.Alive {
			heard[m.ID] = true
		}
	}
	for _, n := range c.cache.State().Members() {
		if !heard[n.ID] {
			silent[n.ID] = true
		}
	}
	return silent
}
