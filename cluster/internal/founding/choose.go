package founding

import (
	"bytes"
	"slices"
)

// step returns what this node should promise next. If that differs from what it
// has promised, changed is true: save it, commit it, and step again.
func (c *core) step() (next durable, changed bool) {
	next = c.durable
	switch held := c.durable.held; {
	case c.member != nil || c.durable.decided:
		return next, false
	case held != nil && (c.settled || c.unanimous()):
		next.decided = true
		return next, true
	case held != nil && c.refused:
		next.held = nil
		return next, true
	case held != nil:
		return next, false
	}
	accept, floor := c.pending()
	if cluster, err := c.foundCluster(); cluster != nil || err != nil || c.joining {
		// There is a cluster: nobody shall wait for this node to found another.
		if accept != nil {
			floor = max(floor, accept.attempt+1)
		}
		accept = nil
	} else if accept == nil && floor == c.durable.floor {
		accept = c.candidate()
	}
	next.floor = floor
	if accept != nil {
		next.held, next.floor = accept, max(floor, accept.attempt+1)
	}
	return next, accept != nil || floor != c.durable.floor
}

// unanimous reports whether each elector is known to have accepted what is held.
func (c *core) unanimous() bool {
	for _, p := range c.durable.held.electors() {
		if !c.acks[p.ref()] {
			return false
		}
	}
	return true
}

// pending looks at what others hold. It returns the best proposal that this node
// can accept, nil if there is none, and the floor that rejects those that it
// never could.
func (c *core) pending() (best *proposal, floor uint64) {
	floor = c.durable.floor
	for _, m := range c.facts {
		p := m.durable.held
		if p == nil || m.durable.decided || p.attempt < c.durable.floor || !p.elects(c.self.ref()) || c.rejected(p) {
			continue
		}
		switch c.eligible(p) {
		case never:
			floor = max(floor, p.attempt+1)
		case now:
			if best == nil || p.attempt > best.attempt || (p.attempt == best.attempt && bytes.Compare(p.id[:], best.id[:]) < 0) {
				best = p
			}
		}
	}
	if best != nil && best.attempt < floor {
		best = nil
	}
	return best, floor
}

// rejected reports whether an elector is known to reject the proposal.
func (c *core) rejected(p *proposal) bool {
	for _, e := range p.electors() {
		if m := c.facts[e.ref()]; m != nil && m.rejects(p) {
			return true
		}
	}
	return false
}

type when int

const (
	never when = iota
	later      // once all of the peer list has been heard
	now
)

// eligible reports when this node can accept a proposal that names it.
func (c *core) eligible(p *proposal) when {
	founder := has(p.founders, c.self.ref())
	if c.terms.differs(&p.terms) != "" || (founder && c.terms.Expect == 0) {
		return never
	}
	refs, open := c.sees()
	if slices.ContainsFunc(refs, func(r ref) bool { return !p.elects(r) }) {
		return never
	}
	if len(open) > 0 {
		return later
	}
	return now
}

// present returns this node and all fresh ones that answer now, by what they
// last said. It is nil if two of them have one id.
func (c *core) present() map[ref]*message {
	found := map[ref]*message{c.self.ref(): c.message("")}
	ids := map[string]ref{c.self.Node: c.self.ref()}
	for _, x := range c.contacts {
		if !x.ok || x.problem != "" {
			continue
		}
		r := x.last.self.ref()
		m := c.facts[r]
		if m == nil || m.status != statusFresh || m.durable.decided {
			continue
		}
		if other, taken := ids[r.node]; taken && other != r {
			return nil
		}
		ids[r.node], found[r] = r, m
	}
	return found
}

// candidate returns what this node would propose, nil if it has to wait.
func (c *core) candidate() *proposal {
	present := c.present()
	if c.terms.Expect == 0 || len(present) < c.terms.Expect {
		return nil
	}
	var able []Peer
	for _, m := range present {
		if m.terms.Expect > 0 && closure(present, []Peer{m.self}) != nil {
			able = append(able, m.self)
		}
	}
	slices.SortFunc(able, comparePeers)
	if len(able) < c.terms.Expect {
		return nil
	}
	founders := able[:c.terms.Expect]
	p := &proposal{attempt: max(c.durable.floor, 1), terms: c.terms, founders: founders}
	for _, e := range closure(present, founders) {
		if !has(founders, e.ref()) {
			p.witnesses = append(p.witnesses, e)
		}
		p.attempt = max(p.attempt, present[e.ref()].durable.floor)
	}
	slices.SortFunc(p.witnesses, comparePeers)
	if !p.elects(c.self.ref()) || len(founders)+len(p.witnesses) > MaxElectors || p.attempt > maxAttempt {
		return nil
	}
	return p.sealed()
}

func comparePeers(a, b Peer) int { return a.ref().compare(b.ref()) }

// closure returns the nodes and all that their peer lists lead to, nil if one of
// those is not present or has not heard all of its list itself.
func closure(present map[ref]*message, from []Peer) []Peer {
	found := slices.Clone(from)
	seen := map[ref]bool{}
	for _, p := range from {
		seen[p.ref()] = true
	}
	for i := 0; i < len(found); i++ {
		m := present[found[i].ref()]
		if len(m.open) > 0 {
			return nil
		}
		for _, r := range m.sees {
			next := present[r]
			if next == nil {
				return nil
			}
			if !seen[r] {
				seen[r] = true
				found = append(found, next.self)
			}
		}
	}
	return found
}
