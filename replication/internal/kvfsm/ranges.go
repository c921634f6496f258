package kvfsm

import (
	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// rangePage is how many items a check of a range reads at once.
const rangePage = 512

// unchanged reports whether a range of the shard still has just the items that
// a transaction saw. It reads storage, not the batch, so the caller applies
// what the batch holds before it runs a command with ranges.
func (m *Machine) unchanged(read command.RangeRead, now base.Version) (bool, error) {
	snap, err := m.store.NewSnapshot()
	if err != nil {
		return false, err
	}
	defer snap.Close()
	scanner := snap.Scan()
	defer scanner.Close()
	var digest command.RangeDigest
	req := storage.PageRequest{
		Shard: m.shard, Range: read.Range, KeysOnly: true,
		MaxItems: rangePage, Now: uint64(now),
	}
	var items []base.Item
	for more := true; more; {
		if items, more, err = scanner.Page(items[:0], req); err != nil {
			return false, err
		}
		for i := range items {
			digest.Add(items[i].Key, items[i].Version)
		}
		if len(items) > 0 {
			req.After = items[len(items)-1].Key
		}
	}
	return digest.Sum() == read.Digest, nil
}
