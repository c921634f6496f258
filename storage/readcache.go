package storage

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/maypok86/otter/v2"

	"github.com/distributedcache/cache/internal/base"
)

// readCache keeps hot records above the engine. A nil readCache caches
// nothing.
//
// It must never show a version older than one that a finished read or write
// has shown. Keys hash to stripes. A write marks the stripes of its keys as
// pending before it becomes visible in the engine, and clears the mark after
// it has updated the cache; readers pass the cache by while their stripe is
// pending. A reader that missed may insert what it read from the engine only
// if no write touched the stripe since before it read.
type readCache struct {
	entries *otter.Cache[cacheKey, *cached]
	seed    maphash.Seed
	stripes []stripe
	// doorkeeper remembers a fingerprint of recent misses: only the second
	// miss of a key inserts it, so that scans over cold keys cost little.
	doorkeeper []atomic.Uint32
	maxBytes   int // of one record that is worth caching
	runner     runner
}

// cacheKey includes the shard, although the primary decides it: that rule is
// not this package's.
type cacheKey struct {
	key   base.Key
	shard base.ShardID
}

// cached is an entry. It is immutable.
type cached struct {
	head  Head
	value []byte
}

const (
	// stripeCount makes it rare that two keys of one batch share a stripe; a
	// stripe takes one cache line.
	stripeCount = 4096
	// The doorkeeper remembers about as many misses as the cache has room for
	// records of doorkeeperBytes: a key that misses more rarely than that
	// would not stay in the cache anyway.
	doorkeeperBytes    = 512
	minDoorkeeperSlots = 1 << 10
	maxDoorkeeperSlots = 1 << 18
	// entryOverheadBytes is what an entry costs besides its key and value.
	entryOverheadBytes = 160
	// maxEntryShare: a record larger than the cache divided by this would
	// push out too many others.
	maxEntryShare = 64
)

// stripe guards the cache entries of the keys that hash to it.
type stripe struct {
	mu sync.Mutex
	// pending counts writes between their begin and their end; seq counts
	// ends. Both change only under mu; pending is also read without.
	pending atomic.Int32
	seq     atomic.Uint32
	hits    atomic.Int64
	misses  atomic.Int64
	_       [24]byte // to a full cache line
}

func newReadCache(maxBytes int64, log *slog.Logger) *readCache {
	c := &readCache{
		seed:       maphash.MakeSeed(),
		stripes:    make([]stripe, stripeCount),
		doorkeeper: make([]atomic.Uint32, min(max(maxBytes/doorkeeperBytes, minDoorkeeperSlots), maxDoorkeeperSlots)),
		maxBytes:   int(maxBytes / maxEntryShare),
	}
	c.entries = otter.Must(&otter.Options[cacheKey, *cached]{
		MaximumWeight: uint64(maxBytes),
		Weigher: func(k cacheKey, e *cached) uint32 {
			return uint32(k.key.Bytes() + len(e.value) + entryOverheadBytes)
		},
		Executor: c.runner.run,
		Logger:   cacheLog{log},
	})
	return c
}

// close waits for the goroutines of the cache.
func (c *readCache) close() {
	if c == nil {
		return
	}
	c.entries.StopAllGoroutines()
	c.runner.close()
}

func (c *readCache) hash(shard base.ShardID, key base.Key) uint64 {
	// The two hashes are combined as boost does, so that swapping or
	// splitting the levels elsewhere gives another hash.
	h := maphash.String(c.seed, key.Primary)
	h ^= maphash.String(c.seed, key.Secondary) + 0x9e3779b97f4a7c15 + h<<6 + h>>2
	return h + uint64(shard)
}

func (c *readCache) stripe(hash uint64) *stripe { return &c.stripes[hash%stripeCount] }

// ticket is what a reader that missed needs to insert what it reads next.
type ticket struct {
	hash uint64
	seq  uint32
	ok   bool // inserting may be possible
}

// get looks a key up. On a miss, the ticket goes to offer.
func (c *readCache) get(shard base.ShardID, key base.Key) (*cached, ticket) {
	if c == nil {
		return nil, ticket{}
	}
	hash := c.hash(shard, key)
	st := c.stripe(hash)
	seq := st.seq.Load()
	if st.pending.Load() != 0 {
		st.misses.Add(1)
		return nil, ticket{}
	}
	if e, ok := c.entries.GetIfPresent(cacheKey{key, shard}); ok {
		st.hits.Add(1)
		return e, ticket{}
	}
	st.misses.Add(1)
	fingerprint := uint32(hash>>32) | 1
	slot := &c.doorkeeper[hash/stripeCount%uint64(len(c.doorkeeper))]
	if slot.Load() == fingerprint {
		return nil, ticket{hash: hash, seq: seq, ok: true}
	}
	slot.Store(fingerprint)
	return nil, ticket{}
}

// offer inserts what a reader found in the engine after get had missed. It
// copies the value if it wants it.
func (c *readCache) offer(t ticket, shard base.ShardID, key base.Key, rec Record) {
	if !t.ok || len(rec.Value) > c.maxBytes {
		return
	}
	entry := &cached{head: rec.head(), value: clone(rec.Value)}
	st := c.stripe(t.hash)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.pending.Load() == 0 && st.seq.Load() == t.seq {
		c.entries.Set(cacheKey{key, shard}, entry)
	}
}

// touch is one record that a batch writes.
type touch struct {
	key   base.Key
	shard base.ShardID
	// value is where the record's value lies in the batch; deleted says that
	// there is none.
	off, len int
	head     Head
	deleted  bool
	// hash and seq are set by begin.
	hash uint64
	seq  uint32
}

// begin announces that the touched records are about to change. end must
// follow.
func (c *readCache) begin(touched []touch) {
	if c == nil {
		return
	}
	for i := range touched {
		t := &touched[i]
		t.hash = c.hash(t.shard, t.key)
		st := c.stripe(t.hash)
		st.mu.Lock()
		st.pending.Add(1)
		t.seq = st.seq.Load()
		st.mu.Unlock()
	}
}

// end updates the entries of the touched records, whose values lie in repr,
// and makes them readable again. applied says that the engine shows them.
func (c *readCache) end(touched []touch, repr []byte, applied bool) {
	if c == nil {
		return
	}
	for i := range touched {
		c.endOne(&touched[i], repr, applied)
	}
}

func (c *readCache) endOne(t *touch, repr []byte, applied bool) {
	st := c.stripe(t.hash)
	st.mu.Lock()
	defer st.mu.Unlock()
	// Another write overlapped if it is still pending or has ended since; in
	// which order the engine took the two is unknown, so the entry goes.
	alone := st.pending.Load() == 1 && st.seq.Load() == t.seq
	k := cacheKey{t.key, t.shard}
	if _, ok := c.entries.GetEntryQuietly(k); ok {
		if alone && applied && !t.deleted && t.len <= c.maxBytes && t.off+t.len <= len(repr) {
			value := make([]byte, t.len)
			copy(value, repr[t.off:])
			c.entries.Set(k, &cached{head: t.head, value: value})
		} else {
			c.entries.Invalidate(k)
		}
	}
	st.seq.Add(1)
	st.pending.Add(-1)
}

// beginAll announces that any record may change; endAll must follow.
func (c *readCache) beginAll() {
	if c == nil {
		return
	}
	for i := range c.stripes {
		st := &c.stripes[i]
		st.mu.Lock()
		st.pending.Add(1)
		st.mu.Unlock()
	}
}

// endAll empties the cache and makes it usable again.
func (c *readCache) endAll() {
	if c == nil {
		return
	}
	c.entries.InvalidateAll()
	for i := range c.stripes {
		st := &c.stripes[i]
		st.mu.Lock()
		st.seq.Add(1)
		st.pending.Add(-1)
		st.mu.Unlock()
	}
}

func (c *readCache) stats(to *base.StorageStats) {
	if c == nil {
		return
	}
	to.ReadCacheBytes = int64(c.entries.WeightedSize())
	to.ReadCacheItems = int64(c.entries.EstimatedSize())
	for i := range c.stripes {
		to.ReadCacheHits += c.stripes[i].hits.Load()
		to.ReadCacheMisses += c.stripes[i].misses.Load()
	}
}

// runner runs the cache's maintenance on goroutines that close waits for.
type runner struct {
	mu     sync.Mutex // protects closed, and tasks against Add after Wait
	closed bool
	tasks  sync.WaitGroup
}

// run implements the executor of the cache. What comes after close is
// dropped: maintenance of a cache that nobody reads any more.
func (r *runner) run(task func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.tasks.Go(task)
	}
}

func (r *runner) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.tasks.Wait()
}

// cacheLog adapts the store's logger; the cache would use the global one.
type cacheLog struct{ log *slog.Logger }

func (l cacheLog) Warn(ctx context.Context, msg string, err error) {
	l.log.WarnContext(ctx, "read cache: "+msg, "error", err)
}

func (l cacheLog) Error(ctx context.Context, msg string, err error) {
	l.log.ErrorContext(ctx, "read cache: "+msg, "error", err)
}
