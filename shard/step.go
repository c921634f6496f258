package shard

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
)

// Kind says what a step does.
type Kind uint8

// The kinds of steps.
const (
	// AllocateReplica: the catalog gives Node a replica of Shard, with a new id.
	// Replica is 0. It must refuse if Node has one already.
	AllocateReplica Kind = iota + 1
	// AddLearner: raft adds Replica on Node without a vote.
	AddLearner
	// Promote: raft gives the learner Replica on Node a vote.
	Promote
	// TransferLeader: the leader hands over to Replica on Node.
	TransferLeader
	// DropMember: raft removes Replica, which is or was on Node.
	DropMember
	// ForgetReplica: the catalog drops Replica; Node then deletes its data.
	ForgetReplica
)

// String returns what the kind does, in two words.
func (k Kind) String() string {
	switch k {
	case AllocateReplica:
		return "allocate replica"
	case AddLearner:
		return "add learner"
	case Promote:
		return "promote learner"
	case TransferLeader:
		return "transfer leader"
	case DropMember:
		return "drop member"
	case ForgetReplica:
		return "forget replica"
	default:
		return fmt.Sprintf("kind %d", uint8(k))
	}
}

// Membership reports whether the step changes the membership of a raft group.
// Such a step is only safe on the membership it was planned from.
func (k Kind) Membership() bool { return k == AddLearner || k == Promote || k == DropMember }

// Step is one change. Making it again does no harm.
type Step struct {
	Kind    Kind
	Shard   base.ShardID
	Replica uint64
	Node    string
	// ConfigChange is that of the group the step was planned from.
	ConfigChange uint64
}

// String returns a line for a log.
func (s Step) String() string {
	return fmt.Sprintf("%v: shard %d, replica %d on %s", s.Kind, s.Shard, s.Replica, s.Node)
}

// Limits bounds what goes on at a time.
type Limits struct {
	// Shards is how many shards may have learners that are catching up. 0
	// stands for 8: enough to keep the disks of some nodes busy, not enough for
	// the traffic of users to suffer.
	Shards int
	// PerSource is how many learners one node may feed, as the leader of their
	// groups. 0 stands for 2: with more snapshots to stream, raft's transport
	// refuses some and then pauses for all.
	PerSource int
	// PerTarget is how many learners may catch up on one node. 0 stands for 2.
	PerTarget int
	// Transfers is how many leaders one plan moves for the sake of balance. 0
	// stands for 4: each costs its shard some milliseconds.
	Transfers int
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		limit *int
		value int
	}{{&l.Shards, 8}, {&l.PerSource, 2}, {&l.PerTarget, 2}, {&l.Transfers, 4}} {
		if *d.limit <= 0 {
			*d.limit = d.value
		}
	}
	return l
}

// traffic counts the learners that catch up, or will soon.
type traffic struct {
	limits    Limits
	shards    map[base.ShardID]bool
	planned   map[string]int // by node they are on: allocated ones too
	source    map[string]int // by node that feeds them: allocated ones too
	streaming map[string]int // by node they are on: those in raft
	feeding   map[string]int // by node that feeds them: those in raft
	transfers int
}

// newTraffic counts what is under way. Learners that cannot be fed now (nobody
// leads, or their node is silent) do not count, so that they hold up nobody.
func newTraffic(limits Limits, states states, groups []Group) *traffic {
	t := &traffic{
		limits: limits.withDefaults(), shards: map[base.ShardID]bool{},
		planned: map[string]int{}, source: map[string]int{}, streaming: map[string]int{}, feeding: map[string]int{},
	}
	for i := range groups {
		g := &groups[i]
		if g.Leader == "" || states.of(g.Leader) == NodeSuspect {
			continue
		}
		for j := range g.Replicas {
			r := &g.Replicas[j]
			if votes(r) || r.CaughtUp || r.Removed || !states.healthy(r) {
				continue
			}
			t.allocated(g, r.Node)
			if r.Member {
				t.added(g, r.Node)
			}
		}
	}
	return t
}

func (t *traffic) allocated(g *Group, node string) {
	t.shards[g.Shard] = true
	t.planned[node]++
	t.source[g.Leader]++
}

func (t *traffic) added(g *Group, node string) {
	t.streaming[node]++
	t.feeding[g.Leader]++
}

func (t *traffic) mayAllocate(g *Group, node string) bool {
	return (t.shards[g.Shard] || len(t.shards) < t.limits.Shards) &&
		t.planned[node] < t.limits.PerTarget && t.source[g.Leader] < t.limits.PerSource
}

// mayAdd has the same limits for replicas that were allocated before: the
// leader may have changed since.
func (t *traffic) mayAdd(g *Group, node string) bool {
	return t.streaming[node] < t.limits.PerTarget && t.feeding[g.Leader] < t.limits.PerSource
}
