// Package faultnet is a network inside the process for tests of several nodes.
// A node dials and serves connections of kinds, as over a real network; between
// any two nodes, and in one direction only if so wished, frames of
// internal/wire are lost, delayed, sent twice and put out of order,
// connections are cut and dials refused, at random from a seed.
//
// Which fault hits the n-th frame from one node to another depends on the seed
// alone. When it does depends on the scheduler too.
//
// Connections of KindMessages lose, repeat and reorder frames. All other kinds
// are streams: a partition halts them, faults delay or cut them. What is not
// made of frames is passed on in the pieces it was written in.
//
// Each connection holds a bounded number of bytes; a writer waits, as long as
// its deadline allows, until the other side reads.
//
// Lock order: Net.mu, then buffer.mu.
package faultnet
