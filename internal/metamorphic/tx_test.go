package metamorphic

import (
	"context"
	"errors"
	"fmt"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
)

var errRollback = errors.New("rolled back by the test")

// update runs a random transaction on the system and on a copy of the model,
// and compares everything that it sees on the way.
func (h *history) update(ctx context.Context) {
	var draft *testkit.Model
	var writes []base.Write
	rollback := h.rng.IntN(5) == 0
	version, err := h.sys.Update(ctx, func(tx *node.Tx) error {
		draft, writes = h.model.Clone(), nil
		for range 1 + h.rng.IntN(8) {
			if err := h.txStep(tx, draft, &writes); err != nil {
				return err
			}
		}
		if rollback {
			return errRollback
		}
		return nil
	}, base.TxOptions{})
	if rollback {
		if !errors.Is(err, errRollback) {
			h.fail("rolled back update: %v", err)
		}
		return
	}
	if err != nil {
		h.fail("update: %v", err)
		return
	}
	if len(writes) == 0 {
		return
	}
	h.newVersion(version, writes...)
	for _, w := range writes {
		w.Cond = base.Cond{} // judged when it was written
		h.model.Apply(h.commit(version), w)
	}
}

// pending is how the model names what a transaction has written so far.
func (h *history) pending() testkit.Commit {
	return testkit.Commit{Stamp: h.now(), Now: h.now(), Version: base.PendingVersion}
}

func (h *history) txStep(tx *node.Tx, draft *testkit.Model, writes *[]base.Write) error {
	switch h.rng.IntN(5) {
	case 0:
		keys := h.keys()
		got, err := tx.MultiGet(keys)
		if err != nil {
			return err
		}
		return h.sameInTx(got, draft.MultiGet(h.now(), keys))
	case 1:
		r, ro := h.rangeAndOptions()
		var got []base.Item
		for item, err := range tx.RangeScan(r, ro) {
			if err != nil {
				return err
			}
			got = append(got, item)
		}
		if err := h.sameInTx(got, draft.Scan(h.now(), r, ro)); err != nil {
			return fmt.Errorf("scan %v %+v: %w", r, ro, err)
		}
		return nil
	default:
		w := h.draw(h.key())
		want, applied := draft.Apply(h.pending(), w)
		err := tx.Write(w)
		if applied != (err == nil) {
			return fmt.Errorf("write in a transaction: %w, model: %+v", err, want)
		}
		if applied {
			*writes = append(*writes, w)
		}
		return nil
	}
}

// sameInTx compares what a transaction sees. When a pending write would expire
// is not known before it is committed.
func (h *history) sameInTx(got, want []base.Item) error {
	for _, items := range [][]base.Item{got, want} {
		for i := range items {
			if items[i].Version == base.PendingVersion {
				items[i].ExpiresAt = base.Item{}.ExpiresAt
			}
		}
	}
	if d := testkit.DiffItems(got, want); d != "" {
		return errors.New(d)
	}
	return nil
}

// view compares a whole cut.
func (h *history) view(ctx context.Context) {
	err := h.sys.View(ctx, func(tx *node.Tx) error {
		var got []base.Item
		for item, err := range tx.RangeScan(base.All(), base.ReadOptions{}) {
			if err != nil {
				return err
			}
			got = append(got, item)
		}
		return h.sameInTx(got, h.model.Scan(h.now(), base.All(), base.ReadOptions{}))
	}, base.TxOptions{})
	if err != nil {
		h.fail("view: %v", err)
	}
}
