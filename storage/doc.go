// Package storage keeps the data of one node: versioned records, an expiry
// index and the bookkeeping of the replicated log, for all shards, in one
// log-structured engine.
package storage
