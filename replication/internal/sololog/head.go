package sololog

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
	"github.com/distributedcache/cache/storage"
)

const headVersion = 1

// reservedVersions is how far ahead of the clock a reservation reaches: 10 ms.
// That is how far the versions may run ahead of the time after a restart.
const reservedVersions = 10_000

// Head is what a Log keeps of itself in the node's own space. A version
// that somebody was told must never be given again, so it must be on disk before;
// but one more record in every batch would double the work of a small one. So
// versions are reserved in advance, as many as come up in some milliseconds, and
// a restart goes on after the reserved ones.
type Head struct {
	clock    base.Version // newest version given to any shard
	reserved base.Version // newest version that may be given without saving
}

// Clock returns the newest version that may have been given to any shard.
func (h Head) Clock() base.Version { return h.clock }

// reserve reports whether the clock has passed the reservation. There is a new
// one then, which must be saved in the batch of the clock's transaction.
func (h *Head) reserve() bool {
	if h.clock <= h.reserved {
		return false
	}
	h.reserved = h.clock + reservedVersions
	return true
}

func headKey() []byte { return []byte("solo") }

// save appends version u8 | reserved u64 to the batch.
func (h Head) save(b *storage.Batch) {
	var buf [9]byte
	buf[0] = headVersion
	b.Set(storage.NodeShard, storage.KindMeta, headKey(), wire.AppendUint64(buf[:1], uint64(h.reserved)))
}

// LoadHead returns what the log of a store has kept; the zero Head if there is none.
func LoadHead(store *storage.Store) (Head, error) {
	buf, found, err := store.Space(storage.NodeShard).Value(storage.KindMeta, headKey())
	if err != nil || !found {
		return Head{}, err
	}
	r := wire.NewReader(buf)
	if v := r.Byte(); v != headVersion {
		r.Fail("version %d, known is %d", v, headVersion)
	}
	h := Head{reserved: base.Version(r.Uint64())}
	h.clock = h.reserved
	if err := r.Close(); err != nil {
		return Head{}, fmt.Errorf("%w: head of the node: %w", base.ErrCorrupt, err)
	}
	return h, nil
}
