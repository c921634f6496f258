// Package storage keeps the data of one node on disk: versioned records, an
// index of what expires when, and whatever the owners of shards need to
// remember, for all shards in one log-structured engine (Pebble). It knows
// nothing of commands, peers or users; it is told which shard a key is on.
//
// # Use
//
// Open makes or opens a Store. Writes go through a Batch: fill it, Apply it
// (atomic, and visible when that returns), Wait until it is durable, Release
// it. Reads go through a Space, the newest state of one shard, or a Snapshot,
// one moment of all shards; a Scanner reads pages of records in order.
//
// # Invariants
//
//   - A batch is applied whole or not at all, now and after a crash.
//   - With Synced, what Wait has returned nil for was fsynced. With Relaxed and
//     Volatile, what was applied before a Sync that returned nil is durable.
//   - A read never gives bytes that fail their checksum: it gives ErrCorrupt.
//   - A read through the cache is never older than what any finished call,
//     cached or not, has shown before.
//   - After the first failed write or fsync nothing is written any more, and
//     every call returns the cause (see Fenced). The process lives.
//   - Every error wraps exactly one sentinel of package base.
//   - After Close there is no goroutine, no open file and no lock left.
//
// # Ownership
//
// Batch.Put, Set and so on copy what they are given. Values, keys and items
// that are returned belong to the caller. A Batch, a Scanner and the loop of
// Values are for one goroutine; everything else is safe for concurrent use.
//
// # Lock order
//
// Locks are leaves: nothing of the engine is called and no other lock taken
// while one is held, with two exceptions: stripe.mu of the read cache, under
// which the cache takes its own, and that of the seal, under which the seal is written.
// A listener of the engine runs with the engine's locks
// held and calls only fence.trip, Store.poke and the logger. The gate (see
// gate.go) is no lock: it may be entered again by whoever is inside.
//
// DESIGN.md says why it is built this way and has the formats byte by byte,
// BACKUP.md those of backups and shard streams.
package storage
