// Package replication runs the shards of a node: it orders the commands of
// each shard, applies them to the shard's state machine, and serves reads that
// are consistent with them.
//
// A Host knows every shard, whether or not this node has a replica of it. Above
// it, internal/node checks and routes, and cluster decides which replicas there
// are. Below it is the log, the seam between what is common and what depends on
// whether there are other replicas: internal/sololog orders commands in this
// process and relies on the engine's write-ahead log for durability, raftlog
// has a majority of the replicas agree. internal/rafthost runs raft,
// internal/far asks other nodes, internal/ask is what they say.
//
// Invariants:
//
//   - A write is answered after its durability is what was promised.
//   - A read never returns what a power failure could still take back: if the
//     value, or the removal of it, comes from a write that is not yet durable,
//     the read waits for it (see log.Settle).
//   - A transaction on several shards is applied on all or on none, with a
//     version of its own; without peers it is one storage batch.
//   - What was read of a replica counts only if group.replica is the same pointer
//     before and after: it changes whenever the replica comes, goes, loses touch
//     or has caught up. The pointer is loaded before the barrier, never after.
//   - The mark of a shard is taken before what it vouches for is read, and
//     compared with one that is taken after the second look.
//   - Nothing waits without a bound: the queue in front of the log has one in
//     number and one in bytes, and each attempt to reach another node has one in
//     time.
//
// Lock order: raftNode.changing (held while a replica starts or is removed) comes
// first; raftGroup.mu and confirmer.mu before tasks.Group.mu. All others are leaves.
// But for changing, no lock is held while storage, raft or another node is called.
package replication
