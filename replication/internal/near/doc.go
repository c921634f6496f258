// Package near scans the shards that this node has, in the order of their keys.
//
// Invariants:
//
//   - What is read ahead is bounded over all shards of a scan, however many they are
//     and however long the scan is.
//   - The scan that a shard is read with is closed before an item is yielded.
package near
