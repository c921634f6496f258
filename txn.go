package cache

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
)

// Op is one operation of a [Cache.MultiPut]. Make one with [PutOp],
// [DeleteOp] or [CheckOp]. A PutOp refers to its value until MultiPut
// returned.
type Op struct {
	write base.Write
	made  bool  // false for the zero Op, which is refused
	err   error // of its options; reported by MultiPut
}

// PutOp stores value at key. Conditions and [TTL] may be given; a request id
// belongs to the batch.
func PutOp(key Key, value []byte, opts ...WriteOption) Op {
	return makeOp(base.Write{Kind: base.WritePut, Key: key, Value: value}, opts)
}

// DeleteOp removes the value at key. Conditions may be given.
func DeleteOp(key Key, opts ...WriteOption) Op {
	return makeOp(base.Write{Kind: base.WriteDelete, Key: key}, opts)
}

// CheckOp writes nothing: it is the condition that key has version v, or is
// absent if v is 0.
func CheckOp(key Key, v Version) Op {
	w := base.Write{Kind: base.WriteCheck, Key: key}
	w.Cond = base.Cond{Kind: base.CondVersion, Version: v}
	return makeOp(w, nil)
}

func makeOp(w base.Write, opts []WriteOption) Op {
	id, err := resolveWrite(&w, opts)
	if err == nil && !id.IsZero() {
		err = invalidf("a request id belongs to the batch; give it to MultiPut")
	}
	return Op{write: w, made: true, err: err}
}

// resolveOps returns the writes of ops, or the error of the first that is not
// valid.
func resolveOps(ops []Op) ([]base.Write, error) {
	writes := make([]base.Write, len(ops))
	for i := range ops {
		op := &ops[i]
		switch {
		case op.err != nil:
			return nil, refused("multiput", op.write.Key, fmt.Errorf("operation %d: %w", i, op.err))
		case !op.made:
			return nil, refused("multiput", Key{}, invalidf("operation %d is empty; make it with PutOp, DeleteOp or CheckOp", i))
		}
		writes[i] = op.write
	}
	return writes, nil
}

// Result is what became of one operation of a batch:
//
//	type Result struct {
//		Key     Key
//		Version Version // of a put: the new one; of a delete: the removed one; of a check: the one found
//		Err     error   // nil if the operation was applied
//	}
type Result = base.Result

// Tx is a transaction inside [Cache.View] or [Cache.Update]. It buffers writes
// and sees its own. It is used only inside the function it was passed to and
// by one goroutine; afterwards its methods give [ErrInvalid].
type Tx struct {
	tx *node.Tx
}

// View runs fn on one consistent cut of all shards: everything it reads was
// true at one moment, no earlier than the call. Writes in it give
// [ErrInvalid]. fn may run again when writers interfered, so it should start
// from scratch each time. An error of fn is returned as it is. Of the options
// [MaxAttempts] applies.
func (c *Cache) View(ctx context.Context, fn func(tx *Tx) error, opts ...TxOption) error {
	to, err := resolveTxCall(ctx, fn, opts)
	if err == nil && !to.RequestID.IsZero() {
		err = invalidf("a View writes nothing that a request id could name")
	}
	if err != nil {
		return refused("view", Key{}, err)
	}
	return c.node.View(ctx, func(tx *node.Tx) error { return fn(&Tx{tx}) }, to)
}

// Update runs fn and then applies what it wrote, all or none, provided that
// nothing it read has changed meanwhile; otherwise fn runs again, so it must
// have no effects of its own outside tx. Transactions are strictly
// serializable. The version returned is that of its writes, 0 if there were
// none. An error of fn is returned as it is, and nothing is applied.
//
// In a cluster fn may see values that are not the newest, or of different
// moments: then it runs again, and what it returned does not count. A panic of
// fn passes through whatever it saw.
//
// [WithRequestID] and [MaxAttempts] may be given. With an id that was applied
// before, the first outcome is returned; fn may run but has no effect.
func (c *Cache) Update(ctx context.Context, fn func(tx *Tx) error, opts ...TxOption) (Version, error) {
	to, err := resolveTxCall(ctx, fn, opts)
	if err != nil {
		return 0, refused("update", Key{}, err)
	}
	return c.node.Update(ctx, func(tx *node.Tx) error { return fn(&Tx{tx}) }, to)
}

func resolveTxCall(ctx context.Context, fn func(tx *Tx) error, opts []TxOption) (base.TxOptions, error) {
	to, err := resolveTx(opts)
	switch {
	case ctx == nil:
		return to, errNilContext()
	case fn == nil:
		return to, invalidf("the function of the transaction is nil")
	case err != nil:
		return to, err
	case to.Independent:
		return to, invalidf("Independent is for MultiPut; a transaction applies all or none")
	}
	return to, nil
}

// Get returns the item at key as this transaction sees it, or [ErrNotFound].
// The value belongs to the caller. The version of an item that the transaction
// itself has put is [PendingVersion].
func (tx *Tx) Get(key Key) (Item, error) {
	item, err := tx.tx.Get(key)
	return item, txError("get", key, err)
}

// MultiGet returns the items at keys as this transaction sees them, as many
// and in the same order. A missing key has Version 0.
func (tx *Tx) MultiGet(keys []Key) ([]Item, error) {
	items, err := tx.tx.MultiGet(keys)
	return items, txError("multiget", Key{}, err)
}

// RangeScan returns the items of r as this transaction sees them, its own
// writes included, see [Cache.RangeScan]. An Update remembers the whole range
// that was read: a key that somebody else adds to it is a conflict. [Stale]
// gives [ErrInvalid].
func (tx *Tx) RangeScan(r Range, opts ...ReadOption) iter.Seq2[Item, error] {
	ro, err := resolveRead(opts)
	if err == nil && ro.Stale {
		err = invalidf("a transaction cannot read stale values")
	}
	if err != nil {
		return failedScan(err)
	}
	return func(yield func(Item, error) bool) {
		for item, err := range tx.tx.RangeScan(r, ro) {
			if !yield(item, txError("rangescan", Key{}, err)) {
				return
			}
		}
	}
}

// Put buffers a put, to be applied with the transaction. The slice is not
// kept. Conditions and [TTL] may be given; a condition that does not hold, by
// what the transaction sees, gives [ErrVersionMismatch] at once.
func (tx *Tx) Put(key Key, value []byte, opts ...WriteOption) error {
	return tx.write("put", base.Write{Kind: base.WritePut, Key: key, Value: value}, opts)
}

// Delete buffers a delete, to be applied with the transaction. Conditions may
// be given, see [Tx.Put].
func (tx *Tx) Delete(key Key, opts ...WriteOption) error {
	return tx.write("delete", base.Write{Kind: base.WriteDelete, Key: key}, opts)
}

func (tx *Tx) write(op string, w base.Write, opts []WriteOption) error {
	id, err := resolveWrite(&w, opts)
	if err == nil && !id.IsZero() {
		err = invalidf("a request id belongs to the transaction; give it to Update")
	}
	if err == nil {
		err = tx.tx.Write(w)
	}
	return txError(op, w.Key, err)
}

// txError says in an error of a transaction which of its calls failed.
func txError(op string, key Key, err error) error {
	var detail *Error
	if err == nil || errors.As(err, &detail) {
		return err
	}
	return refused(op, key, err)
}

// Context returns the context of the View or Update.
func (tx *Tx) Context() context.Context { return tx.tx.Context() }
