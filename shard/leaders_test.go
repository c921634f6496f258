package shard_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/shard"
)

// randomLed returns settled groups with leaders anywhere, and their target.
func randomLed(r *rand.Rand, s shape) ([]shard.Node, []shard.Group, [][]string) {
	nodes := randomNodes(r, s)
	groups := founded(oneOf(r, s.shards), oneOf(r, s.factor))
	target := shard.Target(shard.Config{}, nodes, groups)
	groups = settled(groups, target, nil)
	for i := range groups {
		if len(target[i]) > 0 && r.IntN(8) > 0 {
			groups[i].Leader = target[i][r.IntN(len(target[i]))]
		}
	}
	return nodes, groups, target
}

// feasible reports whether leaders can be chosen such that each node leads at
// most so many groups (each group has one), or at least so many: by
// augmenting paths from nothing, the textbook way.
func feasible(target [][]string, nodes []string, atMost, atLeast int) bool {
	leads := map[string][]int{}
	var place func(group int, seen map[string]bool) bool
	place = func(group int, seen map[string]bool) bool {
		for _, n := range target[group] {
			if seen[n] {
				continue
			}
			seen[n] = true
			if len(leads[n]) < atMost {
				leads[n] = append(leads[n], group)
				return true
			}
			for i, other := range leads[n] {
				if place(other, seen) {
					leads[n][i] = group
					return true
				}
			}
		}
		return false
	}
	placed := 0
	for g := range target {
		if place(g, map[string]bool{}) {
			placed++
		}
	}
	if atLeast == 0 {
		return placed == len(target)
	}
	return placed == atLeast*len(nodes) // with atMost = atLeast: every place is taken
}

func TestLeadersAreEven(t *testing.T) {
	r := testkit.Rand(t)
	uneven := 0
	for i := range 2000 {
		nodes, groups, target := randomLed(r, shape{nodes: 20, zones: 5, shards: 64, factor: 5, weights: i%2 == 0})
		leaders := shard.Leaders(nodes, groups, target)
		have := map[string]int{}
		for j, leader := range leaders {
			if !slices.Contains(target[j], leader) {
				t.Fatalf("shard %d: %q of %v", j, leader, target[j])
			}
			have[leader]++
		}
		var ids []string
		highest, lowest := 0, len(groups)
		for _, n := range nodes {
			ids = append(ids, n.ID)
			highest, lowest = max(highest, have[n.ID]), min(lowest, have[n.ID])
		}
		most, least := len(groups)/len(nodes)+1, (len(groups)+len(nodes)-1)/len(nodes)-1
		if highest > most {
			uneven++
			if feasible(target, ids, most, 0) {
				t.Fatalf("%d leaders on a node, %d were possible: %v", highest, most, have)
			}
		}
		if lowest < least {
			uneven++
			if feasible(target, ids, least, least) {
				t.Fatalf("%d leaders on a node, %d were possible: %v", lowest, least, have)
			}
		}
		// They stay once they are there.
		for j := range groups {
			groups[j].Leader = leaders[j]
		}
		if again := shard.Leaders(nodes, groups, target); !slices.Equal(again, leaders) {
			t.Fatalf("not at rest: %v, then %v", leaders, again)
		}
	}
	t.Logf("%d bounds could not be met by any choice", uneven)
}

// TestLeadersMoveLittle compares with the best of all choices.
func TestLeadersMoveLittle(t *testing.T) {
	r := testkit.Rand(t)
	moved, best := 0, 0
	for range 1000 {
		nodes, groups, target := randomLed(r, shape{nodes: 4, zones: 1, shards: 8, factor: 4})
		most, least := len(groups)/len(nodes)+1, (len(groups)+len(nodes)-1)/len(nodes)-1
		leaders := shard.Leaders(nodes, groups, target)
		fewest := fewestMoves(nodes, groups, target, most, least)
		if fewest < 0 {
			continue
		}
		n := 0
		for i, leader := range leaders {
			if groups[i].Leader != "" && groups[i].Leader != leader {
				n++
			}
		}
		moved, best = moved+n, best+fewest
	}
	t.Logf("%d moves, the best choices need %d", moved, best)
	if moved > best+best/4 {
		t.Errorf("%d moves, the best choices need %d", moved, best)
	}
}

// fewestMoves tries every choice of leaders; -1 if none keeps the bounds.
func fewestMoves(nodes []shard.Node, groups []shard.Group, target [][]string, most, least int) int {
	best := -1
	led := map[string]int{}
	var try func(g, moves int)
	try = func(g, moves int) {
		if g == len(groups) {
			for _, n := range nodes {
				if led[n.ID] < least || led[n.ID] > most {
					return
				}
			}
			if best < 0 || moves < best {
				best = moves
			}
			return
		}
		for _, n := range target[g] {
			more := 0
			if groups[g].Leader != "" && groups[g].Leader != n {
				more = 1
			}
			led[n]++
			try(g+1, moves+more)
			led[n]--
		}
	}
	try(0, 0)
	return best
}

func TestLeadersOnlyWhereTheyMay(t *testing.T) {
	nodes := []shard.Node{{ID: "a"}, {ID: "b", State: shard.NodeSuspect}, {ID: "c", State: shard.NodeDraining}, {ID: "d"}}
	replica := func(id uint64, node string) shard.Replica {
		return shard.Replica{ID: id, Node: node, Member: true, Voter: true}
	}
	learner, lost := replica(4, "d"), replica(4, "d")
	learner.Voter = false
	lost.Lost = true
	for name, c := range map[string]struct {
		replicas []shard.Replica
		target   []string
		want     string
	}{
		"of the target":         {[]shard.Replica{replica(1, "a"), replica(2, "b"), replica(4, "d")}, []string{"b", "d"}, "d"},
		"goes, but nobody else": {[]shard.Replica{replica(1, "a"), replica(2, "b"), learner}, []string{"d"}, "a"},
		"lost":                  {[]shard.Replica{lost, replica(2, "b")}, []string{"d"}, ""},
		"nobody":                {[]shard.Replica{replica(2, "b"), replica(3, "c"), learner}, []string{"d"}, ""},
	} {
		groups := []shard.Group{{Factor: 3, Leader: "b", Replicas: c.replicas}}
		if got := shard.Leaders(nodes, groups, [][]string{c.target}); got[0] != c.want {
			t.Errorf("%s: %q, want %q", name, got[0], c.want)
		}
	}
}
