package replication

import (
	"context"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
)

// log orders transactions and applies them to the machines of their shards. It
// is the seam between a node by itself and a replicated one; the suite in
// internal/logtest says what both must do.
type log interface {
	// Propose returns once txn has been decided as durably as was promised,
	// with the outcome in txn.Result: also that a condition did not hold is an
	// outcome. An error is a *base.Error that says whether txn was applied;
	// after one the log may still use txn, and the caller must leave it alone.
	Propose(ctx context.Context, txn *command.Txn) error
	// Current returns once this node shows, of the given shards, everything that
	// was answered anywhere before the call.
	Current(ctx context.Context, shards []base.ShardID) error
	// Recent is like Current for what was answered longer ago than within.
	Recent(ctx context.Context, shards []base.ShardID, within time.Duration) error
	// Settle returns once no failure can take back the versions up to v. The
	// versions are those of one shard.
	Settle(ctx context.Context, shard base.ShardID, v base.Version) error
	// Cut reports whether a snapshot of the store is a consistent cut over all
	// shards. If not, what is read of several shards must be validated.
	Cut() bool
	// Ordered returns a version that no visible write of any shard exceeds.
	Ordered() base.Version
	// Leads reports whether this node does the chores of a shard.
	Leads(shard base.ShardID) bool
	// Tend does the chores of the log itself on a shard.
	Tend(ctx context.Context, shard base.ShardID) error
	// InFlight returns how many transactions wait, and how many were refused
	// because too many did.
	InFlight() (waiting, refused int64)
	// Close decides what has been accepted and stops. Later proposals get
	// ErrClosed.
	Close()
}
