package shard

import (
	"cmp"
	"slices"
)

// Leaders returns the node that should lead each group, in the order of
// groups, or "" if no replica of the group may lead. Only voters on active
// nodes may; those that stay (target has their node) before those that go.
// Every active node leads the same number of groups, one more or one less, if
// there is any choice of leaders like that; otherwise as close to it as can be.
// A group whose leader may stay keeps it unless that is needed.
func Leaders(nodes []Node, groups []Group, target [][]string) []string {
	l := newLeadership(nodes, groups, target)
	l.level()
	leaders := make([]string, len(groups))
	for g, n := range l.leads {
		if n >= 0 {
			leaders[g] = l.nodes[n]
		}
	}
	return leaders
}

// leadership is a choice of leaders that is being worked out.
type leadership struct {
	nodes []string // active ones, sorted
	order []int    // the groups in the order of their shards
	can   [][]int  // by group: who may lead it
	leads []int    // by group: who does, or -1
	led   [][]int  // by node: the groups
	total int      // of groups that can be led
}

func newLeadership(nodes []Node, groups []Group, target [][]string) *leadership {
	l := &leadership{can: make([][]int, len(groups)), leads: make([]int, len(groups))}
	for _, n := range sortedNodes(nodes) {
		if n.State == NodeActive {
			l.nodes = append(l.nodes, n.ID)
		}
	}
	l.led = make([][]int, len(l.nodes))
	states := statesOf(nodes)
	for i := range groups {
		l.order = append(l.order, i)
	}
	slices.SortStableFunc(l.order, func(a, b int) int { return cmp.Compare(groups[a].Shard, groups[b].Shard) })
	for _, i := range l.order {
		l.can[i] = l.candidates(states, &groups[i], target[i])
		l.leads[i] = -1
		if n, ok := slices.BinarySearch(l.nodes, groups[i].Leader); ok && slices.Contains(l.can[i], n) {
			l.lead(i, n)
		}
	}
	for _, i := range l.order {
		if l.leads[i] < 0 && len(l.can[i]) > 0 {
			l.lead(i, slices.MinFunc(l.can[i], func(a, b int) int { return len(l.led[a]) - len(l.led[b]) }))
		}
	}
	return l
}

func (l *leadership) candidates(states states, g *Group, target []string) []int {
	var stay, all []int
	for n, id := range l.nodes {
		if r := states.chosen(g, id); r != nil && votes(r) {
			all = append(all, n)
			if slices.Contains(target, id) {
				stay = append(stay, n)
			}
		}
	}
	if len(stay) > 0 {
		return stay
	}
	return all
}

func (l *leadership) lead(group, node int) {
	if old := l.leads[group]; old >= 0 {
		at := slices.Index(l.led[old], group)
		l.led[old] = slices.Delete(l.led[old], at, at+1)
	} else {
		l.total++
	}
	l.leads[group] = node
	l.led[node] = append(l.led[node], group)
}

// level hands leadership on, along chains of groups, from nodes that lead too
// many and to nodes that lead too few. It ends where no chain leads from a node
// to one with at least two less. If a node is over the bound then, all that
// can be reached from it are at the bound or one under it, and all groups that
// these lead have no other candidates: no choice would do.
func (l *leadership) level() {
	if len(l.nodes) == 0 {
		return
	}
	most := l.total/len(l.nodes) + 1
	least := (l.total+len(l.nodes)-1)/len(l.nodes) - 1
	for l.levelOne(most, least) {
	}
}

func (l *leadership) levelOne(most, least int) bool {
	all := make([]int, len(l.nodes))
	for i := range all {
		all[i] = i
	}
	slices.SortStableFunc(all, func(a, b int) int { return len(l.led[b]) - len(l.led[a]) })
	for _, from := range all {
		if len(l.led[from]) > most && l.chain(from, func(to int) bool { return len(l.led[to]) <= len(l.led[from])-2 }) {
			return true
		}
	}
	slices.Reverse(all)
	for _, to := range all {
		if len(l.led[to]) >= least {
			break
		}
		for i := len(all) - 1; i >= 0 && len(l.led[all[i]]) >= len(l.led[to])+2; i-- {
			if l.chain(all[i], func(n int) bool { return n == to }) {
				return true
			}
		}
	}
	return false
}

// chain looks for the shortest chain of hand-overs from a node to one that is
// wanted (of several, the one that leads least), and makes them.
func (l *leadership) chain(from int, wanted func(node int) bool) bool {
	via := make([]int, len(l.nodes)) // by node: the group that it would take over
	for i := range via {
		via[i] = -1
	}
	seen := make([]bool, len(l.nodes))
	seen[from] = true
	for ring := []int{from}; len(ring) > 0; {
		var next []int
		for _, n := range ring {
			for _, g := range l.led[n] {
				for _, to := range l.can[g] {
					if !seen[to] {
						seen[to], via[to] = true, g
						next = append(next, to)
					}
				}
			}
		}
		slices.Sort(next)
		last := -1
		for _, n := range next {
			if wanted(n) && (last < 0 || len(l.led[n]) < len(l.led[last])) {
				last = n
			}
		}
		if last >= 0 {
			for n := last; n != from; {
				g := via[n]
				before := l.leads[g]
				l.lead(g, n)
				n = before
			}
			return true
		}
		ring = next
	}
	return false
}
