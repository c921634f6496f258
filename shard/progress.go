package shard

import (
	"slices"

	"github.com/distributedcache/cache/internal/base"
)

// Remaining says how far the groups are from their target.
type Remaining struct {
	Copies  int // wanted replicas that do not vote yet
	Drops   int // replicas that are not wanted and still there
	Leaders int // groups that are led elsewhere than wanted
}

// Done reports whether nothing is left to do.
func (r Remaining) Done() bool { return r == Remaining{} }

// Moves returns what differs from the target: one move for each replica that
// has to be copied, with the replica it takes the place of. From is "" if it
// takes none's place, To is "" if a replica only goes. Together with Remaining
// it tells an admin what is going on; it is not what Plan works from.
func Moves(nodes []Node, groups []Group, target [][]string, leaders []string) (base.Plan, Remaining) {
	states := statesOf(nodes)
	var plan base.Plan
	var left Remaining
	for i := range groups {
		c := newCourse(states, &groups[i], target[i], leaders[i])
		var to, from []string
		for _, node := range c.want {
			if r := states.chosen(c.g, node); r == nil || !votes(r) {
				to = append(to, node)
			}
		}
		if len(c.want) > 0 { // or else there is nowhere to go
			for j := range c.g.Replicas {
				if r := &c.g.Replicas[j]; !c.wanted(r) {
					from = append(from, r.Node)
				}
			}
		}
		slices.Sort(to)
		slices.Sort(from)
		left.Copies += len(to)
		left.Drops += len(from)
		if leaders[i] != "" && leaders[i] != c.g.Leader {
			left.Leaders++
		}
		for k := range max(len(to), len(from)) {
			move := base.Move{Shard: int(c.g.Shard)}
			if k < len(from) {
				move.From = from[k]
			}
			if k < len(to) {
				move.To = to[k]
			}
			plan.Moves = append(plan.Moves, move)
		}
	}
	return plan, left
}
