// Package metrics counts what a cache does: operations with their outcomes and
// latencies, the keys that are touched most, operations that were slow, and
// conditions that somebody should look at. It hands them to Prometheus if it
// is given a Registerer and to Admin in any case.
//
// There is no global state: a Set belongs to one cache, is made by New and
// needs no Close, as it starts no goroutine. A Registerer that it was
// registered with is left through the function that Register returned.
//
// Invariants:
//   - Nothing on the path of an operation allocates, blocks or takes a lock
//     that an operation could wait for.
//   - Everything is bounded: keys tracked, slow operations kept, log lines per
//     second, alerts, and the label values of every metric. A key is never a
//     label value.
//
// Lock order: no code of this package holds two of its locks at once, and none
// while it calls out of the package.
package metrics
