package shard_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/shard"
)

// world is a cluster as far as the planner can tell: a catalog, the membership
// of raft groups, and nodes that live or not.
type world struct {
	t      *testing.T
	r      *rand.Rand
	round  int
	nodes  []*simNode
	groups []*simGroup
	// zombie steps are planned from an old observation by a reconciler that
	// does not know that it was replaced.
	zombies []shard.Step
	steps   int
}

type simNode struct {
	shard.Node
	alive bool
	disk  int // rises when the disk is wiped
}

type simGroup struct {
	shard   base.ShardID
	factor  int
	next    uint64
	catalog map[uint64]simRecord
	members map[uint64]*simMember // of raft
	removed map[uint64]bool       // by raft, for ever
	leader  uint64
	changes uint64
}

type simRecord struct {
	node string
	disk int
}

type simMember struct {
	node  string
	disk  int
	voter bool
	lag   int // rounds until it has caught up
}

func newWorld(t *testing.T, r *rand.Rand, nodes, zones, shards, factor int) *world {
	w := &world{t: t, r: r}
	for range nodes {
		w.addNode(zones)
	}
	groups := founded(shards, factor)
	if r.IntN(2) == 0 {
		groups = append(groups, shard.Group{Shard: base.MaxShards, Factor: 5})
	}
	// Some shards are founded where they should be, some are all over.
	target := shard.Target(shard.Config{}, w.observeNodes(), groups)
	for i, g := range groups {
		s := &simGroup{shard: g.Shard, factor: g.Factor, next: 1,
			catalog: map[uint64]simRecord{}, members: map[uint64]*simMember{}, removed: map[uint64]bool{}}
		on := target[i]
		if r.IntN(3) == 0 {
			on = on[:1]
		}
		for _, node := range on {
			s.catalog[s.next] = simRecord{node: node}
			s.members[s.next] = &simMember{node: node, voter: true}
			s.next++
		}
		w.groups = append(w.groups, s)
		w.elect(s)
	}
	return w
}

func (w *world) addNode(zones int) {
	w.nodes = append(w.nodes, &simNode{alive: true, Node: shard.Node{
		ID: fmt.Sprintf("node-%d", len(w.nodes)), Zone: fmt.Sprint(w.r.IntN(zones)), Weight: float64(w.r.IntN(3)),
	}})
}

func (w *world) node(id string) *simNode {
	for _, n := range w.nodes {
		if n.ID == id {
			return n
		}
	}
	w.t.Fatalf("no node %q", id)
	return nil
}

// works reports whether a member runs: its node is up, has its disk, and finds
// it in the catalog.
func (w *world) works(g *simGroup, id uint64) bool {
	m := g.members[id]
	n := w.node(m.node)
	return n.alive && n.disk == m.disk && g.catalog[id].node == m.node
}

func (w *world) quorum(g *simGroup) (healthy, voters int) {
	for id, m := range g.members {
		if m.voter {
			voters++
			if w.works(g, id) {
				healthy++
			}
		}
	}
	return healthy, voters
}

// elect keeps the leader if it can go on, and else makes some voter lead.
func (w *world) elect(g *simGroup) {
	healthy, voters := w.quorum(g)
	if m := g.members[g.leader]; m != nil && m.voter && w.works(g, g.leader) && 2*healthy > voters {
		return
	}
	g.leader = 0
	if 2*healthy <= voters {
		return
	}
	var can []uint64
	for id, m := range g.members {
		if m.voter && w.works(g, id) {
			can = append(can, id)
		}
	}
	slices.Sort(can)
	g.leader = can[w.r.IntN(len(can))]
}

func (w *world) observeNodes() (nodes []shard.Node) {
	for _, n := range w.nodes {
		nodes = append(nodes, n.Node)
	}
	return nodes
}

func (w *world) observe() (groups []shard.Group) {
	for _, g := range w.groups {
		o := shard.Group{Shard: g.shard, Factor: g.factor, ConfigChange: g.changes}
		if g.leader != 0 {
			o.Leader = g.members[g.leader].node
		}
		for id := uint64(1); id < g.next; id++ {
			record, listed := g.catalog[id]
			m := g.members[id]
			if !listed && m == nil {
				continue
			}
			r := shard.Replica{ID: id, Node: record.node, Orphan: !listed, Removed: listed && g.removed[id]}
			if listed {
				r.Lost = w.node(record.node).disk != record.disk
			} else {
				r.Node = m.node
			}
			if m != nil && o.Leader != "" {
				r.Member, r.Voter, r.CaughtUp = true, m.voter, !m.voter && m.lag == 0
			}
			o.Replicas = append(o.Replicas, r)
		}
		groups = append(groups, o)
	}
	return groups
}

// plan looks at the world once, and checks what comes out.
func (w *world) plan(limits shard.Limits) ([]shard.Step, shard.Remaining) {
	nodes, groups := w.observeNodes(), w.observe()
	target := shard.Target(shard.Config{}, nodes, groups)
	leaders := shard.Leaders(nodes, groups, target)
	steps := shard.Plan(limits, nodes, groups, target, leaders)
	checkLimits(w.t, limits, nodes, groups, steps)
	_, left := shard.Moves(nodes, groups, target, leaders)
	return steps, left
}

// checkLimits wants one step for a shard at most, and none that makes more
// learners catch up than the limits allow. More may be under way already, if
// leaders changed or nodes came back.
func checkLimits(t *testing.T, limits shard.Limits, nodes []shard.Node, groups []shard.Group, steps []shard.Step) {
	t.Helper()
	state := map[string]shard.NodeState{}
	for _, n := range nodes {
		state[n.ID] = n.State
	}
	source, on, busy := map[string]int{}, map[string]int{}, map[base.ShardID]bool{}
	leader := map[base.ShardID]string{}
	for _, g := range groups {
		leader[g.Shard] = g.Leader
		if g.Leader == "" || state[g.Leader] == shard.NodeSuspect {
			continue
		}
		for _, r := range g.Replicas {
			state, known := state[r.Node]
			answers := known && (state == shard.NodeActive || state == shard.NodeDraining)
			if r.Voter || r.CaughtUp || r.Lost || r.Orphan || r.Removed || !answers {
				continue
			}
			busy[g.Shard] = true
			if r.Member {
				source[g.Leader]++
				on[r.Node]++
			}
		}
	}
	seen, allowed := map[base.ShardID]bool{}, max(limits.Shards, len(busy))
	for _, s := range steps {
		if s.Kind == shard.DropMember && s.Node == leader[s.Shard] {
			t.Fatalf("%v, which leads", s)
		}
		if seen[s.Shard] {
			t.Fatalf("two steps for shard %d: %v", s.Shard, steps)
		}
		seen[s.Shard] = true
		switch s.Kind {
		case shard.AllocateReplica:
			if busy[s.Shard] = true; len(busy) > allowed {
				t.Fatalf("%d shards catch up after %v", len(busy), steps)
			}
		case shard.AddLearner:
			source[leader[s.Shard]]++
			on[s.Node]++
			if source[leader[s.Shard]] > limits.PerSource || on[s.Node] > limits.PerTarget {
				t.Fatalf("%v: %d from %s, %d to %s", s, source[leader[s.Shard]], leader[s.Shard], on[s.Node], s.Node)
			}
		}
	}
}

func (w *world) group(id base.ShardID) *simGroup {
	i := slices.IndexFunc(w.groups, func(g *simGroup) bool { return g.shard == id })
	return w.groups[i]
}

func (w *world) applyCatalog(g *simGroup, s shard.Step) {
	if s.Kind == shard.ForgetReplica {
		if m := g.members[s.Replica]; m != nil {
			w.t.Fatalf("round %d: %v, which is in raft", w.round, s)
		}
		delete(g.catalog, s.Replica)
		return
	}
	for _, record := range g.catalog {
		if record.node == s.Node {
			return
		}
	}
	g.catalog[g.next] = simRecord{node: s.Node, disk: w.node(s.Node).disk}
	g.next++
}

// apply does what the catalog or a raft group would do. A step that is not
// possible is refused, as it would be.
func (w *world) apply(s shard.Step, zombie bool) {
	g := w.group(s.Shard)
	w.steps++
	if s.Kind == shard.AllocateReplica || s.Kind == shard.ForgetReplica {
		if !zombie { // or else it has lost its claim on the catalog
			w.applyCatalog(g, s)
		}
		return
	}
	w.elect(g)
	if g.leader == 0 || s.Kind.Membership() && s.ConfigChange != g.changes {
		return
	}
	if zombie && s.Kind.Membership() && !w.guard(g, s) {
		return
	}
	before, _ := w.quorum(g)
	switch s.Kind {
	case shard.AddLearner:
		if g.members[s.Replica] != nil || g.removed[s.Replica] {
			return
		}
		for id, m := range g.members {
			if m.node == s.Node {
				w.t.Fatalf("round %d: %v, which has replica %d", w.round, s, id)
			}
		}
		g.members[s.Replica] = &simMember{node: s.Node, disk: g.catalog[s.Replica].disk, lag: w.r.IntN(6)}
	case shard.Promote:
		m := g.members[s.Replica]
		if m == nil {
			return
		}
		if m.lag > 0 {
			w.t.Fatalf("round %d: %v, which has not caught up", w.round, s)
		}
		m.voter = true
	case shard.DropMember:
		if g.members[s.Replica] == nil {
			return
		}
		delete(g.members, s.Replica)
		g.removed[s.Replica] = true
	case shard.TransferLeader:
		if m := g.members[s.Replica]; m != nil && m.voter && w.works(g, s.Replica) && w.r.IntN(4) > 0 {
			g.leader = s.Replica
		}
		return
	}
	g.changes++
	if after, voters := w.quorum(g); 2*after <= voters {
		w.t.Fatalf("round %d: %v leaves %d of %d voters, %d worked before", w.round, s, after, voters, before)
	}
}

// guard is what the leader of a group checks: a step that was planned long ago
// may be for a membership that is still the same, of nodes that are not.
func (w *world) guard(g *simGroup, s shard.Step) bool {
	healthy, voters := w.quorum(g)
	m := g.members[s.Replica]
	switch {
	case m == nil || s.Kind == shard.AddLearner:
		return true
	case s.Kind == shard.Promote:
		return w.works(g, s.Replica) && m.lag == 0
	case m.voter && w.works(g, s.Replica):
		return 2*(healthy-1) > voters-1
	}
	return true
}

// tick lets time pass: learners catch up, leaders change.
func (w *world) tick(calm bool) {
	w.round++
	for _, g := range w.groups {
		w.elect(g)
		if !calm && g.leader != 0 && w.r.IntN(60) == 0 {
			g.leader = 0
			w.elect(g)
		}
		for id := uint64(1); id < g.next; id++ {
			if m := g.members[id]; m != nil && !m.voter && m.lag > 0 && g.leader != 0 && w.works(g, id) {
				m.lag--
			}
		}
	}
}

// trouble does something to a node, but nothing that takes a quorum away: a
// fault that a cluster is not made to survive proves nothing.
func (w *world) trouble(zones int) {
	n := w.nodes[w.r.IntN(len(w.nodes))]
	switch w.r.IntN(7) {
	case 0:
		if len(w.nodes) < 9 {
			w.addNode(zones)
		}
	case 1: // silent, up or down
		if n.State == shard.NodeActive && w.survives(n) {
			n.State, n.alive = shard.NodeSuspect, w.r.IntN(2) == 0
		}
	case 2: // back
		if n.State == shard.NodeSuspect || n.State == shard.NodeDraining {
			n.State, n.alive = shard.NodeActive, true
		}
	case 3:
		if n.State == shard.NodeActive && w.others(n) > 0 {
			n.State = shard.NodeDraining
		}
	case 4: // dead past its grace
		if n.State == shard.NodeSuspect && w.survives(n) {
			n.State, n.alive = shard.NodeGone, false
		}
	case 5: // removed by an admin
		if shard.CheckRemove(w.observeNodes(), w.observe(), n.ID) == nil && w.survives(n) {
			n.State, n.alive = shard.NodeGone, w.r.IntN(2) == 0
		}
	case 6: // wiped
		if n.State == shard.NodeActive && w.survives(n) {
			n.disk++
		}
	}
}

// others counts the active nodes but one.
func (w *world) others(n *simNode) (active int) {
	for _, other := range w.nodes {
		if other != n && other.State == shard.NodeActive {
			active++
		}
	}
	return active
}

// survives reports whether every group that has a quorum keeps it without a
// node, and some node is left.
func (w *world) survives(n *simNode) bool {
	if w.others(n) < 2 {
		return false
	}
	for _, g := range w.groups {
		voters, left, own := 0, 0, false
		for id, m := range g.members {
			if !m.voter {
				continue
			}
			voters++
			if state := w.node(m.node).State; m.node != n.ID && w.works(g, id) && (state == shard.NodeActive || state == shard.NodeDraining) {
				left++
			}
			own = own || m.node == n.ID
		}
		if own && 2*left <= voters {
			return false
		}
	}
	return true
}

// checkWorld holds at all times.
func (w *world) checkWorld() {
	for _, g := range w.groups {
		on := map[string]int{}
		for _, record := range g.catalog {
			on[record.node]++
		}
		for node, n := range on {
			if n > 1 {
				w.t.Fatalf("round %d, shard %d: %d replicas on %s: %v", w.round, g.shard, n, node, g.catalog)
			}
		}
		if healthy, voters := w.quorum(g); 2*healthy <= voters {
			w.t.Fatalf("round %d, shard %d: %d of %d voters work", w.round, g.shard, healthy, voters)
		}
	}
}

// work makes some of the steps of a plan, in any order.
func (w *world) work(limits shard.Limits, calm bool) {
	steps, _ := w.plan(limits)
	w.r.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	for _, s := range steps {
		switch w.r.IntN(6) {
		case 0: // never made
		case 1: // made much later, by a reconciler that was paused
			if !calm {
				w.zombies = append(w.zombies, s)
			}
		case 2: // made twice
			w.apply(s, false)
			fallthrough
		default:
			w.apply(s, false)
		}
	}
	for len(w.zombies) > 10 || len(w.zombies) > 0 && w.r.IntN(4) == 0 {
		i := w.r.IntN(len(w.zombies))
		w.apply(w.zombies[i], true)
		w.zombies = slices.Delete(w.zombies, i, i+1)
	}
}

// TestSimulation runs random clusters through trouble, then leaves them alone
// until nothing is left to do.
func TestSimulation(t *testing.T) {
	r := testkit.Rand(t)
	steps, rounds := 0, 0
	for i := range 120 {
		zones, shards := oneOf(r, 4), oneOf(r, 16)
		w := newWorld(t, r, 1+oneOf(r, 6), zones, shards, oneOf(r, 5))
		limits := shard.Limits{Shards: oneOf(r, 8), PerSource: oneOf(r, 3), PerTarget: oneOf(r, 3)}
		for range 100 {
			w.tick(false)
			if r.IntN(8) == 0 {
				w.trouble(zones)
			}
			w.work(limits, false)
			w.checkWorld()
		}
		w.evacuate(limits, i)
		for _, n := range w.nodes {
			if n.State == shard.NodeSuspect {
				n.State, n.alive = shard.NodeActive, true
			}
		}
		rounds += w.settle(limits, i)
		steps += w.steps
	}
	t.Logf("%d steps, %d rounds to come to rest", steps, rounds)
	if steps < 5000 {
		t.Errorf("only %d steps", steps)
	}
}

// evacuate leaves the world alone while nodes stay suspect: nobody waits for these.
// In the end nothing is on nodes that drain or are gone, if there is another place.
func (w *world) evacuate(limits shard.Limits, world int) {
	for range 100 + 60*len(w.groups) {
		w.tick(true)
		w.work(limits, true)
		w.checkWorld()
	}
	active := 0
	for _, n := range w.nodes {
		if n.State == shard.NodeActive {
			active++
		}
	}
	for _, g := range w.groups {
		m := g.members[g.leader]
		if m == nil || w.node(m.node).State == shard.NodeSuspect || active < g.factor {
			continue
		}
		for id, m := range g.members {
			if state := w.node(m.node).State; state == shard.NodeDraining || state == shard.NodeGone {
				steps, left := w.plan(limits)
				w.t.Fatalf("world %d, shard %d: replica %d stays on %s: %+v\nnext %v\nnodes %v\ngroups %+v",
					world, g.shard, id, m.node, left, steps, w.observeNodes(), w.observe())
			}
		}
	}
}

func (w *world) settle(limits shard.Limits, world int) (rounds int) {
	most := 100 + 60*len(w.groups)
	for {
		w.tick(true)
		if len(w.zombies) == 0 {
			if _, left := w.plan(limits); left.Done() {
				break
			}
		}
		w.work(limits, true)
		w.checkWorld()
		if rounds++; rounds > most {
			steps, left := w.plan(limits)
			w.t.Fatalf("world %d: not at rest after %d rounds: %+v\nnext %v\nnodes %v\ngroups %+v", world, rounds, left, steps, w.observeNodes(), w.observe())
		}
	}
	if steps, left := w.plan(limits); len(steps) > 0 || !left.Done() {
		w.t.Fatalf("at rest, but %v, %+v", steps, left)
	}
	nodes, groups := w.observeNodes(), w.observe()
	for i, target := range shard.Target(shard.Config{}, nodes, groups) {
		if err := checkTarget(nodes, groups[i], target); err != nil {
			w.t.Fatal(err)
		}
		var have []string
		for _, r := range groups[i].Replicas {
			if !r.Voter || r.Orphan {
				w.t.Fatalf("at rest with %+v", r)
			}
			have = append(have, r.Node)
		}
		if slices.Sort(have); !slices.Equal(have, target) {
			w.t.Fatalf("at rest on %v, target %v", have, target)
		}
	}
	return rounds
}
