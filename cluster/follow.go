package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/distributedcache/cache/cluster/internal/catalog"
	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/shard"
)

const (
	// freshEvery is how often a node makes sure that its catalog is the newest, if
	// nothing tells it to before.
	freshEvery = 500 * time.Millisecond
	// followEvery is how often a node tries again to have the replicas that the
	// catalog gives to it.
	followEvery = time.Second
)

// wakeRefresh makes the node look for a newer catalog now.
func (c *Cluster) wakeRefresh() {
	select {
	case c.refresh <- struct{}{}:
	default:
	}
}

// keepFresh keeps the node's view of the catalog fresh.
func (c *Cluster) keepFresh(ctx context.Context) {
	ticker := time.NewTicker(c.cfg.every(freshEvery))
	defer ticker.Stop()
	for {
		c.refreshOnce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-c.refresh:
		}
	}
}

// refreshOnce asks for the newest catalog: its own replica, or else some node that
// is likely to know it.
func (c *Cluster) refreshOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, helloPatience)
	defer cancel()
	host := c.host.Load()
	if host.HasReplica(base.CatalogShard) || c.blank || !c.cache.State().Founded() {
		items, err := host.ReadCatalog(ctx)
		if err != nil {
			return
		}
		state, err := catalog.Build(items)
		if err != nil {
			c.cfg.Logger.Error("the catalog cannot be read", "error", err)
			return
		}
		if state.Founded() {
			c.blank = false
			c.cache.Update(state)
		}
		return
	}
	c.fetch(ctx)
}

// fetch takes the catalog from another node, if that has a newer one.
func (c *Cluster) fetch(ctx context.Context) {
	request := wire.AppendUint64(nil, uint64(c.cache.State().Epoch()))
	node := c.router.Leader(base.CatalogShard)
	nodes := c.holders(base.CatalogShard)
	if node != "" {
		nodes = append([]string{node}, nodes...)
	}
	for _, node := range nodes {
		addr, err := c.router.address(node)
		if err != nil || node == c.cfg.NodeID {
			continue
		}
		buf, err := c.pool.Call(ctx, addr, methodCatalog, request)
		if err != nil {
			continue
		}
		if len(buf) == 0 {
			return
		}
		if state, err := catalog.Decode(buf); err == nil {
			c.cache.Update(state)
		}
		return
	}
}

// introduce makes the catalog know this node as it is now: as a founder, or as a
// member that has come back, perhaps at another address.
func (c *Cluster) introduce(ctx context.Context) {
	for {
		err := c.introduceOnce(ctx)
		if err == nil {
			c.wakeRefresh()
			return
		}
		if errors.Is(err, base.ErrInvalid) {
			c.cfg.Logger.Error("the cluster does not take this node in", "error", err)
			c.cfg.Alert(alertRefused, err.Error(), true)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(c.cfg.every(followEvery)):
		}
	}
}

// alertRefused is raised on a node that the cluster does not take for a member.
const alertRefused = "not_a_member"

func (c *Cluster) introduceOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, introducePatience)
	defer cancel()
	if len(c.known.Founders) > 0 && !c.cache.State().Founded() {
		if err := c.found(ctx); err != nil {
			return err
		}
	}
	_, err := c.takeIn(ctx, c.self())
	return err
}

// introducePatience bounds one attempt; others follow.
const introducePatience = 10 * time.Second

// found writes the first records of the catalog. Every founder does; the first one
// makes a difference.
func (c *Cluster) found(ctx context.Context) error {
	settings := catalog.Settings{
		ClusterID: c.known.Cluster, Name: c.cfg.Name, Shards: c.known.Shards, Replication: c.cfg.Replication,
		Format: 1, Founded: time.UnixMicro(c.known.Founded).UTC(),
	}
	nodes := c.founderRecords()
	placement := firstPlacement(nodes, settings)
	placement[base.CatalogShard] = c.catalogFounders()
	_, err := c.editor.Edit(ctx, func(s *catalog.State) ([]base.Write, error) {
		if s.Founded() && s.Settings().ClusterID == settings.ClusterID {
			return nil, nil
		}
		return s.Found(settings, nodes, placement)
	})
	return err
}

// firstPlacement returns the nodes that each shard is founded on.
func firstPlacement(nodes []catalog.NodeRecord, settings catalog.Settings) map[base.ShardID][]string {
	var where []shard.Node
	for _, n := range nodes {
		where = append(where, shard.Node{ID: n.ID, Zone: n.Zone})
	}
	groups := make([]shard.Group, settings.Shards)
	for i := range groups {
		groups[i] = shard.Group{Shard: base.ShardID(i), Factor: settings.Replication}
	}
	placement := make(map[base.ShardID][]string, len(groups)+1)
	for i, at := range shard.Target(shard.Config{MinCopies: minCopies}, where, groups) {
		placement[base.ShardID(i)] = at
	}
	return placement
}

// minCopies is the number of copies that a shard keeps as long as there are as many
// nodes. With fewer, a second failure would lose what was acknowledged.
const minCopies = 2

// follow has this node do what the catalog says of it. What it acts on is on the
// disk before: a start with an older catalog could take a replica that was given
// later for one that was taken away.
func (c *Cluster) follow(ctx context.Context) {
	ticker := time.NewTicker(c.cfg.every(followEvery))
	defer ticker.Stop()
	saved := c.remembered
	for {
		changed := c.cache.Changed()
		state := c.cache.State()
		if state.Founded() && state.Epoch() > saved {
			if err := c.cfg.Files.Save(catalogFile, state.Encode()); err != nil {
				c.cfg.Logger.Error("the catalog cannot be saved", "error", err)
				return // the disk has failed, and with it the node
			}
			saved = state.Epoch()
		}
		c.followOnce(ctx, state)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-changed:
		}
	}
}

func (c *Cluster) followOnce(ctx context.Context, state *catalog.State) {
	if !state.Founded() {
		return
	}
	c.followAddresses()
	host := c.host.Load()
	mine := map[base.ShardID]uint64{}
	done := true
	for _, p := range state.ReplicasOf(c.cfg.NodeID) {
		if state.Lost(p.Replica) {
			continue
		}
		mine[p.Shard] = p.ID
	}
	done = c.dropOthers(ctx, host, mine) && done
	for _, rec := range state.Shards() {
		id, found := mine[rec.Shard]
		if !found || ctx.Err() != nil {
			continue
		}
		r, _ := rec.Replica(id)
		if err := host.StartReplica(ctx, specOf(&rec, r)); err != nil {
			done = false
			c.cfg.Logger.Error("a replica does not start", "shard", rec.Shard, "replica", id, "error", err)
		}
	}
	if _, known := state.Node(c.cfg.NodeID); known && done {
		c.once.Do(func() { close(c.placed) })
	}
}

// dropOthers removes the replicas on this disk that are not this node's any more.
func (c *Cluster) dropOthers(ctx context.Context, host *replication.Host, mine map[base.ShardID]uint64) bool {
	local, err := host.LocalReplicas()
	if err != nil {
		return false
	}
	done := true
	for _, r := range local {
		if mine[r.Shard] == r.Replica || ctx.Err() != nil {
			continue
		}
		if err := host.RemoveReplica(ctx, r.Shard); err != nil {
			done = false
			c.cfg.Logger.Error("a replica cannot be removed", "shard", r.Shard, "replica", r.Replica, "error", err)
		}
	}
	return done
}

// followAddresses tells raft where the nodes are.
func (c *Cluster) followAddresses() {
	host := c.host.Load()
	for _, f := range c.known.Founders {
		if _, known := c.cache.State().Node(f.ID); !known {
			host.SetAddress(f.ID, c.addressOf(f.ID, f.Addr))
		}
	}
	for _, n := range c.cache.State().Members() {
		host.SetAddress(n.ID, c.addressOf(n.ID, n.Addr))
	}
}

// specOf returns how to start a replica.
func specOf(rec *catalog.ShardRecord, r catalog.Replica) replication.ReplicaSpec {
	spec := replication.ReplicaSpec{Shard: rec.Shard, Replica: r.ID}
	founder := false
	for _, f := range rec.Founders {
		founder = founder || f.ID == r.ID
	}
	if founder {
		for _, f := range rec.Founders {
			spec.Founders = append(spec.Founders, replication.Member{Replica: f.ID, Node: f.Node})
		}
	}
	return spec
}
