// Package replication runs the shards of a node: it orders the commands of
// each shard, applies them to the shard's state machine, and serves reads that
// are consistent with them.
//
// A Host has every shard of the node. Above it, internal/node checks and
// routes; below it is the log, the seam between what is common and what
// depends on whether there are other replicas: sololog orders commands in
// this process and relies on the engine's write-ahead log for durability.
//
// Invariants:
//
//   - A write is answered after its durability is what was promised.
//   - A read never returns what a power failure could still take back: if the
//     value, or the removal of it, comes from a write that is not yet durable,
//     the read waits for it (see log.Settle).
//   - A transaction on several shards is one storage batch with one version.
//   - Nothing waits without a bound: the queue in front of the log has one in
//     number and one in bytes.
//
// Lock order: batcher.mu, then nothing; settler.mu, then nothing. No lock is
// held while storage is called.
package replication
