// Package far is how a node uses the shards that other nodes have: it makes the
// requests of package ask, hands them to a Remote, and puts the answers together.
//
// Invariants:
//
//   - Every request may be repeated; see package ask.
//   - What a scan yields of one shard is of one snapshot of it: once anything of a
//     node's answer was handed on, no other node goes on with it.
//   - The goroutines of a scan end with its iteration, and what they have fetched
//     ahead is bounded for each node.
//
// Lock order: Marks.mu is a leaf.
package far
