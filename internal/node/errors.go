package node

import (
	"github.com/distributedcache/cache/internal/base"
)

// fail turns an error from below into what a caller gets: a *base.Error that
// names the operation, its key and its shard (-1 if there is not just one).
// What the layers below said of the outcome is kept; an error that says nothing
// comes from before anything was applied.
func (n *Node) fail(op string, key base.Key, shard int, cause error) *base.Error {
	e := &base.Error{Outcome: base.OutcomeNotApplied, Err: cause}
	if below, ok := cause.(*base.Error); ok { //nolint:errorlint // one wrapped deeper speaks of something else
		*e = *below
	}
	if e.Op == "" || e.Op == "storage" {
		e.Op = op
	}
	if e.Key.IsZero() {
		e.Key = key
	}
	e.Shard = shard
	return e
}

// failWrite is fail for a write that may carry a request id.
func (n *Node) failWrite(op string, key base.Key, shard int, id base.RequestID, cause error) error {
	e := n.fail(op, key, shard, cause)
	e.RequestID = id
	return e
}

// notFound is the answer to a read of an absent key.
func (n *Node) notFound(key base.Key, shard base.ShardID) error {
	return &base.Error{Op: "get", Key: key, Shard: int(shard), Outcome: base.OutcomeNotApplied, Err: base.ErrNotFound}
}
