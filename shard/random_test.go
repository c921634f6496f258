package shard_test

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/shard"
)

// shape bounds a random cluster.
type shape struct {
	nodes, zones, shards, factor int
	weights, states              bool
}

func oneOf(r *rand.Rand, atMost int) int { return 1 + r.IntN(atMost) }

func randomNodes(r *rand.Rand, s shape) []shard.Node {
	zones := oneOf(r, s.zones)
	nodes := make([]shard.Node, oneOf(r, s.nodes))
	for i := range nodes {
		nodes[i] = shard.Node{ID: fmt.Sprintf("node-%d", i), Zone: fmt.Sprintf("zone-%d", r.IntN(zones))}
		if s.weights && r.IntN(2) == 0 {
			nodes[i].Weight = 0.25 + 4*r.Float64()
		}
		if s.states && r.IntN(4) == 0 {
			nodes[i].State = shard.NodeState(r.IntN(4))
		}
	}
	return nodes
}

// founded returns groups without replicas.
func founded(shards, factor int) []shard.Group {
	groups := make([]shard.Group, shards)
	for i := range groups {
		groups[i] = shard.Group{Shard: base.ShardID(i), Factor: factor}
	}
	return groups
}

// settled returns the groups as they are once they are at their target.
func settled(groups []shard.Group, target [][]string, leaders []string) []shard.Group {
	groups = slices.Clone(groups)
	for i := range groups {
		groups[i].Replicas = nil
		for j, node := range target[i] {
			groups[i].Replicas = append(groups[i].Replicas, shard.Replica{ID: uint64(100 + j), Node: node, Member: true, Voter: true})
		}
		groups[i].Leader = ""
		if leaders != nil {
			groups[i].Leader = leaders[i]
		} else if len(target[i]) > 0 {
			groups[i].Leader = target[i][0]
		}
	}
	return groups
}

// randomGroups returns groups with any replicas, which may be on nodes that
// nobody knows, and in any state.
func randomGroups(r *rand.Rand, s shape, nodes []shard.Node) []shard.Group {
	groups := founded(oneOf(r, s.shards), oneOf(r, s.factor))
	if r.IntN(3) == 0 {
		groups = append(groups, shard.Group{Shard: base.MaxShards, Factor: 5})
	}
	for i := range groups {
		g := &groups[i]
		g.ConfigChange = r.Uint64()
		for j, n := range r.Perm(len(nodes))[:r.IntN(min(len(nodes), 8)+1)] {
			g.Replicas = append(g.Replicas, randomReplica(r, uint64(j+1), nodes[n].ID))
		}
		if r.IntN(20) == 0 {
			g.Replicas = append(g.Replicas, randomReplica(r, 100, "stranger"))
		}
		for _, replica := range g.Replicas {
			if replica.Voter && r.IntN(2) == 0 {
				g.Leader = replica.Node
			}
		}
	}
	return groups
}

func randomReplica(r *rand.Rand, id uint64, node string) shard.Replica {
	replica := shard.Replica{ID: id, Node: node, Member: r.IntN(5) > 0, Lost: r.IntN(12) == 0}
	if replica.Member {
		replica.Voter = r.IntN(4) > 0
		replica.CaughtUp = !replica.Voter && r.IntN(2) == 0
		replica.Orphan = r.IntN(20) == 0
	} else {
		replica.Removed = r.IntN(4) == 0
	}
	return replica
}

// count returns how many replicas each node has in a target.
func count(target [][]string) map[string]int {
	n := map[string]int{}
	for _, nodes := range target {
		for _, node := range nodes {
			n[node]++
		}
	}
	return n
}

// arrivals counts the nodes in b that are not in a, over all groups.
func arrivals(a, b [][]string) (n int) {
	for i := range b {
		for _, node := range b[i] {
			if !slices.Contains(a[i], node) {
				n++
			}
		}
	}
	return n
}

func usable(nodes []shard.Node) (list []shard.Node, suspects bool) {
	for _, n := range nodes {
		if n.State == shard.NodeActive || n.State == shard.NodeSuspect {
			list = append(list, n)
			suspects = suspects || n.State == shard.NodeSuspect
		}
	}
	return list, suspects
}
