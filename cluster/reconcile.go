package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distributedcache/cache/cluster/internal/catalog"
	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/shard"
)

const (
	// lookEvery is how often the node that leads the catalog looks at the cluster
	// while there is nothing to do, and soon how long it waits after a step, which
	// the nodes need to make what comes of it.
	lookEvery = time.Second
	soon      = 100 * time.Millisecond
	// stepPatience bounds one step. What takes longer is looked at again.
	stepPatience = 5 * time.Second
	// maxSteps is how many steps are made at once: enough for every shard of a
	// small cluster, and far below what the leaders of a large one can take.
	maxSteps = 16
)

// reconciler is what the node that leads the catalog remembers from one look to
// the next. Nothing depends on it: another node goes on without.
type reconciler struct {
	wake     chan struct{} // has room for one wish
	silences silences
	claimed  uint64                   // the term in which the catalog was claimed by this node
	asked    map[base.ShardID]request // to hand over
	alarm    alarm
	stats    struct{ rounds, steps, refused, failed atomic.Int64 }
}

func newReconciler() *reconciler {
	return &reconciler{wake: make(chan struct{}, 1), asked: map[base.ShardID]request{}}
}

// RepairStats counts what this node has done to have the replicas where they
// should be, since it was started.
type RepairStats struct {
	Rounds  int64 // looks at the cluster
	Steps   int64 // that were made
	Refused int64 // because something had changed meanwhile
	Failed  int64
}

// RepairStats returns the counters.
func (c *Cluster) RepairStats() RepairStats {
	s := &c.repair.stats
	return RepairStats{Rounds: s.rounds.Load(), Steps: s.steps.Load(), Refused: s.refused.Load(), Failed: s.failed.Load()}
}

// wakeRepair has the node look at the cluster now, if it leads the catalog.
func (c *Cluster) wakeRepair() {
	select {
	case c.repair.wake <- struct{}{}:
	default:
	}
}

// reconcile moves the replicas to where they should be while this node leads the
// catalog.
func (c *Cluster) reconcile(ctx context.Context) {
	defer c.stand()
	for ctx.Err() == nil {
		changed, began := c.cache.Changed(), time.Now()
		pause := c.cfg.every(lookEvery - soon)
		if term, leads := c.leadsCatalog(); !leads {
			c.stand()
		} else if c.round(ctx, term) {
			pause = 0
		}
		// Whatever happens meanwhile: a look costs each leader a barrier per shard.
		c.rest(ctx, max(c.cfg.every(soon), time.Since(began)), nil)
		c.rest(ctx, pause, changed)
	}
}

// rest waits; if changed is given, not longer than until there is something new.
func (c *Cluster) rest(ctx context.Context, pause time.Duration, changed <-chan struct{}) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	wake := c.repair.wake
	if changed == nil {
		wake = nil
	}
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-changed:
	case <-wake:
	}
}

// leadsCatalog reports whether this node leads the catalog, as far as it knows, and
// since which term.
func (c *Cluster) leadsCatalog() (term uint64, leads bool) {
	host := c.host.Load()
	if c.leaving.Load() || host.Err() != nil {
		return 0, false
	}
	for _, l := range host.Led() {
		if l.Shard == base.CatalogShard {
			return l.Term, true
		}
	}
	return 0, false
}

// stand is what a node does that does not lead the catalog: it listens.
func (c *Cluster) stand() {
	heard, _ := c.hearsay()
	c.listenFor(func(node string) bool { return !heard[node] })
	c.repair.alarm.clear(c.cfg.Alert)
}

// listenFor notes which nodes are silent now.
func (c *Cluster) listenFor(silent func(node string) bool) {
	var nodes []string
	for _, n := range c.cache.State().Members() {
		nodes = append(nodes, n.ID)
	}
	c.repair.silences.note(nodes, silent, time.Now(), c.cfg.every(steadyPatience))
}

// round looks at the cluster once and makes the next steps. It reports whether any
// was made.
func (c *Cluster) round(ctx context.Context, term uint64) bool {
	r := c.repair
	if !c.cache.State().Founded() {
		return false // or not read yet
	}
	r.stats.rounds.Add(1)
	if r.claimed != term {
		if err := c.claim(ctx); err != nil {
			c.cfg.Logger.Warn("the catalog is led here, but cannot be claimed", "error", err)
			return false
		}
		r.claimed = term
	}
	o, err := c.observe(ctx)
	if err != nil {
		c.cfg.Logger.Warn("nothing can be repaired, since the catalog cannot be read", "error", err)
		return false
	}
	c.listenFor(o.silent)
	p := c.plan(o)
	c.raise(o, p)
	if now, leads := c.leadsCatalog(); !leads || now != term {
		return false // o may be old
	}
	return c.execute(ctx, o.state.Epoch(), term, r.fresh(p.steps, c.cfg.every(lookEvery)))
}

// request is when a leader was asked to hand over to a replica.
type request struct {
	to uint64
	at time.Time
}

// fresh leaves out what was asked a moment ago: a leader that hands over waits until
// the other has all of its log.
func (r *reconciler) fresh(steps []shard.Step, moment time.Duration) []shard.Step {
	now := time.Now()
	maps.DeleteFunc(r.asked, func(_ base.ShardID, q request) bool { return now.Sub(q.at) >= moment })
	return slices.DeleteFunc(steps, func(s shard.Step) bool {
		if s.Kind != shard.TransferLeader {
			return false
		}
		if q, found := r.asked[s.Shard]; found && q.to == s.Replica {
			return true
		}
		r.asked[s.Shard] = request{to: s.Replica, at: now}
		return false
	})
}

// claim makes sure that no other node can change the catalog by what it has seen
// before: see catalog.State.Claim.
func (c *Cluster) claim(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepPatience)
	defer cancel()
	claimed := false
	_, err := c.editor.Edit(ctx, func(s *catalog.State) ([]base.Write, error) {
		if claimed { // and perhaps written: then this is a newer state
			return nil, nil
		}
		claimed = true
		return s.Claim()
	})
	return err
}

// plan is what should become of an observation.
type plan struct {
	nodes   []shard.Node
	groups  []shard.Group
	target  [][]string
	leaders []string
	steps   []shard.Step
}

func (c *Cluster) plan(o *observation) plan {
	p := plan{nodes: o.nodes(&c.repair.silences, c.cfg.DeadNodeGrace), groups: o.groups()}
	p.target = shard.Target(shard.Config{MinCopies: minCopies}, p.nodes, p.groups)
	p.leaders = shard.Leaders(o.leading(p.nodes), p.groups, p.target)
	p.steps = shard.Plan(shard.Limits{}, p.nodes, p.groups, p.target, p.leaders)
	return p
}

// execute makes steps while this node leads the catalog in this term. Those of the
// catalog come one after the other, each on the condition that nobody else has
// changed it since epoch; those of the groups are made at once.
func (c *Cluster) execute(ctx context.Context, epoch base.Version, term uint64, steps []shard.Step) bool {
	var made atomic.Bool
	var groups errgroup.Group
	groups.SetLimit(maxSteps)
	do := func(s shard.Step, fn func(context.Context, shard.Step) error) {
		if now, leads := c.leadsCatalog(); !leads || now != term {
			return
		}
		once, cancel := context.WithTimeout(ctx, stepPatience)
		defer cancel()
		if c.count(s, fn(once, s)) {
			made.Store(true)
		}
	}
	var writes sync.WaitGroup
	writes.Go(func() {
		for _, s := range steps {
			if !ofGroup(s.Kind) {
				do(s, func(ctx context.Context, s shard.Step) (err error) {
					epoch, err = c.writeStep(ctx, epoch, s)
					return err
				})
				c.nudge(ctx, s.Node)
			}
		}
	})
	for _, s := range steps {
		if ofGroup(s.Kind) {
			groups.Go(func() error { do(s, c.groupStep); return nil })
		}
	}
	_ = groups.Wait()
	writes.Wait()
	return made.Load()
}

// ofGroup reports whether a step is made by a raft group, not by the catalog.
func ofGroup(k shard.Kind) bool { return k != shard.AllocateReplica && k != shard.ForgetReplica }

// count takes in how a step ended and reports whether it was made.
func (c *Cluster) count(s shard.Step, err error) bool {
	switch {
	case err == nil:
		c.repair.stats.steps.Add(1)
		c.cfg.Logger.Info("repair: step", "step", s.String())
	case errors.Is(err, base.ErrConflict):
		c.repair.stats.refused.Add(1)
		c.cfg.Logger.Info("repair: step refused, something has changed", "step", s.String(), "error", err)
	default:
		c.repair.stats.failed.Add(1)
		c.cfg.Logger.Warn("repair: step failed", "step", s.String(), "error", err)
	}
	return err == nil
}

// writeStep makes a step of the catalog and returns its epoch afterwards.
func (c *Cluster) writeStep(ctx context.Context, epoch base.Version, s shard.Step) (base.Version, error) {
	state, err := c.editor.Edit(ctx, func(now *catalog.State) ([]base.Write, error) {
		if now.Epoch() != epoch {
			return nil, fmt.Errorf("%w: the catalog has changed", base.ErrConflict)
		}
		if s.Kind == shard.ForgetReplica {
			return now.ForgetReplica(s.Shard, s.Replica)
		}
		writes, _, err := now.AllocateReplica(s.Shard, s.Node)
		return writes, err
	})
	if err != nil {
		return epoch, err
	}
	return state.Epoch(), nil
}

// nudge has a node look at the catalog now; it would a little later anyway.
func (c *Cluster) nudge(ctx context.Context, node string) {
	addr, err := c.router.address(node)
	if err != nil || node == c.cfg.NodeID {
		return
	}
	c.workers.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, helloPatience)
		defer cancel()
		_, _ = c.pool.Call(ctx, addr, methodWake, nil)
	})
}

// groupStep makes a step of a raft group.
func (c *Cluster) groupStep(ctx context.Context, s shard.Step) error {
	host := c.host.Load()
	change := replication.Change{
		Shard: s.Shard, Member: replication.Member{Replica: s.Replica, Node: s.Node}, ConfigChange: s.ConfigChange,
	}
	switch s.Kind {
	case shard.AddLearner:
		return host.AddLearner(ctx, change)
	case shard.Promote:
		return host.Promote(ctx, change)
	case shard.DropMember:
		return host.DropMember(ctx, change)
	case shard.TransferLeader:
		return host.TransferLeader(ctx, s.Shard, s.Replica)
	}
	return fmt.Errorf("%w: step %v is not known to this node", base.ErrInvalid, s)
}
