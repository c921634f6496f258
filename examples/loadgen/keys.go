package main

import (
	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache"
)

// Three data sets that know nothing of one another: keys of a primary each, for
// whatever goes across primaries; rows, many in one primary; accounts.
const (
	keyPrefix     = "key/"
	rowPrefix     = "row/"
	accountPrefix = "account/"
)

// rowsPerPrimary leaves room for a scan or a batch to start in several places.
const rowsPerPrimary = 128

func keyOf(i int) cache.Key { return cache.K(numbered(keyPrefix, i, 9), "") }

func rowOf(primary, row int) cache.Key { return cache.K(rowPrimary(primary), rowName(row)) }

func rowPrimary(i int) string { return numbered(rowPrefix, i, 9) }

func rowName(row int) string { return numbered("", row, 3) }

func accountOf(i int) cache.Key { return cache.K(numbered(accountPrefix, i, 6), "") }

// numbered appends n with so many digits. Names are made for every call, and
// fmt takes longer than a read that finds its value in memory.
func numbered(prefix string, n, digits int) string {
	name := make([]byte, len(prefix)+digits)
	copy(name, prefix)
	for i := len(name) - 1; i >= len(prefix); i-- {
		name[i] = byte('0' + n%10)
		n /= 10
	}
	return string(name)
}

// rowPrimaries returns how many primaries have rows, so that there are about as
// many rows as keys.
func (w *workload) rowPrimaries() int { return max(w.Keys/rowsPerPrimary, 1) }

// keysFrom returns the range of the keys from i on.
func keysFrom(i int) cache.Range {
	r := cache.PrimaryPrefix(keyPrefix)
	r.Start = keyOf(i)
	return r
}

// rowsFrom returns the range of the rows of a primary from row on.
func rowsFrom(primary, row int) cache.Range {
	return cache.Primary(rowPrimary(primary)).Between(rowName(row), "")
}

// shardOf returns the shard of a primary. Data directories depend on it, so it
// does not change; a test holds it beside the cache's own.
func shardOf(primary string, shards int) int {
	return int(xxhash.Sum64String(primary) % uint64(shards))
}
