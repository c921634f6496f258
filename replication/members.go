package replication

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
)

// ReplicaStatus is what a node knows of one of its replicas.
type ReplicaStatus = ask.Replica

// Change is one change of a group. Like all of them it is made by the leader,
// wherever that is, and has no effect if it has been made before.
type Change struct {
	Shard  base.ShardID
	Member Member
	// ConfigChange is that of the status from which the change was planned; if the
	// members have changed since, it is refused with ErrConflict.
	ConfigChange uint64
}

// AddLearner makes a replica, which has been given to a node and does not vote, a
// member of the group.
func (h *Host) AddLearner(ctx context.Context, c Change) error {
	return h.change(ctx, ask.AddLearner, c)
}

// Promote lets a learner vote.
func (h *Host) Promote(ctx context.Context, c Change) error { return h.change(ctx, ask.Promote, c) }

// DropMember removes a replica from the group for good.
func (h *Host) DropMember(ctx context.Context, c Change) error {
	return h.change(ctx, ask.DropMember, c)
}

// TransferLeader asks the leader to hand over to another replica. That it did can
// be seen in the status only.
func (h *Host) TransferLeader(ctx context.Context, shard base.ShardID, replica uint64) error {
	return h.change(ctx, ask.TransferLeader, Change{Shard: shard, Member: Member{Replica: replica}})
}

func (h *Host) change(ctx context.Context, kind ask.Kind, c Change) error {
	if h.raft == nil || !h.far.Any() {
		return fmt.Errorf("%w: the members of the shards are fixed on this node", base.ErrInvalid)
	}
	_, err := h.far.Ask(ctx, &ask.Request{
		Kind: kind, Shard: c.Shard, Member: c.Member.Replica, Node: c.Member.Node, ConfigChange: c.ConfigChange,
	})
	return err
}

// NodeStatus returns what this node knows of each of its running replicas.
func (h *Host) NodeStatus(ctx context.Context) []ReplicaStatus {
	if h.raft == nil {
		return nil
	}
	groups := append(slices.Clone(h.groups), h.catalog)
	found := make([]*ReplicaStatus, len(groups))
	var asked errgroup.Group
	asked.SetLimit(maxStatus)
	for i, g := range groups {
		if r := g.replica.Load(); r != nil {
			asked.Go(func() error {
				s := ReplicaStatus{Shard: g.id, Replica: r.id, Applied: r.machine.Index(), Clock: r.machine.Clock()}
				h.raft.host.Describe(ctx, &s)
				found[i] = &s
				return nil
			})
		}
	}
	_ = asked.Wait()
	var all []ReplicaStatus
	for _, s := range found {
		if s != nil {
			all = append(all, *s)
		}
	}
	return all
}

// maxStatus is how many shards are looked at at once: those that this node leads
// take a round trip each.
const maxStatus = 32

// StatusOf returns what another node knows of its replicas.
func (h *Host) StatusOf(ctx context.Context, node string) ([]ReplicaStatus, error) {
	return h.far.Status(ctx, node)
}

// Retire has the node no longer say which replicas it has: who hands out leaders then
// takes it for doubtful and gives it none. It is called before it hands over its own.
func (h *Host) Retire() { h.retiring.Store(true) }

// Led is a shard that this node leads.
type Led struct {
	Shard base.ShardID
	Term  uint64
}

// Led returns the shards that this node leads, as far as it knows.
func (h *Host) Led() []Led {
	var led []Led
	for _, g := range append(slices.Clone(h.raft.log.groups), h.raft.log.catalog) {
		if term, leads := g.reign(); leads {
			led = append(led, Led{Shard: g.id, Term: term})
		}
	}
	return led
}

// LeaderNode returns the node that leads a shard as this node's replica of it knows;
// "" if it has none, or that knows of no leader.
func (h *Host) LeaderNode(shard base.ShardID) string {
	g := h.raft.log.group(shard)
	if g.replica.Load() == nil {
		return ""
	}
	if leader := g.leader(); leader != 0 {
		return g.log.nodeOf(shard, leader)
	}
	return ""
}

// HasReplica reports whether this node runs a replica of a shard.
func (h *Host) HasReplica(shard base.ShardID) bool { return h.group(shard).replica.Load() != nil }

// Leads reports whether this node leads a shard, as far as it knows.
func (h *Host) Leads(shard base.ShardID) bool { return h.log.Leads(shard) }

// Err returns why the node has failed, nil if it has not.
func (h *Host) Err() error {
	if h.raft == nil {
		return nil
	}
	return h.raft.fence.Err()
}
