package replication

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
)

const (
	// defaultAttempts is how often Update runs its function at most.
	defaultAttempts = 64
	// minBackoff and maxBackoff bound the pause before it runs again.
	minBackoff = 50 * time.Microsecond
	maxBackoff = 20 * time.Millisecond
)

// View runs fn on one consistent cut over all shards.
func (h *Host) View(ctx context.Context, limits base.Limits, fn func(*Tx) error) error {
	tx, err := h.newTx(ctx, limits, true)
	if err != nil {
		return err
	}
	defer tx.close()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.view.settle(ctx)
}

// Update runs fn and applies what it wrote, if nothing that it read has
// changed; else it runs fn again. The version is that of the writes, 0 if
// there were none.
func (h *Host) Update(ctx context.Context, limits base.Limits, opts base.TxOptions, fn func(*Tx) error) (base.Version, error) {
	if !opts.RequestID.IsZero() {
		version, known, err := h.repeated(ctx, opts.RequestID)
		if err != nil || known {
			return version, err
		}
	}
	attempts := opts.MaxAttempts
	if attempts == 0 {
		attempts = defaultAttempts
	}
	for attempt := range attempts {
		if attempt > 0 {
			if err := backoff(ctx, attempt); err != nil {
				return 0, err
			}
		}
		version, conflict, err := h.attempt(ctx, limits, opts.RequestID, fn)
		if !conflict {
			return version, err
		}
	}
	return 0, notApplied(fmt.Errorf("%w: what the transaction read kept changing in %d attempts", base.ErrConflict, attempts))
}

// attempt runs fn once and tries to commit what it wrote.
func (h *Host) attempt(ctx context.Context, limits base.Limits, id base.RequestID, fn func(*Tx) error) (version base.Version, conflict bool, err error) {
	tx, err := h.newTx(ctx, limits, false)
	if err != nil {
		return 0, false, err
	}
	defer tx.close()
	if err := fn(tx); err != nil {
		return 0, false, err
	}
	tx.done = true
	if len(tx.writes) == 0 && id.IsZero() {
		return 0, false, tx.view.settle(ctx)
	}
	txn := tx.txn(id)
	if err := h.log.Propose(ctx, txn); err != nil {
		return 0, false, err
	}
	if txn.Result.Status == command.StatusConflict {
		return 0, true, nil
	}
	at := func(i int) *base.Write { return &tx.writes[i] }
	return txn.Result.Version, false, refusal(&txn.Result, at)
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
		return notApplied(unavailable(ctx))
	}
}

// repeated reports whether an Update with this id has been decided before. Its
// function need not run again then, and must not: it would see its own writes.
func (h *Host) repeated(ctx context.Context, id base.RequestID) (base.Version, bool, error) {
	found, err := h.recall(id)
	if err != nil || found == nil {
		return 0, false, err
	}
	if found.Digest != command.Digest(nil) {
		return 0, true, notApplied(base.ErrRequestReused)
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
