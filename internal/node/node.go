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
	member  *member // nil without a cluster
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
	n, err := open(ctx, cfg.withDefaults())
	if err != nil {
		return nil, &base.Error{Op: "open", Shard: -1, Outcome: base.OutcomeNotApplied, Err: err}
	}
	return n, nil
}

func open(ctx context.Context, cfg Config) (_ *Node, err error) {
	n := &Node{cfg: cfg, opened: cfg.Clock(), unregister: func() {}, stopWatch: func() {}}
	n.life.init(cfg.OnFatal)
	if cfg.Cluster != nil {
		err = n.openMember(ctx)
	} else {
		err = n.openAlone()
	}
	if err != nil {
		return nil, err
	}
	if n.unregister, err = n.metrics.Register(cfg.Registerer, n.stats); err != nil {
		n.unregister = func() {}
		return nil, errors.Join(err, n.Close())
	}
	if n.member != nil {
		if err := n.member.cluster.Start(ctx, n.host); err != nil {
			return nil, errors.Join(err, n.Close())
		}
	}
	watching, cancel := context.WithCancel(context.Background())
	n.stopWatch = cancel
	n.workers.Go(func() { n.watch(watching) })
	return n, nil
}

// openAlone opens the store and the shards of a node by itself, or of one whose
// peers are fixed.
func (n *Node) openAlone() (err error) {
	engine := n.cfg.engine()
	engine.OnFence = n.life.fence
	if n.store, err = storage.Open(engine); err != nil {
		return err
	}
	n.observe()
	if n.host, err = n.openHost(); err != nil {
		return errors.Join(err, n.store.Close())
	}
	return nil
}

// observe makes the instruments of the node, whose id is known by now.
func (n *Node) observe() {
	n.id = n.store.Identity().NodeID
	n.metrics = metrics.New(metrics.Config{
		Node: n.id, SlowOp: n.cfg.SlowOp, Logger: n.cfg.Logger, OnAlert: n.cfg.OnAlert, Clock: n.cfg.Clock,
	})
}

// hostConfig is how the shards are run, whoever orders them.
func (n *Node) hostConfig() replication.Config {
	durability := n.cfg.Storage.Durability
	interval := time.Duration(0)
	if durability == storage.Relaxed && n.cfg.Dir != "" {
		interval = n.cfg.SyncInterval
	}
	return replication.Config{
		Store: n.store, Clock: n.cfg.Clock, Logger: n.cfg.Logger,
		Synced:       durability == storage.Synced && n.cfg.Dir != "",
		SyncInterval: interval, MaxInFlight: n.cfg.Limits.MaxInFlight,
		RequestRetention: n.cfg.Requests.Retention, MaxRequests: n.cfg.Requests.MaxPerShard,
		SweepInterval: n.cfg.SweepInterval,
	}
}

func (n *Node) openHost() (*replication.Host, error) {
	cfg := n.hostConfig()
	if n.cfg.Raft == nil {
		return replication.OpenSolo(cfg)
	}
	raft := *n.cfg.Raft
	raft.OnFail = n.life.fence
	if raft.FS == nil {
		raft.FS = n.cfg.Storage.FS
	}
	return replication.OpenRaft(cfg, raft)
}

// Close finishes the writes that were accepted and closes the node. It is
// idempotent; every call returns after the node is closed, with the same error.
func (n *Node) Close() error {
	return n.life.close(func() error {
		n.stopWatch()
		n.workers.Wait()
		n.unregister()
		if n.member != nil {
			n.member.cluster.Close()
		}
		n.host.Close()
		err := n.store.Close()
		if n.member != nil {
			n.member.close()
		}
		if err != nil {
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
