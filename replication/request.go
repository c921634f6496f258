package replication

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/inflight"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
)

// keptArenaBytes is the largest arena that a pooled request keeps.
const keptArenaBytes = 64 << 10

// request turns the writes of a caller into a transaction. The values are
// copied, since the log may hold them for longer than the caller waits.
type request struct {
	txn    command.Txn
	arena  []byte
	writes []base.Write // sorted by shard
	// positions has where each of writes stands among the caller's; it and
	// the next two are scratch space for several shards.
	positions []int
	shards    []base.ShardID
	starts    []int
}

// one fills the request with a single write.
func (r *request) one(w *base.Write, id base.ShardID) {
	r.arena = append(r.arena[:0], w.Value...)
	r.writes = append(r.writes[:0], *w)
	r.writes[0].Value = r.arena
	r.txn.Parts = append(r.txn.Parts[:0], command.Part{Shard: id})
	r.txn.Parts[0].Command.Writes = r.writes
}

// many fills the request with the writes of a batch, sorted by shard and
// otherwise in their order.
func (r *request) many(writes []base.Write, shards int, shardOf func(base.Key) base.ShardID) {
	r.shards = slices.Grow(r.shards[:0], len(writes))[:len(writes)]
	r.starts = slices.Grow(r.starts[:0], shards+1)[:shards+1]
	clear(r.starts)
	total := 0
	for i := range writes {
		r.shards[i] = shardOf(writes[i].Key)
		r.starts[r.shards[i]+1]++
		total += len(writes[i].Value)
	}
	for i := range shards {
		r.starts[i+1] += r.starts[i]
	}
	r.arena = slices.Grow(r.arena[:0], total)
	r.writes = slices.Grow(r.writes[:0], len(writes))[:len(writes)]
	r.positions = slices.Grow(r.positions[:0], len(writes))[:len(writes)]
	for i := range writes {
		at := r.starts[r.shards[i]]
		r.starts[r.shards[i]]++
		from := len(r.arena)
		r.arena = append(r.arena, writes[i].Value...)
		r.writes[at] = writes[i]
		r.writes[at].Value = r.arena[from:len(r.arena):len(r.arena)]
		r.positions[at] = i
	}
	r.split(shards)
	r.txn.Anchor = r.partOf(r.shards[0])
}

// together fills the request with the writes of a batch on one shard.
func (r *request) together(writes []base.Write, id base.ShardID) {
	r.arena, r.writes = r.arena[:0], append(r.writes[:0], writes...)
	for i := range r.writes {
		r.writes[i].Value = slices.Clone(writes[i].Value)
	}
	r.txn.Parts = append(r.txn.Parts[:0], command.Part{Shard: id, Command: command.Command{Writes: r.writes}})
}

// split makes one part for each shard; starts has where each shard ends.
func (r *request) split(shards int) {
	parts := r.txn.Parts[:0]
	from := 0
	for id := range shards {
		to := r.starts[id]
		if to == from {
			continue
		}
		if len(parts) < cap(parts) {
			parts = parts[:len(parts)+1] // keeps the memory of its result
		} else {
			parts = append(parts, command.Part{})
		}
		p := &parts[len(parts)-1]
		p.Shard, p.Command = base.ShardID(id), command.Command{Writes: r.writes[from:to]}
		p.Positions = r.positions[from:to]
		from = to
	}
	r.txn.Parts = parts
}

func (r *request) partOf(id base.ShardID) int {
	return slices.IndexFunc(r.txn.Parts, func(p command.Part) bool { return p.Shard == id })
}

func (h *Host) newRequest(id base.RequestID, writes []base.Write) *request {
	r := h.requests.Get().(*request)
	r.txn.Request, r.txn.Digest, r.txn.Anchor = id, 0, 0
	if !id.IsZero() {
		r.txn.Digest = command.Digest(writes)
	}
	return r
}

// release takes a request back. It is not called after an error, since then the
// log may still use the request.
func (h *Host) release(r *request) {
	clear(r.writes)
	if cap(r.arena) <= keptArenaBytes {
		h.requests.Put(r)
	}
}

// Write applies one put or delete and returns its new, or the removed, version.
func (h *Host) Write(ctx context.Context, w *base.Write, id base.RequestID) (base.Version, error) {
	r := h.newRequest(id, nil)
	if !id.IsZero() {
		r.txn.Digest = command.Digest([]base.Write{*w})
	}
	r.one(w, h.shardOf(w.Key))
	if err := h.log.Propose(ctx, &r.txn); err != nil {
		return 0, err
	}
	version := base.Version(0)
	err := refusal(&r.txn.Result, func(int) *base.Write { return w })
	if err == nil {
		version = r.txn.Result.Versions[0]
	}
	h.release(r)
	return version, err
}

// MultiWrite applies all writes or none. The results are in the order of the
// writes and are there too if a condition failed.
func (h *Host) MultiWrite(ctx context.Context, writes []base.Write, id base.RequestID) ([]base.Result, error) {
	r := h.newRequest(id, writes)
	r.many(writes, len(h.groups), h.shardOf)
	return h.applyAll(ctx, r, writes)
}

// WriteCatalog is MultiWrite on the catalog.
func (h *Host) WriteCatalog(ctx context.Context, writes []base.Write) ([]base.Result, error) {
	r := h.newRequest(base.RequestID{}, writes)
	r.together(writes, base.CatalogShard)
	return h.applyAll(ctx, r, writes)
}

// applyAll proposes the writes, which are in the request as well.
func (h *Host) applyAll(ctx context.Context, r *request, writes []base.Write) ([]base.Result, error) {
	if err := h.log.Propose(ctx, &r.txn); err != nil {
		return nil, err
	}
	results := make([]base.Result, len(writes))
	res := &r.txn.Result
	for i := range writes {
		results[i].Key = writes[i].Key
		if res.Status == command.StatusApplied {
			results[i].Version = res.Versions[i]
		}
	}
	at := func(i int) *base.Write { return &writes[i] }
	err := refusal(res, at)
	if err != nil {
		markFailed(results, res, at, err)
	}
	h.release(r)
	return results, err
}

// markFailed gives every write of a refused batch its error: those whose own
// condition failed say so, the others name the reason of the whole.
func markFailed(results []base.Result, res *command.Result, at func(int) *base.Write, err error) {
	for i := range results {
		results[i].Err = fmt.Errorf("not applied, as another operation of the batch was refused: %w", err)
	}
	for _, i := range res.Failed {
		results[i].Err = mismatch(at(i), res.Versions[i])
	}
}

// IndependentWrites applies each write by itself; results[i].Err says what
// became of it.
func (h *Host) IndependentWrites(ctx context.Context, writes []base.Write) []base.Result {
	results := make([]base.Result, len(writes))
	var workers errgroup.Group
	workers.SetLimit(independentWorkers)
	for i := range writes {
		workers.Go(func() error {
			results[i].Key = writes[i].Key
			results[i].Version, results[i].Err = h.Write(ctx, &writes[i], base.RequestID{})
			return nil
		})
	}
	_ = workers.Wait() // the workers report in their results
	return results
}

// independentWorkers is how many writes of one independent batch wait in the
// log at once: enough to share fsyncs, few enough not to crowd others out.
const independentWorkers = 64

// refusal turns the result of a refused transaction into an error.
func refusal(res *command.Result, at func(int) *base.Write) error {
	switch res.Status {
	case command.StatusApplied:
		return nil
	case command.StatusMismatch:
		i := res.Failed[0]
		return inflight.NotApplied(mismatch(at(i), res.Versions[i]))
	case command.StatusReused:
		return inflight.NotApplied(base.ErrRequestReused)
	default:
		return inflight.NotApplied(base.ErrConflict)
	}
}

func mismatch(w *base.Write, have base.Version) error {
	return &base.VersionError{Key: w.Key, Want: w.Cond.Want(), Have: have}
}

// Barrier returns once everything that was proposed before it is decided and
// as durable as was promised.
func (h *Host) Barrier(ctx context.Context) error {
	return h.log.Propose(ctx, new(command.Txn))
}

// Outcome tells what became of the write with this id, as far as any shard
// still remembers it.
func (h *Host) Outcome(ctx context.Context, id base.RequestID) (base.Outcome, base.Version, error) {
	if h.raft == nil {
		if err := h.Barrier(ctx); err != nil {
			return base.OutcomeUnknown, 0, err
		}
	}
	found, err := h.recall(ctx, id, h.all, nearby{})
	if err != nil || found == nil {
		return base.OutcomeUnknown, 0, err
	}
	if found.Result.Status != command.StatusApplied {
		return base.OutcomeNotApplied, 0, nil
	}
	return base.OutcomeApplied, found.Result.Version, nil
}

// recall looks for a remembered request; nil if there is none. Where an Update is
// remembered is told by its id, where a write is by its key. On the given shards it
// sees whatever was answered before the call, on the others what this node's
// replicas show. Those in arrived need not be made current again.
func (h *Host) recall(ctx context.Context, id base.RequestID, where []base.ShardID, arrived nearby) (*command.Remembered, error) {
	for {
		here, away := h.split(h.all, base.ReadOptions{})
		found, err := h.recallHere(ctx, id, here, here.beside(arrived, where))
		if !h.still(here) {
			continue
		}
		if err != nil || found != nil {
			return found, err
		}
		away = slices.DeleteFunc(away, func(s base.ShardID) bool { return !slices.Contains(where, s) })
		return h.recallAway(ctx, id, away)
	}
}

// beside returns which of the given shards are in n, and not with the same replica
// in arrived.
func (n nearby) beside(arrived nearby, of []base.ShardID) []base.ShardID {
	var ids []base.ShardID
	for i, id := range n.shards {
		at := slices.Index(arrived.shards, id)
		same := at >= 0 && (n.replicas == nil || n.replicas[i] == arrived.replicas[at])
		if !same && slices.Contains(of, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// recallHere is recall on this node's replicas, once the stale ones are current.
func (h *Host) recallHere(ctx context.Context, id base.RequestID, here nearby, stale []base.ShardID) (*command.Remembered, error) {
	if err := h.log.Current(ctx, stale); err != nil {
		return nil, err
	}
	for _, shard := range here.shards {
		found, ok, err := kvfsm.Lookup(h.groups[shard].space, id)
		if err != nil || ok {
			return found, err
		}
	}
	return nil, nil
}

// recallAway is recall on shards that other nodes are asked for.
func (h *Host) recallAway(ctx context.Context, id base.RequestID, shards []base.ShardID) (*command.Remembered, error) {
	found := make([]*command.Remembered, len(shards))
	var all errgroup.Group
	for i, shard := range shards {
		all.Go(func() (err error) {
			found[i], err = h.far.Recall(ctx, shard, id)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return nil, err
	}
	for _, m := range found {
		if m != nil {
			return m, nil
		}
	}
	return nil, nil
}
