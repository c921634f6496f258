package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/metrics"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/storage"
)

// Tx is a transaction on its way.
type Tx = replication.Tx

// Node is an open cache. Its methods may be called concurrently.
type Node struct {
	cfg     Config
	id      string
	opened  time.Time
	store   *storage.Store
	host    *replication.Host
	metrics *metrics.Set
	life    lifecycle

	unregister func()
	stopWatch  context.CancelFunc
	workers    sync.WaitGroup
}

// Open opens a node. ctx bounds how long opening may take.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	if err := alive(ctx); err != nil {
		return nil, &base.Error{Op: "open", Shard: -1, Outcome: base.OutcomeNotApplied, Err: err}
	}
	n, err := open(cfg.withDefaults())
	if err != nil {
		return nil, &base.Error{Op: "open", Shard: -1, Outcome: base.OutcomeNotApplied, Err: err}
	}
	return n, nil
}

func open(cfg Config) (*Node, error) {
	n := &Node{cfg: cfg, opened: cfg.Clock(), unregister: func() {}, stopWatch: func() {}}
	n.life.init(cfg.OnFatal)
	engine := cfg.engine()
	engine.OnFence = n.life.fence
	var err error
	if n.store, err = storage.Open(engine); err != nil {
		return nil, err
	}
	n.id = n.store.Identity().NodeID
	n.metrics = metrics.New(metrics.Config{
		Node: n.id, SlowOp: cfg.SlowOp, Logger: cfg.Logger, OnAlert: cfg.OnAlert, Clock: cfg.Clock,
	})
	if n.host, err = n.openHost(); err != nil {
		return nil, errors.Join(err, n.store.Close())
	}
	if n.unregister, err = n.metrics.Register(cfg.Registerer, n.stats); err != nil {
		n.unregister = func() {}
		return nil, errors.Join(err, n.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.stopWatch = cancel
	n.workers.Go(func() { n.watch(ctx) })
	return n, nil
}

func (n *Node) openHost() (*replication.Host, error) {
	durability := n.cfg.Storage.Durability
	interval := time.Duration(0)
	if durability == storage.Relaxed && n.cfg.Dir != "" {
		interval = n.cfg.SyncInterval
	}
	return replication.OpenSolo(replication.Config{
		Store: n.store, Clock: n.cfg.Clock, Logger: n.cfg.Logger,
		Synced:       durability == storage.Synced && n.cfg.Dir != "",
		SyncInterval: interval, MaxInFlight: n.cfg.Limits.MaxInFlight,
		RequestRetention: n.cfg.Requests.Retention, MaxRequests: n.cfg.Requests.MaxPerShard,
		SweepInterval: n.cfg.SweepInterval,
	})
}

// Close finishes the writes that were accepted and closes the node. It is
// idempotent; every call returns after the node is closed, with the same error.
func (n *Node) Close() error {
	return n.life.close(func() error {
		n.stopWatch()
		n.workers.Wait()
		n.unregister()
		n.host.Close()
		if err := n.store.Close(); err != nil {
			return n.fail("close", base.Key{}, -1, err)
		}
		return nil
	})
}

// Done is closed when the node can no longer serve: it was closed or fenced.
func (n *Node) Done() <-chan struct{} { return n.life.done }

// Err returns why the node can no longer serve, nil while it can.
func (n *Node) Err() error { return n.life.cause() }

// Ready returns once every shard answers.
func (n *Node) Ready(ctx context.Context) error {
	if err := n.begin(ctx); err != nil {
		return n.fail("ready", base.Key{}, -1, err)
	}
	if err := n.host.Barrier(ctx); err != nil {
		return n.fail("ready", base.Key{}, -1, err)
	}
	return nil
}

// begin is the start of every operation: whether it can be served at all.
func (n *Node) begin(ctx context.Context) error {
	if n.life.closed() {
		return n.life.cause()
	}
	return alive(ctx)
}

// alive reports why a call with this context need not start.
func alive(ctx context.Context) error {
	if ctx == nil {
		return fmt.Errorf("%w: the context is nil; use context.Background()", base.ErrInvalid)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", base.ErrUnavailable, context.Cause(ctx))
	}
	return nil
}
