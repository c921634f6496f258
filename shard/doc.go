// Package shard says where keys live. It is pure: values in, values out, no
// clock, no I/O, no state.
//
// Invariant: the shard of a primary depends on nothing but its bytes and the
// shard count, and the function that computes it never changes. A data
// directory is useless to a program that computes it differently; the golden
// vectors in testdata guard it.
package shard
