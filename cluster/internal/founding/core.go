package founding

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Membership is what a member tells of its cluster.
type Membership struct {
	Cluster   string // id, 16 bytes in hexadecimal
	Name      string
	Shards    int
	Addresses []string // of members, at most 128
}

func (m *Membership) fault() string {
	return firstFault(faultOfHex("cluster id", m.Cluster), faultOfText("name of the cluster", m.Name, 0, maxNameBytes))
}

// core is the state and the rules of one node. Everything goes in and out by
// value; it is not safe for concurrent use.
type core struct {
	self           Peer
	terms          Terms
	oldest, newest uint32
	peers          []string

	durable durable     // as it is on the disk
	member  *Membership // of the cluster this node belongs to
	joining bool        // has been told to join one

	aliases  map[string]bool // addresses that lead to this node
	contacts map[string]*contact
	facts    map[ref]*message // the last that was heard of each node

	acks    map[ref]bool // electors of the held proposal that accepted it
	settled bool         // somebody knows that it is decided
	refused bool         // an elector rejects it
	fatal   error
}

// contact is an address that is called.
type contact struct {
	listed  bool
	last    *message // its last answer
	ok      bool     // the last call was answered
	misses  int      // calls in a row that were not
	problem string   // why who answers cannot be in one cluster with this node
	err     error    // of the last call
}

func newCore(self Peer, terms Terms, oldest, newest uint32, peers []string, d durable) *core {
	c := &core{
		self: self, terms: terms, oldest: oldest, newest: newest, peers: peers, durable: d,
		aliases: map[string]bool{self.Addr: true}, contacts: map[string]*contact{}, facts: map[ref]*message{}, acks: map[ref]bool{},
	}
	for _, addr := range peers {
		if addr != self.Addr {
			c.contacts[addr] = &contact{listed: true}
		}
	}
	c.commit(d)
	return c
}

// commit takes over what has been written to the disk.
func (c *core) commit(d durable) {
	c.durable = d
	c.acks, c.settled, c.refused = map[ref]bool{}, d.decided, false
	if d.held == nil {
		return
	}
	for _, p := range d.held.electors() {
		c.learn(p.Addr)
	}
	c.acks[c.self.ref()] = true
	for _, m := range c.facts {
		c.weigh(m)
	}
}

// message returns what this node says of itself to the address.
func (c *core) message(to string) *message {
	m := &message{
		to: to, self: c.self, terms: c.terms, oldest: c.oldest, newest: c.newest,
		status: statusFresh, durable: c.durable, cluster: c.member,
	}
	m.sees, m.open = c.sees()
	switch {
	case c.member != nil:
		m.status = statusMember
	case c.joining:
		m.status = statusJoining
	}
	for _, addr := range slices.Sorted(maps.Keys(c.contacts)) {
		if x := c.contacts[addr]; x.ok && x.problem == "" && len(m.known) < maxKnown {
			m.known = append(m.known, x.last.self.Addr)
		}
	}
	slices.Sort(m.known)
	m.known = slices.Compact(m.known)
	return m
}

// sees returns the nodes that the peer list leads to, and its addresses that
// have not led to any.
func (c *core) sees() (refs []ref, open []string) {
	for _, addr := range c.peers {
		x := c.contacts[addr]
		switch {
		case c.aliases[addr]:
		case x == nil || x.last == nil || x.problem != "":
			open = append(open, addr)
		default:
			refs = append(refs, x.last.self.ref())
		}
	}
	slices.SortFunc(refs, ref.compare)
	slices.Sort(open)
	return slices.Compact(refs), slices.Compact(open)
}

// handle takes in a request and returns the answer. What it learns it learns
// for later; promises are made by step only.
func (c *core) handle(m *message) *message {
	if m.self.ref() != c.self.ref() && c.member == nil {
		c.absorb(m)
		c.learn(m.self.Addr)
		if m.to != "" && len(c.aliases) <= MaxPeers {
			c.alias(m.to)
		}
	}
	return c.message("")
}

// alias records that the address leads to this node.
func (c *core) alias(addr string) {
	if x := c.contacts[addr]; x == nil || !x.ok || x.last.self.ref() == c.self.ref() {
		c.aliases[addr] = true
		delete(c.contacts, addr)
	}
}

// hear takes in the answer of an address that was called.
func (c *core) hear(addr string, m *message) {
	if m.self.ref() == c.self.ref() {
		c.aliases[addr] = true
		delete(c.contacts, addr)
		return
	}
	x := c.contacts[addr]
	if x == nil {
		return
	}
	x.last, x.ok, x.misses, x.err = m, true, 0, nil
	x.problem = c.problem(m)
	c.absorb(m)
	for _, known := range m.known {
		c.learn(known)
	}
	if m.cluster != nil {
		for _, known := range m.cluster.Addresses {
			c.learn(known)
		}
	}
	if x.problem != "" && x.listed && m.ofCluster() != nil && c.durable.held == nil {
		c.fatal = invalid("%s is a member of a cluster that this node cannot join: %s", addr, x.problem)
	}
}

// miss records that a call failed.
func (c *core) miss(addr string, err error) {
	x := c.contacts[addr]
	if x == nil {
		return
	}
	x.ok, x.err = false, err
	x.misses++
	const most = 5 // then it is left to others to name it again
	if x.misses > most && !x.listed && !c.concerns(addr) {
		delete(c.contacts, addr)
	}
}

// concerns reports whether the held proposal has an elector at the address.
func (c *core) concerns(addr string) bool {
	held := c.durable.held
	return held != nil && slices.ContainsFunc(held.electors(), func(p Peer) bool { return p.Addr == addr })
}

// learn makes sure that an address is called.
func (c *core) learn(addr string) {
	if !c.aliases[addr] && c.contacts[addr] == nil && len(c.contacts) < maxContacts {
		c.contacts[addr] = &contact{}
	}
}

// targets returns the addresses to call.
func (c *core) targets() []string { return slices.Sorted(maps.Keys(c.contacts)) }

// absorb takes in what a message says of its sender.
func (c *core) absorb(m *message) {
	r := m.self.ref()
	if _, known := c.facts[r]; known || len(c.facts) < maxFacts {
		c.facts[r] = m
	}
	c.weigh(m)
}

// weigh looks at a message as evidence for or against the held proposal. It
// counts whatever else the sender says, and however old it is.
func (c *core) weigh(m *message) {
	held := c.durable.held
	if held == nil {
		return
	}
	if in := m.ofCluster(); in != nil && in.Cluster == held.cluster() {
		c.settled = true
	}
	if held.elects(m.self.ref()) {
		c.acks[m.self.ref()] = c.acks[m.self.ref()] || held.same(m.durable.held)
		c.refused = c.refused || m.rejects(held)
	}
}

// ofCluster returns the cluster that the sender belongs to, or will as soon as
// it is there; nil if it is fresh.
func (m *message) ofCluster() *Membership {
	if m.cluster == nil && m.durable.decided {
		return m.durable.held.membership()
	}
	return m.cluster
}

// rejects reports whether the sender, an elector of p, will never accept it.
func (m *message) rejects(p *proposal) bool {
	if p.same(m.durable.held) {
		return false
	}
	return m.durable.floor > p.attempt || (m.cluster != nil && m.cluster.Cluster != p.cluster())
}

// problem returns why the sender cannot be in one cluster with this node, or "".
func (c *core) problem(m *message) string {
	switch in := m.ofCluster(); {
	case m.oldest > c.newest || m.newest < c.oldest:
		return fmt.Sprintf("it speaks protocols %d to %d, this node %d to %d", m.oldest, m.newest, c.oldest, c.newest)
	case m.self.Node == c.self.Node:
		return fmt.Sprintf("it has this node's id %q and another data directory; each node needs an id of its own", c.self.Node)
	case in == nil:
		return c.terms.differs(&m.terms)
	case in.Name != c.terms.Name:
		return fmt.Sprintf("it belongs to cluster %q, this node to %q", in.Name, c.terms.Name)
	case in.Shards != c.terms.Shards && c.terms.Shards > 0:
		return fmt.Sprintf("its cluster has %d shards, this node %d", in.Shards, c.terms.Shards)
	}
	return ""
}

// outcome is how the search ended: with the proposal this node founds, or the
// cluster that it is to join.
type outcome struct {
	founded *proposal
	join    *Membership
}

// outcome returns how the search ended, zero if it goes on. Step must have
// nothing to do.
func (c *core) outcome() (outcome, error) {
	held := c.durable.held
	switch {
	case c.durable.decided && has(held.founders, c.self.ref()):
		return outcome{founded: held}, nil
	case c.durable.decided:
		return outcome{join: held.membership()}, nil
	case c.fatal != nil:
		return outcome{}, c.fatal
	case held != nil:
		return outcome{}, nil
	}
	found, err := c.foundCluster()
	if err == nil && found == nil {
		err = c.allContradict()
	}
	c.joining = found != nil
	return outcome{join: found}, err
}

// foundCluster returns the cluster that those who answer belong to, nil if they
// are fresh.
func (c *core) foundCluster() (found *Membership, err error) {
	for _, addr := range c.targets() {
		x := c.contacts[addr]
		if !x.ok || x.problem != "" || x.last.ofCluster() == nil {
			continue
		}
		in := x.last.ofCluster()
		if found != nil && found.Cluster != in.Cluster {
			return nil, invalid("the peers belong to two clusters, %s and %s at %s; give this node the addresses of one", found.Cluster, in.Cluster, addr)
		}
		if found == nil {
			found = in
		}
	}
	return found, nil
}

// allContradict returns an error if each listed peer has answered and none of
// them could be in one cluster with this node.
func (c *core) allContradict() error {
	first := ""
	for _, addr := range c.peers {
		x := c.contacts[addr]
		switch {
		case c.aliases[addr]:
			continue
		case x == nil || !x.ok || x.problem == "":
			return nil
		case first == "":
			first = addr + ": " + x.problem
		}
	}
	if first == "" {
		return nil
	}
	return invalid("no peer can be in one cluster with this node; %s", first)
}

// waiting says what the node waits for.
func (c *core) waiting() string {
	var parts []string
	_, open := c.sees()
	for _, addr := range open {
		why := "no answer yet"
		if x := c.contacts[addr]; x != nil && x.problem != "" {
			why = x.problem
		} else if x != nil && x.err != nil {
			why = x.err.Error()
		}
		parts = append(parts, addr+": "+why)
	}
	if held := c.durable.held; held != nil {
		var missing []string
		for _, p := range held.electors() {
			if !c.acks[p.ref()] {
				missing = append(missing, p.Node+" at "+p.Addr)
			}
		}
		return strings.Join(append(parts, "waiting for "+strings.Join(missing, ", ")+" to agree"), "; ")
	}
	if c.terms.Expect == 0 {
		return strings.Join(append(parts, "nobody who answers is in a cluster"), "; ")
	}
	parts = append(parts, fmt.Sprintf("%d of %d expected nodes are there", len(c.present()), c.terms.Expect))
	return strings.Join(parts, "; ")
}
