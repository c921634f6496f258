package replication

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/inflight"
	"github.com/distributedcache/cache/replication/internal/near"
)

// Tx is a transaction on its way: it reads one consistent cut, sees its own
// writes, and remembers what it has read. It is used by one goroutine, inside
// the function that it was given to.
type Tx struct {
	ctx    context.Context // the API hands it back to fn, nothing else uses it to wait
	h      *Host
	view   *view
	limits base.Limits

	readOnly bool
	track    bool // remember what was read
	done     bool
	writes   []base.Write
	written  map[base.Key]int // index in writes
	bytes    int
	reads    map[base.Key]base.Version
	// torn says that a key was read twice and had changed: another node has it, which
	// is asked each time. Then what was read is of no one moment.
	torn   bool
	ranges []rangeRead
}

// rangeRead is what one scan saw of one shard.
type rangeRead struct {
	shard base.ShardID
	read  command.RangeRead
}

// maxTxReads bounds what a transaction remembers of its reads. Scanned items
// count by the range, not one by one.
const maxTxReads = 100_000

var errTxDone = fmt.Errorf("%w: the transaction is over; use it only inside its function", base.ErrInvalid)

// newTx begins a transaction. A lax one shows what this node has, without asking others
// whether that is the newest: whoever commits it finds out.
func (h *Host) newTx(ctx context.Context, limits base.Limits, readOnly, lax bool) (*Tx, error) {
	tx := &Tx{ctx: ctx, h: h, limits: limits, readOnly: readOnly, track: !readOnly || !h.log.Cut()}
	var err error
	if tx.view, err = h.wholeView(ctx, lax && !h.log.Cut()); err != nil {
		return nil, err
	}
	if tx.track {
		tx.written = make(map[base.Key]int)
		tx.reads = make(map[base.Key]base.Version)
	}
	return tx, nil
}

// wholeView returns a view of all shards.
func (h *Host) wholeView(ctx context.Context, lax bool) (*view, error) {
	for {
		here, away := h.split(h.all, base.ReadOptions{})
		var err error
		if !lax {
			err = h.log.Current(ctx, here.shards)
		}
		var v *view
		if err == nil {
			v, err = h.newView(h.evesOf(here.shards), here, base.ReadOptions{})
		}
		if h.still(here) {
			if err == nil {
				v.away, v.lax = away, lax
			}
			return v, err
		}
		if err == nil {
			v.Close()
		}
	}
}

func (tx *Tx) close() {
	tx.done = true
	tx.view.Close()
}

// Context returns the context of the call that started the transaction.
func (tx *Tx) Context() context.Context { return tx.ctx }

// usable reports why the transaction can no longer be used.
func (tx *Tx) usable() error {
	if tx.done {
		return errTxDone
	}
	if tx.ctx.Err() != nil {
		return unavailable(tx.ctx)
	}
	return nil
}

// Get reads a key. An absent key is base.ErrNotFound. The version of an item
// that the transaction itself has written is base.PendingVersion.
func (tx *Tx) Get(key base.Key) (base.Item, error) {
	it, err := tx.lookup(key)
	if err == nil && !it.Exists() {
		err = base.ErrNotFound
	}
	return it, err
}

// MultiGet reads keys; a missing one gives an Item of version 0.
func (tx *Tx) MultiGet(keys []base.Key) ([]base.Item, error) {
	items := make([]base.Item, len(keys))
	var away []int // where keys are that another node is asked for
	for i, key := range keys {
		it, far, err := tx.lookupHere(key)
		if err != nil {
			return nil, err
		}
		if items[i] = it; far {
			away = append(away, i)
		}
	}
	if len(away) == 0 {
		return items, nil
	}
	if err := tx.view.getAway(tx.ctx, keys, away, items); err != nil {
		return nil, err
	}
	for _, i := range away {
		if err := tx.remember(keys[i], items[i].Version); err != nil {
			return nil, err
		}
	}
	return items, nil
}

func (tx *Tx) lookup(key base.Key) (base.Item, error) {
	it, far, err := tx.lookupHere(key)
	if err != nil || !far {
		return it, err
	}
	if it, err = tx.view.askFor(tx.ctx, key); err != nil {
		return base.Item{Key: key}, err
	}
	return it, tx.remember(key, it.Version)
}

// lookupHere is lookup without other nodes. far says that one has to be asked.
func (tx *Tx) lookupHere(key base.Key) (it base.Item, far bool, err error) {
	it = base.Item{Key: key}
	if err := errors.Join(tx.usable(), key.Validate()); err != nil {
		return it, false, err
	}
	if i, ok := tx.written[key]; ok {
		return tx.pendingItem(i), false, nil
	}
	shard := tx.h.shardOf(key)
	if slices.Contains(tx.view.away, shard) {
		return it, true, nil
	}
	found, err := tx.view.Get(tx.ctx, shard, key)
	if err != nil {
		return it, false, err
	}
	return found, false, tx.remember(key, found.Version)
}

// pendingItem is what the transaction's own write will leave.
func (tx *Tx) pendingItem(i int) base.Item {
	w := &tx.writes[i]
	if w.Kind == base.WriteDelete {
		return base.Item{Key: w.Key}
	}
	it := base.Item{Key: w.Key, Value: slices.Clone(w.Value), Version: base.PendingVersion}
	if w.TTL > 0 {
		it.ExpiresAt = base.Version(command.ExpiresAt(base.Version(tx.view.Now()), w.TTL)).Time()
	}
	return it
}

func (tx *Tx) remember(key base.Key, version base.Version) error {
	if !tx.track {
		return nil
	}
	if first, again := tx.reads[key]; again {
		tx.torn = tx.torn || first != version
		return nil
	}
	if len(tx.reads) >= maxTxReads {
		return fmt.Errorf("%w: transaction with over %d reads", base.ErrTooLarge, maxTxReads)
	}
	tx.reads[key] = version
	return nil
}

// keys returns the keys that the transaction has read or written, but for what it has
// scanned.
func (tx *Tx) keys() []base.Key {
	keys := slices.AppendSeq(make([]base.Key, 0, len(tx.reads)+len(tx.writes)), maps.Keys(tx.reads))
	for i := range tx.writes {
		keys = append(keys, tx.writes[i].Key)
	}
	return keys
}

// Write buffers a put or delete. Its condition is judged now, by what the
// transaction sees; that this still holds at the end is part of the commit.
// The value is copied.
func (tx *Tx) Write(w base.Write) error {
	if err := tx.usable(); err != nil {
		return err
	}
	if tx.readOnly {
		return fmt.Errorf("%w: a View cannot write; use Update", base.ErrInvalid)
	}
	if err := w.Validate(tx.limits); err != nil {
		return err
	}
	if w.Cond.Kind != base.CondNone {
		it, err := tx.lookup(w.Key)
		if err != nil {
			return err
		}
		if !w.Cond.Holds(it.Version) {
			return inflight.NotApplied(mismatch(&w, it.Version))
		}
		w.Cond = base.Cond{}
	}
	w.Value = slices.Clone(w.Value)
	i, again := tx.written[w.Key]
	if again {
		tx.bytes -= tx.writes[i].Bytes()
		tx.writes[i] = w
	} else {
		tx.written[w.Key] = len(tx.writes)
		tx.writes = append(tx.writes, w)
	}
	tx.bytes += w.Bytes()
	return tx.limits.CheckBatch(len(tx.writes), tx.bytes)
}

// RangeScan yields the items of a range as the transaction sees them.
func (tx *Tx) RangeScan(r base.Range, ro base.ReadOptions) iter.Seq2[base.Item, error] {
	return func(yield func(base.Item, error) bool) {
		rest, err := ro.Narrow(r)
		if err == nil {
			err = errors.Join(tx.usable(), r.Validate())
		}
		if err != nil {
			yield(base.Item{}, err)
			return
		}
		seen := newScanRecord(tx, rest, ro.Reverse)
		defer seen.save()
		own, left := tx.ownItems(rest, ro), ro.Limit
		if left > 0 {
			ro.Limit += len(own) // each may stand for a stored one that is deleted
		}
		for it, err := range near.Overlay(seen.record(tx.view.scan(tx.ctx, tx.h.shardsIn(rest), rest, ro)), own, ro.Reverse) {
			if err == nil && !it.Exists() {
				continue // deleted by the transaction
			}
			if !yield(it, err) || err != nil {
				return
			}
			if left--; left == 0 {
				return
			}
		}
	}
}

// ownItems returns what the transaction has written in the range, in the order
// of the scan; deletions have version 0.
func (tx *Tx) ownItems(r base.Range, ro base.ReadOptions) []base.Item {
	var own []base.Item
	for i := range tx.writes {
		if r.Contains(tx.writes[i].Key) {
			it := tx.pendingItem(i)
			if ro.KeysOnly {
				it.Value = nil
			}
			own = append(own, it)
		}
	}
	near.Sort(own, ro.Reverse)
	return own
}
