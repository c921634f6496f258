package replication

import (
	"context"
	"fmt"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/replication/internal/sololog"
	"github.com/distributedcache/cache/storage"
)

// Adopt brings the store of a node without peers into the form of replicas, which
// then are the first of their shards. It may be done again, until the store belongs
// to a cluster. The versions go on from where they were.
func Adopt(store *storage.Store) error {
	head, err := sololog.LoadHead(store)
	if err != nil {
		return err
	}
	b := store.NewBatch()
	defer b.Release()
	for i := range store.Identity().Shards {
		m, err := kvfsm.Open(store, base.ShardID(i), head.Clock())
		if err != nil {
			return fmt.Errorf("shard %d: %w", i, err)
		}
		m.SaveAdopted(b)
	}
	if err := b.Apply(); err != nil {
		return err
	}
	return store.Sync()
}

// cutPause is between two looks at a log that is to be cut.
const cutPause = 20 * time.Millisecond

// cutLog makes sure that nobody can join a shard by its log alone if the shard has
// data from before that began: where the log does not reach back to, raft sends a
// snapshot. A replica takes one only if it is of a later entry than what the replica
// has, so there must be an entry at all.
func (n *raftNode) cutLog(ctx context.Context, g *raftGroup) error {
	adopted, err := kvfsm.Adopted(g.space)
	if err != nil || !adopted {
		return err
	}
	for {
		cut, err := n.isCut(g)
		if err != nil || cut {
			return err
		}
		empty := &command.Txn{Parts: []command.Part{{Shard: g.id}}}
		if err := n.log.proposeOne(ctx, empty, true); err != nil {
			return err
		}
		if err := n.host.Cut(ctx, g.id); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: the log of shard %d was not cut in time", base.ErrUnavailable, g.id)
		case <-time.After(cutPause):
		}
	}
}

// isCut reports whether the log of a group begins after its first entry, and an
// entry of ours was applied.
func (n *raftNode) isCut(g *raftGroup) (bool, error) {
	cut, err := n.host.IsCut(g.id)
	r := g.replica.Load()
	return cut && r != nil && r.machine.Index() > 0, err
}
