package replication

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/inflight"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/replication/internal/latch"
)

const (
	// defaultAttempts is how often Update runs its function at most.
	defaultAttempts = 64
	// freeAttempts is how often View runs its function before it holds anything.
	freeAttempts = 3
	// minBackoff and maxBackoff bound the pause before it runs again.
	minBackoff = 50 * time.Microsecond
	maxBackoff = 20 * time.Millisecond
	// turnPatience is how long an Update waits for others that it has met on a key:
	// one that takes longer may wait for a shard that this one does not need.
	turnPatience = time.Second
)

// View runs fn on one consistent cut over all shards. Where a snapshot is not
// one, it runs fn again until nothing of what it read has changed, but not more than
// so many times; 0 = the default. If that does not come by itself, it holds what fn
// has read, so that writes of that wait, while fn runs again.
func (h *Host) View(ctx context.Context, limits base.Limits, attempts int, fn func(*Tx) error) error {
	attempts = cmp.Or(attempts, defaultAttempts)
	release := func() {}
	defer func() { release() }()
	for attempt := 1; ; attempt++ {
		changed, err := h.viewOnce(ctx, limits, fn)
		if changed == nil {
			return err
		}
		if attempt == attempts {
			return fmt.Errorf("%w: what was read kept changing in %d attempts", base.ErrConflict, attempts)
		}
		release()
		release = func() {}
		if attempt >= freeAttempts {
			if held, err := h.hold(ctx, changed); err == nil {
				release = held
				continue
			}
		}
		if err := backoff(ctx, attempt); err != nil {
			return err
		}
	}
}

// hold keeps everything as it is that a transaction has read, for a while or until
// release is called. An error, such as that it is too much, says that nothing is held.
func (h *Host) hold(ctx context.Context, tx *Tx) (release func(), err error) {
	txn := tx.txn(base.RequestID{})
	if len(txn.Parts) == 0 {
		return func() {}, nil
	}
	return h.raft.log.Hold(ctx, txn)
}

// viewOnce runs fn once. It returns the transaction if what it has read was not of one
// moment.
func (h *Host) viewOnce(ctx context.Context, limits base.Limits, fn func(*Tx) error) (changed *Tx, err error) {
	tx, err := h.newTx(ctx, limits, true, false)
	if err != nil {
		return nil, err
	}
	defer tx.close()
	if again, err := tx.conclude(fn(tx)); !again {
		return nil, err
	}
	return tx, nil
}

// conclude ends a transaction that writes nothing: its function returned with
// err, which counts only if what it read was of one moment.
func (tx *Tx) conclude(err error) (again bool, _ error) {
	if !tx.h.log.Cut() {
		same, cause := tx.unchanged()
		if cause != nil {
			return false, cause
		}
		if !same {
			return true, nil
		}
	}
	if err != nil {
		return false, err
	}
	return false, tx.view.settle(tx.ctx)
}

// unchanged reports whether everything that the transaction has read is still
// so. As versions never come again, and no key was removed of what was absent, it
// then was so all the time since it was read, on all shards at once.
func (tx *Tx) unchanged() (bool, error) {
	if tx.torn || tx.view.Doubtful {
		return false, nil
	}
	parts := tx.txn(base.RequestID{}).Parts
	if len(parts) < 2 && !tx.view.marks.Any() && !tx.view.lax {
		return true, nil // a snapshot of one shard is of one moment
	}
	var here, away []command.Part
	for _, p := range parts {
		if slices.Contains(tx.view.away, p.Shard) {
			away = append(away, p)
		} else {
			here = append(here, p)
		}
	}
	if same, err := tx.unchangedHere(here); err != nil || !same {
		return false, err
	}
	return tx.unchangedAway(away)
}

// unchangedHere is unchanged for the shards that are read here.
func (tx *Tx) unchangedHere(parts []command.Part) (bool, error) {
	if len(parts) == 0 {
		return true, nil
	}
	v, err := tx.h.wholeView(tx.ctx, false)
	if err != nil {
		return false, err
	}
	defer v.Close()
	v.SetNow(tx.view.Now()) // what had not expired for the transaction has not now
	read := func(t kvfsm.Held) bool {
		return slices.ContainsFunc(parts, func(p command.Part) bool { return t.Affects(&p.Command) })
	}
	if err := v.Settle(tx.ctx, v.here.shards, read); err != nil {
		return false, err
	}
	for i := range parts {
		if slices.Contains(v.away, parts[i].Shard) {
			return false, nil // a replica has left meanwhile: read again
		}
		if same, err := v.has(tx.ctx, &parts[i]); err != nil || !same {
			return false, err
		}
		r := tx.h.groups[parts[i].Shard].replica.Load()
		if r == nil || readsAbsence(&parts[i].Command) && (v.Removing || r.machine.Removed() != tx.view.Removed(parts[i].Shard)) {
			return false, nil
		}
	}
	return !v.Doubtful && tx.h.still(v.here), nil
}

// unchangedAway is unchanged for the shards that other nodes are asked for.
func (tx *Tx) unchangedAway(parts []command.Part) (bool, error) {
	verdicts := make([]ask.Verdict, len(parts))
	var all errgroup.Group
	for i := range parts {
		all.Go(func() (err error) {
			verdicts[i], err = tx.h.far.Check(tx.ctx, &parts[i])
			return err
		})
	}
	if err := all.Wait(); err != nil {
		return false, err
	}
	for i, v := range verdicts {
		mark, _ := tx.view.marks.First(parts[i].Shard)
		if !v.Yes || (readsAbsence(&parts[i].Command) && v.Version != mark) {
			return false, nil
		}
	}
	return true, nil
}

// readsAbsence reports whether the command depends on keys not being there. That
// has no version, and so may have come again: a key may have been there and been
// removed between two looks.
func readsAbsence(cmd *command.Command) bool {
	absent := func(r command.Read) bool { return r.Version == 0 }
	return len(cmd.Ranges) > 0 || slices.ContainsFunc(cmd.Reads, absent)
}

// has reports whether the reads of a part hold in the view.
func (v *view) has(ctx context.Context, part *command.Part) (bool, error) {
	for _, read := range part.Command.Reads {
		it, err := v.Get(ctx, part.Shard, read.Key)
		if err != nil || it.Version != read.Version {
			return false, err
		}
	}
	for _, read := range part.Command.Ranges {
		var digest command.RangeDigest
		only := v.h.group(part.Shard).self[:]
		for it, err := range v.Scan(ctx, only, read.Range, base.ReadOptions{KeysOnly: true}) {
			if err != nil {
				return false, err
			}
			digest.Add(it.Key, it.Version)
		}
		if digest.Sum() != read.Digest {
			return false, nil
		}
	}
	return true, nil
}

// Update runs fn and applies what it wrote, if nothing that it read has
// changed; else it runs fn again. The version is that of the writes, 0 if
// there were none. Calls that have met on a key go on one after another.
func (h *Host) Update(ctx context.Context, limits base.Limits, opts base.TxOptions, fn func(*Tx) error) (base.Version, error) {
	attempts := cmp.Or(opts.MaxAttempts, defaultAttempts)
	var turn *latch.Guard
	defer func() { leave(turn) }()
	for attempt := 1; ; attempt++ {
		mayYield := turn == nil && attempt < attempts
		version, changed, err := h.attempt(ctx, limits, opts.RequestID, attempt == 1 && attempts > 1, mayYield, fn)
		if changed == nil {
			return version, err
		}
		if attempt == attempts {
			return 0, inflight.NotApplied(fmt.Errorf("%w: what the transaction read kept changing in %d attempts", base.ErrConflict, attempts))
		}
		if keys := changed.keys(); turn == nil || !turn.Covers(keys) {
			leave(turn)
			if turn = h.turns.Enqueue(keys); turn != nil {
				turn.Wait(ctx, turnPatience)
				continue
			}
		}
		if err := backoff(ctx, attempt); err != nil {
			return 0, err
		}
	}
}

func leave(turn *latch.Guard) {
	if turn != nil {
		turn.Release()
	}
}

// attempt runs fn once and tries to commit what it wrote. The first one does not ask
// others whether this node shows the newest, since the commit tells. It returns the
// transaction if something has changed that it read, or, if it may yield to those
// that stand in a queue for one of its keys, is about to.
func (h *Host) attempt(ctx context.Context, limits base.Limits, id base.RequestID, first, mayYield bool, fn func(*Tx) error) (version base.Version, changed *Tx, err error) {
	tx, err := h.newTx(ctx, limits, false, first)
	if err != nil {
		return 0, nil, err
	}
	defer tx.close()
	if version, known, err := h.repeated(ctx, id, tx.view.arrived()); err != nil || known {
		return version, nil, err
	}
	err = fn(tx)
	tx.done = true
	if err != nil && !id.IsZero() {
		// An earlier call may have been decided just now, and fn have refused what
		// that wrote.
		if version, known, err := h.repeated(ctx, id, nearby{}); err != nil || known {
			return version, nil, err
		}
	}
	if err != nil || (len(tx.writes) == 0 && id.IsZero()) {
		tx.writes = nil
		again, err := tx.conclude(err)
		if again {
			return 0, tx, nil
		}
		return 0, nil, err
	}
	if tx.torn || mayYield && h.turns.Busy(tx.keys()) {
		return 0, tx, nil
	}
	txn := tx.txn(id)
	if err := h.log.Propose(ctx, txn); err != nil {
		return 0, nil, err
	}
	if txn.Result.Status == command.StatusConflict {
		return 0, tx, nil
	}
	at := func(i int) *base.Write { return &tx.writes[i] }
	return txn.Result.Version, nil, refusal(&txn.Result, at)
}

// backoff pauses before another attempt, longer each time and by chance, so
// that two that met do not meet again.
func backoff(ctx context.Context, attempt int) error {
	limit := min(minBackoff<<min(attempt, 16), maxBackoff)
	timer := time.NewTimer(rand.N(limit))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return inflight.NotApplied(unavailable(ctx))
	}
}

// repeated reports whether an Update with this id has been decided before; see
// recall. Its function need not run again then, and must not: it
// would see its own writes.
func (h *Host) repeated(ctx context.Context, id base.RequestID, arrived nearby) (base.Version, bool, error) {
	if id.IsZero() {
		return 0, false, nil
	}
	found, err := h.recall(ctx, id, h.groups[h.anchorOf(id)].self[:], arrived)
	if err != nil || found == nil {
		return 0, false, err
	}
	if found.Digest != command.Digest(nil) {
		return 0, true, inflight.NotApplied(base.ErrRequestReused)
	}
	anchor := h.anchorOf(id)
	return found.Result.Version, true, h.log.Settle(ctx, anchor, found.At)
}

// anchorOf returns the shard that remembers an Update. Which keys it writes
// may change from one attempt to the next, so the id itself tells the shard.
func (h *Host) anchorOf(id base.RequestID) base.ShardID {
	return base.ShardID(binary.BigEndian.Uint64(id[:8]) % uint64(len(h.groups)))
}

// txn turns what the transaction read and wrote into commands.
func (tx *Tx) txn(id base.RequestID) *command.Txn {
	txn := &command.Txn{Request: id}
	index := make(map[base.ShardID]int)
	part := func(shard base.ShardID) *command.Part {
		i, ok := index[shard]
		if !ok {
			i = len(txn.Parts)
			index[shard] = i
			txn.Parts = append(txn.Parts, command.Part{Shard: shard})
		}
		return &txn.Parts[i]
	}
	for i, w := range tx.writes {
		p := part(tx.h.shardOf(w.Key))
		p.Command.Writes = append(p.Command.Writes, w)
		p.Positions = append(p.Positions, i)
	}
	for key, version := range tx.reads {
		p := part(tx.h.shardOf(key))
		p.Command.Reads = append(p.Command.Reads, command.Read{Key: key, Version: version})
	}
	for _, r := range tx.ranges {
		p := part(r.shard)
		p.Command.Ranges = append(p.Command.Ranges, r.read)
	}
	if !id.IsZero() {
		txn.Digest = command.Digest(nil)
		part(tx.h.anchorOf(id))
		txn.Anchor = index[tx.h.anchorOf(id)]
	}
	for i := range txn.Parts { // a map has no order, a command has
		slices.SortFunc(txn.Parts[i].Command.Reads, func(a, b command.Read) int { return a.Key.Compare(b.Key) })
	}
	return txn
}
