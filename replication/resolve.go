package replication

import (
	"context"
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

// readView returns a view that shows of a range what the options ask for, if the
// shards have arrived there. This node has replicas of them all.
func (h *Host) readView(ctx context.Context, shards []base.ShardID, r base.Range, ro base.ReadOptions) (*view, error) {
	for {
		eves := h.evesOf(shards)
		anchors, _ := h.split(anchorsIn(eves, r), ro)
		if err := h.arrive(ctx, anchors.shards, ro); err != nil {
			return nil, err
		}
		v, err := h.newView(eves, anchors, ro)
		if err != nil || len(anchors.shards) == 0 {
			return v, err
		}
		if h.still(anchors) {
			if err := v.Settle(ctx, shards, r); err != nil {
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

// anchorsIn returns where the transactions are decided that are about to write in a
// range, each shard once.
func anchorsIn(eves []near.Eve, r base.Range) []base.ShardID {
	var ids []base.ShardID
	for i := range eves {
		for _, t := range eves[i].Held {
			if !slices.Contains(ids, t.Anchor) && t.WritesIn(r) {
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
func (v *view) Holds(ctx context.Context, id base.ShardID, txn base.RequestID) (bool, error) {
	g := v.h.group(id)
	if !v.lax {
		if err := v.h.arrive(ctx, g.self[:], v.ro); err != nil {
			return false, err
		}
	}
	own := g.replica.Load()
	return own != nil && own.machine.Holds(txn), nil
}
