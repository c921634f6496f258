package shard

import (
	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
)

// Of returns the shard that every key of this primary lives on, in a directory
// of so many shards: the 64-bit xxHash of the primary modulo shards. It panics
// unless 1 <= shards <= base.MaxShards; shard counts are validated when a
// directory is opened.
func Of(primary string, shards int) base.ShardID {
	if shards < 1 || shards > base.MaxShards {
		panic("shard: count out of range")
	}
	return base.ShardID(xxhash.Sum64String(primary) % uint64(shards))
}
