// Package base holds the types that every other package of the cache shares:
// keys, versions, items, ranges, errors, request ids, limits and the clock.
//
// It imports nothing of this module and keeps no state. The root package
// re-exports most of it by alias, so the doc comments here are what users
// read.
package base
