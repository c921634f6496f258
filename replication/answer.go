package replication

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/fsm"
	"github.com/distributedcache/cache/replication/internal/inflight"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
)

// Answer serves a request of another node's Host. It never asks a third node for
// the shard that is meant: if this one does not lead it, the error is a
// *NotLeaderError that says who does. The answer does not alias the request.
func (h *Host) Answer(ctx context.Context, request []byte) ([]byte, error) {
	if !h.answering.Enter() {
		return nil, inflight.NotApplied(base.ErrClosed)
	}
	defer h.answering.Leave()
	q, err := ask.Decode(request)
	if err != nil {
		return nil, err
	}
	if h.raft == nil || (int(q.Shard) >= len(h.groups) && q.Shard != base.CatalogShard) {
		return nil, fmt.Errorf("%w: this node has no shard %d", base.ErrInvalid, q.Shard)
	}
	switch q.Kind {
	case ask.Status:
		if err := h.Err(); err != nil {
			return nil, fmt.Errorf("%w: this node has failed: %v", base.ErrUnavailable, err)
		}
		if h.retiring.Load() {
			return nil, fmt.Errorf("%w: this node is about to stop", base.ErrUnavailable)
		}
		return ask.AppendStatus(nil, h.NodeStatus(ctx)), nil
	case ask.Get:
		return h.answerGet(ctx, q)
	case ask.Confirm:
		return h.answerConfirm(ctx, q.Bytes)
	}
	g := h.raft.log.group(q.Shard)
	if _, err := g.mustLead(); err != nil {
		return nil, err
	}
	switch q.Kind {
	case ask.Propose:
		return g.decide(ctx, q.Bytes)
	case ask.Barrier:
		return nil, g.barrierHere()
	case ask.Outcome:
		return h.answerOutcome(ctx, g, q.ID)
	case ask.Recall:
		return h.answerRecall(ctx, g, q.ID)
	case ask.Check:
		return h.answerCheck(ctx, g, q.Bytes)
	case ask.AddLearner, ask.Promote, ask.DropMember, ask.TransferLeader:
		g.tenure.change()
		defer g.tenure.change()
		return nil, h.raft.host.Change(ctx, q, func(ctx context.Context) error { return h.raft.cutLog(ctx, g) })
	}
	return nil, fmt.Errorf("%w: request of kind %d has no single answer", base.ErrInvalid, q.Kind)
}

// mustLead returns the term in which this node leads the group, as far as it knows,
// or else a *NotLeaderError.
func (g *raftGroup) mustLead() (term uint64, _ error) {
	term, leads := g.reign()
	if leads {
		return term, nil
	}
	e := &NotLeaderError{Shard: g.id}
	if leader := g.leader(); leader != 0 {
		e.Node = g.log.nodeOf(g.id, leader)
	}
	return 0, e
}

// decide has the group, which this node leads, decide an entry that another node
// made, and returns its results. It makes one attempt: the other node tries again.
func (g *raftGroup) decide(ctx context.Context, entry []byte) ([]byte, error) {
	// What no replica could apply must not get into the log.
	e, err := command.DecodeEntry(entry)
	if err != nil {
		return nil, inflight.NotApplied(fmt.Errorf("%w: %w", base.ErrInvalid, err))
	}
	if err := g.log.fence.Err(); err != nil {
		return nil, inflight.NotApplied(fmt.Errorf("%w: this node has failed: %v", base.ErrUnavailable, err))
	}
	fills := func(cmd command.Command) bool { return !releases(cmd.Step.Kind) }
	if err := g.log.store.Writable(); err != nil && slices.ContainsFunc(e.Commands, fills) {
		return nil, inflight.NotApplied(err) // who made it takes out what may not be refused
	}
	patience := g.log.maxAttempt
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, max(time.Until(deadline), g.log.attempt))
	}
	term, err := g.mustLead()
	if err != nil {
		return nil, err
	}
	rs, err := g.log.raft.Propose(g.session, entry, patience)
	if err != nil {
		f := flight{entry: entry}
		if err := g.refused(&f, err); err != nil {
			return nil, err
		}
		return nil, inflight.NotApplied(fmt.Errorf("%w: %w", base.ErrUnavailable, err))
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	result, ok := g.wait(ctx, rs, timer, term, patience)
	if err := g.log.fence.Err(); err != nil {
		return nil, inflight.Indeterminate(fmt.Errorf("the leader of shard %d has failed: %v", g.id, err))
	}
	if data := result.GetResult(); ok && data.Value == fsm.Applied {
		return data.Data, nil
	}
	if result.Dropped() {
		return nil, inflight.NotApplied(fmt.Errorf("%w: shard %d has no leader now", base.ErrUnavailable, g.id))
	}
	return nil, inflight.Indeterminate(fmt.Errorf("shard %d has not decided", g.id))
}

// barrierHere runs a barrier for a node, which asks for few at once. Readers here
// may wait for just this answer, if this node has come to lead since they asked: so
// it does not wait for them.
func (g *raftGroup) barrierHere() error {
	r := g.replica.Load()
	if r == nil {
		return &NotLeaderError{Shard: g.id}
	}
	if err := g.readIndex(time.Now(), r); err != nil {
		return fmt.Errorf("%w: shard %d: %w", base.ErrUnavailable, g.id, err)
	}
	return nil
}

// passHere is pass that fails if this node's replica cannot be asked, and returns
// the replica that has arrived.
func (g *raftGroup) passHere(ctx context.Context) (*replica, error) {
	r := g.replica.Load()
	if r == nil {
		return nil, &NotLeaderError{Shard: g.id}
	}
	if !r.current { // it leads, so it is about to be
		if err := g.readIndex(time.Now(), r); err != nil {
			return nil, fmt.Errorf("%w: shard %d: %w", base.ErrUnavailable, g.id, err)
		}
		if r = g.renew(r, true); r == nil {
			return nil, &NotLeaderError{Shard: g.id}
		}
		return r, nil
	}
	if err := g.pass(ctx); err != nil {
		return nil, err
	}
	if g.replica.Load() != r {
		return nil, &NotLeaderError{Shard: g.id}
	}
	return r, nil
}

// here runs fn, which reads this node's replica, after a barrier. If the replica
// leaves or loses touch meanwhile, what fn read does not count.
func (g *raftGroup) here(ctx context.Context, fn func(*replica) error) error {
	r, err := g.passHere(ctx)
	if err != nil {
		return err
	}
	err = fn(r)
	if g.replica.Load() != r {
		return &NotLeaderError{Shard: g.id}
	}
	return err
}

func (h *Host) answerOutcome(ctx context.Context, g *raftGroup, txn base.RequestID) (buf []byte, err error) {
	err = g.here(ctx, func(*replica) error {
		d, err := kvfsm.Outcome(g.space, txn)
		var v ask.Verdict
		if d != nil {
			v = ask.Verdict{Yes: true, Version: d.At}
		}
		buf = v.Append(nil)
		return err
	})
	return buf, err
}

func (h *Host) answerRecall(ctx context.Context, g *raftGroup, id base.RequestID) (buf []byte, err error) {
	err = g.here(ctx, func(*replica) error {
		found, ok, err := kvfsm.Lookup(g.space, id)
		if ok {
			buf = found.Append(nil)
		}
		return err
	})
	return buf, err
}

// answerCheck tells whether the reads of a command hold, and the mark of the shard
// from after that was looked at: if it is the one from before they were read, no
// key was removed up to then.
func (h *Host) answerCheck(ctx context.Context, g *raftGroup, bytes []byte) (buf []byte, err error) {
	cmd, err := command.Decode(bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", base.ErrInvalid, err)
	}
	part := command.Part{Shard: g.id, Command: *cmd}
	err = g.here(ctx, func(r *replica) error {
		v, err := h.readView(ctx, g.self[:], func(t kvfsm.Held) bool { return t.Affects(cmd) }, base.ReadOptions{})
		if err != nil {
			return err
		}
		defer v.Close()
		same, err := v.has(ctx, &part)
		same = same && !v.Doubtful && (!v.Removing || !readsAbsence(cmd))
		buf = ask.Verdict{Yes: same, Version: r.machine.Removed()}.Append(nil)
		return err
	})
	return buf, err
}

// marksOf returns the marks of shards that this node leads. They are taken before
// anything is read.
func (h *Host) marksOf(shards []base.ShardID) ([]ask.Mark, error) {
	marks := make([]ask.Mark, 0, len(shards))
	for _, id := range shards {
		g := h.raft.log.group(id)
		if _, err := g.mustLead(); err != nil {
			return nil, err
		}
		if r := g.replica.Load(); r != nil {
			marks = append(marks, ask.Mark{Shard: id, Removed: r.machine.Removed()})
		}
	}
	return marks, nil
}

// answerGet reads keys of shards that this node leads.
func (h *Host) answerGet(ctx context.Context, q *ask.Request) ([]byte, error) {
	shards := h.shardsOf(q.Keys)
	marks, err := h.marksOf(shards)
	if err != nil {
		return nil, err
	}
	here, away := h.split(shards, base.ReadOptions{})
	if len(away) > 0 {
		return nil, &NotLeaderError{Shard: away[0]}
	}
	page := ask.Page{Marks: marks, Items: make([]base.Item, len(q.Keys))}
	if err := h.multiGetHere(ctx, here.shards, q.Keys, nil, page.Items, q.Read); err != nil {
		return nil, err
	}
	if !h.still(here) {
		return nil, &NotLeaderError{Shard: shards[0]}
	}
	return page.Append(nil), nil
}

// Sizes of the pieces of a scan's answer: small at first, so that a short scan is
// answered fast, then larger.
const (
	firstPieceItems = 128
	pieceGrowth     = 4
	maxPieceItems   = 1000
	maxPieceBytes   = 256 << 10
)

// AnswerStream serves a request that Remote.Stream was called with. send must not
// keep the piece.
func (h *Host) AnswerStream(ctx context.Context, request []byte, send func(piece []byte) error) error {
	if !h.answering.Enter() {
		return base.ErrClosed
	}
	defer h.answering.Leave()
	q, err := ask.Decode(request)
	if err != nil {
		return err
	}
	if q.Kind != ask.Scan || h.raft == nil || len(q.Shards) == 0 {
		return fmt.Errorf("%w: request of kind %d has no answer in pieces", base.ErrInvalid, q.Kind)
	}
	for _, id := range q.Shards {
		if id != base.CatalogShard && int(id) >= len(h.groups) {
			return fmt.Errorf("%w: this node has no shard %d", base.ErrInvalid, id)
		}
	}
	return h.answerScan(ctx, q, send)
}

func (h *Host) answerScan(ctx context.Context, q *ask.Request, send func(piece []byte) error) error {
	marks, err := h.marksOf(q.Shards)
	if err != nil {
		return err
	}
	v, err := h.viewOf(ctx, q.Shards, q.Range, base.ReadOptions{})
	if err != nil {
		return err
	}
	defer v.Close()
	if len(v.away) > 0 {
		return &NotLeaderError{Shard: v.away[0]}
	}
	p := pieces{page: ask.Page{Marks: marks}, limit: firstPieceItems, send: send}
	left := q.Read.Limit
	for it, err := range v.scan(ctx, q.Shards, q.Range, q.Read) {
		if err == nil {
			err = p.add(it)
		}
		if err != nil {
			return err
		}
		if left--; left == 0 {
			break
		}
	}
	return p.flush()
}

// pieces gathers items and sends them.
type pieces struct {
	page  ask.Page
	bytes int
	limit int // items of the next piece
	buf   []byte
	send  func([]byte) error
}

func (p *pieces) add(it base.Item) error {
	p.page.Items = append(p.page.Items, it)
	p.bytes += it.Key.Bytes() + len(it.Value)
	if len(p.page.Items) < p.limit && p.bytes < maxPieceBytes {
		return nil
	}
	p.limit = min(p.limit*pieceGrowth, maxPieceItems)
	return p.flush()
}

func (p *pieces) flush() error {
	p.buf = p.page.Append(p.buf[:0])
	p.page.Marks, p.page.Items, p.bytes = nil, p.page.Items[:0], 0
	return p.send(p.buf)
}

// ReadCatalog returns all items of the catalog as they are.
func (h *Host) ReadCatalog(ctx context.Context) ([]base.Item, error) {
	v, err := h.viewOf(ctx, h.catalog.self[:], base.All(), base.ReadOptions{})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	var items []base.Item
	for it, err := range v.scan(ctx, h.catalog.self[:], base.All(), base.ReadOptions{}) {
		if err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	return items, nil
}
