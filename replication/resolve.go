package replication

import (
	"context"
	"slices"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
)

// A shard may lag behind the transactions that were decided elsewhere: it holds
// their keys then, with what they are about to write. Readers need not wait for
// it. What is prepared, and what the anchor has decided, are in the same store,
// so one snapshot tells which writes count already.

// readView returns a view that shows of a range what the options ask for, if the
// shards have arrived there. This node has replicas of them all.
func (h *Host) readView(ctx context.Context, shards []base.ShardID, r base.Range, ro base.ReadOptions) (*view, error) {
	early, err := h.holdersNow(ctx, shards, r, ro)
	if err != nil {
		return nil, err
	}
	for {
		v, err := h.newView()
		if err != nil || len(early) == 0 {
			return v, err
		}
		sure, err := v.resolve(ctx, shards, r, ro, early)
		if err == nil && sure {
			return v, nil
		}
		v.close()
		if err == nil && ctx.Err() != nil {
			err = unavailable(ctx)
		}
		if err == nil && h.deserted(early) {
			early, err = h.holdersNow(ctx, shards, r, ro)
		}
		if err != nil {
			return nil, err
		}
	}
}

// witness is the anchor of a transaction, and this node's replica of it that has
// arrived where a read asks for; nil if another node has to be asked.
type witness struct {
	shard   base.ShardID
	replica *replica
}

// left reports whether the replica is not there any more.
func (w witness) left(h *Host) bool {
	return w.replica != nil && h.group(w.shard).replica.Load() != w.replica
}

// deserted reports whether any of the witnesses has left.
func (h *Host) deserted(early map[base.RequestID]witness) bool {
	for _, w := range early {
		if w.left(h) {
			return true
		}
	}
	return false
}

// holdersNow returns the transactions that are about to write in the range. What
// is held from now on was not decided before the call. Only these may have been,
// so however many come and go meanwhile, few need a second look.
func (h *Host) holdersNow(ctx context.Context, shards []base.ShardID, r base.Range, ro base.ReadOptions) (map[base.RequestID]witness, error) {
	var early map[base.RequestID]witness
	for _, id := range shards {
		own := h.group(id).replica.Load()
		if own == nil {
			return nil, errNoReplica(id)
		}
		holders := own.machine.Holders(r)
		if len(holders) == 0 {
			continue
		}
		if early == nil {
			early = make(map[base.RequestID]witness)
		}
		for _, by := range holders {
			early[by.Txn] = witness{by.Anchor, h.nearFor(by.Anchor, ro)}
		}
		here, _ := h.split(anchors(holders), ro)
		if err := h.arrive(ctx, here.shards, ro); err != nil {
			return nil, err
		}
	}
	return early, nil
}

// anchors returns where the transactions are decided, each shard once.
func anchors(holders []command.Holder) []base.ShardID {
	var ids []base.ShardID
	for _, by := range holders {
		if !slices.Contains(ids, by.Anchor) {
			ids = append(ids, by.Anchor)
		}
	}
	return ids
}

// resolve adds to the view what decided transactions are about to write in the
// range. It is not sure if one of the early transactions looks undecided, and may
// in truth have been applied and forgotten while the shard in the view lagged
// behind.
func (v *view) resolve(ctx context.Context, shards []base.ShardID, r base.Range, ro base.ReadOptions, early map[base.RequestID]witness) (sure bool, err error) {
	for _, id := range shards {
		all, err := kvfsm.PreparedIn(v.snap, id)
		if err != nil {
			return false, err
		}
		open := make([]base.RequestID, 0, len(all))
		for _, cmd := range all {
			anchor, isEarly := early[cmd.Step.Txn]
			d, sure, err := v.outcome(ctx, cmd.Step.Holder, anchor, isEarly)
			switch {
			case err != nil || !sure:
				return false, err
			case d != nil:
				v.follow(cmd, d.At, r)
			case isEarly:
				open = append(open, cmd.Step.Txn)
			}
		}
		if sure, err := v.holds(ctx, id, open, ro); err != nil || !sure {
			return false, err
		}
	}
	slices.SortFunc(v.decided, func(a, b base.Item) int { return a.Key.Compare(b.Key) })
	return true, nil
}

// outcome returns whether a transaction that is prepared in the view was decided,
// nil if not. Of one that is not early that need not be known, so another node
// is asked about early ones only. It is not sure if the replica of the anchor has
// left.
func (v *view) outcome(ctx context.Context, by command.Holder, anchor witness, early bool) (d *kvfsm.Decided, sure bool, err error) {
	if anchor.replica != nil || !v.h.far.Any() {
		d, err = kvfsm.OutcomeIn(v.snap, by.Anchor, by.Txn)
		return d, !anchor.left(v.h), err
	}
	if !early {
		return nil, true, nil
	}
	d, err = v.h.far.Outcome(ctx, by.Anchor, by.Txn)
	return d, true, err
}

// holds reports whether a shard that is current still holds the transactions,
// which look undecided. They are forgotten only after every shard has applied
// them, so they were not forgotten in the view.
func (v *view) holds(ctx context.Context, id base.ShardID, txns []base.RequestID, ro base.ReadOptions) (bool, error) {
	if len(txns) == 0 {
		return true, nil
	}
	g := v.h.group(id)
	if err := v.h.arrive(ctx, g.self[:], ro); err != nil {
		return false, err
	}
	own := g.replica.Load()
	if own == nil {
		return false, errNoReplica(id)
	}
	for _, txn := range txns {
		if !own.machine.Holds(txn) {
			return false, nil
		}
	}
	return true, nil
}

// follow adds what a decided transaction writes in the range.
func (v *view) follow(cmd *command.Command, at base.Version, r base.Range) {
	for i := range cmd.Writes {
		w := &cmd.Writes[i]
		if !r.Contains(w.Key) || w.Kind == base.WriteCheck {
			continue
		}
		it := base.Item{Key: w.Key}
		expires := command.ExpiresAt(at, w.TTL)
		if w.Kind == base.WritePut && (expires == 0 || expires > v.now) {
			it.Version, it.Value = at, slices.Clone(w.Value)
			if expires != 0 {
				it.ExpiresAt = base.Version(expires).Time()
			}
		}
		v.decided = append(v.decided, it)
	}
}

// decidedItem returns what a decided transaction is about to write to the key.
func (v *view) decidedItem(key base.Key) (base.Item, bool) {
	i, found := slices.BinarySearchFunc(v.decided, key, func(it base.Item, key base.Key) int { return it.Key.Compare(key) })
	if !found {
		return base.Item{}, false
	}
	it := v.decided[i]
	it.Value = slices.Clone(it.Value)
	return it, true
}

// decidedIn returns the same for a range on some shards, in the order of the
// scan.
func (v *view) decidedIn(shards []base.ShardID, r base.Range, ro base.ReadOptions) []base.Item {
	var items []base.Item
	for _, it := range v.decided {
		if !r.Contains(it.Key) || !slices.Contains(shards, v.h.shardOf(it.Key)) {
			continue
		}
		it.Value = slices.Clone(it.Value)
		if ro.KeysOnly {
			it.Value = nil
		}
		items = append(items, it)
	}
	if ro.Reverse {
		slices.Reverse(items)
	}
	return items
}
