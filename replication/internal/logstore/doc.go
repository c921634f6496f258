// Package logstore is the raft log of one node: entries, votes and snapshot
// records of all its shards, in one log-structured engine (Pebble). It is what
// dragonboat calls a raftio.ILogDB.
//
// # Use
//
// Open makes or opens a Store; Factory hands it to a NodeHost, which closes it.
// If the store fails, OnFail is called. The owner then stops listening to the
// node, calls Release and closes the NodeHost.
//
// # Invariants
//
//   - When SaveRaftState returns, entries, terms, votes and snapshot records
//     are durable: raft answers other nodes by them (Ongaro, Consensus: Bridging
//     Theory and Practice, figure 3.1 and section 3.8). The commit index is
//     volatile state there, and etcd's raft does not sync it either (MustSync):
//     it is written with term and vote, with a snapshot, at Close, and when it has
//     gone far ahead. dragonboat reads it back as a lower bound and learns
//     the rest from the leader. What one call saves is there as a whole or not at
//     all, but for that, and never without what was saved before.
//   - Of a replica the engine holds what raft would read and nothing else. A
//     suffix that a new leader replaced, and a log that a snapshot replaced,
//     are removed in the batch that replaces them, so nothing needs to say
//     where the log ends.
//   - Removing entries is not synced. It follows a durable snapshot record, so
//     entries that a crash brings back are superfluous, not wrong.
//   - After the first failed write or sync nothing is written any more, no sync
//     is tried again, and no call returns: dragonboat ends the process on an
//     error, and would go on with a lost write on nil. Calls park until
//     Release. From then on they work on what the engine has in memory, so that
//     the NodeHost can be closed; none of it reaches the disk.
//   - No call returns an error, but for those that say that nothing was saved,
//     a closed store, and ImportSnapshot.
//   - After Close there is no goroutine, no open file and no lock left.
//
// # Format
//
// Dir/FORMAT has one line with the version of the format and one with its
// checksum: 1 or 2, which differ in nothing but the number of step workers.
// Dir/engine belongs to the engine. Numbers in keys are big-endian.
//
//	'b' shard:8 replica:8          bootstrap info
//	'e' shard:8 replica:8 index:8  entry
//	'n' shard:8 replica:8          record of the newest snapshot
//	's' shard:8 replica:8          hard state: term, vote, commit index
//
// A value is one byte with the version of the record, 1, and the record as
// raftpb marshals it.
//
// Dir/SEAL says how long the manifest of the engine is and what its hash is
// (see internal/diskio).
//
// # Rot
//
// Tables have checksums. The engine takes the first invalid bytes of its manifest
// and of its newest log for the end of them, as it would after a crash; Open
// looks before it does, and returns ErrCorrupt. A Close in good order leaves
// nothing in the log. After a crash, damage to what the last two or three syncs
// before it wrote, and a log that was cut anywhere, look exactly like records
// that were never saved, and are not found.
//
// # Ownership
//
// Nothing that is given is kept and nothing that is returned is shared.
//
// # Lock order
//
// Store.open (shared), Store.snapshots, Store.nodes, node.mu, then the locks
// of the engine, which node.mu is held over when entries are removed.
// compactor.mu is a leaf. Listeners of the engine run with its locks held and
// call only fence.trip and the logger.
package logstore
