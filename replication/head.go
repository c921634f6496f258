package replication

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
	"github.com/distributedcache/cache/storage"
)

const soloHeadVersion = 1

// soloHead is what a sololog keeps of itself in the node's own space, in the
// same batch as the writes it speaks of: one small record for each group
// instead of one for each shard. It is the floor of every shard's clock.
type soloHead struct {
	clock base.Version // newest version given to any shard
}

func soloHeadKey() []byte { return []byte("solo") }

// save appends version u8 | clock u64 to the batch.
func (h soloHead) save(b *storage.Batch) {
	var buf [9]byte
	buf[0] = soloHeadVersion
	b.Set(storage.NodeShard, storage.KindMeta, soloHeadKey(), wire.AppendUint64(buf[:1], uint64(h.clock)))
}

func loadSoloHead(store *storage.Store) (soloHead, error) {
	buf, found, err := store.Space(storage.NodeShard).Value(storage.KindMeta, soloHeadKey())
	if err != nil || !found {
		return soloHead{}, err
	}
	r := wire.NewReader(buf)
	if v := r.Byte(); v != soloHeadVersion {
		r.Fail("version %d, known is %d", v, soloHeadVersion)
	}
	h := soloHead{clock: base.Version(r.Uint64())}
	if err := r.Close(); err != nil {
		return soloHead{}, fmt.Errorf("%w: head of the node: %w", base.ErrCorrupt, err)
	}
	return h, nil
}
