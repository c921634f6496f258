// Package latch lets transactions of one node that have met on a key take turns, in
// the order in which they came, instead of all trying again at once.
//
// Latches are for speed only. What keeps transactions apart is that the shards check
// and lock; whoever does not get a latch in time goes on without.
//
// Invariants:
//
//   - A guard is queued for all of its keys in one moment, so of any two guards one
//     is ahead of the other wherever they meet, and nobody waits in a circle.
//   - A key that nobody holds or waits for has no queue.
//
// It starts no goroutine. Lock order: Latches.mu is a leaf.
package latch
