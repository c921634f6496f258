package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distributedcache/cache/cluster"
	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/metrics"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/storage"
)

// Nodes describes the nodes of the cluster, or this one if it is by itself.
func (n *Node) Nodes(ctx context.Context) ([]base.NodeInfo, error) {
	if err := alive(ctx); err != nil {
		return nil, n.fail("nodes", base.Key{}, -1, err)
	}
	if n.member != nil {
		infos, err := n.member.cluster.Nodes(ctx)
		if err != nil {
			return nil, n.fail("nodes", base.Key{}, -1, err)
		}
		for i := range infos {
			if infos[i].Self {
				infos[i].UsedDisk = n.store.Stats().DiskBytes
			}
		}
		return infos, nil
	}
	state := "active"
	if n.life.closed() {
		state = "failed"
	}
	return []base.NodeInfo{{
		ID: n.id, State: state, Self: true,
		Shards: n.host.Shards(), Leaders: n.host.Shards(),
		UsedDisk: n.store.Stats().DiskBytes,
	}}, nil
}

// Shards describes the shards.
func (n *Node) Shards(ctx context.Context) ([]base.ShardInfo, error) {
	if err := alive(ctx); err != nil {
		return nil, n.fail("shards", base.Key{}, -1, err)
	}
	if n.member != nil {
		infos, err := n.member.cluster.ShardInfos(ctx)
		if err != nil {
			return nil, n.fail("shards", base.Key{}, -1, err)
		}
		return infos, nil
	}
	state := "serving"
	if n.life.closed() {
		state = "unavailable"
	}
	infos := make([]base.ShardInfo, n.host.Shards())
	for i := range infos {
		s := n.host.Status(base.ShardID(i))
		infos[i] = base.ShardInfo{
			Shard: i, Leader: n.id, Replicas: []string{n.id},
			Applied: s.Applied, Clock: s.Clock, Requests: s.Requests, State: state,
		}
	}
	return infos, nil
}

// Replicas describes the replicas that this node has now, as far as it knows.
func (n *Node) Replicas(ctx context.Context) []replication.ReplicaStatus {
	return n.host.NodeStatus(ctx)
}

// Stats returns the counters and sizes of this node.
func (n *Node) Stats(ctx context.Context) (base.Stats, error) {
	if err := alive(ctx); err != nil {
		return base.Stats{}, n.fail("stats", base.Key{}, -1, err)
	}
	stats := n.stats()
	stats.Ops = n.metrics.Ops()
	return stats, nil
}

// stats is what Prometheus reads too, without the operations.
func (n *Node) stats() base.Stats {
	waiting, refused := n.host.InFlight()
	stats := base.Stats{
		Node: n.id, Uptime: n.cfg.Clock().Sub(n.opened), Shards: n.host.Shards(),
		Storage: n.store.Stats(), InFlight: waiting, Refused: refused,
	}
	for i := range n.host.Shards() {
		stats.Requests += int64(n.host.Status(base.ShardID(i)).Requests)
	}
	return stats
}

// Health says whether this node can serve. It answers on a failed node too.
func (n *Node) Health(ctx context.Context) (base.Health, error) {
	if err := alive(ctx); err != nil {
		return base.Health{}, n.fail("health", base.Key{}, -1, err)
	}
	h := base.Health{Reads: true, Writes: true, Problems: []string{}}
	if err := n.life.cause(); err != nil {
		h.Reads, h.Writes = false, false
		h.Problems = append(h.Problems, err.Error())
	} else if err := n.store.Writable(); err != nil {
		h.Writes = false
		h.Problems = append(h.Problems, err.Error())
	}
	h.OK = h.Reads && h.Writes
	return h, nil
}

// HotKeys returns the keys that were touched most lately.
func (n *Node) HotKeys(ctx context.Context, k int) ([]base.HotKey, error) {
	if err := alive(ctx); err != nil {
		return nil, n.fail("hotkeys", base.Key{}, -1, err)
	}
	return n.metrics.Hot(k), nil
}

// SlowOps returns the latest slow operations.
func (n *Node) SlowOps(ctx context.Context, k int) ([]base.SlowOp, error) {
	if err := alive(ctx); err != nil {
		return nil, n.fail("slowops", base.Key{}, -1, err)
	}
	return n.metrics.SlowOps(k), nil
}

// Alerts returns the active alerts.
func (n *Node) Alerts(ctx context.Context) ([]base.Alert, error) {
	if err := alive(ctx); err != nil {
		return nil, n.fail("alerts", base.Key{}, -1, err)
	}
	return n.metrics.Alerts(), nil
}

// Flush writes the memtables out.
func (n *Node) Flush(ctx context.Context) error {
	return n.work(ctx, metrics.OpFlush, func() error { return n.store.Flush(ctx) })
}

// Compact compacts the whole store.
func (n *Node) Compact(ctx context.Context, progress func(base.Progress)) error {
	return n.work(ctx, metrics.OpCompact, func() error { return n.store.Compact(ctx, progress) })
}

// Backup writes a consistent copy of everything that was acknowledged before
// the call into a new directory.
func (n *Node) Backup(ctx context.Context, dir string, progress func(base.Progress)) error {
	return n.work(ctx, metrics.OpBackup, func() error {
		if n.member != nil {
			return fmt.Errorf("%w: a backup is made of a node by itself; that of a cluster is not part of this version", base.ErrInvalid)
		}
		snap, err := n.store.NewSnapshot()
		if err != nil {
			return err
		}
		defer snap.Close()
		// What the snapshot shows must be durable here before it is copied.
		if err := n.host.Barrier(ctx); err != nil {
			return err
		}
		return storage.Backup(ctx, snap, dir, progress)
	})
}

// work runs long work as an operation.
func (n *Node) work(ctx context.Context, op metrics.Op, fn func() error) (err error) {
	start := n.metrics.Start()
	defer func() { n.metrics.Done(op, start, base.Key{}, 0, err) }()
	err = n.begin(ctx)
	if err == nil {
		err = fn()
	}
	if err != nil {
		return n.fail(op.String(), base.Key{}, -1, err)
	}
	return nil
}

// Rebalance spreads the shards evenly: on one node they are.
func (n *Node) Rebalance(ctx context.Context) (base.Plan, error) {
	plan := base.Plan{Moves: []base.Move{}}
	err := n.begin(ctx)
	if err == nil && n.member != nil {
		plan, err = n.member.cluster.Rebalance(ctx)
	}
	if err != nil {
		return base.Plan{}, n.fail("rebalance", base.Key{}, -1, err)
	}
	return plan, nil
}

// Drain moves the shards off a node.
func (n *Node) Drain(ctx context.Context, node string, progress func(base.Progress)) error {
	return n.together(ctx, "drain", -1, func(c *cluster.Cluster) error { return c.Drain(ctx, node, progress) })
}

// Remove takes a node out of the cluster.
func (n *Node) Remove(ctx context.Context, node string) error {
	return n.together(ctx, "remove", -1, func(c *cluster.Cluster) error { return c.Remove(ctx, node) })
}

// TransferLeader hands a shard to another leader. A node by itself leads all.
func (n *Node) TransferLeader(ctx context.Context, shard int, node string) error {
	if n.member == nil && shard >= 0 && shard < n.host.Shards() && node == n.id {
		if err := n.begin(ctx); err != nil {
			return n.fail("transferleader", base.Key{}, shard, err)
		}
		return nil
	}
	return n.together(ctx, "transferleader", shard, func(c *cluster.Cluster) error { return c.TransferLeader(ctx, shard, node) })
}

// together runs work that needs others.
func (n *Node) together(ctx context.Context, op string, shard int, fn func(*cluster.Cluster) error) error {
	err := n.begin(ctx)
	switch {
	case err != nil:
	case n.member == nil:
		err = fmt.Errorf("%w: this node has no peers", base.ErrInvalid)
	default:
		err = fn(n.member.cluster)
	}
	if err != nil {
		return n.fail(op, base.Key{}, shard, err)
	}
	return nil
}

// VerifyBackup checks every byte of a backup.
func VerifyBackup(ctx context.Context, dir string) error {
	return offline("verifybackup", ctx, func() error { return storage.VerifyBackup(ctx, dir) })
}

// Restore makes a data directory from a backup.
func Restore(ctx context.Context, dir string, cfg Config, progress func(base.Progress)) error {
	cfg = cfg.withDefaults()
	return offline("restore", ctx, func() error {
		return storage.RestoreBackup(ctx, dir, cfg.engine(), progress)
	})
}

// Check reads a whole data directory that no cache has open.
func Check(ctx context.Context, dir string) (report base.CheckReport, err error) {
	err = offline("check", ctx, func() (err error) {
		report, err = storage.Check(ctx, dir)
		return err
	})
	return report, err
}

// offline runs work that needs no open node.
func offline(op string, ctx context.Context, fn func() error) error {
	err := alive(ctx)
	if err == nil {
		err = fn()
	}
	if err != nil {
		return &base.Error{Op: op, Shard: -1, Outcome: base.OutcomeNotApplied, Err: err}
	}
	return nil
}

// watchInterval is how often the watcher looks.
const watchInterval = time.Second

// The names of the alerts.
const (
	alertDisk   = "disk_space"
	alertFenced = "storage_failed"
)

// watch raises and clears alerts about this node.
func (n *Node) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		n.look()
		select {
		case <-ctx.Done():
			return
		case <-n.store.Fenced():
			n.look()
			<-ctx.Done()
			return
		case <-ticker.C:
		}
	}
}

func (n *Node) look() {
	err := n.store.Writable()
	switch {
	case err == nil:
		n.metrics.Clear(alertDisk)
	case errors.Is(err, base.ErrNoSpace) && n.store.Err() == nil:
		n.metrics.Raise(alertDisk, "writes are refused until the disk has room again: "+err.Error())
	case n.store.Err() != nil:
		n.metrics.Raise(alertFenced, "the storage failed and this node no longer serves; replace the disk or restore: "+err.Error())
	}
}
