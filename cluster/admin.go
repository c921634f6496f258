package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distributedcache/cache/cluster/internal/catalog"
	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/shard"
)

// The states of nodes and shards as Nodes and ShardInfos tell them.
const (
	nodeActive   = "active"
	nodeJoining  = "joining"
	nodeDraining = "draining"
	nodeFailed   = "failed"

	shardServing     = "serving"
	shardMoving      = "moving"
	shardUnavailable = "unavailable"
)

// reportPatience bounds the look that a report is made from. What does not answer
// by then is reported as that.
const reportPatience = 2 * answerPatience

// look is observe for a report, which is worth something when the catalog cannot be
// read, too: then it is what this node remembers of it.
func (c *Cluster) look(ctx context.Context) (*observation, error) {
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	o, err := c.observe(ctx)
	if err == nil {
		return o, nil
	}
	if o.state = c.cache.State(); !o.state.Founded() {
		return nil, err
	}
	return o, nil
}

// Nodes describes the nodes of the cluster, but for those that were removed.
func (c *Cluster) Nodes(ctx context.Context) ([]base.NodeInfo, error) {
	o, err := c.look(ctx)
	if err != nil {
		return nil, err
	}
	leaders := map[string]int{}
	for _, g := range o.groups() {
		if g.Shard != base.CatalogShard {
			leaders[g.Leader]++
		}
	}
	var infos []base.NodeInfo
	for _, n := range o.state.Members() {
		info := base.NodeInfo{ID: n.ID, Addr: n.Addr, Zone: n.Zone, Self: n.ID == c.cfg.NodeID, Leaders: leaders[n.ID]}
		for _, r := range o.state.ReplicasOf(n.ID) {
			if r.Shard != base.CatalogShard && !o.state.Lost(r.Replica) {
				info.Shards++
			}
		}
		switch {
		case o.silent(n.ID):
			info.State = nodeFailed
		case n.State == catalog.Draining:
			info.State = nodeDraining
		case info.Shards == 0:
			info.State = nodeJoining
		default:
			info.State = nodeActive
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// ShardInfos describes the shards, in their order.
func (c *Cluster) ShardInfos(ctx context.Context) ([]base.ShardInfo, error) {
	o, err := c.look(ctx)
	if err != nil {
		return nil, err
	}
	var infos []base.ShardInfo
	for _, g := range o.groups() {
		if g.Shard == base.CatalogShard {
			continue
		}
		info := base.ShardInfo{Shard: int(g.Shard), Leader: g.Leader, State: shardServing}
		for _, r := range g.Replicas {
			if !r.Orphan && !r.Lost {
				info.Replicas = append(info.Replicas, r.Node)
			}
			if !r.Member || !r.Voter || r.Orphan || r.Lost {
				info.State = shardMoving
			}
		}
		if g.Leader == "" {
			info.State = shardUnavailable
		}
		for _, s := range o.answers[g.Leader] {
			if s.Shard == g.Shard {
				info.Applied, info.Clock = s.Applied, s.Clock
			}
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// Rebalance returns what has to move until everything is where it should be, which
// may be nothing, and has it begin. Moves that are under way are among them.
func (c *Cluster) Rebalance(ctx context.Context) (base.Plan, error) {
	o, err := c.observe(ctx)
	if err != nil {
		return base.Plan{}, err
	}
	p := c.plan(o)
	moves, _ := shard.Moves(p.nodes, p.groups, p.target, p.leaders)
	c.wakeReconciler(ctx)
	return moves, nil
}

// wakeReconciler has the node that leads the catalog look at the cluster now. If it
// is not reached it does so a moment later anyway.
func (c *Cluster) wakeReconciler(ctx context.Context) {
	node := c.router.Leader(base.CatalogShard)
	if node == c.cfg.NodeID || c.host.Load().Leads(base.CatalogShard) {
		c.wakeRepair()
		return
	}
	if addr, err := c.router.address(node); err == nil {
		ctx, cancel := context.WithTimeout(ctx, helloPatience)
		defer cancel()
		_, _ = c.pool.Call(ctx, addr, methodWake, nil)
	}
}

// pollEvery is how often what others work on is looked at.
const pollEvery = 500 * time.Millisecond

// poll waits a moment. It fails when ctx ends, or the node does.
func (c *Cluster) poll(ctx context.Context) error {
	timer := time.NewTimer(c.cfg.every(pollEvery))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.stopped:
		return base.ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", base.ErrUnavailable, context.Cause(ctx))
	}
}

// Drain has a node give away all that it has and reports on it until that is done.
// When ctx ends, only the reports do. It fails with ErrInvalid if there is no other
// node that could take anything, and with ErrNotFound for an unknown node.
func (c *Cluster) Drain(ctx context.Context, node string, progress func(base.Progress)) error {
	state, err := c.editor.Edit(ctx, func(s *catalog.State) ([]base.Write, error) {
		return s.Drain(node, c.cfg.Clock())
	})
	if err != nil {
		return err
	}
	c.wakeReconciler(ctx)
	total := int64(len(state.ReplicasOf(node)))
	for {
		left := int64(len(state.ReplicasOf(node)))
		total = max(total, left)
		if left == 0 && c.holdsNothing(ctx, node) {
			progress(base.Progress{Stage: nodeDraining, Done: total, Total: total})
			return nil
		}
		progress(base.Progress{Stage: nodeDraining, Done: total - left, Total: total})
		if err := c.poll(ctx); err != nil {
			return fmt.Errorf("node %s goes on draining: %w", node, err)
		}
		if now, err := c.readCatalog(ctx); err == nil {
			state = now
		}
		if n, _ := state.Node(node); n.State == catalog.Active {
			return fmt.Errorf("%w: node %s was made active again", base.ErrConflict, node)
		}
	}
}

// holdsNothing reports whether a node that has no replicas in the catalog has
// deleted them, or does not answer.
func (c *Cluster) holdsNothing(ctx context.Context, node string) bool {
	n, found := c.cache.State().Node(node)
	if !found || !n.Member() {
		return true
	}
	return len(c.ask(ctx, []catalog.NodeRecord{n})[node]) == 0
}

// Remove ends the membership of a node for good. One that works has to be drained
// before; one that is dead is removed if every shard can go on without it, and what
// it had is copied from the others. The error says why it cannot be removed.
func (c *Cluster) Remove(ctx context.Context, node string) error {
	o, err := c.observe(ctx)
	if err != nil {
		return err
	}
	removal := catalog.Removal{
		Dead:  o.silent(node),
		Alive: func(other string) bool { _, answers := o.answers[other]; return answers },
		Now:   c.cfg.Clock(),
	}
	writes, err := o.state.Remove(node, removal)
	if err != nil || len(writes) == 0 {
		return err
	}
	nodes := o.nodes(&c.repair.silences, c.cfg.DeadNodeGrace)
	if err := shard.CheckRemove(nodes, o.groups(), node); err != nil {
		return err
	}
	_, err = c.editor.Edit(ctx, func(s *catalog.State) ([]base.Write, error) { return s.Remove(node, removal) })
	if err == nil {
		c.wakeReconciler(ctx)
	}
	return err
}

// TransferLeader has the replica on a node lead a shard, and returns once it does.
// Whoever leads later is up to the cluster. It fails with ErrInvalid if the node has
// no replica of the shard that votes.
func (c *Cluster) TransferLeader(ctx context.Context, shard int, node string) error {
	id := base.ShardID(shard)
	if shard < 0 || (shard >= c.known.Shards && id != base.CatalogShard) {
		return fmt.Errorf("%w: there is no shard %d", base.ErrInvalid, shard)
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askPatience)
		defer cancel()
	}
	var last error
	for {
		leader, on := c.leaderOf(ctx, id)
		switch {
		case on == node:
			return nil
		case leader == nil:
			last = fmt.Errorf("%w: shard %d has no leader", base.ErrUnavailable, id)
		default:
			to := voterOn(leader, node)
			if to == 0 {
				return fmt.Errorf("%w: node %q has no voting replica of shard %d", base.ErrInvalid, node, id)
			}
			last = c.host.Load().TransferLeader(ctx, id, to)
		}
		if err := c.poll(ctx); err != nil {
			return errors.Join(err, last)
		}
	}
}

func voterOn(leader *replication.ReplicaStatus, node string) (replica uint64) {
	for _, m := range leader.Voters {
		if m.Node == node {
			return m.Replica
		}
	}
	return 0
}

// leaderOf returns what the leader of a shard says, and the node that it is on; nil
// if nobody says that it is that.
func (c *Cluster) leaderOf(ctx context.Context, id base.ShardID) (leader *replication.ReplicaStatus, node string) {
	state := c.cache.State()
	var holders []catalog.NodeRecord
	for _, holder := range c.holders(id) {
		if n, found := state.Node(holder); found {
			holders = append(holders, n)
		}
	}
	c.wakeRefresh() // for the next time
	for on, answer := range c.ask(ctx, holders) {
		for i := range answer {
			s := &answer[i]
			if s.Shard == id && s.Leader == s.Replica && len(s.Voters) > 0 && (leader == nil || s.Term > leader.Term) {
				leader, node = s, on
			}
		}
	}
	return leader, node
}
