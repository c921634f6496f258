// Package node puts a cache together and is the pipeline that every operation
// goes through: it checks arguments against the limits, refuses work that
// cannot be served, runs it on the shards, and turns what comes back into one
// kind of error. Counting, hot keys and slow operations happen here too, once
// for all.
//
// It is the only package that knows whether the node is by itself or part of a
// cluster.
//
// Life of a node: Open opens the store, then the shards on it, then the
// watcher. Close goes the other way. A failed disk fences the node: Done is
// closed, Err says why, OnFatal is told, and every later call fails with the
// cause; the process lives.
//
// There are no locks here but the one in lifecycle, which is held for nothing
// but its own fields.
package node
