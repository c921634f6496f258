package cache

import (
	"context"
	"iter"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
)

// Store is what can be done with the data. [*Cache] satisfies it. Programs
// that take a Store instead of a *Cache can be handed other implementations,
// for instance in tests.
//
// The methods are documented at [Cache].
type Store interface {
	Get(ctx context.Context, key Key, opts ...ReadOption) (Item, error)
	MultiGet(ctx context.Context, keys []Key, opts ...ReadOption) ([]Item, error)
	RangeScan(ctx context.Context, r Range, opts ...ReadOption) iter.Seq2[Item, error]
	Put(ctx context.Context, key Key, value []byte, opts ...WriteOption) (Version, error)
	Delete(ctx context.Context, key Key, opts ...WriteOption) (Version, error)
	MultiPut(ctx context.Context, ops []Op, opts ...TxOption) ([]Result, error)
	View(ctx context.Context, fn func(tx *Tx) error, opts ...TxOption) error
	Update(ctx context.Context, fn func(tx *Tx) error, opts ...TxOption) (Version, error)
	Outcome(ctx context.Context, id RequestID) (Outcome, Version, error)
}

var _ Store = (*Cache)(nil)

// Cache is an open data directory. Open one with [Open]; its methods may be
// called by any number of goroutines at once.
type Cache struct {
	node *node.Node
}

// Open opens the cache described by opts, creating its directory if there is
// none. It is [OpenContext] with context.Background().
func Open(opts Options) (*Cache, error) { return OpenContext(context.Background(), opts) }

// OpenContext opens the cache described by opts, creating its directory if
// there is none. ctx bounds the opening only, not the life of the cache.
//
// Options that are not valid give [ErrInvalid] naming every fault at once; so
// does a directory of another shard count or of a newer format. A directory
// that another cache has open gives [ErrInUse], damaged files give
// [ErrCorrupt]. The caller must Close the cache.
func OpenContext(ctx context.Context, opts Options) (*Cache, error) {
	if ctx == nil {
		return nil, refused("open", Key{}, errNilContext())
	}
	if err := opts.Validate(); err != nil {
		return nil, refused("open", Key{}, err)
	}
	cfg := opts.resolve()
	var err error
	if cfg.Cluster, err = opts.resolveCluster(); err != nil {
		return nil, refused("open", Key{}, err)
	}
	n, err := node.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Cache{node: n}, nil
}

// Ready waits until every shard answers, or ctx is done. In solo that is as
// soon as Open returned.
func (c *Cache) Ready(ctx context.Context) error {
	if ctx == nil {
		return refused("ready", Key{}, errNilContext())
	}
	return c.node.Ready(ctx)
}

// Close stops serving, waits for the operations in flight, and releases
// everything: no goroutine and no open file is left. Calls that come later
// fail with [ErrClosed]; calling Close again is fine and returns the first
// result.
func (c *Cache) Close() error { return c.node.Close() }

// Done returns a channel that is closed when this node can no longer serve:
// after Close, or when a failing disk fenced it.
func (c *Cache) Done() <-chan struct{} { return c.node.Done() }

// Err returns why Done is closed: an error that wraps [ErrClosed] after Close,
// the cause if the node was fenced, and nil while it serves.
func (c *Cache) Err() error { return c.node.Err() }

// Admin returns the operations for running the cache rather than using it.
func (c *Cache) Admin() *Admin { return &Admin{node: c.node} }

// Get returns the item at key, or [ErrNotFound] if there is none. The value
// belongs to the caller. Of the options [Linearizable], [Stale] and
// [KeysOnly] apply.
func (c *Cache) Get(ctx context.Context, key Key, opts ...ReadOption) (Item, error) {
	if ctx == nil {
		return Item{}, refused("get", key, errNilContext())
	}
	if len(opts) == 0 {
		return c.node.Get(ctx, key, base.ReadOptions{})
	}
	ro, err := resolveGet(opts)
	if err != nil {
		return Item{}, refused("get", key, err)
	}
	item, err := c.node.Get(ctx, key, ro)
	if ro.KeysOnly {
		item.Value = nil
	}
	return item, err
}

// MultiGet returns the items at keys, as many and in the same order. A missing
// key is no error: its item has the key, Version 0 and no value. The values
// belong to the caller. The items are read each as by Get, not in one cut; use
// [Cache.View] for that. Of the options those of Get apply.
func (c *Cache) MultiGet(ctx context.Context, keys []Key, opts ...ReadOption) ([]Item, error) {
	if ctx == nil {
		return nil, refused("multiget", Key{}, errNilContext())
	}
	ro, err := resolveGet(opts)
	if err != nil {
		return nil, refused("multiget", Key{}, err)
	}
	items, err := c.node.MultiGet(ctx, keys, ro)
	if ro.KeysOnly {
		for i := range items {
			items[i].Value = nil
		}
	}
	return items, err
}

// RangeScan returns the items of r ordered by key, or in reverse order with
// [Reverse]. The scan streams: it holds a bounded number of items however
// large r is, and starts when it is ranged over, anew each time. An error is
// yielded once, with the zero Item, and ends the scan. The values belong to
// the caller.
//
// A range inside one primary is read in one cut. Across primaries each shard
// is read in one cut of its own; use [Cache.View] for one cut over all.
// [Limit] and Item.Cursor with [From] read in pages.
func (c *Cache) RangeScan(ctx context.Context, r Range, opts ...ReadOption) iter.Seq2[Item, error] {
	if ctx == nil {
		return failedScan(errNilContext())
	}
	ro, err := resolveRead(opts)
	if err != nil {
		return failedScan(err)
	}
	return c.node.RangeScan(ctx, r, ro)
}

// failedScan yields the error of a scan that was refused, and nothing else.
func failedScan(cause error) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		yield(Item{}, refused("rangescan", Key{}, cause))
	}
}

// Put stores value at key and returns the version it got. The slice is not
// kept. Conditions ([IfVersion], [IfAbsent], [IfPresent]), [TTL] and
// [WithRequestID] may be given. Without a condition nothing is read.
func (c *Cache) Put(ctx context.Context, key Key, value []byte, opts ...WriteOption) (Version, error) {
	if ctx == nil {
		return 0, refused("put", key, errNilContext())
	}
	w := base.Write{Kind: base.WritePut, Key: key, Value: value}
	id, err := resolveWrite(&w, opts)
	if err != nil {
		return 0, refused("put", key, err)
	}
	return c.node.Write(ctx, w, id)
}

// Delete removes the value at key and returns the version that it had, 0 if
// there was none; that is no error. Conditions and [WithRequestID] may be
// given.
func (c *Cache) Delete(ctx context.Context, key Key, opts ...WriteOption) (Version, error) {
	if ctx == nil {
		return 0, refused("delete", key, errNilContext())
	}
	w := base.Write{Kind: base.WriteDelete, Key: key}
	id, err := resolveWrite(&w, opts)
	if err != nil {
		return 0, refused("delete", key, err)
	}
	return c.node.Write(ctx, w, id)
}

// MultiPut applies ops, on any shards, all or none: if one condition does not
// hold nothing is applied and the error says which. With [Independent] each
// operation stands alone and its Result says what became of it. The results
// have the length and order of ops.
func (c *Cache) MultiPut(ctx context.Context, ops []Op, opts ...TxOption) ([]Result, error) {
	if ctx == nil {
		return nil, refused("multiput", Key{}, errNilContext())
	}
	to, err := resolveTx(opts)
	if err != nil {
		return nil, refused("multiput", Key{}, err)
	}
	writes, err := resolveOps(ops)
	if err != nil {
		return nil, err
	}
	return c.node.MultiWrite(ctx, writes, to)
}

// Outcome tells what became of the write or transaction that carried id, and
// the version it was applied with. [OutcomeUnknown] means that no write with
// this id is remembered: it was never seen, or its retention has passed.
func (c *Cache) Outcome(ctx context.Context, id RequestID) (Outcome, Version, error) {
	if ctx == nil {
		return OutcomeUnknown, 0, refused("outcome", Key{}, errNilContext())
	}
	if id.IsZero() {
		return OutcomeUnknown, 0, refused("outcome", Key{}, invalidf("the request id is zero"))
	}
	return c.node.Outcome(ctx, id)
}
