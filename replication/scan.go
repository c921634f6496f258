package replication

import (
	"context"
	"iter"
	"slices"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/far"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/replication/internal/near"
)

// view is what this node can read of some shards, and what it asks others of the
// rest, as that is then. It is used by one goroutine.
type view struct {
	*near.View
	h       *Host
	here    nearby         // what has arrived where ro asks: anchors among it are not asked
	away    []base.ShardID // those that other nodes have to be asked for
	marks   far.Marks      // of those
	ro      base.ReadOptions
	ordered base.Version // nothing that is read here is newer
	// lax says that what it shows may be old: whoever reads it has it validated.
	lax bool
}

func (h *Host) newView(eves []near.Eve, here nearby, ro base.ReadOptions) (*view, error) {
	snap, err := h.cfg.Store.NewSnapshot()
	if err != nil {
		return nil, err
	}
	ordered := h.log.Ordered() // after the snapshot, so that it bounds what that shows
	now := max(base.VersionAt(h.cfg.Clock()), ordered)
	v := &view{h: h, here: here, ro: ro, ordered: ordered}
	v.View = near.NewView(snap, uint64(now), eves, v)
	return v, nil
}

// arrived returns the shards that show in the view what was answered before it.
func (v *view) arrived() nearby {
	if v.lax {
		return nearby{}
	}
	return v.here
}

// settle returns once nothing that the view shows can be taken back.
func (v *view) settle(ctx context.Context) error {
	for i := range v.h.groups {
		if err := v.h.log.Settle(ctx, base.ShardID(i), v.ordered); err != nil {
			return err
		}
	}
	return nil
}

// askFor reads one key that another node is asked for; version 0 if it is absent or has
// expired.
func (v *view) askFor(ctx context.Context, key base.Key) (base.Item, error) {
	id := v.h.shardOf(key)
	it, mark, err := v.h.getAway(ctx, id, key, base.ReadOptions{})
	if err == nil {
		v.marks.Note(ask.Mark{Shard: id, Removed: mark})
	}
	return it, err
}

// getAway reads the keys at the given positions, which other nodes are asked for.
func (v *view) getAway(ctx context.Context, keys []base.Key, at []int, items []base.Item) error {
	if !v.h.far.Any() {
		return errNoReplica(v.h.shardOf(keys[at[0]]))
	}
	return v.h.far.MultiGet(ctx, keys, at, items, base.ReadOptions{}, v.h.shardOf, &v.marks)
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
		defer v.Close()
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
			v, err = h.readView(ctx, here.shards, func(t kvfsm.Held) bool { return t.WritesIn(r) }, ro)
		}
		if h.still(here) {
			if err == nil {
				v.away = away
			}
			return v, err
		}
		if err == nil {
			v.Close()
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
		sources = append(sources, v.Scan(ctx, shards, r, ro))
	}
	if len(away) > 0 && !r.Empty() {
		if !v.h.far.Any() {
			return func(yield func(base.Item, error) bool) { yield(base.Item{}, errNoReplica(away[0])) }
		}
		sources = append(sources, v.h.far.Scan(ctx, away, r, ro, v.marks.Note))
	}
	return far.Merge(sources, ro.Reverse)
}
