package gossip

import (
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// maxTargets is how many addresses are tried in one attempt to find
	// others. The next one takes others of a longer list.
	maxTargets = 32
	// maxJoins is how many are tried at once. One that does not answer takes
	// the whole stream timeout.
	maxJoins = 4
)

// watch keeps Members up to date: after each event of memberlist, and from
// time to time for what there is no event for.
func (g *Gossip) watch() {
	tick := time.NewTicker(g.timing.refresh)
	defer tick.Stop()
	for {
		select {
		case <-g.events:
		case <-tick.C:
		case <-g.done:
			return
		}
		if err := g.refresh(); err != nil {
			g.log.complain("gossip does not know its members", "error", err)
		}
	}
}

// refresh reads memberlist's state.
func (g *Gossip) refresh() error {
	g.refreshing.Lock()
	defer g.refreshing.Unlock()
	if g.closing() {
		return nil
	}
	l := &listener{}
	g.transport.listening.Store(l)
	_, _ = g.list.Join([]string{listenerTarget}) // fails when it hears no answer
	seen, err := l.sightings(g.cfg.ClusterID)
	if err != nil {
		return err
	}
	if !g.refreshing.roster.update(seen, g.cfg.Clock()) {
		return nil
	}
	members := g.refreshing.roster.members()
	g.members.Store(&members)
	g.clocks.keep(func(id string) bool {
		return slices.ContainsFunc(members, func(m Member) bool { return m.ID == id })
	})
	alone := g.alone()
	if alone && !g.refreshing.alone {
		poke(g.lonely)
	}
	g.refreshing.alone = alone
	poke(g.changed)
	return nil
}

// alone reports whether no other node is there.
func (g *Gossip) alone() bool {
	return !slices.ContainsFunc(*g.members.Load(), func(m Member) bool {
		return m.ID != g.cfg.NodeID && (m.State == Alive || m.State == Suspect)
	})
}

// seek looks for others for ever: memberlist forgets the dead, so the halves of
// a partition that lasted longer would never look for one another again.
func (g *Gossip) seek() {
	retry := g.timing.retryFirst
	for {
		g.join(g.targets())
		if err := g.refresh(); err != nil {
			g.log.complain("gossip does not know its members", "error", err)
		}
		wait := g.timing.rejoin
		if g.alone() {
			wait = retry
			retry = min(2*retry, g.timing.retryMost)
		} else {
			retry = g.timing.retryFirst
		}
		timer := time.NewTimer(wait/2 + rand.N(wait)) // all nodes of a cluster may have been started at once
		select {
		case <-timer.C:
		case <-g.lonely:
			timer.Stop()
		case <-g.done:
			timer.Stop()
			return
		}
	}
}

// targets returns where others may be found that are not members: at the
// seeds, and where members were that are dead.
func (g *Gossip) targets() []string {
	g.lifecycle.RLock()
	left := g.lifecycle.left
	g.lifecycle.RUnlock()
	if left {
		return nil
	}
	known := map[string]bool{g.cfg.Advertise: true}
	list := g.cfg.Seeds()
	for _, m := range *g.members.Load() {
		switch m.State {
		case Alive, Suspect:
			known[m.Addr] = true
		case Dead:
			list = append(slices.Clip(list), m.Addr)
		}
	}
	var targets []string
	for _, addr := range list {
		if !known[addr] && validAddress(addr) {
			known[addr] = true
			targets = append(targets, addr)
		}
	}
	rand.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
	return targets[:min(len(targets), maxTargets)]
}

// join exchanges states with whoever is at the addresses. Failures are usual
// and logged by memberlist.
func (g *Gossip) join(targets []string) {
	each(targets, func(addr string) {
		if !g.closing() {
			_, _ = g.list.Join([]string{joinTarget(addr)})
		}
	})
}

// each calls f for all addresses, for some of them at a time, and returns when
// all calls have.
func each(addrs []string, f func(addr string)) {
	var group errgroup.Group
	group.SetLimit(maxJoins)
	for _, addr := range addrs {
		group.Go(func() error {
			f(addr)
			return nil
		})
	}
	_ = group.Wait()
}

// announce spreads changes of our Meta, a few in each second at most: each is
// a message to everybody.
func (g *Gossip) announce() {
	for {
		select {
		case <-g.metaChanged:
		case <-g.done:
			return
		}
		g.updateNode()
		timer := time.NewTimer(g.timing.meta)
		select {
		case <-timer.C:
		case <-g.done:
			timer.Stop()
			return
		}
	}
}

func (g *Gossip) updateNode() {
	g.lifecycle.RLock()
	defer g.lifecycle.RUnlock()
	// A node that has left is forgotten by its own memberlist after a while, which
	// then panics.
	if !g.lifecycle.closed && !g.lifecycle.left {
		_ = g.list.UpdateNode(time.Nanosecond) // queues the message, and gives up waiting for it
	}
}

// deliver hands hints of others to the owner.
func (g *Gossip) deliver() {
	for {
		select {
		case <-g.hints.wake:
		case <-g.done:
			return
		}
		if list := g.hints.take(); len(list) > 0 && g.cfg.OnLeaders != nil {
			g.cfg.OnLeaders(list)
		}
	}
}
