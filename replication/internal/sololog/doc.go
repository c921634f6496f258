// Package sololog is the log of a node without peers: it orders the transactions
// of all shards in this process and relies on the engine's write-ahead log for
// durability.
//
// Invariants:
//
//   - Versions rise over all shards, also over restarts: one that somebody was
//     told is never given again.
//   - A transaction on any shards is one storage batch.
//   - Callers are answered in order, after the fsync if the log is synced.
//
// Lock order: batcher.mu and settler.mu are leaves. No lock is held while storage
// is called. The lane, which applies, has none: it is the only one that does.
package sololog
