package node

import (
	"context"
	"fmt"
	"iter"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/metrics"
	"github.com/distributedcache/cache/shard"
)

func (n *Node) shardOf(key base.Key) base.ShardID {
	return shard.Of(key.Primary, n.host.Shards())
}

// Get reads one key.
func (n *Node) Get(ctx context.Context, key base.Key, ro base.ReadOptions) (base.Item, error) {
	start := n.metrics.Start()
	item, err := n.get(ctx, key, ro)
	n.metrics.Done(metrics.OpGet, start, key, 1, err)
	return item, err
}

func (n *Node) get(ctx context.Context, key base.Key, ro base.ReadOptions) (base.Item, error) {
	if err := n.begin(ctx); err != nil {
		return base.Item{Key: key}, n.fail("get", key, -1, err)
	}
	if err := key.Validate(); err != nil {
		return base.Item{Key: key}, n.fail("get", key, -1, err)
	}
	n.metrics.TouchKey(key)
	id := n.shardOf(key)
	item, err := n.host.Get(ctx, id, key, ro)
	if err != nil {
		return item, n.fail("get", key, int(id), err)
	}
	if !item.Exists() {
		return item, n.notFound(key, id)
	}
	return item, nil
}

// MultiGet reads keys, each by itself; a missing one gives version 0.
func (n *Node) MultiGet(ctx context.Context, keys []base.Key, ro base.ReadOptions) (items []base.Item, err error) {
	start := n.metrics.Start()
	defer func() { n.metrics.Done(metrics.OpMultiGet, start, base.Key{}, len(keys), err) }()
	if err := n.begin(ctx); err != nil {
		return nil, n.fail("multiget", base.Key{}, -1, err)
	}
	if err := n.cfg.Limits.CheckKeys(keys); err != nil {
		return nil, n.fail("multiget", base.Key{}, -1, err)
	}
	for _, key := range keys {
		n.metrics.TouchKey(key)
	}
	if items, err = n.host.MultiGet(ctx, keys, ro); err != nil {
		return nil, n.fail("multiget", base.Key{}, -1, err)
	}
	return items, nil
}

// RangeScan yields the items of a range in order.
func (n *Node) RangeScan(ctx context.Context, r base.Range, ro base.ReadOptions) iter.Seq2[base.Item, error] {
	return func(yield func(base.Item, error) bool) {
		start, count := n.metrics.Start(), 0
		var failed error
		defer func() { n.metrics.Done(metrics.OpRangeScan, start, base.Key{}, count, failed) }()
		if failed = n.beginScan(ctx, r); failed != nil {
			yield(base.Item{}, failed)
			return
		}
		for item, err := range n.host.Scan(ctx, r, ro) {
			if err != nil {
				failed = n.fail("rangescan", base.Key{}, -1, err)
				yield(base.Item{}, failed)
				return
			}
			count++
			if !yield(item, nil) {
				return
			}
		}
	}
}

func (n *Node) beginScan(ctx context.Context, r base.Range) error {
	err := n.begin(ctx)
	if err == nil {
		err = r.Validate()
	}
	if err != nil {
		return n.fail("rangescan", base.Key{}, -1, err)
	}
	return nil
}

// Write applies one put or delete and returns its new, or the removed, version.
func (n *Node) Write(ctx context.Context, w base.Write, id base.RequestID) (base.Version, error) {
	op := metrics.OpPut
	if w.Kind == base.WriteDelete {
		op = metrics.OpDelete
	}
	start := n.metrics.Start()
	version, err := n.write(ctx, op.String(), &w, id)
	n.metrics.Done(op, start, w.Key, 1, err)
	return version, err
}

func (n *Node) write(ctx context.Context, op string, w *base.Write, id base.RequestID) (base.Version, error) {
	if err := n.begin(ctx); err != nil {
		return 0, n.failWrite(op, w.Key, -1, id, err)
	}
	if err := w.Validate(n.cfg.Limits); err != nil {
		return 0, n.failWrite(op, w.Key, -1, id, err)
	}
	n.metrics.TouchKey(w.Key)
	version, err := n.host.Write(ctx, w, id)
	if err != nil {
		return 0, n.failWrite(op, w.Key, int(n.shardOf(w.Key)), id, err)
	}
	return version, nil
}

// MultiWrite applies a batch: all or nothing, or each operation by itself if
// the options say so. The results are nil if the batch never got as far as
// its conditions.
func (n *Node) MultiWrite(ctx context.Context, ws []base.Write, to base.TxOptions) (results []base.Result, err error) {
	start := n.metrics.Start()
	defer func() { n.metrics.Done(metrics.OpMultiPut, start, base.Key{}, len(ws), err) }()
	if err := n.begin(ctx); err != nil {
		return nil, n.failWrite("multiput", base.Key{}, -1, to.RequestID, err)
	}
	if to.Independent {
		return n.writeEach(ctx, ws, to)
	}
	if err := n.cfg.Limits.CheckWrites(ws); err != nil {
		return nil, n.failWrite("multiput", base.Key{}, -1, to.RequestID, err)
	}
	for i := range ws {
		n.metrics.TouchKey(ws[i].Key)
	}
	if results, err = n.host.MultiWrite(ctx, ws, to.RequestID); err != nil {
		return results, n.failWrite("multiput", base.Key{}, -1, to.RequestID, err)
	}
	return results, nil
}

// writeEach applies each operation by itself. Its error is about the batch as
// a whole; what became of an operation is in its result.
func (n *Node) writeEach(ctx context.Context, ws []base.Write, to base.TxOptions) ([]base.Result, error) {
	err := n.checkEach(ws, to)
	if err != nil {
		return nil, n.failWrite("multiput", base.Key{}, -1, to.RequestID, err)
	}
	results := n.host.IndependentWrites(ctx, ws)
	for i := range results {
		if r := &results[i]; r.Err != nil {
			r.Err = n.fail("multiput", r.Key, int(n.shardOf(r.Key)), r.Err)
		}
		n.metrics.TouchKey(ws[i].Key)
	}
	return results, nil
}

func (n *Node) checkEach(ws []base.Write, to base.TxOptions) error {
	if !to.RequestID.IsZero() {
		return fmt.Errorf("%w: a request id stands for one atomic batch; drop Independent or the id", base.ErrInvalid)
	}
	if len(ws) == 0 {
		return fmt.Errorf("%w: a batch without operations", base.ErrInvalid)
	}
	bytes := 0
	for i := range ws {
		if err := ws[i].Validate(n.cfg.Limits); err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
		bytes += ws[i].Bytes()
	}
	return n.cfg.Limits.CheckBatch(len(ws), bytes)
}

// View runs fn on one consistent cut.
func (n *Node) View(ctx context.Context, fn func(*Tx) error, to base.TxOptions) (err error) {
	start := n.metrics.Start()
	defer func() { n.metrics.Done(metrics.OpView, start, base.Key{}, 0, err) }()
	if err := n.begin(ctx); err != nil {
		return n.fail("view", base.Key{}, -1, err)
	}
	err = n.host.View(ctx, n.cfg.Limits, to.MaxAttempts, callersOwn(fn))
	if own, ok := err.(*ownError); ok {
		return own.error
	}
	if err != nil {
		return n.fail("view", base.Key{}, -1, err)
	}
	return nil
}

// ownError is an error of the caller's function, which goes back as it is, but
// only if the host says that it counts: the function may have read what was not
// of one moment, and another run of it may have succeeded.
type ownError struct{ error }

func callersOwn(fn func(*Tx) error) func(*Tx) error {
	return func(tx *Tx) error {
		if err := fn(tx); err != nil {
			return &ownError{err}
		}
		return nil
	}
}

// Update runs fn and applies its writes if nothing it read has changed, else
// runs it again.
func (n *Node) Update(ctx context.Context, fn func(*Tx) error, to base.TxOptions) (version base.Version, err error) {
	start := n.metrics.Start()
	defer func() { n.metrics.Done(metrics.OpUpdate, start, base.Key{}, 0, err) }()
	if err := n.begin(ctx); err != nil {
		return 0, n.failWrite("update", base.Key{}, -1, to.RequestID, err)
	}
	version, err = n.host.Update(ctx, n.cfg.Limits, to, callersOwn(fn))
	if own, ok := err.(*ownError); ok {
		return 0, own.error
	}
	if err != nil {
		return 0, n.failWrite("update", base.Key{}, -1, to.RequestID, err)
	}
	return version, nil
}

// Outcome tells what became of the write with this request id.
func (n *Node) Outcome(ctx context.Context, id base.RequestID) (outcome base.Outcome, version base.Version, err error) {
	start := n.metrics.Start()
	defer func() { n.metrics.Done(metrics.OpOutcome, start, base.Key{}, 0, err) }()
	err = n.begin(ctx)
	if err == nil && id.IsZero() {
		err = fmt.Errorf("%w: the zero request id names no request", base.ErrInvalid)
	}
	if err == nil {
		outcome, version, err = n.host.Outcome(ctx, id)
	}
	if err != nil {
		return base.OutcomeUnknown, 0, n.failWrite("outcome", base.Key{}, -1, id, err)
	}
	return outcome, version, nil
}
