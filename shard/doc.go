// Package shard says where keys live, where the replicas of shards should live
// and who should lead them, and what the next steps to that are. It is pure:
// values in, values out, no clock, no I/O, no state, and the same answer
// wherever and however often it is asked.
//
// A reconciler observes the nodes and the groups, and then:
//
//	target := shard.Target(config, nodes, groups)
//	leaders := shard.Leaders(nodes, groups, target)
//	steps := shard.Plan(limits, nodes, groups, target, leaders)
//
// It makes the steps, or some of them, and observes again. Nothing has to be
// remembered in between.
//
// Invariants:
//
//   - The shard of a primary depends on nothing but its bytes and the shard
//     count, and the function that computes it never changes. A data directory is
//     useless to a program that computes it differently; the golden vectors in
//     testdata guard it.
//   - A target never has two replicas of a shard on a node, nor on a node that is
//     draining or gone.
//   - No step leaves a group that works without a majority that works.
//   - Making the steps again and again comes to rest.
package shard
