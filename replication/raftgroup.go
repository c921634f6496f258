package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/inflight"
)

const (
	// maxFlights is how many entries of one group may be undecided at a time. While
	// one is, another goes only if so much waits for it that sharing the one after
	// would not make it cheaper, or if the newest has been on its way for so long
	// that something may hold it up.
	maxFlights   = 4
	fullCommands = 64
	fullBytes    = 256 << 10
	lateFlight   = 50 * time.Millisecond
	// maxEntryBytes ends an entry early.
	maxEntryBytes = 1 << 20
)

// raftGroup proposes to one shard. Whatever callers submit while an entry is on
// the way goes into the next one together; nobody waits for company when none is.
//
// Every node has one for each shard, whether or not it has a replica: the entry is
// made here and proposed where the leader is, so that it is applied once whatever
// happens on the way.
type raftGroup struct {
	*group
	log     *raftlog
	session *client.Session // one that dragonboat does not track; ours is log.session
	barrier barrier
	tenure  tenures
	turns   turns
	seen    atomic.Uint64 // the newest version in any result

	mu struct {
		sync.Mutex
		queue    []*inflight.Pending
		bytes    int64       // of the queue
		next     uint64      // the sequence number of the next entry
		flying   []uint64    // those of the undecided ones
		carriers int         // goroutines in fly
		left     time.Time   // when the newest of them took an entry
		late     *time.Timer // calls lookLate; nil if it is not to
		closed   bool
	}
}

// flight is one entry on its way into the log.
type flight struct {
	members  []*inflight.Pending
	sequence uint64
	floor    uint64
	entry    []byte
	started  time.Time
	// heard says that the entry may have got into the log.
	heard bool
	// anywhere says that it may be proposed on a node that does not lead.
	anywhere bool
	// must says that it gives free what a transaction holds, and is not refused.
	must bool
}

// submit queues a transaction; its outcome comes through p.done.
func (g *raftGroup) submit(p *inflight.Pending) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mu.closed {
		return false
	}
	g.mu.queue = append(g.mu.queue, p)
	g.mu.bytes += p.Bytes
	g.send()
	return true
}

// send has one more goroutine take what waits, now, or soon if the entries on their way
// are late by then. The caller holds g.mu.
func (g *raftGroup) send() {
	switch {
	case g.mu.closed || len(g.mu.queue) == 0:
	case g.another(g.mu.carriers):
		if g.log.tasks.Spawn(g.fly) {
			g.mu.carriers++
		}
	case g.mu.late == nil:
		g.mu.late = time.AfterFunc(lateFlight, g.lookLate)
	}
}

// lookLate sends what waits behind an entry that is late.
func (g *raftGroup) lookLate() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.late = nil
	g.send()
}

// another reports whether what waits goes now, beside so many entries. The caller
// holds g.mu.
func (g *raftGroup) another(flights int) bool {
	full := len(g.mu.queue) >= g.log.full || g.mu.bytes >= fullBytes
	return flights == 0 || flights < maxFlights && (full || time.Since(g.mu.left) >= lateFlight)
}

// close refuses what comes from now on.
func (g *raftGroup) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.closed = true
	if g.mu.late != nil {
		g.mu.late.Stop()
	}
}

// fly carries one entry after the other until none is left to make.
func (g *raftGroup) fly() {
	var f flight
	for g.board(&f) {
		g.encode(&f)
		err := g.carry(&f)
		g.land(&f, err)
	}
}

// board takes from the queue what goes into the next entry. If there is nothing,
// or it should share the entry after those on their way, or the window of the session
// is full, the carrier ends; another one, whose entry is undecided, comes for it.
func (g *raftGroup) board(f *flight) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(f.members)
	f.members, f.entry, f.heard, f.anywhere, f.must = f.members[:0], f.entry[:0], false, false, false
	f.floor = g.mu.next
	for _, sequence := range g.mu.flying {
		f.floor = min(f.floor, sequence)
	}
	taken, bytes := 0, int64(0)
	if g.another(len(g.mu.flying)) && g.mu.next-f.floor < command.Window {
		taken, bytes = f.take(g.mu.queue, g.log.admission)
	}
	rest := copy(g.mu.queue, g.mu.queue[taken:])
	clear(g.mu.queue[rest:])
	g.mu.queue = g.mu.queue[:rest]
	g.mu.bytes -= bytes
	if len(f.members) == 0 {
		g.mu.carriers--
		return false
	}
	f.sequence, f.started = g.mu.next, time.Now()
	g.mu.next++
	g.mu.left = f.started
	g.mu.flying = append(g.mu.flying, f.sequence)
	g.send() // what did not fit
	return true
}

// take adds members from the front of the queue and returns how many elements it
// has used up, and their bytes. One whose caller has given up is left out.
func (f *flight) take(queue []*inflight.Pending, a *inflight.Admission) (used int, bytes int64) {
	for _, p := range queue {
		alone := p.Txn.HasRanges()
		full := len(f.members) == command.MaxEntryCommands || bytes+p.Bytes > maxEntryBytes
		if len(f.members) > 0 && (alone || full || p.Anywhere != f.anywhere) {
			break
		}
		used++
		bytes += p.Bytes
		if !a.Take(p) {
			continue
		}
		f.members = append(f.members, p)
		f.anywhere = p.Anywhere
		f.must = f.must || releases(p.Txn.Parts[0].Command.Step.Kind)
		if alone {
			break
		}
	}
	return used, bytes
}

func (g *raftGroup) encode(f *flight) {
	stamp := base.VersionAt(g.log.clock())
	f.entry = command.AppendEntryHead(f.entry, g.log.session, f.sequence, f.floor, len(f.members))
	var scratch []byte
	for _, p := range f.members {
		cmd := &p.Txn.Parts[0].Command
		cmd.Stamp, cmd.Request, cmd.Digest = stamp, p.Txn.Request, p.Txn.Digest
		f.entry, scratch = command.AppendEntryCommand(f.entry, scratch, cmd)
	}
}

// land answers the members with the outcome that they already have, or with err.
func (g *raftGroup) land(f *flight, err error) {
	g.mu.Lock()
	for i, sequence := range g.mu.flying {
		if sequence == f.sequence {
			last := len(g.mu.flying) - 1
			g.mu.flying[i] = g.mu.flying[last]
			g.mu.flying = g.mu.flying[:last]
			break
		}
	}
	g.mu.Unlock()
	if err == nil {
		g.log.admission.Observe(time.Since(f.started))
	}
	for _, p := range f.members {
		g.log.admission.Answer(p, err)
	}
}

// clock returns how far the clock of the shard has come, as far as this node knows.
func (g *raftGroup) clock() base.Version {
	seen := base.Version(g.seen.Load())
	if r := g.replica.Load(); r != nil {
		return max(seen, r.machine.Clock())
	}
	return seen
}

// see notes a version that the shard has given out.
func (g *raftGroup) see(version base.Version) {
	for {
		old := g.seen.Load()
		if uint64(version) <= old || g.seen.CompareAndSwap(old, uint64(version)) {
			return
		}
	}
}

// carry proposes the entry until it is decided, again and again if need be: the
// shard applies it once. An error is a *base.Error.
func (g *raftGroup) carry(f *flight) error {
	patience := g.log.attempt
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		if err := g.mayPropose(f); err != nil {
			return err
		}
		term, leads := g.reign()
		if g.log.far.Any() && !leads {
			if over, err := g.carryFar(f); over {
				return err
			}
			g.pause(timer)
			continue
		}
		rs, err := g.log.raft.Propose(g.session, f.entry, patience)
		if err == nil {
			result, ok := g.wait(context.Background(), rs, timer, term, patience)
			if ok {
				return g.outcome(f, result)
			}
			f.heard = f.heard || !result.Dropped()
			patience = min(2*patience, g.log.maxAttempt)
		} else if err := g.refused(f, err); err != nil {
			return err
		} else {
			g.pause(timer)
		}
	}
}

// carryFar has the leader of the shard, on another node, decide the entry. It is
// over if that is done, or will not be tried again.
func (g *raftGroup) carryFar(f *flight) (over bool, _ error) {
	ctx, cancel := context.WithTimeout(g.log.ending, g.log.giveUp-time.Since(f.started))
	defer cancel()
	results, err := g.log.far.Propose(ctx, g.id, f.entry)
	if err == nil {
		return true, g.results(f, results)
	}
	e, ok := err.(*base.Error) //nolint:errorlint // only the outermost says what became of the request
	f.heard = f.heard || !ok || e.Outcome != base.OutcomeNotApplied
	if f.heard {
		return false, nil
	}
	switch {
	case errors.Is(err, base.ErrTooLarge), errors.Is(err, base.ErrInvalid):
		return true, e // and so would be another attempt
	case !errors.Is(err, base.ErrOverloaded) && !errors.Is(err, base.ErrNoSpace):
		return false, nil
	case !f.must:
		return true, e
	}
	g.shed(f, e)
	return false, nil
}

// shed answers the members of an entry that the leader has no room for, and leaves those
// in it that give free what a transaction holds: they alone are not refused. No part of
// the entry can be in the log.
func (g *raftGroup) shed(f *flight, refusal error) {
	kept := f.members[:0]
	for _, p := range f.members {
		if releases(p.Txn.Parts[0].Command.Step.Kind) {
			kept = append(kept, p)
		} else {
			g.log.admission.Answer(p, refusal)
		}
	}
	if clear(f.members[len(kept):]); len(kept) < len(f.members) {
		f.members, f.entry = kept, f.entry[:0]
		g.encode(f)
	}
}

// leads reports whether this node's replica leads the group, as far as it knows.
func (g *raftGroup) leads() bool {
	_, leads := g.reign()
	return leads
}

// reign returns the term of which this node knows a leader, and whether it is this
// node's replica. Who proposes must look at both at once: what it proposes to a
// leader of a term is to be waited for in that term only.
func (g *raftGroup) reign() (term uint64, leads bool) {
	r := g.replica.Load()
	leader, term := g.log.host.Leader(g.id)
	return term, r != nil && leader == r.id
}

// mayPropose returns why the entry must not, or no longer, be proposed here.
func (g *raftGroup) mayPropose(f *flight) error {
	if err := g.log.fence.Err(); err != nil {
		return f.end(fmt.Errorf("%w: this node has failed: %v", base.ErrUnavailable, err))
	}
	if g.log.stopped() {
		return f.end(base.ErrClosed)
	}
	if time.Since(f.started) > g.log.giveUp {
		return f.end(fmt.Errorf("%w: shard %d decided nothing in %v", base.ErrUnavailable, g.id, g.log.giveUp))
	}
	if g.log.far.Any() {
		return nil
	}
	if leader := g.leader(); leader != 0 && !g.leads() && !f.heard && !f.anywhere {
		return inflight.NotApplied(g.log.elsewhere(g.id, leader))
	}
	return nil
}

// end returns the error of a flight that ends without a decision.
func (f *flight) end(cause error) error {
	if f.heard {
		return inflight.Indeterminate(errors.New(cause.Error())) // it is that and nothing else
	}
	return inflight.NotApplied(cause)
}

// refused deals with a proposal that was not taken; nil means to try again.
func (g *raftGroup) refused(f *flight, err error) error {
	gone := errors.Is(err, dragonboat.ErrShardClosed) || errors.Is(err, dragonboat.ErrShardNotFound)
	switch {
	case gone && g.log.far.Any():
		return nil // the replica leaves; another node leads, or will
	case errors.Is(err, dragonboat.ErrSystemBusy) && !f.heard && !f.must:
		return g.log.admission.Overloaded(fmt.Errorf("%w: the log of shard %d is full", base.ErrOverloaded, g.id))
	case errors.Is(err, dragonboat.ErrPayloadTooBig):
		return f.end(fmt.Errorf("%w: log entry of %d bytes", base.ErrTooLarge, len(f.entry)))
	case errors.Is(err, dragonboat.ErrClosed), errors.Is(err, dragonboat.ErrShardClosed):
		return f.end(base.ErrClosed)
	case errors.Is(err, dragonboat.ErrShardNotFound):
		return f.end(fmt.Errorf("%w: this node has no replica of shard %d", base.ErrUnavailable, g.id))
	}
	return nil
}

// pause waits for a moment before another attempt.
func (g *raftGroup) pause(timer *time.Timer) { g.pauseFor(timer, g.log.tick) }

func (g *raftGroup) pauseFor(timer *time.Timer, d time.Duration) {
	timer.Reset(d)
	select {
	case <-timer.C:
	case <-g.log.stop:
	}
}

// wait waits for the outcome of one attempt, but not longer than for the leader
// that it was made to: what a leader has not committed, the next may not have. Nor
// does a log that is being closed wait for more than a first attempt.
func (g *raftGroup) wait(ctx context.Context, rs *dragonboat.RequestState, timer *time.Timer, term uint64, patience time.Duration) (dragonboat.RequestResult, bool) {
	started, look := time.Now(), g.log.look
	for {
		turn := g.turns.next()
		if g.term() != term {
			return dragonboat.RequestResult{}, false
		}
		timer.Reset(look)
		look = g.log.look
		select {
		case result := <-rs.ResultC():
			rs.Release()
			if result.Dropped() {
				// At once, and so it would be again: there is no leader, or it is
				// handing over, which takes some milliseconds.
				g.pauseFor(timer, g.log.tick/8)
			}
			return result, result.Completed()
		case <-g.log.fence.Tripped():
			return dragonboat.RequestResult{}, false
		case <-ctx.Done():
			return dragonboat.RequestResult{}, false
		case <-turn:
			look = g.log.tick / 8 // raft says who leads a moment after it says that it changes
		case <-timer.C:
			waited := time.Since(started)
			if waited > patience || (waited > g.log.attempt && g.log.stopped()) {
				return dragonboat.RequestResult{}, false
			}
		}
	}
}

// outcome hands the results of a decided entry to its members.
func (g *raftGroup) outcome(f *flight, r dragonboat.RequestResult) error {
	if err := g.log.fence.Err(); err != nil {
		return inflight.Indeterminate(fmt.Errorf("this node has failed: %v", err))
	}
	result := r.GetResult()
	if len(result.Data) == 0 {
		return inflight.Indeterminate(fmt.Errorf("shard %d decided without a result", g.id))
	}
	return g.results(f, result.Data)
}

// results hands the results of a decided entry, as its bytes have them, to its
// members.
func (g *raftGroup) results(f *flight, data []byte) error {
	into := make([]*command.Result, len(f.members))
	for i, p := range f.members {
		into[i] = &p.Txn.Result
	}
	if err := command.DecodeResults(data, into); err != nil {
		return inflight.Indeterminate(err)
	}
	for _, res := range into {
		g.see(res.Version)
	}
	return nil
}

// turns tells whoever waits that another leader may have come.
type turns struct {
	mu sync.Mutex    // protects ch
	ch chan struct{} // closed at the next turn; nil if nobody waits
}

// next returns a channel that is closed when the leader changes after the call.
func (t *turns) next() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ch == nil {
		t.ch = make(chan struct{})
	}
	return t.ch
}

func (t *turns) turn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ch != nil {
		close(t.ch)
		t.ch = nil
	}
}

// leader returns the replica that this node takes for the leader, 0 for none.
func (g *raftGroup) leader() uint64 {
	leader, _ := g.log.host.Leader(g.id)
	return leader
}

// term returns the term of which this node knows a leader.
func (g *raftGroup) term() uint64 {
	_, term := g.log.host.Leader(g.id)
	return term
}
