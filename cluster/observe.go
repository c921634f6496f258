package cluster

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/distributedcache/cache/cluster/internal/catalog"
	"github.com/distributedcache/cache/cluster/internal/gossip"
	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/shard"
)

const (
	// answerPatience is how long a node may take to say what it knows of its
	// replicas. It is longer than replication takes to find out that one of them
	// does not lead any more.
	answerPatience = 3 * time.Second
	// catchUpEntries is how far a learner may be behind its leader to be given a
	// vote. The two tell their positions at different moments, in which a busy
	// group makes some hundred entries; what is missing then arrives within
	// milliseconds.
	catchUpEntries = 1000
)

// observation is what one look at the cluster has shown.
type observation struct {
	state   *catalog.State
	answers map[string][]replication.ReplicaStatus // of the nodes that answered
	heard   map[string]bool                        // whom gossip takes for alive
	shy     map[string]bool                        // who wants to lead nothing
}

// observe looks at the cluster. The nodes are asked before the catalog is read: so
// what is in raft has been in the catalog before, and if it is not any more, it has
// left for good.
func (c *Cluster) observe(ctx context.Context) (*observation, error) {
	o := &observation{}
	o.heard, o.shy = c.hearsay()
	o.answers = c.ask(ctx, c.cache.State().Members())
	state, err := c.readCatalog(ctx)
	o.state = state
	return o, err
}

// readCatalog returns the catalog as it is now.
func (c *Cluster) readCatalog(ctx context.Context) (*catalog.State, error) {
	ctx, cancel := context.WithTimeout(ctx, introducePatience)
	defer cancel()
	return c.editor.Edit(ctx, func(*catalog.State) ([]base.Write, error) { return nil, nil })
}

// hearsay returns what gossip tells of the nodes.
func (c *Cluster) hearsay() (heard, shy map[string]bool) {
	heard, shy = map[string]bool{c.cfg.NodeID: true}, map[string]bool{}
	for _, m := range c.gossip.Members() {
		if m.State == gossip.Alive {
			heard[m.ID] = true
		}
		if m.State == gossip.Left || m.Meta.Draining {
			shy[m.ID] = true
		}
	}
	if c.leaving.Load() || c.clockOff.Load() {
		shy[c.cfg.NodeID] = true
	}
	return heard, shy
}

// ask has nodes tell what they know of their replicas. Those that do not answer in
// time are missing in what it returns.
func (c *Cluster) ask(ctx context.Context, nodes []catalog.NodeRecord) map[string][]replication.ReplicaStatus {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	host := c.host.Load()
	var (
		asked   sync.WaitGroup
		mu      sync.Mutex // protects answers
		answers = make(map[string][]replication.ReplicaStatus, len(nodes))
	)
	for _, n := range nodes {
		asked.Go(func() {
			var status []replication.ReplicaStatus
			err := host.Err()
			if n.ID != c.cfg.NodeID {
				status, err = host.StatusOf(ctx, n.ID)
			} else if err == nil {
				status = host.NodeStatus(ctx)
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				answers[n.ID] = status
			}
		})
	}
	asked.Wait()
	return answers
}

// silent reports whether a node neither answers nor is taken for alive by gossip.
func (o *observation) silent(node string) bool {
	_, answered := o.answers[node]
	return !answered && !o.heard[node]
}

// nodes returns the nodes as the planner sees them, given how long they have been
// silent.
func (o *observation) nodes(s *silences, grace time.Duration) []shard.Node {
	var nodes []shard.Node
	for _, n := range o.state.Members() {
		_, answered := o.answers[n.ID]
		node := shard.Node{ID: n.ID, Zone: n.Zone}
		switch {
		case o.silent(n.ID) && s.longer(n.ID, grace):
			node.State = shard.NodeGone
		case n.State == catalog.Draining && o.silent(n.ID):
			// It is to have nothing anyway, and cannot give it away any more.
			node.State = shard.NodeGone
		case n.State == catalog.Draining:
			node.State = shard.NodeDraining
		case !answered || s.doubtful(n.ID, grace):
			node.State = shard.NodeSuspect
		}
		nodes = append(nodes, node)
	}
	return nodes
}

// leading returns the nodes as they count when leaders are chosen: one that is
// about to stop keeps its replicas, but leads nothing.
func (o *observation) leading(nodes []shard.Node) []shard.Node {
	may := slices.Clone(nodes)
	for i := range may {
		if n := &may[i]; o.shy[n.ID] && n.State == shard.NodeActive {
			n.State = shard.NodeSuspect
		}
	}
	return may
}

// groups returns the shards as the planner sees them, the catalog as the last.
func (o *observation) groups() []shard.Group {
	type place struct {
		shard base.ShardID
		node  string
	}
	status := map[place]*replication.ReplicaStatus{}
	leaders := map[base.ShardID]*replication.ReplicaStatus{}
	leaderNodes := map[base.ShardID]string{}
	for node, answer := range o.answers {
		for i := range answer {
			s := &answer[i]
			status[place{s.Shard, node}] = s
			if best := leaders[s.Shard]; s.Leader == s.Replica && len(s.Voters) > 0 && (best == nil || s.Term > best.Term) {
				leaders[s.Shard], leaderNodes[s.Shard] = s, node
			}
		}
	}
	var groups []shard.Group
	for _, rec := range o.state.Shards() {
		g := shard.Group{Shard: rec.Shard, Factor: o.state.Settings().Replication, Leader: leaderNodes[rec.Shard]}
		if rec.Shard == base.CatalogShard {
			g.Factor = maxCatalog
		}
		leader := leaders[rec.Shard]
		if leader != nil {
			g.ConfigChange = leader.ConfigChange
		}
		of := func(node string) *replication.ReplicaStatus { return status[place{rec.Shard, node}] }
		g.Replicas = o.replicas(&rec, leader, of)
		groups = append(groups, g)
	}
	return groups
}

// replicas returns the replicas of a shard, those that raft has in spite of the
// catalog with them. leader is nil if nobody is known to lead.
func (o *observation) replicas(rec *catalog.ShardRecord, leader *replication.ReplicaStatus, of func(node string) *replication.ReplicaStatus) []shard.Replica {
	all := make([]shard.Replica, 0, len(rec.Replicas))
	at := map[uint64]int{}
	for i, r := range rec.Replicas {
		at[r.ID] = i
		all = append(all, shard.Replica{ID: r.ID, Node: r.Node, Lost: o.state.Lost(r)})
	}
	if leader == nil {
		return all
	}
	member := func(m replication.Member) *shard.Replica {
		i, found := at[m.Replica]
		if !found {
			i = len(all)
			all = append(all, shard.Replica{ID: m.Replica, Node: m.Node, Orphan: true})
		}
		all[i].Member = true
		return &all[i]
	}
	for _, m := range leader.Voters {
		member(m).Voter = true
	}
	for _, m := range leader.Learners {
		r := member(m)
		r.CaughtUp = !r.Orphan && !r.Lost && caughtUp(leader, of(r.Node), r.ID)
	}
	for _, id := range leader.Removed {
		if i, found := at[id]; found {
			all[i].Removed = true
		}
	}
	return all
}

// caughtUp reports whether a learner has nearly everything that its leader has, and
// hears of what is new. status is what its node says; nil if it does not answer.
func caughtUp(leader, status *replication.ReplicaStatus, replica uint64) bool {
	switch {
	case status == nil || status.Replica != replica:
		return false
	case status.Leader != leader.Replica || status.Term != leader.Term:
		return false
	case leader.Applied > 0 && status.Applied == 0:
		return false
	}
	return status.Applied+catchUpEntries >= leader.Applied
}

// wanted returns how many voters each group should have by the settings and the
// nodes that there are, whether or not they work.
func wanted(factor, nodes int) int {
	n := min(factor, nodes)
	return max(n-1+n%2, min(minCopies, n))
}
