package replication

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
)

// tenure is what a leader knows of its term once raft has run a read barrier in it:
// that its replica shows all that was decided in earlier terms, and who votes.
//
// The voters may be out of date by one change: a change is decided by the leader,
// which forgets its tenure when it begins to make one, and raft makes one at a time.
// Any majority of the voters before a change and any of those after it have a voter
// in common (dissertation, 4.1), which is all that is asked of them.
type tenure struct {
	replica uint64
	term    uint64
	voters  []Member
}

func (t *tenure) majority() int { return len(t.voters)/2 + 1 }

// votes reports whether a replica is one of the voters.
func (t *tenure) votes(replica uint64) bool {
	for _, v := range t.voters {
		if v.Replica == replica {
			return true
		}
	}
	return false
}

// tenures has the newest tenure of a group on this node.
type tenures struct {
	mu      sync.Mutex // protects what follows
	now     *tenure
	changes int // of the voters that were begun or ended here

	learning atomic.Bool
}

// get returns the tenure of a replica as the leader of a term; nil if it is not
// known, or over.
func (t *tenures) get(r *replica, term uint64) *tenure {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now == nil || t.now.replica != r.id || t.now.term != term {
		return nil
	}
	return t.now
}

// change forgets the tenure, since the voters are about to change, or have.
func (t *tenures) change() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now = nil
	t.changes++
}

func (t *tenures) changed() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changes
}

// set notes a tenure, unless the voters may have changed since they were looked up.
func (t *tenures) set(now *tenure, changes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changes == changes {
		t.now = now
	}
}

// learnTenure begins the tenure of this node's replica, if it leads. It does so in the
// background, once at a time.
func (g *raftGroup) learnTenure(r *replica) {
	leader, term := g.log.host.Leader(g.id)
	if !g.log.far.Any() || leader != r.id || g.tenure.get(r, term) != nil || !g.tenure.learning.CompareAndSwap(false, true) {
		return
	}
	learn := func() {
		defer g.tenure.learning.Store(false)
		changes := g.tenure.changed()
		ctx, cancel := context.WithTimeout(g.log.ending, g.log.attempt)
		defer cancel()
		voters, err := g.log.host.Voters(ctx, g.id)
		if err != nil {
			return
		}
		// If it led this term before and after, it did in between, and the barrier that
		// the voters were looked up behind was one of this term.
		if l, now := g.log.host.Leader(g.id); l == leader && now == term {
			g.tenure.set(&tenure{replica: r.id, term: term, voters: voters}, changes)
		}
	}
	if !g.log.tasks.Spawn(learn) {
		g.tenure.learning.Store(false)
	}
}

// answerConfirm answers the claims of another node. What is asked of a voter it says
// at once. To say how far others have to come takes a moment, in which voters are
// asked, if more than two have to agree, or the leader arrives there itself.
func (h *Host) answerConfirm(ctx context.Context, bytes []byte) ([]byte, error) {
	claims, err := ask.DecodeClaims(bytes)
	if err != nil {
		return nil, err
	}
	if err := h.raft.host.Failed(); err != nil {
		return nil, err
	}
	answers := make([]ask.Confirmed, len(claims))
	log := h.raft.log
	o := log.confirmer.newOccasion()
	var waiting sync.WaitGroup
	for i, c := range claims {
		if int(c.Shard) >= len(h.groups) && c.Shard != base.CatalogShard {
			return nil, fmt.Errorf("%w: this node has no shard %d", base.ErrInvalid, c.Shard)
		}
		if !c.Arrive {
			answers[i].Yes = h.raft.host.NoLaterVote(c.Shard, c.Replica, c.Term)
			continue
		}
		g := log.group(c.Shard)
		waiting.Add(1)
		g.receive(o, c, func(r *replica, told uint64) {
			answer := func() {
				defer waiting.Done()
				if r != nil && g.await(r, told, log.tick/2) {
					answers[i] = ask.Confirmed{Yes: true, Index: r.machine.Index()}
				}
			}
			if r == nil || g.barrier.upTo(r) >= told || !log.tasks.Spawn(answer) {
				answer()
			}
		})
	}
	o.ask(ctx, log.attempt/confirmPart/2)
	waiting.Wait()
	return ask.AppendConfirmed(nil, answers), nil
}

// receive finds out whether this node leads a shard, for another one that follows.
// conclude gets the replica that does, and how far it has to be; nil if that is in
// doubt.
func (g *raftGroup) receive(o *occasion, c ask.Claim, conclude func(r *replica, told uint64)) {
	r := g.replica.Load()
	leader, term := g.log.host.Leader(g.id)
	if r == nil || leader != r.id {
		conclude(nil, 0)
		return
	}
	t := g.tenure.get(r, term)
	if t == nil {
		g.learnTenure(r) // for those who ask later
		conclude(nil, 0)
		return
	}
	if c.Term <= term && t.votes(c.Replica) && t.votes(r.id) && t.majority() <= 2 && g.log.host.NoLaterVote(g.id, r.id, term) {
		conclude(r, g.log.host.Told(g.id))
		return
	}
	if !o.claim(g, r, term, func(agreed bool, told uint64) {
		if !agreed {
			r = nil
		}
		conclude(r, told)
	}) {
		conclude(nil, 0)
	}
}
