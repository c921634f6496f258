package replication

import (
	"context"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
)

const (
	defaultSweepInterval = 500 * time.Millisecond
	// sweepLimit is how many entries one command removes, so that a sweep
	// never holds up the writes behind it for long.
	sweepLimit = 256
	// sweepRounds bounds the commands for one shard in one look; what is left
	// waits for the next, so that the shards share fairly.
	sweepRounds = 16
)

// runSweeper removes what has run out: expired keys, and requests that are
// older or more than are to be remembered. The removals are commands like any
// other.
func (h *Host) runSweeper(ctx context.Context) {
	interval := h.cfg.SweepInterval
	if interval <= 0 {
		interval = defaultSweepInterval
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			h.sweepAll(ctx)
		}
	}
}

func (h *Host) sweepAll(ctx context.Context) {
	for _, g := range h.groups {
		r := g.replica.Load()
		if r == nil || !h.log.Leads(g.id) {
			continue
		}
		_ = h.log.Tend(ctx, g.id) // the next look tries again
		for range sweepRounds {
			if more, err := h.sweep(ctx, g, r); err != nil || !more {
				break // the next look tries again
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// sweep proposes one command that removes what has run out on a shard, and
// reports whether there may be more.
func (h *Host) sweep(ctx context.Context, g *group, r *replica) (more bool, err error) {
	now := h.now(r)
	var sweep command.Sweep
	expired, err := g.space.Expired(now, sweepLimit)
	if err != nil {
		return false, err
	}
	for _, e := range expired {
		sweep.Expired = append(sweep.Expired, command.Expired{Key: e.Key, At: e.At, Version: e.Version})
	}
	if n := r.machine.Requests(); n > 0 {
		before := base.Version(max(int64(now)-h.cfg.RequestRetention.Microseconds(), 0))
		sweep.RequestsTo, err = kvfsm.Expiring(g.space, n, h.cfg.MaxRequests, before, sweepLimit)
		if err != nil {
			return false, err
		}
	}
	if sweep.Empty() {
		return false, nil
	}
	txn := &command.Txn{Parts: []command.Part{{Shard: g.id, Command: command.Command{Sweep: sweep}}}}
	if err := h.log.Propose(ctx, txn); err != nil {
		return false, err
	}
	return len(expired) == sweepLimit || sweep.RequestsTo > 0, nil
}
