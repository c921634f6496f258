package near

import (
	"context"
	"iter"
	"slices"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/storage"
)

// A shard may lag behind the transactions that were decided elsewhere: it holds
// their keys then, with what they are about to write. Readers need not wait for
// it: what the anchor of a transaction has decided counts already. They only look
// at the transactions that hold what they read.

// Judge tells a view what became of the transactions that are prepared in it.
type Judge interface {
	// Outcome returns what the anchor of a transaction has decided; nil if it has
	// not, or not yet, or if that was forgotten because all shards have followed.
	Outcome(ctx context.Context, sn *storage.Snapshot, by command.Holder) (*kvfsm.Decided, error)
	// Holds reports whether the shards, as they are by now, still hold all of the
	// transactions.
	Holds(ctx context.Context, txns map[base.ShardID][]base.RequestID) (bool, error)
}

// Eve is what has to be known of a shard from before a view of it is taken.
type Eve struct {
	Shard   base.ShardID
	Removed base.Version // its mark
	// Held is what transactions were about to write. What is held later was not
	// decided before.
	Held []kvfsm.Held
}

// View is what some shards of this node show at one moment. It is used by one
// goroutine.
type View struct {
	snap  *storage.Snapshot
	now   uint64 // what has expired by then is not seen
	eves  []Eve
	held  map[base.ShardID][]kvfsm.Held
	fates map[fateKey]base.Version
	judge Judge
	// Doubtful says that a transaction looked undecided that may in truth have been
	// applied, and forgotten since its shards had followed, while this one lagged
	// behind in the view. What was read may be too old then.
	Doubtful bool
	// Removing says that something was read as absent since a transaction has removed
	// it, which the mark of its shard does not tell yet.
	Removing bool
}

type fateKey struct {
	shard base.ShardID
	txn   base.RequestID
}

// NewView makes a view of a snapshot, which belongs to it from then on.
func NewView(snap *storage.Snapshot, now uint64, eves []Eve, judge Judge) *View {
	v := &View{snap: snap, now: now, eves: eves, judge: judge}
	for i := range eves {
		if len(eves[i].Held) == 0 {
			continue
		}
		if v.held == nil {
			v.held = make(map[base.ShardID][]kvfsm.Held)
			v.fates = make(map[fateKey]base.Version)
		}
		v.held[eves[i].Shard] = eves[i].Held
	}
	return v
}

// Close releases the snapshot.
func (v *View) Close() { _ = v.snap.Close() }

// Now returns the time by which the view judges what has expired, in microseconds
// since the epoch.
func (v *View) Now() uint64 { return v.now }

// SetNow changes that.
func (v *View) SetNow(now uint64) { v.now = now }

// Removed returns the mark that a shard had before the view; 0 if that does not show it.
func (v *View) Removed(shard base.ShardID) base.Version {
	for i := range v.eves {
		if v.eves[i].Shard == shard {
			return v.eves[i].Removed
		}
	}
	return 0
}

// Get reads one key; version 0 if it is absent or has expired.
func (v *View) Get(ctx context.Context, shard base.ShardID, key base.Key) (base.Item, error) {
	for _, t := range v.held[shard] {
		w := t.WriteOf(key)
		if w == nil {
			continue
		}
		if err := v.Settle(ctx, []base.ShardID{shard}, func(o kvfsm.Held) bool { return o.Txn == t.Txn }); err != nil {
			return base.Item{Key: key}, err
		}
		if at := v.fates[fateKey{shard, t.Txn}]; at != 0 {
			return v.after(w, at), nil
		}
	}
	rec, err := v.snap.Get(shard, key)
	if err != nil || (rec.ExpiresAt != 0 && rec.ExpiresAt <= v.now) {
		return base.Item{Key: key}, err
	}
	return Item(key, rec), nil
}

// Item makes an item of a stored record.
func Item(key base.Key, rec storage.Record) base.Item {
	it := base.Item{Key: key, Value: rec.Value, Version: rec.Version}
	if rec.ExpiresAt != 0 {
		it.ExpiresAt = base.Version(rec.ExpiresAt).Time()
	}
	return it
}

// Scan yields the items of a range that some shards have, in order. It takes
// ro.Limit as a hint how many will be wanted.
func (v *View) Scan(ctx context.Context, shards []base.ShardID, r base.Range, ro base.ReadOptions) iter.Seq2[base.Item, error] {
	return func(yield func(base.Item, error) bool) {
		decided, err := v.decidedIn(ctx, shards, r, ro)
		if err != nil {
			yield(base.Item{}, err)
			return
		}
		for it, err := range Overlay(v.scanStored(ctx, shards, r, ro), decided, ro.Reverse) {
			if (err != nil || it.Exists()) && !yield(it, err) {
				return
			}
		}
	}
}

// Settle finds out about all transactions that are held and meet a condition. Without an
// error, and unless the view is doubtful then, reads of what they write do not ask.
func (v *View) Settle(ctx context.Context, shards []base.ShardID, which func(kvfsm.Held) bool) error {
	var open map[base.ShardID][]base.RequestID
	for _, id := range shards {
		for _, t := range v.held[id] {
			if _, known := v.fates[fateKey{id, t.Txn}]; known || !which(t) {
				continue
			}
			found, err := v.find(ctx, id, t)
			switch {
			case err != nil:
				return err
			case found:
				continue
			case open == nil:
				open = make(map[base.ShardID][]base.RequestID)
			}
			open[id] = append(open[id], t.Txn)
		}
	}
	if open == nil {
		return nil
	}
	// A decision is forgotten only after every shard has followed: so it was not, if
	// these still hold the transactions.
	holds, err := v.judge.Holds(ctx, open)
	if err != nil {
		return err
	}
	v.Doubtful = v.Doubtful || !holds
	for id, txns := range open {
		for _, txn := range txns {
			v.fates[fateKey{id, txn}] = 0
		}
	}
	return nil
}

// find notes what became of a transaction that a shard held. It is false if it looks
// undecided.
func (v *View) find(ctx context.Context, shard base.ShardID, t kvfsm.Held) (bool, error) {
	key := fateKey{shard, t.Txn}
	prepared, err := kvfsm.PreparedIn(v.snap, shard, t.Txn)
	if err != nil {
		return false, err
	}
	if !prepared { // the shard has followed in the view
		v.fates[key] = 0
		return true, nil
	}
	d, err := v.judge.Outcome(ctx, v.snap, t.Holder)
	if err != nil || d == nil {
		return false, err
	}
	v.fates[key] = d.At
	return true, nil
}

// decidedIn returns what decided transactions are about to write in a range, in the
// order of the scan; version 0 = deleted.
func (v *View) decidedIn(ctx context.Context, shards []base.ShardID, r base.Range, ro base.ReadOptions) ([]base.Item, error) {
	if err := v.Settle(ctx, shards, func(t kvfsm.Held) bool { return t.WritesIn(r) }); err != nil {
		return nil, err
	}
	var items []base.Item
	for _, id := range shards {
		for _, t := range v.held[id] {
			at := v.fates[fateKey{id, t.Txn}]
			if at == 0 {
				continue
			}
			for i := range t.Writes {
				w := &t.Writes[i]
				if w.Kind == base.WriteCheck || !r.Contains(w.Key) {
					continue
				}
				it := v.after(w, at)
				if ro.KeysOnly {
					it.Value = nil
				}
				items = append(items, it)
			}
		}
	}
	Sort(items, ro.Reverse)
	return items, nil
}

// Sort puts items in the order of a scan.
func Sort(items []base.Item, reverse bool) {
	slices.SortFunc(items, func(a, b base.Item) int {
		if reverse {
			a, b = b, a
		}
		return a.Key.Compare(b.Key)
	})
}

// after returns what a write of a decided transaction leaves.
func (v *View) after(w *base.Write, at base.Version) base.Item {
	it := base.Item{Key: w.Key}
	v.Removing = v.Removing || w.Kind == base.WriteDelete
	expires := command.ExpiresAt(at, w.TTL)
	if w.Kind == base.WritePut && (expires == 0 || expires > v.now) {
		it.Version, it.Value = at, slices.Clone(w.Value)
		if expires != 0 {
			it.ExpiresAt = base.Version(expires).Time()
		}
	}
	return it
}

// Overlay merges stored items with a transaction's own, which win. Items of version
// 0, which stand for a deletion, are among what it yields.
func Overlay(stored iter.Seq2[base.Item, error], own []base.Item, reverse bool) iter.Seq2[base.Item, error] {
	if len(own) == 0 {
		return stored
	}
	return func(yield func(base.Item, error) bool) {
		own := own
		for it, err := range stored {
			if err != nil {
				yield(it, err)
				return
			}
			replaced := false
			for len(own) > 0 {
				c := own[0].Key.Compare(it.Key)
				if c != 0 && (c > 0) != reverse {
					break
				}
				if !yield(own[0], nil) {
					return
				}
				own, replaced = own[1:], replaced || c == 0
			}
			if !replaced && !yield(it, nil) {
				return
			}
		}
		for _, it := range own {
			if !yield(it, nil) {
				return
			}
		}
	}
}
