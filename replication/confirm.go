package replication

import (
	"sync"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// confirmer runs the read barriers of all shards of a node together: one question to
// each other node, however many shards it is about.
//
// Like the read index of raft (dissertation, 6.4) it rests on this: if the leader of
// a term learns, after a read has begun, that a majority has not voted in a later
// one, then nobody was leader of a later one when the read began, and nothing was
// answered that this leader does not know. Raft has the voters say so by heartbeats,
// one for each shard, which wait in line with what goes to the disk. Here the log
// store says it, which knows the newest term of each replica before a vote for it
// leaves the node.
//
// A read must also show what earlier ones have shown, and a follower may have applied
// what its leader has not. It has heard from the leader that this is committed: so
// the leader waits until it has applied what it has told others of. What it has
// answered in its own term it shows, since it alone proposes (see
// transport.Config.OwnProposals) and answers after it has applied. That it shows what
// was decided in earlier terms it makes sure of once, by raft: see tenure.
//
// A node that does not lead asks the leader how far its own replica has to come, and
// tells how it has voted itself: of three voters, that makes two. To answer, a leader
// asks voters at most, and these answer at once: so nodes never wait in a circle.
//
// Whatever is in doubt is left to raft: an error, a node that is slow, a term that
// has ended.
type confirmer struct {
	log *raftlog
	mu  struct {
		sync.Mutex
		queue []*raftGroup
		loops int
	}
	peers sync.Map // node -> *peerState
}

// enqueue has groups begin their rounds. All that are queued together begin
// together.
func (c *confirmer) enqueue(groups ...*raftGroup) {
	c.mu.Lock()
	c.mu.queue = append(c.mu.queue, groups...)
	if c.mu.loops < maxRounds && c.log.tasks.Spawn(c.run) {
		c.mu.loops++
	}
	var left []*raftGroup
	if c.mu.loops == 0 {
		left, c.mu.queue = c.mu.queue, nil
	}
	c.mu.Unlock()
	for _, g := range left { // the log is closed
		g.end(g.begin(), nil, base.ErrClosed)
		g.leave()
	}
}

func (c *confirmer) run() {
	for {
		c.mu.Lock()
		groups := c.mu.queue
		c.mu.queue = nil
		if len(groups) == 0 {
			c.mu.loops--
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		c.confirm(groups)
	}
}

// confirm runs one round of each group. It waits a moment for the answers, so that
// those who come meanwhile ask together; but not for a node that is slow.
func (c *confirmer) confirm(groups []*raftGroup) {
	o := c.newOccasion()
	for _, g := range groups {
		c.begin(o, g)
	}
	done := o.ask(c.log.ending, c.log.attempt/confirmPart)
	timer := time.NewTimer(c.log.tick / 4)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// confirmPart is which part of the patience with an attempt other nodes may take:
// longer than a busy one takes, and short beside what raft takes to find a new leader.
const confirmPart = 4

// begin begins the round of a group, and finds out whom to ask.
func (c *confirmer) begin(o *occasion, g *raftGroup) {
	round := g.begin()
	r := c.log.here(g)
	leader, term := c.log.host.Leader(g.id)
	asked := false
	switch {
	case !c.log.far.Any() || r == nil || leader == 0 || c.log.fence.Down():
	case leader == r.id:
		asked = o.claim(g, r, term, func(agreed bool, told uint64) {
			if agreed {
				g.arrive(round, r, told, c.log.tick/2)
			} else {
				g.slowly(round)
			}
		})
	default:
		asked = o.follow(g, r, leader, func(agreed bool, index uint64) {
			if agreed {
				g.arrive(round, r, index, c.log.attempt)
			} else {
				g.slowly(round)
			}
		})
	}
	if !asked {
		g.slowly(round)
	}
}

// slowly leaves a round to raft.
func (g *raftGroup) slowly(r *round) {
	if !g.log.tasks.Spawn(func() { g.confirmSlowly(r) }) {
		g.end(r, nil, base.ErrClosed)
		g.leave()
	}
}

// arrive ends a round once this node's replica shows an entry. After a while it is
// left to raft: the replica is far behind, or out of touch, or the entry is one of
// raft's own, of which the machine does not hear.
func (g *raftGroup) arrive(round *round, r *replica, index uint64, patience time.Duration) {
	if g.barrier.upTo(r) >= index {
		g.end(round, r, nil)
		g.leave()
		return
	}
	wait := func() {
		if g.await(r, index, patience) {
			g.end(round, r, nil)
			g.leave()
		} else {
			g.confirmSlowly(round)
		}
	}
	if !g.log.tasks.Spawn(wait) {
		g.end(round, nil, base.ErrClosed)
		g.leave()
	}
}

// await waits until a replica shows an entry, but not for long.
func (g *raftGroup) await(r *replica, index uint64, patience time.Duration) bool {
	ready, forget := r.machine.Await(index)
	if ready == nil {
		return true
	}
	defer forget()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ready:
		return true
	case <-timer.C:
	case <-g.log.fence.Tripped():
	case <-g.log.stop:
	}
	return g.barrier.upTo(r) >= index
}
