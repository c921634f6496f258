package shard

import (
	"cmp"
	"math"
	"slices"
)

// shares works out the fair share of each node: in proportion to the weights,
// as far as a node having a shard only once and the spread over zones allow.
//
// The spread leaves a zone between least and most replicas. A level of
// replicas per weight is looked for that, with these bounds, adds up to all
// replicas; a zone that hits a bound then gets a level of its own.
func (p *placement) shares(epsilon float64) {
	least, most := p.zoneBounds()
	total := 0.0
	for _, s := range p.shards {
		total += float64(s.size)
	}
	demand := func(zone int, level float64) float64 {
		sum := 0.0
		for i, n := range p.nodes {
			if p.zone[i] == zone {
				sum += p.atLevel(n, level)
			}
		}
		return sum
	}
	bounded := func(zone int, level float64) float64 {
		return min(max(demand(zone, level), least[zone]), most[zone])
	}
	common := p.levelFor(total, func(level float64) float64 {
		sum := 0.0
		for z := range p.zones {
			sum += bounded(z, level)
		}
		return sum
	})
	levels := make([]float64, p.zones)
	for z := range levels {
		levels[z] = p.levelFor(bounded(z, common), func(level float64) float64 { return demand(z, level) })
	}
	p.share, p.lo, p.hi = make([]float64, len(p.nodes)), make([]int, len(p.nodes)), make([]int, len(p.nodes))
	for i, n := range p.nodes {
		// Rounded, so that 9 is not 9.0000001, which would round up to 10.
		share := max(math.Round(p.atLevel(n, levels[p.zone[i]])*1e6)/1e6, 1e-6)
		p.share[i] = share
		p.hi[i] = int(max(math.Ceil(share), math.Floor(share*(1+epsilon))))
		p.lo[i] = int(min(math.Floor(share), math.Ceil(share/(1+epsilon))))
	}
}

// atLevel is what a node gets at so many replicas per weight.
func (p *placement) atLevel(n Node, level float64) float64 {
	return min(float64(len(p.shards)), level*n.weight())
}

// levelFor searches the level at which a sum that rises with it is total.
func (p *placement) levelFor(total float64, sum func(level float64) float64) float64 {
	// At the top, even the smallest weight has all shards.
	bottom, top := 0.0, float64(len(p.shards)+1)*100
	for range 80 { // more than the bits of a float64
		middle := (bottom + top) / 2
		if sum(middle) < total {
			bottom = middle
		} else {
			top = middle
		}
	}
	return top
}

// zoneBounds returns between how many and how many replicas each zone has if
// every shard is spread as evenly as the numbers of nodes in the zones allow.
func (p *placement) zoneBounds() (least, most []float64) {
	nodes := make([]int, p.zones)
	for _, z := range p.zone {
		nodes[z]++
	}
	least, most = make([]float64, p.zones), make([]float64, p.zones)
	at := func(level int) (sum int) {
		for _, n := range nodes {
			sum += min(n, level)
		}
		return sum
	}
	for _, s := range p.shards {
		level := 0
		for level < s.size && at(level+1) <= s.size {
			level++
		}
		over := 0
		if at(level) < s.size {
			over = 1
		}
		for z, n := range nodes {
			least[z] += float64(min(n, level))
			most[z] += float64(min(n, level+over))
		}
	}
	return least, most
}

// balance moves replicas until each node is within its bounds, or no single
// move that keeps the spread makes the imbalance smaller. Every move does, so
// it ends.
func (p *placement) balance() {
	for p.balanceOne() {
	}
}

// balanceOne makes one move away from a node over its bound, or else to one
// under it.
func (p *placement) balanceOne() bool {
	givers, takers := p.byLoad()
	for _, from := range givers {
		if p.load[from] <= p.hi[from] {
			continue
		}
		for _, to := range takers {
			if p.move(from, to) {
				return true
			}
		}
	}
	for _, to := range takers {
		if p.load[to] >= p.lo[to] {
			continue
		}
		for _, from := range givers {
			if p.move(from, to) {
				return true
			}
		}
	}
	return false
}

// byLoad returns the nodes with the most loaded first, and with the least.
func (p *placement) byLoad() (givers, takers []int) {
	for i := range p.nodes {
		givers = append(givers, i)
	}
	takers = slices.Clone(givers)
	slices.SortStableFunc(givers, func(a, b int) int { return cmp.Compare(p.less(b), p.less(a)) })
	slices.SortStableFunc(takers, func(a, b int) int { return cmp.Compare(p.more(a), p.more(b)) })
	return givers, takers
}

// move moves the most suitable shard between two nodes, if that makes the
// imbalance smaller and no spread worse.
func (p *placement) move(from, to int) bool {
	if from == to || p.more(to) >= p.less(from) {
		return false
	}
	zf, zt := p.zone[from], p.zone[to]
	var best *placing
	for _, s := range p.shards {
		if !s.in[from] || s.in[to] || zf != zt && s.zones[zf] <= s.zones[zt] {
			continue
		}
		if best == nil || better(s, best, from, to) {
			best = s
		}
	}
	if best == nil {
		return false
	}
	p.take(best, from)
	p.put(best, to)
	return true
}

// better reports whether a is to be moved rather than b: the one that costs
// less, then the one that the hash would rather see there.
func better(a, b *placing, from, to int) bool {
	if ca, cb := cost(a, from, to), cost(b, from, to); ca != cb {
		return ca < cb
	}
	return a.score[to]-a.score[from] > b.score[to]-b.score[from]
}

// cost is 0 if a move brings a replica back to where it is, 1 if it only
// changes a plan, 2 if data moves.
func cost(s *placing, from, to int) int {
	switch {
	case s.had[to]:
		return 0
	case !s.had[from]:
		return 1
	default:
		return 2
	}
}
