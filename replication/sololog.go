package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/storage"
)

const (
	// queuedGroups is how many applied groups may queue for the syncer, beside
	// the one it waits for and the one that the lane hands over. More would only
	// make groups smaller.
	queuedGroups = 0
	// maxGroupBytes ends a group early, so that one storage batch stays well
	// below the size of a memtable.
	maxGroupBytes = 4 << 20
	// maxInFlightBytes bounds the memory that waiting transactions hold.
	maxInFlightBytes = 256 << 20
	// minRetryAfter and maxRetryAfter bound the advice to an overloaded caller.
	minRetryAfter = time.Millisecond
	maxRetryAfter = time.Second
)

// soloConfig is what a sololog needs.
type soloConfig struct {
	store        *storage.Store
	machines     []*kvfsm.Machine
	head         soloHead
	clock        base.Clock
	synced       bool          // answer after the fsync
	syncInterval time.Duration // if not synced: how often to sync; 0 = never
	maxInFlight  int
	logger       *slog.Logger
}

// sololog is the log of a node without peers. One goroutine, the lane, applies
// the transactions of all shards: it takes whatever has been proposed since it
// last looked, runs it against the machines of the shards into one storage
// batch, and makes the batch visible. A second goroutine, the syncer, waits for
// the fsync of each batch in order and answers its proposers. So transactions
// on any shards are atomic, one fsync serves everybody who came meanwhile, and
// applying overlaps with syncing.
type sololog struct {
	soloConfig
	queue   *batcher[*pending]
	groups  chan *batch
	settle  settler
	ordered atomic.Uint64 // no visible write has a newer version

	waiting      atomic.Int64
	waitingBytes atomic.Int64
	refused      atomic.Int64
	latency      atomic.Int64 // of a recent group, in nanoseconds

	pool    sync.Pool     // of *pending
	stop    chan struct{} // ends the interval syncer
	workers sync.WaitGroup
}

// pending is one proposal on its way.
type pending struct {
	txn   *command.Txn
	bytes int64
	state atomic.Int32
	err   error      // why this one alone was not applied
	done  chan error // has room for the one answer
}

// The states of a pending proposal. Only a queued one can be abandoned.
const (
	stateQueued int32 = iota
	stateTaken
	stateAbandoned
)

// batch is a group of proposals that share one storage batch.
type batch struct {
	writes  *storage.Batch
	members []*pending
	version base.Version // newest of its transactions
	started time.Time
	err     error // a *base.Error if none of it, or nobody knows what, was applied
}

func newSololog(cfg soloConfig) *sololog {
	l := &sololog{
		soloConfig: cfg,
		queue:      newBatcher[*pending](),
		groups:     make(chan *batch, queuedGroups),
		stop:       make(chan struct{}),
	}
	l.pool.New = func() any { return &pending{done: make(chan error, 1)} }
	l.ordered.Store(uint64(cfg.head.clock))
	l.settle.durable.Store(uint64(cfg.head.clock))
	l.workers.Go(l.runLane)
	l.workers.Go(l.runSyncer)
	if !cfg.synced && cfg.syncInterval > 0 {
		l.workers.Go(l.runInterval)
	}
	return l
}

// Propose implements log.
func (l *sololog) Propose(ctx context.Context, txn *command.Txn) error {
	p := l.pool.Get().(*pending)
	p.txn, p.bytes, p.err = txn, txnBytes(txn), nil
	p.state.Store(stateQueued)
	if err := l.admit(p); err != nil {
		return err
	}
	if !l.queue.add(p) {
		l.leave(p)
		return notApplied(base.ErrClosed)
	}
	select {
	case err := <-p.done:
		p.txn = nil
		l.pool.Put(p)
		return err
	case <-ctx.Done(): // p is not reused: the lane may still hold it
	}
	cause := context.Cause(ctx)
	if p.state.CompareAndSwap(stateQueued, stateAbandoned) {
		return notApplied(fmt.Errorf("%w: gave up waiting for the writes ahead: %w", base.ErrUnavailable, cause))
	}
	return &base.Error{
		Outcome: base.OutcomeUnknown,
		Err:     fmt.Errorf("%w: gave up waiting for the disk: %w", base.ErrIndeterminate, cause),
	}
}

// admit counts the proposal in, or refuses it when too many wait.
func (l *sololog) admit(p *pending) error {
	if err := l.store.Writable(); err != nil && len(p.txn.Parts) > 0 {
		return notApplied(err)
	}
	n, bytes := l.waiting.Add(1), l.waitingBytes.Add(p.bytes)
	if n <= int64(l.maxInFlight) && (bytes <= maxInFlightBytes || bytes == p.bytes) {
		return nil
	}
	l.leave(p)
	l.refused.Add(1)
	e := notApplied(fmt.Errorf("%w: %d writes of %d bytes are waiting", base.ErrOverloaded, n-1, bytes-p.bytes))
	e.RetryAfter = min(max(2*time.Duration(l.latency.Load()), minRetryAfter), maxRetryAfter)
	return e
}

func (l *sololog) leave(p *pending) {
	l.waiting.Add(-1)
	l.waitingBytes.Add(-p.bytes)
}

// answer hands the outcome to the proposer.
func (l *sololog) answer(p *pending, err error) {
	l.leave(p)
	p.done <- err
}

// Settle implements log.
func (l *sololog) Settle(ctx context.Context, _ base.ShardID, v base.Version) error {
	if !l.synced {
		return nil
	}
	return l.settle.wait(ctx, v)
}

// Ordered implements log.
func (l *sololog) Ordered() base.Version { return base.Version(l.ordered.Load()) }

// InFlight implements log.
func (l *sololog) InFlight() (waiting, refused int64) {
	return l.waiting.Load(), l.refused.Load()
}

// Close implements log.
func (l *sololog) Close() {
	l.queue.close()
	close(l.stop)
	l.workers.Wait()
	l.settle.fail(base.ErrClosed)
}

// runLane is the goroutine that applies.
func (l *sololog) runLane() {
	defer close(l.groups)
	var queue []*pending
	for {
		var ok bool
		if queue, ok = l.queue.take(queue); !ok {
			return
		}
		for rest := queue; len(rest) > 0; {
			var g *batch
			g, rest = l.applyGroup(rest)
			l.groups <- g
		}
	}
}

// applyGroup runs transactions from the front of the queue until the group is
// full, and makes them visible. It returns those that were left over.
func (l *sololog) applyGroup(queue []*pending) (*batch, []*pending) {
	g := &batch{writes: l.store.NewBatch(), started: l.clock(), members: make([]*pending, 0, len(queue))}
	now, given := base.VersionAt(g.started), false
	for len(queue) > 0 && g.err == nil {
		p := queue[0]
		if !g.writes.Empty() && (p.txn.HasRanges() || g.writes.Bytes()+int(p.bytes) > maxGroupBytes) {
			break // a range is checked against storage, so what is before it goes first
		}
		queue = queue[1:]
		if !p.state.CompareAndSwap(stateQueued, stateTaken) {
			l.leave(p)
			continue
		}
		g.members = append(g.members, p)
		before := g.writes.Count()
		if err := l.execute(g.writes, p.txn, now); err != nil {
			p.err = notApplied(err)
			if g.writes.Count() != before {
				g.err = p.err // half of it is in the batch, which must go
			}
			continue
		}
		// A version that a caller was told must not come again after a restart,
		// even if the transaction wrote nothing: it may have deleted nothing.
		given = given || (len(p.txn.Parts) > 0 && p.txn.Result.Status == command.StatusApplied)
	}
	g.version = l.head.clock
	if g.err == nil && (given || !g.writes.Empty()) {
		l.head.save(g.writes)
		l.ordered.Store(uint64(l.head.clock))
		if err := g.writes.Apply(); err != nil {
			g.err = l.indeterminate(err)
		}
	}
	return g, queue
}

// execute runs one transaction into the batch, stamped with the time or right
// after the one before. An error is one of storage.
func (l *sololog) execute(b *storage.Batch, txn *command.Txn, now base.Version) error {
	stamp := max(l.head.clock+1, now)
	var err error
	switch len(txn.Parts) {
	case 0: // a barrier: the answer comes after everything before it
		return nil
	case 1:
		cmd := &txn.Parts[0].Command
		cmd.Stamp, cmd.Request, cmd.Digest = stamp, txn.Request, txn.Digest
		err = l.machines[txn.Parts[0].Shard].Apply(b, cmd, &txn.Result)
	default:
		err = l.executeParts(b, txn, stamp)
	}
	if err == nil {
		l.head.clock = stamp
	}
	return err
}

// executeParts runs a transaction on several shards: all are checked before
// any is written, and all get the same version.
func (l *sololog) executeParts(b *storage.Batch, txn *command.Txn, version base.Version) error {
	res := &txn.Result
	res.Reset()
	anchor := l.machines[txn.Parts[txn.Anchor].Shard]
	if !txn.Request.IsZero() {
		if found, err := anchor.Recall(b, txn.Request, txn.Digest, res); err != nil || found {
			return err
		}
	}
	for i := range txn.Parts {
		part := &txn.Parts[i]
		part.Command.Stamp = version
		part.Result.Reset()
		if err := l.machines[part.Shard].Check(b, &part.Command, &part.Result); err != nil {
			return err
		}
		res.Status = max(res.Status, part.Result.Status)
	}
	if res.Status == command.StatusApplied {
		res.Version = version
		for i := range txn.Parts {
			part := &txn.Parts[i]
			if err := l.machines[part.Shard].Write(b, &part.Command, version, &part.Result); err != nil {
				return err
			}
		}
	}
	txn.Merge()
	if !txn.Request.IsZero() && res.Status != command.StatusConflict {
		return anchor.Remember(b, txn.Request, txn.Digest, version, res)
	}
	return nil
}

// runSyncer is the goroutine that answers, in order.
func (l *sololog) runSyncer() {
	for g := range l.groups {
		if g.err == nil && !g.writes.Empty() {
			if err := g.writes.Wait(); err != nil {
				g.err = l.indeterminate(err)
			}
		}
		if g.err == nil {
			l.settle.advance(g.version)
		}
		l.latency.Store(int64(l.clock().Sub(g.started)))
		for _, p := range g.members {
			l.answer(p, cmp.Or(p.err, g.err))
		}
		g.writes.Release()
	}
}

// indeterminate is what proposers are told when their group could not be
// applied or synced: part of it may be on disk. Readers that wait for it can
// no longer be served either.
func (l *sololog) indeterminate(cause error) error {
	l.logger.Error("a group of writes could not be made durable", "error", cause)
	l.settle.fail(fmt.Errorf("%w: a write that was read is not durable: %w", base.ErrUnavailable, cause))
	return &base.Error{
		Outcome: base.OutcomeUnknown,
		Err:     fmt.Errorf("%w: %w", base.ErrIndeterminate, cause),
	}
}

// runInterval bounds how much a power failure can take in relaxed mode.
func (l *sololog) runInterval() {
	ticker := time.NewTicker(l.syncInterval)
	defer ticker.Stop()
	synced := base.Version(0)
	for {
		select {
		case <-l.stop:
			return
		case <-ticker.C:
		}
		if now := l.Ordered(); now > synced {
			if err := l.store.Sync(); err != nil {
				if !errors.Is(err, base.ErrClosed) {
					l.logger.Error("interval sync failed", "error", err)
				}
				return // the store has fenced itself
			}
			synced = now
		}
	}
}

// txnBytes is how much memory a waiting transaction counts for.
func txnBytes(txn *command.Txn) int64 {
	const perWrite = 64 // beside key and value
	n := 0
	for i := range txn.Parts {
		cmd := &txn.Parts[i].Command
		for j := range cmd.Writes {
			n += cmd.Writes[j].Bytes() + perWrite
		}
		n += perWrite * (len(cmd.Reads) + len(cmd.Ranges) + len(cmd.Sweep.Expired))
	}
	return int64(n)
}

func notApplied(cause error) *base.Error {
	return &base.Error{Outcome: base.OutcomeNotApplied, Err: cause}
}
