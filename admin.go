package cache

import (
	"context"
	"errors"
	"iter"
	"sync"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
)

// What Admin returns. All have JSON tags; sizes are bytes, durations are
// nanoseconds.
type (
	// NodeInfo describes one node: id, address, state, replicas, disk use.
	NodeInfo = base.NodeInfo
	// ShardInfo describes one shard: leader, replicas, commands applied,
	// newest version, state.
	ShardInfo = base.ShardInfo
	// Stats are the counters of this node since it was opened, and its sizes
	// now.
	Stats = base.Stats
	// OpStats counts one kind of operation in [Stats], with its latencies.
	OpStats = base.OpStats
	// StorageStats describes the storage engine in [Stats].
	StorageStats = base.StorageStats
	// Health says whether this node can serve, and if not, why.
	Health = base.Health
	// HotKey is a key that many operations touched lately. Its Count is an
	// estimate that is at most Error too high.
	HotKey = base.HotKey
	// SlowOp is one operation that took longer than [ObserveOptions].SlowOp.
	SlowOp = base.SlowOp
	// Alert is a condition that somebody should look at.
	Alert = base.Alert
	// Progress reports on long work. Total and TotalBytes are 0 while they are
	// not known.
	Progress = base.Progress
	// Plan lists the moves of a rebalance; it is empty when nothing needs to
	// move.
	Plan = base.Plan
	// Move is one step of a [Plan].
	Move = base.Move
	// CheckReport is what [Check] found in a data directory.
	CheckReport = base.CheckReport
)

// Admin runs the cache: it looks inside, moves and saves. Get one from
// [Cache.Admin]; its methods may be called by any number of goroutines at once.
//
// Long work is an iterator that reports progress. The work starts when it is
// ranged over, runs while it is, and is done when the loop ends by itself.
// Leaving the loop early cancels the work and waits until it has stopped. A
// failure is yielded once, with the zero Progress, as the last pair:
//
//	for p, err := range c.Admin().Backup(ctx, dir) {
//		if err != nil {
//			return err
//		}
//		log.Print(p.Stage, p.Done, p.Total)
//	}
//
// A slow loop body does not slow the work down; it sees fewer reports.
type Admin struct {
	node *node.Node
}

// begin refuses a call without a context or on a closed cache. A node that was
// fenced still answers what it can.
func (a *Admin) begin(ctx context.Context, op string) error {
	if ctx == nil {
		return refused(op, Key{}, errNilContext())
	}
	if err := a.node.Err(); errors.Is(err, ErrClosed) {
		return refused(op, Key{}, err)
	}
	return nil
}

// Nodes describes the nodes of the cluster; in solo that is this one.
func (a *Admin) Nodes(ctx context.Context) ([]NodeInfo, error) {
	if err := a.begin(ctx, "nodes"); err != nil {
		return nil, err
	}
	return a.node.Nodes(ctx)
}

// Shards describes all shards, ordered by number.
func (a *Admin) Shards(ctx context.Context) ([]ShardInfo, error) {
	if err := a.begin(ctx, "shards"); err != nil {
		return nil, err
	}
	return a.node.Shards(ctx)
}

// Stats returns the counters and sizes of this node.
func (a *Admin) Stats(ctx context.Context) (Stats, error) {
	if err := a.begin(ctx, "stats"); err != nil {
		return Stats{}, err
	}
	return a.node.Stats(ctx)
}

// Health says whether this node can serve reads and writes, and if not, why.
func (a *Admin) Health(ctx context.Context) (Health, error) {
	if err := a.begin(ctx, "health"); err != nil {
		return Health{}, err
	}
	return a.node.Health(ctx)
}

// HotKeys returns up to n keys that were touched most lately, the hottest
// first. n must be positive.
func (a *Admin) HotKeys(ctx context.Context, n int) ([]HotKey, error) {
	if err := a.begin(ctx, "hotkeys"); err != nil {
		return nil, err
	}
	if n <= 0 {
		return nil, refused("hotkeys", Key{}, errNoCount(n))
	}
	return a.node.HotKeys(ctx, n)
}

// SlowOps returns up to n of the latest slow operations, the newest first. n
// must be positive. There are none unless [ObserveOptions].SlowOp is set.
func (a *Admin) SlowOps(ctx context.Context, n int) ([]SlowOp, error) {
	if err := a.begin(ctx, "slowops"); err != nil {
		return nil, err
	}
	if n <= 0 {
		return nil, refused("slowops", Key{}, errNoCount(n))
	}
	return a.node.SlowOps(ctx, n)
}

func errNoCount(n int) error {
	return invalidf("asked for %d entries; ask for at least one", n)
}

// Alerts returns the alerts that are active and those that were lately.
func (a *Admin) Alerts(ctx context.Context) ([]Alert, error) {
	if err := a.begin(ctx, "alerts"); err != nil {
		return nil, err
	}
	return a.node.Alerts(ctx)
}

// Flush writes what is in memory tables to table files. Nothing depends on it:
// acknowledged writes are durable anyway. Afterwards opening the directory has
// no log to replay.
func (a *Admin) Flush(ctx context.Context) error {
	if err := a.begin(ctx, "flush"); err != nil {
		return err
	}
	return a.node.Flush(ctx)
}

// Compact rewrites the whole store, which frees the space of what was deleted
// or has expired. Reads and writes go on, slower.
func (a *Admin) Compact(ctx context.Context) iter.Seq2[Progress, error] {
	return work(ctx, "compact", a.node.Compact)
}

// Backup writes a full, consistent, checksummed copy of this node's data to
// dir, which must not exist or be empty. Reads and writes go on. A backup that
// did not end without an error is not a backup: [VerifyBackup] and [Restore]
// refuse it.
func (a *Admin) Backup(ctx context.Context, dir string) iter.Seq2[Progress, error] {
	return work(ctx, "backup", func(ctx context.Context, report func(Progress)) error {
		if dir == "" {
			return refused("backup", Key{}, errNoBackupDir())
		}
		return a.node.Backup(ctx, dir, report)
	})
}

// VerifyBackup is the function [VerifyBackup].
func (a *Admin) VerifyBackup(ctx context.Context, dir string) error { return VerifyBackup(ctx, dir) }

// Rebalance plans how replicas should move so that nodes carry equal loads and
// starts the moves. In solo the plan is empty.
func (a *Admin) Rebalance(ctx context.Context) (Plan, error) {
	if err := a.begin(ctx, "rebalance"); err != nil {
		return Plan{}, err
	}
	return a.node.Rebalance(ctx)
}

// Drain moves all replicas away from a node, so that it can be removed. In
// solo it gives [ErrInvalid]: there is nowhere to go.
func (a *Admin) Drain(ctx context.Context, nodeID string) iter.Seq2[Progress, error] {
	return work(ctx, "drain", func(ctx context.Context, report func(Progress)) error {
		return a.node.Drain(ctx, nodeID, report)
	})
}

// Remove takes a node out of the cluster for good. In solo it gives
// [ErrInvalid].
func (a *Admin) Remove(ctx context.Context, nodeID string) error {
	if err := a.begin(ctx, "remove"); err != nil {
		return err
	}
	return a.node.Remove(ctx, nodeID)
}

// TransferLeader hands the leadership of a shard to a node that has a replica
// of it. In solo only this node does.
func (a *Admin) TransferLeader(ctx context.Context, shard int, nodeID string) error {
	if err := a.begin(ctx, "transferleader"); err != nil {
		return err
	}
	return a.node.TransferLeader(ctx, shard, nodeID)
}

// VerifyBackup reads the whole backup in dir and compares it with its
// checksums and its manifest. A backup that was cut, changed or never finished
// gives [ErrCorrupt] saying what is wrong; a directory that is no backup gives
// [ErrInvalid].
func VerifyBackup(ctx context.Context, dir string) error {
	if ctx == nil {
		return refused("verifybackup", Key{}, errNilContext())
	}
	if dir == "" {
		return refused("verifybackup", Key{}, errNoBackupDir())
	}
	return node.VerifyBackup(ctx, dir)
}

// Restore fills opts.Dir, which must not exist or be empty, with the backup in
// backupDir. The backup is verified first; one that is damaged gives
// [ErrCorrupt] and leaves opts.Dir as it was. Afterwards the directory can be
// opened with the same opts. The shard count is that of the backup; opts.Shards
// must be 0 or the same. Versions are those of the backup, and versions given
// later are higher.
func Restore(ctx context.Context, backupDir string, opts Options) error {
	var err error
	switch {
	case ctx == nil:
		err = errNilContext()
	case backupDir == "":
		err = errNoBackupDir()
	case opts.Dir == "":
		err = invalidf("Dir is empty; name the directory to restore into")
	default:
		err = opts.Validate()
	}
	if err != nil {
		return refused("restore", Key{}, err)
	}
	return node.Restore(ctx, backupDir, opts.resolve(), nil)
}

// Check reads a whole data directory that no cache has open and verifies every
// checksum, every record and that they fit together. Damage is listed in the
// report, one sentence each; an error means that the check itself could not be
// done, for instance with [ErrInUse].
func Check(ctx context.Context, dir string) (CheckReport, error) {
	var err error
	switch {
	case ctx == nil:
		err = errNilContext()
	case dir == "":
		err = invalidf("no data directory was named")
	}
	if err != nil {
		return CheckReport{}, refused("check", Key{}, err)
	}
	return node.Check(ctx, dir)
}

func errNoBackupDir() error { return invalidf("no backup directory was named") }

// work turns do into an iterator over its progress. do runs on a goroutine of
// its own, so that a slow or panicking loop body never runs inside it; the
// goroutine has ended when the iterator returns, however the loop was left.
func work(ctx context.Context, op string, do func(context.Context, func(Progress)) error) iter.Seq2[Progress, error] {
	return func(yield func(Progress, error) bool) {
		if ctx == nil {
			yield(Progress{}, refused(op, Key{}, errNilContext()))
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		reports := newLatest()
		done := make(chan struct{})
		var err error // published by closing done
		go func() {
			defer close(done)
			err = do(ctx, reports.set)
		}()
		defer func() { cancel(); <-done }()

		for running := true; running; {
			select {
			case <-reports.changed:
			case <-done:
				running = false
			}
			if p, ok := reports.take(); ok && !yield(p, nil) {
				return
			}
		}
		if err != nil {
			yield(Progress{}, err)
		}
	}
}

// latest hands the newest report from a worker to a reader that may be slower.
type latest struct {
	changed chan struct{} // of capacity 1: something was set since take

	mu struct {
		sync.Mutex
		report Progress
		fresh  bool
	}
}

func newLatest() *latest { return &latest{changed: make(chan struct{}, 1)} }

// set never blocks.
func (l *latest) set(p Progress) {
	l.mu.Lock()
	l.mu.report, l.mu.fresh = p, true
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// take returns the newest report if it was not taken yet.
func (l *latest) take() (Progress, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := l.mu.fresh
	l.mu.fresh = false
	return l.mu.report, fresh
}
