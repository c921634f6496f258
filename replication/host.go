package replication

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/shard"
	"github.com/distributedcache/cache/storage"
)

// Config says how a Host runs its shards. The store stays the caller's, who
// closes it after the Host.
type Config struct {
	Store        *storage.Store
	Clock        base.Clock
	Logger       *slog.Logger
	Synced       bool          // answer a write after its fsync
	SyncInterval time.Duration // if not Synced: how often to sync; 0 = never
	MaxInFlight  int           // writes that may wait at once
	// RequestRetention and MaxRequests say how long and how many requests each
	// shard remembers.
	RequestRetention time.Duration
	MaxRequests      int
	SweepInterval    time.Duration // pause between looks for what has expired; 0 = 500 ms
}

// Host runs the shards of one node. Its methods may be called concurrently.
type Host struct {
	cfg    Config
	groups []group
	log    log

	stopSweeper context.CancelFunc
	workers     sync.WaitGroup
	requests    sync.Pool // of *request
}

// group is one shard on this node.
type group struct {
	space   storage.Space
	machine *kvfsm.Machine
}

// OpenSolo opens every shard of a store for a node without peers.
func OpenSolo(cfg Config) (*Host, error) {
	head, err := loadSoloHead(cfg.Store)
	if err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg}
	h.requests.New = func() any { return new(request) }
	machines := make([]*kvfsm.Machine, cfg.Store.Identity().Shards)
	for i := range machines {
		space := cfg.Store.Space(base.ShardID(i))
		if machines[i], err = kvfsm.Open(cfg.Store, base.ShardID(i), head.clock); err != nil {
			return nil, fmt.Errorf("shard %d: %w", i, err)
		}
		h.groups = append(h.groups, group{space: space, machine: machines[i]})
	}
	h.log = newSololog(soloConfig{
		store: cfg.Store, machines: machines, head: head, clock: cfg.Clock,
		synced: cfg.Synced, syncInterval: cfg.SyncInterval,
		maxInFlight: cfg.MaxInFlight, logger: cfg.Logger,
	})
	ctx, cancel := context.WithCancel(context.Background())
	h.stopSweeper = cancel
	h.workers.Go(func() { h.runSweeper(ctx) })
	return h, nil
}

// Close decides the writes that were accepted and stops. It must be called
// once, after the last other call has returned or been given up.
func (h *Host) Close() {
	h.stopSweeper()
	h.workers.Wait()
	h.log.Close()
}

// Shards returns how many shards there are.
func (h *Host) Shards() int { return len(h.groups) }

// InFlight returns how many writes wait, and how many were refused because too
// many did.
func (h *Host) InFlight() (waiting, refused int64) { return h.log.InFlight() }

// ShardStatus is what a Host knows of one of its shards.
type ShardStatus struct {
	Applied  uint64
	Clock    base.Version
	Requests int
}

// Status describes one shard.
func (h *Host) Status(id base.ShardID) ShardStatus {
	m := h.groups[id].machine
	return ShardStatus{Applied: m.Applied(), Clock: m.Clock(), Requests: m.Requests()}
}

// now is the time by which reads of a shard judge what has expired: never
// behind what its commands went by.
func (h *Host) now(g *group) uint64 {
	return uint64(max(base.VersionAt(h.cfg.Clock()), g.machine.Clock()))
}

// Get reads one key. A key that is absent or has expired gives an Item of
// version 0.
func (h *Host) Get(ctx context.Context, id base.ShardID, key base.Key, stale bool) (base.Item, error) {
	g := &h.groups[id]
	rec, err := g.space.Get(key)
	if err != nil {
		return base.Item{Key: key}, err
	}
	if !stale {
		settle := rec.Version
		if settle == 0 {
			settle = g.machine.Removed()
		}
		if err := h.log.Settle(ctx, id, settle); err != nil {
			return base.Item{Key: key}, err
		}
	}
	if rec.ExpiresAt != 0 && rec.ExpiresAt <= h.now(g) {
		return base.Item{Key: key}, nil
	}
	return item(key, rec), nil
}

func item(key base.Key, rec storage.Record) base.Item {
	it := base.Item{Key: key, Value: rec.Value, Version: rec.Version}
	if rec.ExpiresAt != 0 {
		it.ExpiresAt = base.Version(rec.ExpiresAt).Time()
	}
	return it
}

// MultiGet reads keys, each by itself, into an Item at the same position. A
// key that is absent or has expired gives an Item of version 0.
func (h *Host) MultiGet(ctx context.Context, keys []base.Key, stale bool) ([]base.Item, error) {
	items := make([]base.Item, len(keys))
	for i, key := range keys {
		if i%ctxCheckItems == 0 && ctx.Err() != nil {
			return nil, unavailable(ctx)
		}
		var err error
		if items[i], err = h.Get(ctx, h.shardOf(key), key, stale); err != nil {
			return nil, err
		}
	}
	return items, nil
}

// ctxCheckItems is after how many items long reads look at their context.
const ctxCheckItems = 64

func (h *Host) shardOf(key base.Key) base.ShardID {
	return shard.Of(key.Primary, len(h.groups))
}

// unavailable is the error of a read whose context has ended.
func unavailable(ctx context.Context) error {
	return fmt.Errorf("%w: %w", base.ErrUnavailable, context.Cause(ctx))
}
