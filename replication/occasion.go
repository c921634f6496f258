package replication

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/replication/internal/ask"
)

// occasion is one time that other nodes are asked about several shards.
type occasion struct {
	c      *confirmer
	asked  map[addressee][]question
	usable map[string]bool // the nodes that were thought of, and whether they may be asked
	done   chan struct{}   // closed when no matter is open
	mu     sync.Mutex      // protects open and the counters of all matters
	open   int
}

// addressee is whom a request goes to. Claims, which are answered at once, do not
// wait for what takes longer.
type addressee struct {
	node   string
	arrive bool
}

// question is a claim and what it is about.
type question struct {
	claim ask.Claim
	of    *matter
}

// matter is what is to be found out about one shard.
type matter struct {
	need, left int // agreements, and questions that are not answered
	over       bool
	index      uint64
	// conclude is called once: whether enough agreed, and to what index.
	conclude func(agreed bool, index uint64)
}

// peerState is how a node has answered lately.
type peerState struct {
	asked  atomic.Int32 // questions on their way
	silent atomic.Int64 // Unix nanoseconds until which it is not asked
}

// maxAsked is how many requests to one node may be on their way.
const maxAsked = 8

func (c *confirmer) newOccasion() *occasion {
	return &occasion{c: c, asked: map[addressee][]question{}, usable: map[string]bool{}, done: make(chan struct{})}
}

// mayAsk reports whether a node may be asked: it has not just been silent, and is not
// slow. One that was silent for a while is asked once to see.
func (o *occasion) mayAsk(node string) bool {
	usable, known := o.usable[node]
	if !known {
		p, now := o.c.peer(node), time.Now()
		until := p.silent.Load()
		usable = node != "" && p.asked.Load() < maxAsked &&
			(until == 0 || now.UnixNano() >= until && p.silent.CompareAndSwap(until, now.Add(o.c.log.attempt).UnixNano()))
		o.usable[node] = usable
	}
	return usable
}

func (c *confirmer) peer(node string) *peerState {
	p, found := c.peers.Load(node)
	if !found {
		p, _ = c.peers.LoadOrStore(node, &peerState{})
	}
	return p.(*peerState)
}

// claim asks the other voters to bear out that this node leads a shard in a term. The
// index is how far the leader has to be, since others may be. It is false if that
// cannot be found out.
func (o *occasion) claim(g *raftGroup, r *replica, term uint64, conclude func(agreed bool, told uint64)) bool {
	t := g.tenure.get(r, term)
	if t == nil || !t.votes(r.id) || !g.log.host.NoLaterVote(g.id, r.id, term) {
		return false
	}
	m := &matter{need: t.majority() - 1, index: g.log.host.Told(g.id), conclude: conclude}
	if m.need == 0 {
		conclude(true, m.index)
		return true
	}
	var others []Member
	for _, v := range t.voters {
		if v.Replica != r.id && o.mayAsk(v.Node) {
			others = append(others, v)
		}
	}
	if len(others) < m.need {
		return false
	}
	m.left = len(others)
	o.open++
	for _, v := range others {
		to := addressee{node: v.Node}
		o.asked[to] = append(o.asked[to], question{ask.Claim{Shard: g.id, Replica: v.Replica, Term: term}, m})
	}
	return true
}

// follow asks the leader of a shard how far this node's replica has to come. It is
// false if it cannot be asked.
func (o *occasion) follow(g *raftGroup, r *replica, leader uint64, conclude func(agreed bool, index uint64)) bool {
	to := addressee{node: g.log.nodeOf(g.id, leader), arrive: true}
	voted, known := g.log.host.VotedIn(g.id, r.id)
	if !known || !o.mayAsk(to.node) {
		return false
	}
	o.open++
	m := &matter{need: 1, left: 1, conclude: conclude}
	claim := ask.Claim{Shard: g.id, Replica: r.id, Term: voted, Arrive: true}
	o.asked[to] = append(o.asked[to], question{claim, m})
	return true
}

// ask sends the questions, and returns a channel that is closed when all matters are
// over. No node is waited for longer than patience.
func (o *occasion) ask(ctx context.Context, patience time.Duration) (done <-chan struct{}) {
	if o.open == 0 {
		close(o.done)
		return o.done
	}
	for to, questions := range o.asked {
		if !o.c.log.tasks.Spawn(func() { o.put(ctx, patience, to.node, questions) }) {
			o.answer(questions, nil)
		}
	}
	return o.done
}

// put asks one node.
func (o *occasion) put(ctx context.Context, patience time.Duration, node string, questions []question) {
	claims := make([]ask.Claim, len(questions))
	for i := range questions {
		claims[i] = questions[i].claim
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	peer := o.c.peer(node)
	peer.asked.Add(1)
	answers, err := o.c.log.far.Confirm(ctx, node, claims)
	peer.asked.Add(-1)
	silent := int64(0)
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		silent = time.Now().Add(o.c.log.attempt).UnixNano()
	}
	peer.silent.Store(silent)
	o.answer(questions, answers)
}

// answer takes in what a node says; no answers at all are as many refusals.
func (o *occasion) answer(questions []question, answers []ask.Confirmed) {
	for i, q := range questions {
		var a ask.Confirmed
		if i < len(answers) {
			a = answers[i]
		}
		m := q.of
		if o.take(m, a) {
			m.conclude(m.need == 0, max(m.index, a.Index))
		}
	}
}

// take counts an answer, and reports whether the matter is over by it.
func (o *occasion) take(m *matter, a ask.Confirmed) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if m.over {
		return false
	}
	m.left--
	if a.Yes {
		m.need--
	}
	m.over = m.need == 0 || m.left < m.need
	if m.over {
		if o.open--; o.open == 0 {
			close(o.done)
		}
	}
	return m.over
}
