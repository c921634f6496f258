// Package kvfsm is the state machine of one shard. It decides what a command
// does, and writes that into a storage batch.
//
// Invariants:
//
//   - Deterministic. It has no clock, no goroutine and no random numbers: the
//     same commands in the same order give the same state and results on every
//     replica. Whether a key has expired is decided by the stamp of the
//     command and the clock of the shard.
//   - The version of an applied command is max(clock+1, stamp), and becomes
//     the clock. So versions of a shard rise strictly, whatever the clocks of
//     the proposers do.
//   - A command changes nothing unless all of its checks hold.
//   - A blind put reads nothing.
//
// A Machine is used by one goroutine at a time, the one that applies. Others may
// meanwhile ask for what it counts, and which transactions hold what.
package kvfsm
