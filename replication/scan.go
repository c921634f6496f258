package replication

import (
	"context"
	"iter"
	"slices"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/far"
	"github.com/distributedcache/cache/replication/internal/near"
	"github.com/distributedcache/cache/storage"
)

// view is one consistent cut over all shards that this node can read. What the
// others have it reads from their leaders, as it is then. It is used by one
// goroutine.
type view struct {
	h       *Host
	away    []base.ShardID // those that other nodes have to be asked for
	marks   far.Marks      // of these
	snap    *storage.Snapshot
	now     uint64       // what has expired by then is not seen
	ordered base.Version // nothing in the view is newer
	// decided is what transactions have written that the shards do not show yet,
	// in the order of the keys; version 0 = deleted.
	decided []base.Item
}

func (h *Host) newView() (*view, error) {
	snap, err := h.cfg.Store.NewSnapshot()
	if err != nil {
		return nil, err
	}
	ordered := h.log.Ordered() // after the snapshot, so that it bounds what that shows
	now := max(base.VersionAt(h.cfg.Clock()), ordered)
	return &view{h: h, snap: snap, now: uint64(now), ordered: ordered}, nil
}

func (v *view) close() { _ = v.snap.Close() }

// settle returns once nothing that the view shows can be taken back.
func (v *view) settle(ctx context.Context) error {
	for i := range v.h.groups {
		if err := v.h.log.Settle(ctx, base.ShardID(i), v.ordered); err != nil {
			return err
		}
	}
	return nil
}

// get reads one key; version 0 if it is absent or has expired.
func (v *view) get(ctx context.Context, key base.Key) (base.Item, error) {
	return v.getFrom(ctx, v.h.shardOf(key), key)
}

func (v *view) getFrom(ctx context.Context, id base.ShardID, key base.Key) (base.Item, error) {
	if slices.Contains(v.away, id) {
		it, mark, err := v.h.getAway(ctx, id, key, base.ReadOptions{})
		v.marks.Note(ask.Mark{Shard: id, Removed: mark})
		return it, err
	}
	if it, found := v.decidedItem(key); found {
		return it, nil
	}
	rec, err := v.snap.Get(id, key)
	if err != nil || (rec.ExpiresAt != 0 && rec.ExpiresAt <= v.now) {
		return base.Item{Key: key}, err
	}
	return item(key, rec), nil
}

// Scan returns the items of a range in order. It reads one snapshot, taken
// when the iteration starts, in pages, so memory stays bounded however long it
// is and however slow the consumer.
func (h *Host) Scan(ctx context.Context, r base.Range, ro base.ReadOptions) iter.Seq2[base.Item, error] {
	return func(yield func(base.Item, error) bool) {
		rest, err := ro.Narrow(r)
		if err != nil {
			yield(base.Item{}, err)
			return
		}
		v, err := h.viewOf(ctx, h.shardsIn(rest), rest, ro)
		if err != nil {
			yield(base.Item{}, err)
			return
		}
		defer v.close()
		if !ro.Stale {
			if err := v.settle(ctx); err != nil {
				yield(base.Item{}, err)
				return
			}
		}
		left := ro.Limit
		for it, err := range v.scan(ctx, h.shardsIn(rest), rest, ro) {
			if !yield(it, err) || err != nil {
				return
			}
			if left--; left == 0 {
				return
			}
		}
	}
}

// shardsIn returns the shards that can have items of a range.
func (h *Host) shardsIn(r base.Range) []base.ShardID {
	if p, single := r.SinglePrimary(); single {
		return h.groups[h.shardOf(base.Key{Primary: p})].self[:]
	}
	return h.all
}

// viewOf returns a view of the part of a range that lies on some shards.
func (h *Host) viewOf(ctx context.Context, shards []base.ShardID, r base.Range, ro base.ReadOptions) (*view, error) {
	for {
		here, away := h.split(shards, ro)
		err := h.arrive(ctx, here.shards, ro)
		var v *view
		if err == nil {
			v, err = h.readView(ctx, here.shards, r, ro)
		}
		if h.still(here) {
			if err == nil {
				v.away = away
			}
			return v, err
		}
		if err == nil {
			v.close()
		}
	}
}

// scan yields the items of a range that some shards have. It takes ro.Limit as a
// hint how many will be wanted.
func (v *view) scan(ctx context.Context, shards []base.ShardID, r base.Range, ro base.ReadOptions) iter.Seq2[base.Item, error] {
	var away []base.ShardID
	if len(v.away) > 0 {
		away = slices.DeleteFunc(slices.Clone(shards), func(id base.ShardID) bool { return !slices.Contains(v.away, id) })
		shards = slices.DeleteFunc(slices.Clone(shards), func(id base.ShardID) bool { return slices.Contains(v.away, id) })
	}
	var sources []iter.Seq2[base.Item, error]
	if len(shards) > 0 {
		sources = append(sources, v.scanHere(ctx, shards, r, ro))
	}
	if len(away) > 0 && !r.Empty() {
		if !v.h.far.Any() {
			return func(yield func(base.Item, error) bool) { yield(base.Item{}, errNoReplica(away[0])) }
		}
		sources = append(sources, v.h.far.Scan(ctx, away, r, ro, v.marks.Note))
	}
	return far.Merge(sources, ro.Reverse)
}

// scanHere is scan for shards that this node can read.
func (v *view) scanHere(ctx context.Context, shards []base.ShardID, r base.Range, ro base.ReadOptions) iter.Seq2[base.Item, error] {
	stored := near.Scan(ctx, v.snap, v.now, shards, r, ro)
	if len(v.decided) == 0 {
		return stored
	}
	return existing(overlay(stored, v.decidedIn(shards, r, ro), ro.Reverse))
}

// existing leaves out what was deleted.
func existing(items iter.Seq2[base.Item, error]) iter.Seq2[base.Item, error] {
	return func(yield func(base.Item, error) bool) {
		for it, err := range items {
			if (err != nil || it.Exists()) && !yield(it, err) {
				return
			}
		}
	}
}
