package rafthost

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lni/dragonboat/v4"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
)

// changePatience is how long one change of a group may take to be decided.
const changePatience = 10 * time.Second

// Change makes a change of a group that this node leads. join is called before a
// learner is added.
func (n *Host) Change(ctx context.Context, q *ask.Request, join func(context.Context) error) error {
	id := GroupID(q.Shard)
	if q.Kind == ask.TransferLeader {
		return refusedChange(n.raft.RequestLeaderTransfer(id, q.Member))
	}
	ctx, cancel := context.WithTimeout(ctx, changePatience)
	defer cancel()
	now, err := n.raft.SyncGetShardMembership(ctx, id)
	if err != nil {
		return refusedChange(err)
	}
	return refusedChange(n.changeFrom(ctx, q, now, join))
}

// changeFrom makes a change, unless it has been made, of the membership as it is
// now.
func (n *Host) changeFrom(ctx context.Context, q *ask.Request, now *dragonboat.Membership, join func(context.Context) error) error {
	_, votes := now.Nodes[q.Member]
	_, learns := now.NonVotings[q.Member]
	made := map[ask.Kind]bool{ask.AddLearner: votes || learns, ask.Promote: votes, ask.DropMember: !votes && !learns}
	id := GroupID(q.Shard)
	switch {
	case made[q.Kind]:
		return nil
	case now.ConfigChangeID != q.ConfigChange:
		return fmt.Errorf("%w: the members of shard %d have changed", base.ErrConflict, q.Shard)
	case q.Kind == ask.AddLearner:
		if err := join(ctx); err != nil {
			return err
		}
		return n.raft.SyncRequestAddNonVoting(ctx, id, q.Member, n.names.target(q.Node), now.ConfigChangeID)
	case q.Kind == ask.Promote && !learns:
		return fmt.Errorf("%w: replica %d is no learner of shard %d", base.ErrInvalid, q.Member, q.Shard)
	case q.Kind == ask.Promote:
		return n.raft.SyncRequestAddReplica(ctx, id, q.Member, n.names.target(q.Node), now.ConfigChangeID)
	case votes && len(now.Nodes) == 1:
		return fmt.Errorf("%w: replica %d is the only one of shard %d", base.ErrInvalid, q.Member, q.Shard)
	}
	return n.raft.SyncRequestDeleteReplica(ctx, id, q.Member, now.ConfigChangeID)
}

// refusedChange puts errors of dragonboat in the words of the cache. Whether the
// change was made can be seen in the status of the group.
func refusedChange(err error) error {
	if err == nil || errors.Is(err, base.ErrInvalid) || errors.Is(err, base.ErrConflict) {
		return err
	}
	return fmt.Errorf("%w: change of a group: %w", base.ErrUnavailable, err)
}

// Describe adds to the status of a replica on this node who leads its group, and if
// it does, the members.
func (n *Host) Describe(ctx context.Context, s *ask.Replica) {
	leader, term := n.Leader(s.Shard)
	if leader == 0 {
		return
	}
	node := n.cfg.Node
	if leader != s.Replica {
		node = n.NodeOf(s.Shard, leader)
	} else {
		now, err := n.membership(ctx, s.Shard)
		if err != nil {
			s.Term = term
			return // who cannot say who the members are leads nobody
		}
		s.ConfigChange = now.ConfigChangeID
		s.Voters, s.Learners = n.members(now.Nodes), n.members(now.NonVotings)
		s.Removed = slices.Sorted(maps.Keys(now.Removed))
	}
	s.Leader, s.Term, s.LeaderNode = leader, term, node
}

// statusPatience bounds how long a leader may take to confirm its members.
const statusPatience = time.Second

func (n *Host) membership(ctx context.Context, id base.ShardID) (*dragonboat.Membership, error) {
	ctx, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	return n.raft.SyncGetShardMembership(ctx, GroupID(id))
}

// Voters returns the voters of a group, as they are at some moment of the call, at
// which this node's replica has applied all that was committed before.
func (n *Host) Voters(ctx context.Context, id base.ShardID) ([]ask.Member, error) {
	now, err := n.membership(ctx, id)
	if err != nil {
		return nil, err
	}
	return n.members(now.Nodes), nil
}

// NoLaterVote reports whether a replica on this node has voted in no term after this
// one.
func (n *Host) NoLaterVote(id base.ShardID, replica, term uint64) bool {
	newest, known := n.logs.Term(GroupID(id), replica)
	return known && newest <= term
}

// VotedIn returns the newest term that a replica on this node may have voted in.
func (n *Host) VotedIn(id base.ShardID, replica uint64) (term uint64, known bool) {
	return n.logs.Term(GroupID(id), replica)
}

func (n *Host) members(targets map[uint64]string) []ask.Member {
	var all []ask.Member
	for id, target := range targets {
		all = append(all, ask.Member{Replica: id, Node: n.names.node(target)})
	}
	slices.SortFunc(all, func(a, b ask.Member) int { return int(a.Replica) - int(b.Replica) })
	return all
}

// Cut has a group that this node leads take a snapshot and forget its log up to
// there.
func (n *Host) Cut(ctx context.Context, id base.ShardID) error {
	_, err := n.raft.SyncRequestSnapshot(ctx, GroupID(id), dragonboat.SnapshotOption{
		OverrideCompactionOverhead: true, CompactionOverhead: 1,
	})
	return err
}

// IsCut reports whether the log of a group begins after its first entry.
func (n *Host) IsCut(id base.ShardID) (bool, error) {
	reader, err := n.raft.GetLogReader(GroupID(id))
	if err != nil {
		return false, err
	}
	first, _ := reader.GetRange()
	return first > 1, nil
}
