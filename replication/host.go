package replication

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/far"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/replication/internal/latch"
	"github.com/distributedcache/cache/replication/internal/near"
	"github.com/distributedcache/cache/replication/internal/sololog"
	"github.com/distributedcache/cache/replication/internal/tasks"
	"github.com/distributedcache/cache/shard"
	"github.com/distributedcache/cache/storage"
)

// Config says how a Host runs its shards. The store stays the caller's, who
// closes it after the Host.
type Config struct {
	Store  *storage.Store
	Clock  base.Clock
	Logger *slog.Logger
	// Synced and SyncInterval are for a node without peers: whether a write is
	// answered after its fsync, and if not, how often to sync; 0 = never.
	Synced       bool
	SyncInterval time.Duration
	MaxInFlight  int // writes that may wait at once
	// RequestRetention and MaxRequests say how long and how many requests each
	// shard remembers.
	RequestRetention time.Duration
	MaxRequests      int
	SweepInterval    time.Duration // pause between looks for what has expired; 0 = 500 ms
}

// Host runs the shards of one node. Its methods may be called concurrently.
type Host struct {
	cfg     Config
	groups  []*group // by shard
	catalog *group   // nil without a cluster
	all     []base.ShardID
	log     log
	turns   *latch.Latches // of calls of Update
	raft    *raftNode      // nil without peers
	far     far.Client

	stopSweeper context.CancelFunc
	workers     sync.WaitGroup
	retiring    atomic.Bool
	answering   tasks.Group // calls of Answer and AnswerStream
	requests    sync.Pool   // of *request
}

// group is one shard, as this node knows it.
type group struct {
	id      base.ShardID
	space   storage.Space
	self    [1]base.ShardID         // the shard, as a list
	replica atomic.Pointer[replica] // nil: this node has none
}

// replica is this node's copy of a shard. It is in its group from its start until
// before its data is deleted: what was read from the store while it was there is
// whole. It never changes: when its state does, another takes its place, so that a
// reader which finds the same before and after its work knows that it was sound.
type replica struct {
	id      uint64 // 0 without peers
	machine *kvfsm.Machine
	// current says that it has caught up since it was started or lost touch. Until
	// then other nodes are asked, if there is a way to.
	current bool
}

// renew puts a replica of another state in the place of r, and returns it; nil if r
// is not there any more.
func (g *group) renew(r *replica, current bool) *replica {
	next := &replica{id: r.id, machine: r.machine, current: current}
	if !g.replica.CompareAndSwap(r, next) {
		return nil
	}
	return next
}

func newGroup(store *storage.Store, id base.ShardID) *group {
	return &group{id: id, space: store.Space(id), self: [1]base.ShardID{id}}
}

// group returns a shard, the catalog included.
func (h *Host) group(id base.ShardID) *group {
	if id == base.CatalogShard {
		return h.catalog
	}
	return h.groups[id]
}

// near returns this node's replica of a shard if reads can be served from it;
// nil if another node has to be asked.
func (h *Host) near(id base.ShardID) *replica {
	r := h.group(id).replica.Load()
	if r != nil && h.far.Any() && !r.current {
		return nil
	}
	return r
}

// nearFor is near for a read with some options: if it may be stale, a replica that
// has lost touch will do as long as that was not too long ago.
func (h *Host) nearFor(id base.ShardID, ro base.ReadOptions) *replica {
	r := h.near(id)
	if r != nil || !ro.Stale || h.raft == nil {
		return r
	}
	if r = h.group(id).replica.Load(); r != nil && h.raft.log.group(id).recent(r, ro.MaxStale) {
		return r
	}
	return nil
}

// nearby is some shards of which this node has replicas that can serve.
type nearby struct {
	shards   []base.ShardID
	replicas []*replica
}

// split tells the shards that can be read here from those that cannot.
func (h *Host) split(shards []base.ShardID, ro base.ReadOptions) (here nearby, away []base.ShardID) {
	here.shards = shards
	if !h.far.Any() {
		return here, nil
	}
	here.shards = make([]base.ShardID, 0, len(shards))
	for _, id := range shards {
		if r := h.nearFor(id, ro); r != nil {
			here.shards, here.replicas = append(here.shards, id), append(here.replicas, r)
		} else {
			away = append(away, id)
		}
	}
	return here, away
}

// still reports whether all of the replicas are still there, so that what was read
// since split is sound.
func (h *Host) still(here nearby) bool {
	for i, r := range here.replicas {
		if h.group(here.shards[i]).replica.Load() != r {
			return false
		}
	}
	return true
}

// OpenSolo opens every shard of a store for a node without peers.
func OpenSolo(cfg Config) (*Host, error) {
	head, err := sololog.LoadHead(cfg.Store)
	if err != nil {
		return nil, err
	}
	h := newHost(cfg)
	machines := make([]*kvfsm.Machine, len(h.groups))
	for i, g := range h.groups {
		if machines[i], err = kvfsm.Open(cfg.Store, g.id, head.Clock()); err != nil {
			return nil, fmt.Errorf("shard %d: %w", i, err)
		}
		g.replica.Store(&replica{machine: machines[i]})
	}
	h.log = sololog.Open(sololog.Config{
		Store: cfg.Store, Machines: machines, Head: head, Clock: cfg.Clock,
		Synced: cfg.Synced, SyncInterval: cfg.SyncInterval,
		MaxInFlight: cfg.MaxInFlight, Logger: cfg.Logger,
	})
	h.start()
	return h, nil
}

// newHost returns a Host without replicas.
func newHost(cfg Config) *Host {
	h := &Host{cfg: cfg, turns: latch.New(cfg.MaxInFlight)}
	h.requests.New = func() any { return new(request) }
	for i := range cfg.Store.Identity().Shards {
		id := base.ShardID(i)
		h.groups = append(h.groups, newGroup(cfg.Store, id))
		h.all = append(h.all, id)
	}
	return h
}

// start starts the chores. The log must be there.
func (h *Host) start() {
	ctx, cancel := context.WithCancel(context.Background())
	h.stopSweeper = cancel
	h.workers.Go(func() { h.runSweeper(ctx) })
}

// Close decides the writes that were accepted and stops. It must be called
// once, after the last other call has returned or been given up.
func (h *Host) Close() {
	h.stopSweeper()
	h.log.Close()
	if h.raft != nil {
		h.answering.Close() // raft must not be asked anything once it is closed
		h.raft.host.Close()
	}
	h.workers.Wait()
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

// Status describes one shard, as far as this node has a replica of it.
func (h *Host) Status(id base.ShardID) ShardStatus {
	r := h.group(id).replica.Load()
	if r == nil {
		return ShardStatus{}
	}
	return ShardStatus{Applied: r.machine.Applied(), Clock: r.machine.Clock(), Requests: r.machine.Requests()}
}

// now is the time by which reads of a shard judge what has expired: never
// behind what its commands went by.
func (h *Host) now(r *replica) uint64 {
	return uint64(max(base.VersionAt(h.cfg.Clock()), r.machine.Clock()))
}

// Get reads one key. A key that is absent or has expired gives an Item of
// version 0.
func (h *Host) Get(ctx context.Context, id base.ShardID, key base.Key, ro base.ReadOptions) (base.Item, error) {
	g := h.group(id)
	for {
		r := h.nearFor(id, ro)
		if r == nil {
			it, _, err := h.getAway(ctx, id, key, ro)
			return it, err
		}
		err := h.arrive(ctx, g.self[:], ro)
		it := base.Item{Key: key}
		if err == nil {
			it, err = h.read(ctx, g, r, key, ro)
		}
		if g.replica.Load() == r {
			return it, err
		}
	}
}

// getAway reads one key of a shard that this node cannot read, and the mark of
// the shard.
func (h *Host) getAway(ctx context.Context, id base.ShardID, key base.Key, ro base.ReadOptions) (base.Item, base.Version, error) {
	if !h.far.Any() {
		return base.Item{Key: key}, 0, errNoReplica(id)
	}
	return h.far.Get(ctx, id, key, ro)
}

func errNoReplica(id base.ShardID) error {
	return fmt.Errorf("%w: this node has no replica of shard %d", base.ErrUnavailable, id)
}

// arrive returns once this node shows of the shards what the options ask for.
func (h *Host) arrive(ctx context.Context, shards []base.ShardID, ro base.ReadOptions) error {
	if ro.Stale {
		return h.log.Recent(ctx, h.inTouch(shards), ro.MaxStale)
	}
	return h.log.Current(ctx, shards)
}

// inTouch leaves out the shards whose replica has lost touch. Such a one serves
// stale reads because nearFor found it recent enough; no barrier could say more of
// it, but only wait for nodes that cannot be reached.
func (h *Host) inTouch(shards []base.ShardID) []base.ShardID {
	lost := func(id base.ShardID) bool {
		r := h.group(id).replica.Load()
		return r != nil && !r.current && h.far.Any()
	}
	if !slices.ContainsFunc(shards, lost) {
		return shards
	}
	return slices.DeleteFunc(slices.Clone(shards), lost)
}

// read reads one key of this node's replica.
func (h *Host) read(ctx context.Context, g *group, r *replica, key base.Key, ro base.ReadOptions) (base.Item, error) {
	if _, held := r.machine.Holder(key); held {
		return h.readHeld(ctx, g, key, ro)
	}
	rec, err := g.space.Get(key)
	if err != nil {
		return base.Item{Key: key}, err
	}
	if !ro.Stale {
		settle := rec.Version
		if settle == 0 {
			settle = r.machine.Removed()
		}
		if err := h.log.Settle(ctx, g.id, settle); err != nil {
			return base.Item{Key: key}, err
		}
	}
	if rec.ExpiresAt != 0 && rec.ExpiresAt <= h.now(r) {
		return base.Item{Key: key}, nil
	}
	return near.Item(key, rec), nil
}

// readHeld reads a key that a transaction holds.
func (h *Host) readHeld(ctx context.Context, g *group, key base.Key, ro base.ReadOptions) (base.Item, error) {
	v, err := h.readView(ctx, g.self[:], func(t kvfsm.Held) bool { return t.WriteOf(key) != nil }, ro)
	if err != nil {
		return base.Item{Key: key}, err
	}
	defer v.Close()
	return v.Get(ctx, g.id, key)
}

// MultiGet reads keys, each by itself, into an Item at the same position. A
// key that is absent or has expired gives an Item of version 0.
func (h *Host) MultiGet(ctx context.Context, keys []base.Key, ro base.ReadOptions) ([]base.Item, error) {
	items := make([]base.Item, len(keys))
	for {
		here, away := h.split(h.shardsOf(keys), ro)
		if len(away) == 0 {
			err := h.multiGetHere(ctx, here.shards, keys, nil, items, ro)
			if h.still(here) {
				return items, err
			}
			continue
		}
		var mine, others []int
		for i, key := range keys {
			if slices.Contains(away, h.shardOf(key)) {
				others = append(others, i)
			} else {
				mine = append(mine, i)
			}
		}
		var both errgroup.Group
		both.Go(func() error { return h.far.MultiGet(ctx, keys, others, items, ro, h.shardOf, nil) })
		if len(mine) > 0 {
			both.Go(func() error { return h.multiGetHere(ctx, here.shards, keys, mine, items, ro) })
		}
		if err := both.Wait(); h.still(here) {
			return items, err
		}
	}
}

// multiGetHere reads the keys at the given positions, nil = all, which lie on the
// shards, from this node's replicas.
func (h *Host) multiGetHere(ctx context.Context, shards []base.ShardID, keys []base.Key, at []int, items []base.Item, ro base.ReadOptions) error {
	if err := h.arrive(ctx, shards, ro); err != nil {
		return err
	}
	n := len(keys)
	if at != nil {
		n = len(at)
	}
	for j := range n {
		if j%ctxCheckItems == 0 && ctx.Err() != nil {
			return unavailable(ctx)
		}
		i := j
		if at != nil {
			i = at[j]
		}
		g := h.groups[h.shardOf(keys[i])]
		r := g.replica.Load()
		if r == nil {
			return errNoReplica(g.id)
		}
		var err error
		if items[i], err = h.read(ctx, g, r, keys[i], ro); err != nil {
			return err
		}
	}
	return nil
}

// ctxCheckItems is after how many items long reads look at their context.
const ctxCheckItems = 64

func (h *Host) shardOf(key base.Key) base.ShardID {
	return shard.Of(key.Primary, len(h.groups))
}

// shardsOf returns the shards of the keys, each once.
func (h *Host) shardsOf(keys []base.Key) []base.ShardID {
	seen := make([]bool, len(h.groups))
	var ids []base.ShardID
	for _, key := range keys {
		if id := h.shardOf(key); !seen[id] {
			seen[id] = true
			ids = append(ids, id)
		}
	}
	return ids
}

// unavailable is the error of a read whose context has ended.
func unavailable(ctx context.Context) error {
	return fmt.Errorf("%w: %w", base.ErrUnavailable, context.Cause(ctx))
}
