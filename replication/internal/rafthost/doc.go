// Package rafthost is raft on one node: it opens dragonboat over the log store, the
// transport and the files of this module, starts and removes the replicas of shards,
// and changes and describes the members of their groups. What is proposed to the
// groups, and who may read a replica, is decided above.
//
// Invariants:
//
//   - A node that has failed says nothing any more: its fence trips, no message
//     leaves, and what would have to touch the disk parks until Close.
//   - A replica runs only over data that belong to its log: both were lost or none.
//   - A replica that joins begins without data. What an earlier one has left is gone
//     from the disk before the log knows the new one.
//   - A change of a group is made only of the members that it was planned from, and
//     once, however often it is asked for.
//
// Replicas of one node start and stop one at a time; the caller sees to that. There
// are no locks. The goroutine of Watch is the caller's, those of dragonboat end in
// Close.
package rafthost
