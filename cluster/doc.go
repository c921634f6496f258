// Package cluster makes a node part of a cluster: which nodes there are, what is
// where, and how to get there. It carries no data; that moves through replication
// only.
//
// What a node is and where replicas live is in the catalog, one more shard with a
// raft group of its own, of which every node keeps a copy (catalog.Cache). Gossip
// suspects and hints; it decides nothing. Each node follows the catalog by itself:
// it starts the replicas that it is given and deletes those that are not its any
// more. Whoever leads the catalog reconciles: it observes, plans by the pure
// planner of package shard, and makes the next few steps.
//
// Invariants:
//
//   - A replica exists in the catalog before it exists anywhere else, and is gone
//     from its group before it is gone from the catalog.
//   - Nothing is decided by what one node thinks of another's silence, except when
//     its replicas are rebuilt elsewhere, after DeadNodeGrace.
//   - A directory belongs to one cluster for ever, and says so before it acts.
//
// Lock order: none is held while another is taken.
package cluster
