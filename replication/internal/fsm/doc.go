// Package fsm runs the state machine of a shard on a replicated log: it is what
// dragonboat calls an on-disk state machine, over the one store that all shards
// of a node share.
//
// Invariants:
//
//   - What an entry changes and its index go into the same storage batch, so
//     after a crash the machine stands between two entries, whatever the engine
//     had flushed. The store has no log of its own: what is lost is replayed.
//   - Sync returns after a flush that covers every earlier batch, so the
//     replicated log may forget what was applied before.
//   - No error is ever returned to dragonboat, which would end the process. A
//     failure of storage goes to Config.Fail, which must silence the node; from
//     then on nothing is applied, and Sync does not return before Stopped.
//
// The package knows the state machine interfaces of dragonboat and nothing else
// of it, since a state machine that calls its host deadlocks.
package fsm
