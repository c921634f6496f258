package sololog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/inflight"
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
)

// Config is what a Log needs.
type Config struct {
	Store        *storage.Store
	Machines     []*kvfsm.Machine // by shard, opened with the clock of Head
	Head         Head
	Clock        base.Clock
	Synced       bool          // answer after the fsync
	SyncInterval time.Duration // if not synced: how often to sync; 0 = never
	MaxInFlight  int           // transactions that may wait at once
	Logger       *slog.Logger
}

// Log is the log of a node without peers. One goroutine, the lane, applies
// the transactions of all shards: it takes whatever has been proposed since it
// last looked, runs it against the machines of the shards into one storage
// batch, and makes the batch visible. A second goroutine, the syncer, waits for
// the fsync of each batch in order and answers its proposers. So transactions
// on any shards are atomic, one fsync serves everybody who came meanwhile, and
// applying overlaps with syncing.
type Log struct {
	cfg     Config
	head    Head // of the lane
	queue   *batcher[*inflight.Pending]
	groups  chan *batch
	settle  settler
	ordered atomic.Uint64 // no visible write has a newer version

	admission *inflight.Admission

	stop    chan struct{} // ends the interval syncer
	workers sync.WaitGroup
}

// batch is a group of proposals that share one storage batch.
type batch struct {
	writes  *storage.Batch
	members []*inflight.Pending
	version base.Version // newest of its transactions
	started time.Time
	err     error // a *base.Error if none of it, or nobody knows what, was applied
}

// Open starts a Log. The store stays the caller's, who closes it after the Log.
func Open(cfg Config) *Log {
	l := &Log{
		cfg:       cfg,
		head:      cfg.Head,
		queue:     newBatcher[*inflight.Pending](),
		groups:    make(chan *batch, queuedGroups),
		admission: inflight.New(cfg.MaxInFlight),
		stop:      make(chan struct{}),
	}
	l.ordered.Store(uint64(cfg.Head.clock))
	l.settle.durable.Store(uint64(cfg.Head.clock))
	l.workers.Go(l.runLane)
	l.workers.Go(l.runSyncer)
	if !cfg.Synced && cfg.SyncInterval > 0 {
		l.workers.Go(l.runInterval)
	}
	return l
}

// Propose implements the log of package replication.
func (l *Log) Propose(ctx context.Context, txn *command.Txn) error {
	if err := l.cfg.Store.Writable(); err != nil && len(txn.Parts) > 0 {
		return inflight.NotApplied(err)
	}
	p, err := l.admission.Enter(txn)
	if err != nil {
		return err
	}
	if !l.queue.add(p) {
		l.admission.Withdraw(p)
		return inflight.NotApplied(base.ErrClosed)
	}
	return l.admission.Await(ctx, p, "the disk")
}

// Current implements the log of package replication. There is nobody else who could have answered.
func (l *Log) Current(context.Context, []base.ShardID) error { return nil }

// Recent implements the log of package replication.
func (l *Log) Recent(context.Context, []base.ShardID, time.Duration) error { return nil }

// Tend implements the log of package replication.
func (l *Log) Tend(context.Context, base.ShardID) error { return nil }

// Cut implements the log of package replication: transactions are batches of the one store.
func (l *Log) Cut() bool { return true }

// Leads implements the log of package replication.
func (l *Log) Leads(base.ShardID) bool { return true }

// Settle implements the log of package replication.
func (l *Log) Settle(ctx context.Context, _ base.ShardID, v base.Version) error {
	if !l.cfg.Synced {
		return nil
	}
	return l.settle.wait(ctx, v)
}

// Ordered implements the log of package replication.
func (l *Log) Ordered() base.Version { return base.Version(l.ordered.Load()) }

// InFlight implements the log of package replication.
func (l *Log) InFlight() (waiting, refused int64) {
	return l.admission.InFlight()
}

// Close implements the log of package replication.
func (l *Log) Close() {
	l.queue.close()
	close(l.stop)
	l.workers.Wait()
	l.settle.fail(base.ErrClosed)
}

// runLane is the goroutine that applies.
func (l *Log) runLane() {
	defer close(l.groups)
	var queue []*inflight.Pending
	for {
		var ok bool
		if len(queue) > 1 {
			// Those who were just answered often have more to write. Letting them
			// run first makes one group, and one fsync, of what would be two.
			runtime.Gosched()
		}
		if queue, ok = l.queue.take(queue); !ok {
			return
		}
		for rest := queue; len(rest) > 0; {
			var g *batch
			g, rest = l.applyGroup(rest)
			if l.cfg.Synced {
				l.groups <- g
			} else {
				l.finish(g)
			}
		}
	}
}

// applyGroup runs transactions from the front of the queue until the group is
// full, and makes them visible. It returns those that were left over.
func (l *Log) applyGroup(queue []*inflight.Pending) (*batch, []*inflight.Pending) {
	g := &batch{writes: l.cfg.Store.NewBatch(), started: l.cfg.Clock(), members: make([]*inflight.Pending, 0, len(queue))}
	now := base.VersionAt(g.started)
	for len(queue) > 0 && g.err == nil {
		p := queue[0]
		if !g.writes.Empty() && (p.Txn.HasRanges() || g.writes.Bytes()+int(p.Bytes) > maxGroupBytes) {
			break // a range is checked against storage, so what is before it goes first
		}
		queue = queue[1:]
		if !l.admission.Take(p) {
			continue
		}
		g.members = append(g.members, p)
		before := g.writes.Count()
		if err := l.execute(g.writes, p.Txn, now); err != nil {
			p.Err = inflight.NotApplied(err)
			if g.writes.Count() != before {
				g.err = p.Err // half of it is in the batch, which must go
			}
		}
	}
	g.version = l.head.clock
	if g.err == nil && l.head.reserve() {
		l.head.save(g.writes)
	}
	if g.err == nil && !g.writes.Empty() {
		l.ordered.Store(uint64(l.head.clock))
		if err := g.writes.Apply(); err != nil {
			g.err = l.indeterminate(err)
		}
	}
	return g, queue
}

// execute runs one transaction into the batch, stamped with the time or right
// after the one before. An error is one of storage.
func (l *Log) execute(b *storage.Batch, txn *command.Txn, now base.Version) error {
	stamp := max(l.head.clock+1, now)
	var err error
	switch len(txn.Parts) {
	case 0: // a barrier: the answer comes after everything before it
		return nil
	case 1:
		cmd := &txn.Parts[0].Command
		cmd.Stamp, cmd.Request, cmd.Digest = stamp, txn.Request, txn.Digest
		err = l.cfg.Machines[txn.Parts[0].Shard].Apply(b, cmd, &txn.Result)
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
func (l *Log) executeParts(b *storage.Batch, txn *command.Txn, version base.Version) error {
	res := &txn.Result
	res.Reset()
	anchor := l.cfg.Machines[txn.Parts[txn.Anchor].Shard]
	if !txn.Request.IsZero() {
		if found, err := anchor.Recall(b, txn.Request, txn.Digest, res); err != nil || found {
			return err
		}
	}
	for i := range txn.Parts {
		part := &txn.Parts[i]
		part.Command.Stamp = version
		part.Result.Reset()
		if err := l.cfg.Machines[part.Shard].Check(b, &part.Command, &part.Result); err != nil {
			return err
		}
		res.Status = max(res.Status, part.Result.Status)
	}
	if res.Status == command.StatusApplied {
		res.Version = version
		for i := range txn.Parts {
			part := &txn.Parts[i]
			if err := l.cfg.Machines[part.Shard].Write(b, &part.Command, version, &part.Result); err != nil {
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

// runSyncer is the goroutine that waits for the disk, in order.
func (l *Log) runSyncer() {
	for g := range l.groups {
		l.finish(g)
	}
}

// finish waits until the group is as durable as was promised and answers its
// members.
func (l *Log) finish(g *batch) {
	if g.err == nil && !g.writes.Empty() {
		if err := g.writes.Wait(); err != nil {
			g.err = l.indeterminate(err)
		}
	}
	if g.err == nil {
		l.settle.advance(g.version)
	}
	l.admission.Observe(l.cfg.Clock().Sub(g.started))
	for _, p := range g.members {
		l.admission.Answer(p, cmp.Or(p.Err, g.err))
	}
	g.writes.Release()
}

// indeterminate is what proposers are told when their group could not be
// applied or synced: part of it may be on disk. Readers that wait for it can
// no longer be served either.
func (l *Log) indeterminate(cause error) error {
	l.cfg.Logger.Error("a group of writes could not be made durable", "error", cause)
	l.settle.fail(fmt.Errorf("%w: a write that was read is not durable: %w", base.ErrUnavailable, cause))
	return inflight.Indeterminate(cause)
}

// runInterval bounds how much a power failure can take in relaxed mode.
func (l *Log) runInterval() {
	ticker := time.NewTicker(l.cfg.SyncInterval)
	defer ticker.Stop()
	synced := base.Version(0)
	for {
		select {
		case <-l.stop:
			return
		case <-ticker.C:
		}
		if now := l.Ordered(); now > synced {
			if err := l.cfg.Store.Sync(); err != nil {
				if !errors.Is(err, base.ErrClosed) {
					l.cfg.Logger.Error("interval sync failed", "error", err)
				}
				return // the store has fenced itself
			}
			synced = now
		}
	}
}
