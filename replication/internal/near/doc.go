// Package near reads what this node has: a view of some shards at one moment of each,
// its keys and, merged in the order of the keys, its ranges.
//
// Invariants:
//
//   - What a view shows of one shard is of one moment of that shard, also where
//     transactions have been decided that the shard has not followed yet.
//   - What is read ahead is bounded over all shards of a scan, however many they are
//     and however long the scan is.
//   - The scan that a shard is read with is closed before an item is yielded.
package near
