// Package inflight has what every log does with the transactions that wait in
// it: it counts them in and out, refuses those that would be too many, and lets
// a caller give one up that nobody has begun with.
//
// Invariants:
//
//   - What was counted in is counted out once: by Answer, Take or Withdraw.
//   - A transaction that was given up before it was taken is never applied.
//
// It starts no goroutine and has no locks.
package inflight
