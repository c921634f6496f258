// Package hostfs lets dragonboat keep its own files, which are flag files and
// snapshot directories, on a file system of the storage engine, so that all of
// a node is on one file system, such as a crashable one in memory. It also
// takes away three habits of dragonboat:
//
//   - The name of the machine is part of its paths and of its flag file, so a
//     renamed machine would start empty. Here that part of a path has a fixed
//     name, and the flag file does not say it.
//   - A flag file is written in place; after a crash in between, the next start
//     fails. Here it appears whole or not at all.
//   - An I/O error ends the process. dragonboat panics if any of these fails:
//     Create, Write, WriteAt, Sync and Close of a snapshot file; creating,
//     renaming, syncing or removing a snapshot directory; making the
//     directories of a replica that starts; closing the lock. Here the first
//     failure is reported, and from then on the disk is dead: changes go
//     nowhere and succeed, and the disk keeps what it had, as after a power cut.
//
// On a dead disk everything that is asked for exists. That makes dragonboat
// give up whatever it is at by itself: a snapshot being saved or received
// counts as outdated, the receiving replica as removed, and a replica that
// should start fails with dragonboat.ErrReplicaRemoved, which says nothing of
// the replica then. What is left are reads: opening or reading a snapshot that
// is there, listing or looking at a directory. Their errors are reported and
// returned, since nothing can be made up, and dragonboat panics on them.
//
// Invariants:
//
//   - Config.OnError has returned before the first change that went nowhere
//     is reported as done. So if it fences what else must not get ahead of the
//     disk, above all the log store, nothing does.
//   - Once the disk is dead it is only read.
//
// Lock order: FS.mu, then nothing; it is not held while the disk is used.
package hostfs
