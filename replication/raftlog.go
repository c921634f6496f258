package replication

import (
	"context"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/far"
	"github.com/distributedcache/cache/replication/internal/inflight"
	"github.com/distributedcache/cache/replication/internal/rafthost"
	"github.com/distributedcache/cache/replication/internal/tasks"
	"github.com/distributedcache/cache/storage"
	"github.com/lni/dragonboat/v4"
)

// raftlog is the log of a node whose shards are replicated: one raft group for
// each. Writes go to the group of their shard, whose leader must be this node.
type raftlog struct {
	host    *rafthost.Host
	raft    *dragonboat.NodeHost // of host
	groups  []*raftGroup         // by shard
	catalog *raftGroup           // nil if there is none
	far     far.Client
	fence   *diskio.Fence
	clock   base.Clock
	store   *storage.Store
	forward bool   // writes go through here whoever leads
	session uint64 // names this log since it was opened
	opened  time.Time

	tick       time.Duration // see RaftConfig.beat
	look       time.Duration // how often a waiting proposal looks at the leader
	attempt    time.Duration // patience with the first attempt
	maxAttempt time.Duration
	// full is how many commands of a group go beside an entry that is on its way.
	full   int
	giveUp time.Duration // after which a write ends as unknown

	nodeOf    func(shard base.ShardID, replica uint64) string
	admission *inflight.Admission
	confirmer confirmer
	resolving chan struct{} // has an element for each transaction that is resolved
	followUps tasks.Group   // that resolve them
	forgetter forgetter
	stop      chan struct{}
	// ending ends with stop; what other nodes are asked in the background hangs
	// on it.
	ending context.Context
	end    context.CancelFunc
	tasks  tasks.Group // the carriers of entries and of barriers
}

// group returns the group of a shard, the catalog included.
func (l *raftlog) group(id base.ShardID) *raftGroup {
	if id == base.CatalogShard {
		return l.catalog
	}
	return l.groups[id]
}

// here returns this node's replica of a shard if it has one that can be asked.
func (l *raftlog) here(g *raftGroup) *replica {
	r := g.replica.Load()
	if r != nil && l.far.Any() && !r.current {
		return nil
	}
	return r
}

// closePatience is how long Close waits for transactions to be resolved.
const closePatience = 2 * time.Second

func (l *raftlog) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// NotLeaderError says that another node leads the shard. Nothing was applied.
type NotLeaderError = ask.NotLeaderError

// NotLeaderDetails is the kind of the details that a NotLeaderError takes to
// another process: the node that leads.
const NotLeaderDetails = ask.NotLeaderDetails

func (l *raftlog) elsewhere(shard base.ShardID, leader uint64) error {
	return &NotLeaderError{Shard: shard, Node: l.nodeOf(shard, leader)}
}

// Propose implements log.
func (l *raftlog) Propose(ctx context.Context, txn *command.Txn) error {
	switch len(txn.Parts) {
	case 0:
		if err := l.Current(ctx, l.allShards()); err != nil {
			return inflight.NotApplied(err)
		}
		return nil
	case 1:
		return l.proposeAlone(ctx, txn)
	}
	return l.coordinate(ctx, txn)
}

// proposeAlone applies a transaction on one shard, once no other stands in its
// way.
func (l *raftlog) proposeAlone(ctx context.Context, txn *command.Txn) error {
	shard := txn.Parts[0].Shard
	for attempt := 1; ; attempt++ {
		err := l.proposeOne(ctx, txn, false)
		if err != nil || txn.Result.Status != command.StatusLocked {
			return err
		}
		if err := l.giveWay(ctx, blockage{shard, txn.Result.Holder, true}, attempt); err != nil {
			return err
		}
	}
}

// proposeOne has a shard decide about one command. anywhere says that this node
// need not lead the shard: dragonboat passes the command on.
func (l *raftlog) proposeOne(ctx context.Context, txn *command.Txn, anywhere bool) error {
	p, err := l.admit(txn)
	if err != nil {
		return err
	}
	p.Anywhere = anywhere || l.forward
	if !l.group(txn.Parts[0].Shard).submit(p) {
		l.admission.Withdraw(p)
		return inflight.NotApplied(base.ErrClosed)
	}
	return l.admission.Await(ctx, p, "a majority")
}

// admit counts a command in, or refuses it.
func (l *raftlog) admit(txn *command.Txn) (*inflight.Pending, error) {
	if releases(txn.Parts[0].Command.Step.Kind) {
		return l.admission.Force(txn), nil
	}
	if err := l.store.Writable(); err != nil {
		return nil, inflight.NotApplied(err)
	}
	return l.admission.Enter(txn)
}

// releases reports whether a step gives free what a transaction holds. It writes
// little, and nobody is helped if it is refused.
func releases(kind command.StepKind) bool {
	return kind != command.StepNone && kind != command.StepPrepare && kind != command.StepHold
}

func (l *raftlog) allShards() []base.ShardID {
	ids := make([]base.ShardID, len(l.groups))
	for i := range ids {
		ids[i] = base.ShardID(i)
	}
	return ids
}

// Current implements log.
func (l *raftlog) Current(ctx context.Context, shards []base.ShardID) error {
	if len(shards) == 1 {
		return l.group(shards[0]).pass(ctx)
	}
	rounds := make([]*round, len(shards))
	var queue []*raftGroup
	for i, id := range shards {
		g := l.group(id)
		r, mine := g.join()
		if rounds[i] = r; mine {
			queue = append(queue, g)
		}
	}
	if len(queue) > 0 {
		l.confirmer.enqueue(queue...)
	}
	for _, r := range rounds {
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Recent implements log.
func (l *raftlog) Recent(ctx context.Context, shards []base.ShardID, within time.Duration) error {
	var old []base.ShardID
	for _, id := range shards {
		g := l.group(id)
		if r := g.replica.Load(); r == nil || !g.recent(r, within) {
			old = append(old, id)
		}
	}
	if len(old) == 0 {
		return nil
	}
	return l.Current(ctx, old)
}

// Settle implements log. What a replica shows is committed.
func (l *raftlog) Settle(context.Context, base.ShardID, base.Version) error {
	return l.fence.Err()
}

// Ordered implements log.
func (l *raftlog) Ordered() base.Version {
	newest := base.Version(0)
	for _, g := range l.groups {
		if r := g.replica.Load(); r != nil {
			newest = max(newest, r.machine.Clock())
		}
	}
	return newest
}

// Cut implements log: shards apply their logs at their own pace.
func (l *raftlog) Cut() bool { return false }

// Leads implements log.
func (l *raftlog) Leads(shard base.ShardID) bool {
	g := l.group(shard)
	r := g.replica.Load()
	return r != nil && g.leader() == r.id
}

// InFlight implements log.
func (l *raftlog) InFlight() (waiting, refused int64) { return l.admission.InFlight() }

// drain gives what was accepted a while to be decided: what is not by then ends as
// unknown.
func (l *raftlog) drain() {
	deadline := time.Now().Add(closePatience)
	for time.Now().Before(deadline) && !l.fence.Down() {
		if waiting, _ := l.admission.InFlight(); waiting == 0 {
			return
		}
		time.Sleep(l.tick)
	}
}

// Close implements log.
func (l *raftlog) Close() {
	close(l.forgetter.hurry)
	l.followUps.CloseWithin(closePatience) // else their keys stay held for a while
	for _, g := range l.groups {
		g.close()
	}
	if l.catalog != nil {
		l.catalog.close()
	}
	l.drain()
	close(l.stop)
	l.end()
	l.tasks.Close()
	l.followUps.Close()
}
