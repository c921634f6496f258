// Package tasks owns goroutines whose number is not known before: those that carry
// entries, answer other nodes, or finish what a caller need not wait for.
//
// Invariant: after Close has returned none of a group runs, and none can be started.
//
// Lock order: Group.mu is a leaf.
package tasks
