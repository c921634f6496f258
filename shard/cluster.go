package shard

import (
	"slices"

	"github.com/distributedcache/cache/internal/base"
)

// NodeState says what a node may be used for.
type NodeState uint8

// The states of a node. A node that is not in the list that a function is
// given counts as NodeGone.
const (
	// NodeActive may get replicas and lead.
	NodeActive NodeState = iota
	// NodeSuspect is silent, but may come back: it keeps what it has, gets
	// nothing and is asked for nothing.
	NodeSuspect
	// NodeDraining works, but its replicas have to go elsewhere at once.
	NodeDraining
	// NodeGone is dead for good or removed: its replicas are to be replaced.
	NodeGone
)

// String returns "active", "suspect", "draining" or "gone".
func (s NodeState) String() string {
	switch s {
	case NodeActive:
		return "active"
	case NodeSuspect:
		return "suspect"
	case NodeDraining:
		return "draining"
	default:
		return "gone"
	}
}

// Node is a node as the planner sees it.
type Node struct {
	ID   string
	Zone string // nodes that fail together; "" is a zone like any other
	// Weight is the share of the replicas that the node takes, relative to the
	// others. 0 stands for 1; it is kept within 1/100 and 100.
	Weight float64
	State  NodeState
}

// Replica is one replica of a shard, as the catalog and raft tell of it.
type Replica struct {
	ID   uint64
	Node string
	// Member: raft has it, as a voter or as a learner. A replica of the catalog
	// that raft does not have (yet, or any more) is no member.
	Member bool
	// Voter: raft counts its vote. A member that is no voter is a learner.
	Voter bool
	// CaughtUp: a learner that has nearly everything that the leader has.
	CaughtUp bool
	// Lost: its disk was wiped. It counts as one on a gone node.
	Lost bool
	// Removed: raft has had it and removed it, or refused to add it. Such an id
	// never comes back, so the replica can only be forgotten.
	Removed bool
	// Orphan: raft has it, the catalog does not. Its node does not run it.
	Orphan bool
}

// Group is a shard with its replicas, as observed. The catalog itself is one
// too.
type Group struct {
	Shard base.ShardID
	// Factor is the number of replicas that the group should have if there are
	// nodes enough.
	Factor int
	// Leader is the node that leads; "" if nobody is known to. What raft says of
	// the replicas is only known with a leader.
	Leader string
	// ConfigChange is raft's number of the membership that was observed. Steps
	// carry it, so that one that was planned from an older membership can be
	// refused.
	ConfigChange uint64
	Replicas     []Replica
}

// Config says how to place replicas.
type Config struct {
	// Epsilon is how far the replicas of a node may be off its fair share before
	// any move for the sake of balance. 0 stands for 0.1.
	Epsilon float64
	// MinCopies is the number of voters that a shard keeps even if that is not
	// odd, while there are so many nodes and its factor is not less. 0 stands
	// for 1. With 2, a cluster of three that loses a node keeps two copies of
	// everything instead of one, at the price that two nodes need each other.
	MinCopies int
}

func (c Config) epsilon() float64 {
	if c.Epsilon <= 0 {
		return 0.1
	}
	return min(c.Epsilon, 1)
}

// weight returns the weight of a node within its bounds. They keep the
// arithmetic of shares far from the ends of a float64.
func (n Node) weight() float64 {
	if !(n.Weight > 0) { // also not a number
		return 1
	}
	return min(max(n.Weight, 0.01), 100)
}

// states looks up the states of nodes.
type states map[string]NodeState

func statesOf(nodes []Node) states {
	s := make(states, len(nodes))
	for _, n := range nodes {
		s[n.ID] = n.State
	}
	return s
}

func (s states) of(node string) NodeState {
	if state, ok := s[node]; ok {
		return state
	}
	return NodeGone
}

// dead reports whether a replica will never be of use again.
func (s states) dead(r *Replica) bool {
	return r.Lost || r.Orphan || s.of(r.Node) == NodeGone
}

// healthy reports whether a replica answers now, as far as is known.
func (s states) healthy(r *Replica) bool {
	state := s.of(r.Node)
	return !s.dead(r) && (state == NodeActive || state == NodeDraining)
}

// keeps reports whether a replica may stay where it is.
func (s states) keeps(r *Replica) bool {
	state := s.of(r.Node)
	return !s.dead(r) && !r.Removed && (state == NodeActive || state == NodeSuspect)
}

// chosen returns the replica of the group that counts for a node: there should
// be one at most, and if there are more, those with a vote, then those in raft,
// then the oldest go first. It returns nil if no replica there may stay.
func (s states) chosen(g *Group, node string) *Replica {
	var best *Replica
	for i := range g.Replicas {
		r := &g.Replicas[i]
		if r.Node != node || !s.keeps(r) {
			continue
		}
		if best == nil || rank(r) < rank(best) || rank(r) == rank(best) && r.ID < best.ID {
			best = r
		}
	}
	return best
}

func rank(r *Replica) int {
	switch {
	case r.Member && r.Voter:
		return 0
	case r.Member:
		return 1
	default:
		return 2
	}
}

// votes reports whether raft counts the vote of a replica.
func votes(r *Replica) bool { return r.Member && r.Voter }

// majority is the number of n voters that decide.
func majority(n int) int { return n/2 + 1 }

// oddAtMost is the largest odd number that is not over n, and 0 for n < 1.
func oddAtMost(n int) int {
	if n < 1 {
		return 0
	}
	return n - 1 + n%2
}

// sortedNodes returns the nodes in the order of their ids, each id once, gone
// and draining ones left out: those that replicas may be on.
func sortedNodes(nodes []Node) []Node {
	var usable []Node
	for _, n := range nodes {
		if n.State == NodeActive || n.State == NodeSuspect {
			usable = append(usable, n)
		}
	}
	slices.SortStableFunc(usable, func(a, b Node) int {
		switch {
		case a.ID < b.ID:
			return -1
		case a.ID > b.ID:
			return 1
		}
		return 0
	})
	return slices.CompactFunc(usable, func(a, b Node) bool { return a.ID == b.ID })
}
