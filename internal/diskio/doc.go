// Package diskio is what the stores of a node, that of the data and that of the
// raft log, share around the engine: the state of having failed for good, errors
// of the disk as errors of the cache, directories whose names are durable, and
// what finds rot where the engine would take it for the torn end of a file: in
// its logs (logcheck.go) and in its manifest (seal.go).
package diskio
