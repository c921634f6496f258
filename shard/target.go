package shard

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
)

// Target returns the wanted nodes of each group, in the order of groups, each
// sorted by id. It depends on nothing but its arguments, and not on their
// order. DESIGN.md has the algorithm and why it comes to rest.
//
// A group gets the largest odd number of replicas that is neither over its
// factor nor over the number of nodes that are active or suspect; fewer for a
// while if suspect nodes, which get nothing new, are among those it would need.
// It gets none if there is no such node at all.
func Target(cfg Config, nodes []Node, groups []Group) [][]string {
	p := newPlacement(cfg, nodes, groups)
	for _, s := range p.shards {
		p.trim(s)
	}
	for _, s := range p.shards {
		p.fill(s)
	}
	// Nothing moves for the sake of order while a node is suspect: it will be
	// back or gone soon, and each of the two wants another order.
	if !p.suspects {
		for _, s := range p.shards {
			p.spread(s)
		}
		p.balance()
	}
	target := make([][]string, len(groups))
	for _, s := range p.shards {
		target[s.index] = p.names(s)
	}
	return target
}

// placement is a placement that is being worked out. Nodes, zones and shards
// are numbers here.
type placement struct {
	nodes    []Node
	zone     []int // of each node
	zones    int
	suspects bool

	shards []*placing // sorted by shard

	load  []int     // replicas on each node, in this placement
	share []float64 // fair share of each node; see shares
	lo    []int     // balance brings a node to at least this
	hi    []int     // and to at most this
}

// placing is the placement of one shard.
type placing struct {
	index int // among the groups
	shard base.ShardID
	size  int    // wanted number of replicas
	had   []bool // by node: there is a replica that may stay
	stuck []int  // nodes that are suspect, on which one was on its way
	in    []bool // by node: placed there
	count int    // how many of in
	zones []int  // by zone: how many of in
	score []float64
}

func newPlacement(cfg Config, nodes []Node, groups []Group) *placement {
	p := &placement{nodes: sortedNodes(nodes)}
	number := map[string]int{}
	p.zone = make([]int, len(p.nodes))
	for i, n := range p.nodes {
		z, ok := number[n.Zone]
		if !ok {
			z = len(number)
			number[n.Zone] = z
		}
		p.zone[i] = z
		p.suspects = p.suspects || n.State == NodeSuspect
	}
	p.zones = len(number)
	p.load = make([]int, len(p.nodes))
	states := statesOf(p.nodes)
	for i := range groups {
		p.shards = append(p.shards, p.observe(cfg, states, i, &groups[i]))
	}
	slices.SortStableFunc(p.shards, func(a, b *placing) int { return int(a.shard) - int(b.shard) })
	p.shares(cfg.epsilon())
	return p
}

// observe starts from what a group has, which may be more than it should.
func (p *placement) observe(cfg Config, states states, index int, g *Group) *placing {
	n := len(p.nodes)
	s := &placing{
		index: index, shard: g.Shard,
		had: make([]bool, n), in: make([]bool, n), zones: make([]int, p.zones), score: make([]float64, n),
	}
	eligible := 0
	for i, node := range p.nodes {
		r := states.chosen(g, node.ID)
		s.had[i] = r != nil
		switch {
		case r == nil:
		case votes(r) || node.State == NodeActive:
			p.put(s, i)
		default:
			s.stuck = append(s.stuck, i)
		}
		if s.had[i] || node.State == NodeActive {
			eligible++
		}
		s.score[i] = score(node, g.Shard)
	}
	s.size = size(cfg, max(g.Factor, 1), n, eligible, s.count)
	if s.count >= s.size { // nobody waits for those that are stuck, so they may go on later
		for _, i := range s.stuck {
			p.put(s, i)
		}
	}
	return s
}

// size is the number of replicas that a group should have, of which it has
// some, with so many nodes in all and so many that may have one.
func size(cfg Config, factor, nodes, eligible, have int) int {
	keep := func(nodes int) int {
		return max(oddAtMost(min(factor, nodes)), min(max(cfg.MinCopies, 1), factor, nodes))
	}
	full := keep(nodes)
	if eligible >= full {
		return full
	}
	// Suspect nodes are missing. What is there stays, odd or not.
	return max(keep(eligible), min(have, full))
}

// score is the weighted rendezvous hash of a shard on a node: of all nodes, the
// one with the highest score comes first with a probability in proportion to
// its weight, whatever other nodes there are.
func score(n Node, shard base.ShardID) float64 {
	name := binary.BigEndian.AppendUint16(append([]byte(n.ID), 0), uint16(shard))
	// 53 bits in the middle of (0, 1), never 0 and never 1.
	unit := (float64(xxhash.Sum64(name)>>11) + 0.5) / (1 << 53)
	return -n.weight() / math.Log(unit)
}

func (p *placement) names(s *placing) []string {
	names := make([]string, 0, s.count)
	for i, in := range s.in {
		if in {
			names = append(names, p.nodes[i].ID)
		}
	}
	return names
}

func (p *placement) put(s *placing, node int) {
	s.in[node] = true
	s.count++
	s.zones[p.zone[node]]++
	p.load[node]++
}

func (p *placement) take(s *placing, node int) {
	s.in[node] = false
	s.count--
	s.zones[p.zone[node]]--
	p.load[node]--
}

// more and less are what one replica more or less on a node changes of the sum
// of load*load/(2*share) over all nodes, the imbalance. A move makes it smaller
// if more(to) < less(from).
func (p *placement) more(node int) float64 { return (float64(p.load[node]) + 0.5) / p.share[node] }
func (p *placement) less(node int) float64 { return (float64(p.load[node]) - 0.5) / p.share[node] }

// fixed reports whether a node keeps what it has whatever is better.
func (p *placement) fixed(node int) bool { return p.nodes[node].State == NodeSuspect }

// trim takes replicas out of a group that has more than it should: in the zone
// that has most of them, on the node that is loaded most. If a move is under
// way, this never is the replica that was added by it: see DESIGN.md.
func (p *placement) trim(s *placing) {
	for s.count > s.size {
		worst := -1
		for i, in := range s.in {
			if in && (worst < 0 || p.worse(s, i, worst)) {
				worst = i
			}
		}
		p.take(s, worst)
	}
}

func (p *placement) worse(s *placing, a, b int) bool {
	if p.fixed(a) != p.fixed(b) {
		return p.fixed(b)
	}
	if za, zb := s.zones[p.zone[a]], s.zones[p.zone[b]]; za != zb {
		return za > zb
	}
	if la, lb := p.less(a), p.less(b); la != lb {
		return la > lb
	}
	return s.score[a] < s.score[b]
}

// fill adds the replicas that a group lacks. One that has not arrived yet on a node
// that is suspect holds nobody up, unless there is no other node.
func (p *placement) fill(s *placing) {
	for s.count < s.size {
		node := p.best(s)
		if node < 0 {
			break
		}
		p.put(s, node)
	}
	for _, node := range s.stuck {
		if s.count < s.size && !s.in[node] {
			p.put(s, node)
		}
	}
}

// best returns the node that should have one more replica of a shard: in a zone
// that has fewest of them, the highest score of those that are under their
// share; if there are none, of those under the bound; if there are none, the
// node that is loaded least. It returns -1 if there is no node.
func (p *placement) best(s *placing) int {
	free := func(i int) bool { return !s.in[i] && p.nodes[i].State == NodeActive }
	fewest := math.MaxInt
	for i := range p.nodes {
		if free(i) {
			fewest = min(fewest, s.zones[p.zone[i]])
		}
	}
	best, bestTier := -1, 0
	for i := range p.nodes {
		if !free(i) || s.zones[p.zone[i]] != fewest {
			continue
		}
		tier := p.tier(i)
		switch {
		case best < 0 || tier < bestTier:
		case tier > bestTier:
			continue
		case tier == 2 && p.more(i) != p.more(best):
			if p.more(i) > p.more(best) {
				continue
			}
		case s.score[i] <= s.score[best]:
			continue
		}
		best, bestTier = i, tier
	}
	return best
}

func (p *placement) tier(node int) int {
	switch {
	case p.load[node] < int(math.Ceil(p.share[node])):
		return 0
	case p.load[node] < p.hi[node]:
		return 1
	default:
		return 2
	}
}

// spread moves replicas of a shard from zones that have two or more of them
// than another zone that has a node for it.
func (p *placement) spread(s *placing) {
	for range s.count {
		to := p.best(s)
		if to < 0 {
			return
		}
		from := -1
		for i, in := range s.in {
			if in && s.zones[p.zone[i]] >= s.zones[p.zone[to]]+2 && (from < 0 || p.worse(s, i, from)) {
				from = i
			}
		}
		if from < 0 {
			return
		}
		p.take(s, from)
		p.put(s, to)
	}
}
