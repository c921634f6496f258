package shard

import (
	"cmp"
	"slices"
)

// Plan returns the next steps toward the target, at most one for each group,
// the most urgent first. leaders and target are those of Leaders and Target for
// the same nodes and groups. It remembers nothing: whoever makes these steps,
// or some of them, and looks again can go on from there.
//
// No step leaves a group that works with fewer working voters than a majority
// of its voters, and none takes away a healthy voter that has to be replaced
// before its replacement votes. DESIGN.md has the order of steps and why.
func Plan(limits Limits, nodes []Node, groups []Group, target [][]string, leaders []string) []Step {
	states := statesOf(nodes)
	t := newTraffic(limits, states, groups)
	var all []*course
	for i := range groups {
		all = append(all, newCourse(states, &groups[i], target[i], leaders[i]))
	}
	slices.SortStableFunc(all, func(a, b *course) int {
		return cmp.Or(cmp.Compare(a.urgency(), b.urgency()), cmp.Compare(a.g.Shard, b.g.Shard))
	})
	var steps []Step
	for _, c := range all {
		if step, ok := c.next(t); ok {
			steps = append(steps, step)
		}
	}
	return steps
}

// course is what there is to know about one group on its way to its target.
type course struct {
	states states
	g      *Group
	want   []string
	leader string // wanted

	voters  int        // replicas whose vote raft counts
	healthy int        // of these, those that answer
	dead    []*Replica // of these, those that will never again
	surplus []*Replica // of these, the others that are not wanted
	ready   []*Replica // learners to promote
	coming  int        // wanted replicas without a vote
	missing int        // wanted nodes without a voter
}

func newCourse(states states, g *Group, want []string, leader string) *course {
	c := &course{states: states, g: g, want: want, leader: leader}
	for i := range g.Replicas {
		r := &g.Replicas[i]
		wanted := c.wanted(r)
		switch {
		case !votes(r):
			if wanted {
				c.coming++
			}
			if wanted && r.Member && r.CaughtUp && states.of(r.Node) == NodeActive {
				c.ready = append(c.ready, r)
			}
			continue
		case states.dead(r):
			c.dead = append(c.dead, r)
		case !wanted:
			c.surplus = append(c.surplus, r)
		}
		c.voters++
		if states.healthy(r) {
			c.healthy++
		}
	}
	for _, node := range want {
		if r := states.chosen(g, node); r == nil || !votes(r) {
			c.missing++
		}
	}
	slices.SortFunc(c.dead, byID)
	slices.SortFunc(c.ready, byID)
	slices.SortFunc(c.surplus, func(a, b *Replica) int {
		return cmp.Or(cmp.Compare(c.goes(a), c.goes(b)), byID(a, b))
	})
	return c
}

func byID(a, b *Replica) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Node, b.Node)) }

// goes ranks replicas that are not wanted: the first is dropped first, the
// leader last.
func (c *course) goes(r *Replica) int {
	switch state := c.states.of(r.Node); {
	case r.Node == c.g.Leader:
		return 3
	case state == NodeDraining:
		return 0
	case state == NodeSuspect:
		return 1
	default:
		return 2
	}
}

// wanted reports whether a replica is the one that the target means.
func (c *course) wanted(r *Replica) bool {
	return slices.Contains(c.want, r.Node) && c.states.chosen(c.g, r.Node) == r
}

// urgency orders groups: those that miss voters by how many failures more they
// survive, then those on nodes that drain, then the others.
func (c *course) urgency() int {
	const many = 1 << 10
	if len(c.dead) > 0 || c.voters < len(c.want) {
		return c.healthy - majority(c.voters)
	}
	for _, r := range c.surplus {
		if c.states.of(r.Node) == NodeDraining {
			return many
		}
	}
	return 2 * many
}

// step makes a step about a replica.
func (c *course) step(kind Kind, r *Replica) (Step, bool) {
	return Step{Kind: kind, Shard: c.g.Shard, Replica: r.ID, Node: r.Node, ConfigChange: c.g.ConfigChange}, true
}

// next returns the next step of the group.
func (c *course) next(t *traffic) (Step, bool) {
	if len(c.want) == 0 || !c.led() {
		return Step{}, false
	}
	switch c.states.of(c.g.Leader) {
	case NodeSuspect:
		return Step{}, false
	case NodeGone, NodeDraining:
		if step, ok := c.leave(); ok {
			return step, ok
		}
	}
	for _, try := range []func() (Step, bool){c.forget, c.dropLearner, c.dropDead, c.dropSurplus, c.promote} {
		if step, ok := try(); ok {
			return step, ok
		}
	}
	if step, ok := c.add(t); ok {
		return step, ok
	}
	return c.balance(t)
}

// led reports whether a voter leads that is able to. Otherwise what was observed
// is old already.
func (c *course) led() bool {
	return slices.ContainsFunc(c.g.Replicas, func(r Replica) bool {
		return r.Node == c.g.Leader && votes(&r) && !r.Lost && !r.Orphan
	})
}

// forget drops replicas from the catalog that raft does not have and that are
// not about to join.
func (c *course) forget() (Step, bool) {
	for i := range c.g.Replicas {
		if r := &c.g.Replicas[i]; !r.Member && !r.Orphan && (r.Removed || !c.wanted(r)) {
			return c.step(ForgetReplica, r)
		}
	}
	return Step{}, false
}

// dropLearner drops learners that are not wanted. They have no vote, so that
// is always safe.
func (c *course) dropLearner() (Step, bool) {
	for i := range c.g.Replicas {
		if r := &c.g.Replicas[i]; r.Member && !r.Voter && !c.wanted(r) {
			return c.step(DropMember, r)
		}
	}
	return Step{}, false
}

// dropDead drops a voter that will never be of use again, as soon as there is
// something to be gained. Dropping one out of an even number raises the number
// of failures that the group survives; one out of an odd number does not. So the
// only one out of an odd number stays until its replacement votes, unless it
// stands in the way of that, or the number is to shrink anyway.
func (c *course) dropDead() (Step, bool) {
	for _, r := range c.dead {
		if r.Node == c.g.Leader {
			continue // has to hand over first
		}
		gains := c.voters%2 == 0 || len(c.dead) > 1 || c.voters > len(c.want) || slices.Contains(c.want, r.Node)
		// That there is a leader proves that a majority works, even if less seem
		// to: a node that was removed may still be running. Of that majority, a
		// lost replica cannot be one.
		proven := majority(c.voters)
		if !r.Lost {
			proven--
		}
		if gains && c.voters > 1 && max(c.healthy, proven) >= majority(c.voters-1) {
			return c.step(DropMember, r)
		}
	}
	return Step{}, false
}

// dropSurplus drops a voter that is not wanted, once there are more than
// wanted: when all wanted ones vote, or the number is even, in which case one
// less survives as many failures.
func (c *course) dropSurplus() (Step, bool) {
	if c.voters <= len(c.want) || c.missing > 0 && c.voters%2 != 0 {
		return Step{}, false
	}
	for _, r := range c.surplus {
		left := c.healthy
		if c.states.healthy(r) {
			left--
		}
		if c.voters < 2 || left < majority(c.voters-1) {
			continue
		}
		if r.Node == c.g.Leader {
			return c.handOver()
		}
		return c.step(DropMember, r)
	}
	return Step{}, false
}

// promote gives a learner a vote. Out of an even number of voters, that raises
// the number of failures the group survives. Out of an odd number it does not,
// and slows writes down; so then it has to be clear that another step will
// follow at once, or that none has to. Either way a group that works (it has a
// leader) still does: there is one more voter that works, and the majority is
// larger by one at most.
func (c *course) promote() (Step, bool) {
	if len(c.ready) == 0 {
		return Step{}, false
	}
	replaces := len(c.surplus)+len(c.dead) > 0 && c.voters >= len(c.want)
	if c.voters%2 == 0 || len(c.ready) > 1 || c.missing == 1 || replaces {
		return c.step(Promote, c.ready[0])
	}
	return Step{}, false
}

// add brings the next replica on its way. Two are at a time if voters have to
// come in pairs, else one.
func (c *course) add(t *traffic) (Step, bool) {
	for i := range c.g.Replicas {
		r := &c.g.Replicas[i]
		if !r.Member && c.wanted(r) && c.states.of(r.Node) == NodeActive && t.mayAdd(c.g, r.Node) {
			t.added(c.g, r.Node)
			return c.step(AddLearner, r)
		}
	}
	atOnce := 1
	if c.voters%2 != 0 && c.voters < len(c.want) {
		atOnce = 2
	}
	for _, node := range c.want {
		if c.coming < atOnce && c.vacant(node) && t.mayAllocate(c.g, node) {
			t.allocated(c.g, node)
			return c.step(AllocateReplica, &Replica{Node: node})
		}
	}
	return Step{}, false
}

// vacant reports whether a node may get a replica: it works, and has none of
// any kind.
func (c *course) vacant(node string) bool {
	return c.states.of(node) == NodeActive &&
		!slices.ContainsFunc(c.g.Replicas, func(r Replica) bool { return r.Node == node })
}

// balance hands leadership over for the sake of balance, if the group is where
// it should be otherwise.
func (c *course) balance(t *traffic) (Step, bool) {
	if c.missing > 0 || c.voters != len(c.want) || len(c.want) != len(c.g.Replicas) ||
		c.leader == c.g.Leader || t.transfers >= t.limits.Transfers {
		return Step{}, false
	}
	step, ok := c.handOver()
	if ok {
		t.transfers++
	}
	return step, ok
}

// leave makes a leader that has to go hand over: to where it is wanted, and off
// a node that is to be gone, though it still answers, to whoever can.
func (c *course) leave() (Step, bool) {
	step, ok := c.handOver()
	if ok || c.states.of(c.g.Leader) == NodeDraining {
		return step, ok
	}
	for i := range c.g.Replicas {
		if r := &c.g.Replicas[i]; votes(r) && c.states.healthy(r) {
			return c.step(TransferLeader, r)
		}
	}
	return Step{}, false
}

// handOver moves the leader to where it is wanted.
func (c *course) handOver() (Step, bool) {
	if c.leader == "" || c.leader == c.g.Leader {
		return Step{}, false
	}
	r := c.states.chosen(c.g, c.leader)
	if r == nil || !votes(r) || !c.states.healthy(r) {
		return Step{}, false
	}
	return c.step(TransferLeader, r)
}
