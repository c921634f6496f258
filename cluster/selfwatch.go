package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/distributedcache/cache/cluster/internal/gossip"
	"github.com/distributedcache/cache/replication"
)

const (
	// clockEvery is how often a node compares its clock with those of others.
	clockEvery = time.Second
	// clockAge is how old a measurement may be. Each peer is measured several times
	// as often in a cluster of a hundred nodes.
	clockAge = 10 * time.Minute
	// clockDrift is by how much a measurement gets less certain with time: per
	// second, a thousandth.
	clockDrift = 1000
	// alertClock is raised while the clock of this node is off.
	alertClock = "clock_offset"
)

// watchSelf has the node step back when it does more harm than good: while its
// clock is wrong it leads nothing, and when it has failed it says good-bye, so that
// it is replaced like one that was stopped.
func (c *Cluster) watchSelf(ctx context.Context) {
	ticker := time.NewTicker(c.cfg.every(clockEvery))
	defer ticker.Stop()
	left := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		host := c.host.Load()
		if err := host.Err(); err != nil {
			if !left {
				c.cfg.Logger.Error("this node has failed and leaves the others", "error", err)
				left = c.sayGoodBye(ctx)
			}
			continue
		}
		c.watchClock(host)
	}
}

// sayGoodBye tells the others that this node is not there any more.
func (c *Cluster) sayGoodBye(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, leavePatience)
	defer cancel()
	return c.gossip.Leave(ctx) == nil
}

// watchClock gives up all leadership while the clock of this node is farther from
// those of most others than it may be: a leader stamps what it orders.
func (c *Cluster) watchClock(host *replication.Host) {
	ahead, off := clockOff(c.gossip.Offsets(), c.cfg.Clock(), c.cfg.MaxClockOffset)
	if was := c.clockOff.Swap(off); off != was {
		message := fmt.Sprintf("the clock of this node is %v away from those of most nodes", ahead.Abs().Round(time.Millisecond))
		c.cfg.Alert(alertClock, message, off)
		if off {
			c.cfg.Logger.Error("this node leads nothing until its clock is right", "others_ahead", ahead)
		} else {
			c.cfg.Logger.Info("the clock of this node is right again")
		}
	}
	if off && !c.leaving.Load() {
		c.handOver(host)
	}
}

// clockOff decides whether our clock is off: more than half of all clocks that are
// known, ours among them, are farther from ours than the limit, for certain and on
// the same side, and agree with one another. So of two nodes neither can tell who
// is wrong, and of clocks that are all different nobody can. ahead is how far those
// are before ours.
func clockOff(offsets map[string]gossip.Offset, now time.Time, limit time.Duration) (ahead time.Duration, off bool) {
	known := 1 // ours
	var before, behind []gossip.Offset
	for _, o := range offsets {
		age := now.Sub(o.At).Abs() // from after now, if our clock has been set back since
		if age > clockAge {
			continue
		}
		known++
		o.Uncertainty += age / clockDrift
		switch {
		case o.Offset-o.Uncertainty > limit:
			before = append(before, o)
		case o.Offset+o.Uncertainty < -limit:
			behind = append(behind, o)
		}
	}
	for _, far := range [][]gossip.Offset{before, behind} {
		if 2*len(far) <= known {
			continue
		}
		slices.SortFunc(far, func(a, b gossip.Offset) int { return cmp.Compare(a.Offset, b.Offset) })
		median := far[len(far)/2]
		agree := 0
		for _, o := range far {
			if (o.Offset - median.Offset).Abs() <= limit+o.Uncertainty+median.Uncertainty {
				agree++
			}
		}
		if 2*agree > known {
			return median.Offset, true
		}
	}
	return 0, false
}
