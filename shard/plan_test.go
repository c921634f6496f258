package shard_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/shard"
)

// parse reads a group as "A1 B2+ C3!": node A has replica 1, which leads if it
// comes first. A sign says what else the replica is: ~ a learner, + one that
// has caught up, . only in the catalog, ! lost, x removed by raft, ? only in
// raft. nodes lists states that are not active: "C=gone D=suspect".
func parse(t *testing.T, replicas, states string) (nodes []shard.Node, g shard.Group) {
	t.Helper()
	g = shard.Group{Shard: 7, Factor: 3, ConfigChange: 42}
	state := map[string]shard.NodeState{}
	for _, s := range strings.Fields(states) {
		id, name, _ := strings.Cut(s, "=")
		for v := shard.NodeActive; v <= shard.NodeGone; v++ {
			if v.String() == name {
				state[id] = v
			}
		}
	}
	for _, id := range []string{"A", "B", "C", "D", "E", "F", "G"} {
		nodes = append(nodes, shard.Node{ID: id, State: state[id]})
	}
	for i, s := range strings.Fields(replicas) {
		r := shard.Replica{Node: s[:1], Member: true, Voter: true}
		var sign string
		if _, err := fmt.Sscanf(s[1:]+" ", "%d%s", &r.ID, &sign); err != nil && r.ID == 0 {
			t.Fatalf("%q: %v", s, err)
		}
		switch sign {
		case "~":
			r.Voter = false
		case "+":
			r.Voter, r.CaughtUp = false, true
		case ".":
			r.Member, r.Voter = false, false
		case "!":
			r.Lost = true
		case "x":
			r.Member, r.Voter, r.Removed = false, false, true
		case "?":
			r.Voter, r.Orphan = false, true
		}
		if i == 0 {
			g.Leader = r.Node
		}
		g.Replicas = append(g.Replicas, r)
	}
	return nodes, g
}

// courses lists groups, the target, and the step that comes next.
var courses = []struct{ name, replicas, states, target, want string }{
	{"at rest", "A1 B2 C3", "", "ABC", ""},
	{"move: allocate", "A1 B2 C3", "", "ABD", "allocate replica 0 D"},
	{"move: add", "A1 B2 C3 D4.", "", "ABD", "add learner 4 D"},
	{"move: wait", "A1 B2 C3 D4~", "", "ABD", ""},
	{"move: promote", "A1 B2 C3 D4+", "", "ABD", "promote learner 4 D"},
	{"move: drop", "A1 B2 C3 D4", "", "ABD", "drop member 3 C"},
	{"move: forget", "A1 B2 D4 C3.", "", "ABD", "forget replica 3 C"},
	{"move of the leader: hand over last", "C3 A1 B2 D4", "", "ABD", "transfer leader 1 A"},
	{"move, not of the leader", "C3 A1 B2 D4~", "", "ABD", ""},

	{"the only dead one waits for its replacement", "A1 B2 C3 D4~", "C=gone", "ABD", ""},
	{"which is promoted first", "A1 B2 C3 D4+", "C=gone", "ABD", "promote learner 4 D"},
	{"and then it is dropped", "A1 B2 C3 D4", "C=gone", "ABD", "drop member 3 C"},
	{"two dead ones of five: dropped at once", "A1 B2 C3 D4 E5", "D=gone E=gone", "ABCFG", "drop member 4 D"},
	{"the second of them too", "A1 B2 C3 E5", "E=gone", "ABCFG", "drop member 5 E"},
	{"then their replacements come in a pair", "A1 B2 C3 F6+ G7~", "", "ABCFG", ""},
	{"both", "A1 B2 C3 F6+ G7+", "", "ABCFG", "promote learner 6 F"},
	{"dead, and no node to replace it", "A1 B2 C3", "C=gone", "A", "drop member 3 C"},
	{"two of three gone, but it has a leader: nobody knows which one works", "A1 B2 C3", "B=gone C=gone", "ADE", "allocate replica 0 D"},
	{"one gone, one lost: the lost one is not it", "A1 B2 C3!", "B=gone", "ADE", "drop member 3 C"},
	{"two of four gone: one of them works, or none is needed", "A1 B2 C3 D4", "B=gone C=gone", "ADE", "drop member 2 B"},
	{"lost, on the node that gets the new one", "A1 B2 C3!", "", "ABC", "drop member 3 C"},
	{"lost and dropped", "A1 B2 C3x", "", "ABC", "forget replica 3 C"},
	{"lost and forgotten", "A1 B2", "", "ABC", "allocate replica 0 C"},

	{"draining leader hands over at once", "A1 B2 C3", "A=draining", "BCD", "transfer leader 2 B"},
	{"draining follower stays until it is replaced", "B2 A1 C3 D4~", "A=draining", "BCD", ""},
	{"draining leader, alone", "A1", "A=draining", "B", "allocate replica 0 B"},
	{"draining leader, no longer alone", "A1 B2", "A=draining", "B", "transfer leader 2 B"},
	{"leader to be gone that still leads", "A1 B2 C3", "A=gone", "BCD", "transfer leader 2 B"},

	{"one to three: the first waits for the second", "A1 B2+ C3~", "", "ABC", ""},
	{"one to three: a pair", "A1 B2+ C3+", "", "ABC", "promote learner 2 B"},
	{"one to three: the second", "A1 B2 C3+", "", "ABC", "promote learner 3 C"},
	{"one to three: two at a time", "A1 B2~", "", "ABC", "allocate replica 0 C"},
	{"three to one", "A1 B2 C3", "", "A", "drop member 2 B"},
	{"all three elsewhere: one at a time", "A1 B2 C3 D4~", "", "DEF", ""},
	{"three to one elsewhere: first the copy", "A1 B2 C3", "", "D", "allocate replica 0 D"},

	{"a learner that nobody wants", "A1 B2 C3 D4~", "", "ABC", "drop member 4 D"},
	{"a member that the catalog does not know", "A1 B2 C3 D4?", "", "ABC", "drop member 4 D"},
	{"an id that was given and never used", "A1 B2 C3 D4.", "", "ABC", "forget replica 4 D"},
	{"an id that cannot come back", "A1 B2 C3x", "", "ABC", "forget replica 3 C"},

	{"suspect nodes are left alone", "A1 B2 C3", "C=suspect", "ABC", ""},
	{"a suspect leader is asked for nothing", "A1 B2 C3 D4+", "A=suspect", "ABD", ""},
	{"a learner on a suspect node is not promoted", "A1 B2 C3 D4+", "D=suspect", "ABD", ""},
	{"nothing is dropped that a majority needs", "A1 B2 C3 D4", "A=suspect", "D", ""},
	{"no node at all", "A1 B2 C3", "", "", ""},
}

func TestPlanStepByStep(t *testing.T) {
	for _, c := range courses {
		nodes, g := parse(t, c.replicas, c.states)
		target := [][]string{strings.Split(c.target, "")}
		if c.target == "" {
			target[0] = nil
		}
		groups := []shard.Group{g}
		leaders := shard.Leaders(nodes, groups, target)
		// Leaders are another test's business, unless the leader has to go.
		if leaders[0] != "" && slices.Contains(target[0], g.Leader) {
			leaders[0] = g.Leader
		}
		got := ""
		for _, s := range shard.Plan(shard.Limits{}, nodes, groups, target, leaders) {
			got += fmt.Sprintf("%v %d %s", s.Kind, s.Replica, s.Node)
			if s.Shard != 7 || s.ConfigChange != 42 {
				t.Errorf("%s: %+v", c.name, s)
			}
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPlanIsUrgentFirst(t *testing.T) {
	nodes, balance := parse(t, "A1 B2 C3", "E=gone F=draining")
	_, drains := parse(t, "A1 B2 F3 C4+", "")
	_, degraded := parse(t, "A1 B2 E3 C4+", "")
	balance.Shard, drains.Shard, degraded.Shard = 1, 2, 3
	target := [][]string{{"A", "B", "D"}, {"A", "B", "C"}, {"A", "B", "C"}}
	var order []base.ShardID
	for _, s := range shard.Plan(shard.Limits{}, nodes, []shard.Group{balance, drains, degraded}, target, []string{"A", "A", "A"}) {
		order = append(order, s.Shard)
	}
	if !slices.Equal(order, []base.ShardID{3, 2, 1}) {
		t.Errorf("order %v", order)
	}
}

func TestPlanLimitsTransfers(t *testing.T) {
	nodes, g := parse(t, "A1 B2 C3", "")
	var groups []shard.Group
	var target [][]string
	for i := range 20 {
		g.Shard = base.ShardID(i)
		groups, target = append(groups, g), append(target, []string{"A", "B", "C"})
	}
	leaders := shard.Leaders(nodes[:3], groups, target)
	if steps := shard.Plan(shard.Limits{Transfers: 3}, nodes[:3], groups, target, leaders); len(steps) != 3 {
		t.Errorf("%d steps: %v", len(steps), steps)
	}
}

// TestPlanOfRandomClusters takes any observation, however odd.
func TestPlanOfRandomClusters(t *testing.T) {
	r := testkit.Rand(t)
	kinds := map[shard.Kind]int{}
	limits := shard.Limits{Shards: 8, PerSource: 2, PerTarget: 2}
	for range 3000 {
		s := shape{nodes: 12, zones: 4, shards: 24, factor: 7, states: true}
		nodes := randomNodes(r, s)
		groups := randomGroups(r, s, nodes)
		target := shard.Target(shard.Config{}, nodes, groups)
		leaders := shard.Leaders(nodes, groups, target)
		steps := shard.Plan(limits, nodes, groups, target, leaders)
		if again := shard.Plan(limits, nodes, groups, target, leaders); !slices.Equal(steps, again) {
			t.Fatalf("two plans: %v, %v", steps, again)
		}
		checkLimits(t, limits, nodes, groups, steps)
		for _, step := range steps {
			kinds[step.Kind]++
			if step.Kind != shard.AllocateReplica {
				continue
			}
			for _, g := range groups {
				if g.Shard == step.Shard && slices.ContainsFunc(g.Replicas, func(r shard.Replica) bool { return r.Node == step.Node }) {
					t.Fatalf("%v, which has one: %+v", step, g)
				}
			}
		}
	}
	for k := shard.AllocateReplica; k <= shard.ForgetReplica; k++ {
		if kinds[k] < 100 {
			t.Errorf("only %d times: %v", kinds[k], k)
		}
	}
}

func TestMoves(t *testing.T) {
	nodes, moving := parse(t, "A1 B2 C3", "C=gone")
	_, shrinking := parse(t, "B1 A2 D3", "")
	_, growing := parse(t, "A1", "")
	plan, left := shard.Moves(nodes, []shard.Group{moving, shrinking, growing},
		[][]string{{"A", "B", "D"}, {"B"}, {"A", "E", "F"}}, []string{"A", "B", "E"})
	want := []base.Move{{Shard: 7, From: "C", To: "D"}, {Shard: 7, From: "A"}, {Shard: 7, From: "D"}, {Shard: 7, To: "E"}, {Shard: 7, To: "F"}}
	if !slices.Equal(plan.Moves, want) {
		t.Errorf("got %v, want %v", plan.Moves, want)
	}
	if left != (shard.Remaining{Copies: 3, Drops: 3, Leaders: 1}) || left.Done() {
		t.Errorf("got %+v", left)
	}
	if plan, left := shard.Moves(nodes, []shard.Group{growing}, [][]string{nil}, []string{""}); len(plan.Moves) != 0 || !left.Done() {
		t.Errorf("nowhere to go: %v, %+v", plan, left)
	}
}

func TestCheckRemove(t *testing.T) {
	for _, c := range []struct {
		replicas, states, node, says string
		want                         error
	}{
		{"A1 B2 C3", "", "C", "", nil},
		{"A1 B2 C3", "", "D", "", nil},
		{"A1 B2 C3", "C=gone", "C", "", nil},
		{"A1 B2 C3~", "", "C", "", nil},
		{"A1 B2 C3", "", "Z", "no node", base.ErrInvalid},
		{"A1 B2 C3", "A=gone B=gone D=gone E=gone F=draining G=suspect", "C", "no active node is left", base.ErrInvalid},
		{"A1 B2 C3", "C=gone", "B", "no majority", base.ErrUnavailable},
		{"A1 B2 C3", "C=suspect", "A", "no majority", base.ErrUnavailable},
		{"A1 B2 C3!", "", "A", "no majority", base.ErrUnavailable},
		{"A1 B2 C3", "B=gone C=gone", "C", "only 1 of 3", base.ErrUnavailable},
		{"A1 B2", "", "B", "no majority", base.ErrUnavailable},
		{"A1 B2~", "", "A", "the only copy", base.ErrUnavailable},
	} {
		nodes, g := parse(t, c.replicas, c.states)
		err := shard.CheckRemove(nodes, []shard.Group{g}, c.node)
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: got %v", c, err)
		}
	}
	nodes, g := parse(t, "A1 B2 C3", "")
	g.Leader = ""
	if err := shard.CheckRemove(nodes, []shard.Group{g}, "A"); !errors.Is(err, base.ErrUnavailable) {
		t.Errorf("no leader: got %v", err)
	}
	if err := shard.CheckRemove(nodes, []shard.Group{g}, "D"); err != nil {
		t.Errorf("no leader of a shard that is not there: got %v", err)
	}
}

func TestMap(t *testing.T) {
	on := []string{"a", "b"}
	m := shard.NewMap(9, []shard.Entry{{Shard: 3, Nodes: on, Leader: "b"}, {Shard: base.MaxShards, Nodes: []string{"c"}}, {Shard: 3, Nodes: on, Leader: "a"}})
	on[0] = "changed"
	if got := m.Nodes(3); !slices.Equal(got, []string{"a", "b"}) || m.Leader(3) != "a" {
		t.Errorf("got %v, led by %q", got, m.Leader(3))
	}
	if m.Epoch() != 9 || m.Len() != 2 || !slices.Equal(m.Nodes(base.MaxShards), []string{"c"}) || m.Leader(base.MaxShards) != "" {
		t.Errorf("epoch %d, %d shards", m.Epoch(), m.Len())
	}
	if _ = append(m.Nodes(3), "d"); len(m.Nodes(3)) != 2 {
		t.Error("an append reached the map")
	}
	if len(m.Nodes(0)) != 0 || m.Leader(0) != "" || len(m.Nodes(base.MaxShards+1)) != 0 || m.Leader(base.MaxShards+1) != "" {
		t.Error("shards that nobody knows")
	}
	var none *shard.Map
	if none.Epoch() != 0 || none.Len() != 0 || none.Nodes(1) != nil || none.Leader(1) != "" {
		t.Error("the nil map")
	}
	if n := testing.AllocsPerRun(10, func() { m.Nodes(3); m.Leader(3) }); n > 0 {
		t.Errorf("a lookup allocates %v times", n)
	}
}
