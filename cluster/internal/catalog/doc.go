// Package catalog is the cluster's record of itself: which nodes there are, in
// what state, which replica of which shard is on which of them, and the
// settings that all share.
//
// The records are items of one more shard, the catalog shard. A State is built
// from all of them and never changes. A transition is a pure function from a
// State to the conditional writes of one atomic batch; an Editor reads, runs a
// transition and writes until no other editor came between; a Cache holds the
// newest State of a node and tells who waits for a newer one.
//
// # Records
//
//	("cluster", "")         Settings
//	("epoch", "")           written with every change
//	("node", <node id>)     NodeRecord
//	("shard", "%05d")       ShardRecord, the catalog's own included
//
// Items with another primary belong to others: they are carried along and not
// looked at. Each value begins with a version of its own; one that a newer
// version wrote is refused, never guessed.
//
// # Invariants
//
//   - Every batch of a transition writes the epoch on the condition that it is
//     the State's. So all changes have one order, a decision rests on the whole
//     of the State it was made from, and the version of the epoch item numbers
//     the States. Every record that is written carries its own condition too.
//   - A replica id is in the shard's record before anyone else hears of it, is
//     never below Next and never given out again.
//   - A shard has at most one replica on a node. A replica whose directory is not
//     the node's present one is lost: its disk was wiped or the node removed. It
//     keeps its place until it has been forgotten; the raft engine could not have
//     two members on one node either.
//   - A removed node stays known. It may come back only with a new directory, so
//     that nothing that was taken from it can be heard again.
//   - Transitions are idempotent: once what one asks for is the case, it returns
//     no writes. So an edit whose outcome is unknown may simply run again.
//
// Check tells which of these a State breaks; Build refuses a State that breaks
// one.
//
// # Locks
//
// Cache.mu is a leaf. States need none.
package catalog
