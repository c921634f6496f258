package replication

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
)

const (
	// forgetPause is how long the record of a transaction that all shards have
	// followed waits for others of its anchor, which are forgotten with it.
	forgetPause = 250 * time.Millisecond
	// maxToForget is how many records may wait; Tend cares for more.
	maxToForget = 1 << 14
)

// forgetter has the records of transactions that anchors need not keep any more.
type forgetter struct {
	mu      sync.Mutex // protects what follows
	due     map[base.ShardID][]base.RequestID
	count   int
	running bool
	hurry   chan struct{} // closed when the log is about to be
}

// forgetLater lets an anchor forget a transaction within a while.
func (l *raftlog) forgetLater(anchor base.ShardID, txn base.RequestID) {
	f := &l.forgetter
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count >= maxToForget {
		return
	}
	if f.due == nil {
		f.due = make(map[base.ShardID][]base.RequestID)
	}
	f.due[anchor] = append(f.due[anchor], txn)
	f.count++
	f.running = f.running || l.followUps.Spawn(l.forget)
}

// take returns what is due; nil ends the task.
func (f *forgetter) take() (due map[base.ShardID][]base.RequestID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	due, f.due, f.count = f.due, nil, 0
	f.running = due != nil
	return due
}

// forget lets anchors forget what is due, until nothing is.
func (l *raftlog) forget() {
	timer := time.NewTimer(forgetPause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			timer.Reset(forgetPause)
		case <-l.forgetter.hurry:
		}
		due := l.forgetter.take()
		if due == nil {
			return
		}
		var all errgroup.Group
		for anchor, txns := range due {
			all.Go(func() error {
				cmd := command.Command{Step: command.Step{Kind: command.StepForget}, Forget: txns}
				one := &command.Txn{Parts: []command.Part{{Shard: anchor, Command: cmd}}}
				return l.proposeOne(context.Background(), one, true)
			})
		}
		_ = all.Wait() // Tend tries again
	}
}
