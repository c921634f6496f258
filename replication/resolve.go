package replication

import (
	"context"
	"maps"
	"slices"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/replication/internal/near"
	"github.com/distributedcache/cache/storage"
)

// evesOf returns what has to be known of shards before a view of them is taken. What
// is held from then on was not decided before the call, so however many transactions
// come and go meanwhile, a view need not know of them.
func (h *Host) evesOf(shards []base.ShardID) []near.Eve {
	eves := make([]near.Eve, len(shards))
	for i, id := range shards {
		eves[i].Shard = id
		if r := h.group(id).replica.Load(); r != nil {
			eves[i].Removed, eves[i].Held = r.machine.Removed(), r.machine.Held()
		}
	}
	return eves
}

// readView returns a view that shows what the options ask for, if the shards have
// arrived there, of all but what transactions write that do not meet a condition. This
// node has replicas of the shards.
func (h *Host) readView(ctx context.Context, shards []base.ShardID, which func(kvfsm.Held) bool, ro base.ReadOptions) (*view, error) {
	for {
		eves := h.evesOf(shards)
		anchors, _ := h.split(anchorsOf(eves, which), ro)
		if err := h.arrive(ctx, anchors.shards, ro); err != nil {
			return nil, err
		}
		v, err := h.newView(eves, anchors, ro)
		if err != nil {
			return nil, err
		}
		if h.still(anchors) {
			if err := v.Settle(ctx, shards, which); err != nil {
				v.Close()
				return nil, err
			}
			if !v.Doubtful {
				return v, nil
			}
		}
		v.Close()
		if ctx.Err() != nil {
			return nil, unavailable(ctx)
		}
	}
}

// anchorsOf returns where the transactions are decided that meet a condition, each
// shard once.
func anchorsOf(eves []near.Eve, which func(kvfsm.Held) bool) []base.ShardID {
	var ids []base.ShardID
	for i := range eves {
		for _, t := range eves[i].Held {
			if !slices.Contains(ids, t.Anchor) && which(t) {
				ids = append(ids, t.Anchor)
			}
		}
	}
	return ids
}

// Outcome implements near.Judge. Anchors that had not arrived when the view was taken
// are asked.
func (v *view) Outcome(ctx context.Context, sn *storage.Snapshot, by command.Holder) (*kvfsm.Decided, error) {
	if v.h.far.Any() && !slices.Contains(v.here.shards, by.Anchor) {
		return v.h.far.Outcome(ctx, by.Anchor, by.Txn)
	}
	return kvfsm.OutcomeIn(sn, by.Anchor, by.Txn)
}

// Holds implements near.Judge.
func (v *view) Holds(ctx context.Context, txns map[base.ShardID][]base.RequestID) (bool, error) {
	if !v.lax {
		if err := v.h.arrive(ctx, slices.Collect(maps.Keys(txns)), v.ro); err != nil {
			return false, err
		}
	}
	for id, txns := range txns {
		own := v.h.group(id).replica.Load()
		if own == nil || slices.ContainsFunc(txns, func(txn base.RequestID) bool { return !own.machine.Holds(txn) }) {
			return false, nil
		}
	}
	return true, nil
}
