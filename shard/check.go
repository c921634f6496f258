package shard

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
)

// CheckRemove returns nil if every group can go on without a node at once, so
// that it may be removed (become NodeGone) without being drained first.
// Otherwise the error says why not: base.ErrInvalid if it never may,
// base.ErrUnavailable if it may after it was drained, or after what is broken
// has healed.
func CheckRemove(nodes []Node, groups []Group, node string) error {
	states := statesOf(nodes)
	if _, ok := states[node]; !ok {
		return fmt.Errorf("%w: there is no node %q", base.ErrInvalid, node)
	}
	others := 0
	for _, n := range nodes {
		if n.ID != node && n.State == NodeActive {
			others++
		}
	}
	if others == 0 {
		return fmt.Errorf("%w: without node %q, no active node is left", base.ErrInvalid, node)
	}
	for i := range groups {
		if err := checkGroup(states, &groups[i], node); err != nil {
			return err
		}
	}
	return nil
}

func checkGroup(states states, g *Group, node string) error {
	voters, healthy, on, healthyOn := 0, 0, 0, 0
	concerned := false
	for i := range g.Replicas {
		r := &g.Replicas[i]
		concerned = concerned || r.Node == node
		if !votes(r) {
			continue
		}
		voters++
		if r.Node == node {
			on++
		}
		if states.healthy(r) {
			healthy++
			if r.Node == node {
				healthyOn++
			}
		}
	}
	switch {
	case !concerned:
		return nil
	case g.Leader == "":
		// Nobody knows who votes, so nothing can be said about the others.
		return fmt.Errorf("%w: shard %d has no leader; node %q cannot be removed before it has", base.ErrUnavailable, g.Shard, node)
	case on == 0:
		return nil
	case voters == on:
		return fmt.Errorf("%w: node %q has the only copy of shard %d; drain it first", base.ErrUnavailable, node, g.Shard)
	case healthy < majority(voters):
		return fmt.Errorf("%w: only %d of %d voters of shard %d work; bring some back before node %q is removed",
			base.ErrUnavailable, healthy, voters, g.Shard, node)
	case healthy-healthyOn < majority(voters):
		return fmt.Errorf("%w: without node %q, %d of %d voters of shard %d would work, which is no majority; drain it first",
			base.ErrUnavailable, node, healthy-healthyOn, voters, g.Shard)
	}
	return nil
}
