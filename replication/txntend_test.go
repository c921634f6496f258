package replication

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/command"
)

// A caller has its answer when its time is up, also if so many transactions are
// being resolved that it has to do that for its own.
func TestCallerWithoutHelpersKeepsItsDeadline(t *testing.T) {
	c := onThree(t, 4)
	ctx := short(t)
	h := c.hostOf(3)
	keys := []base.Key{keyOn(h, 0, 1), keyOn(h, 1, 1)}
	for _, key := range keys {
		mustWrite(t, ctx, h, base.Write{Key: key, Value: []byte("v")})
	}
	l := h.raft.log
	for range cap(l.resolving) {
		l.resolving <- struct{}{}
	}
	c.onAsk(3, func(q *ask.Request, err error) error {
		if q.Kind == ask.Propose && q.Shard == 1 {
			return fmt.Errorf("%w: nobody answers for this shard", base.ErrUnavailable)
		}
		return err
	})
	call, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := h.MultiWrite(call, []base.Write{{Key: keys[0], Value: []byte("w")}, {Key: keys[1], Value: []byte("w")}}, base.RequestID{})
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("applied without one of its shards")
		}
	case <-time.After(15 * time.Second):
		t.Error("the call goes on long after its deadline")
	}
	var nobody askedFn = func(_ *ask.Request, err error) error { return err }
	c.nodes[3].remote.asked.Store(&nobody)
	for range cap(l.resolving) {
		<-l.resolving
	}
}

// Transactions whose anchor has lost its majority cannot be ended. All others are.
func TestTransactionsBesideThoseThatCannotBeEnded(t *testing.T) {
	const deadAnchor base.ShardID = 1
	c := newApart(t, 6, func(id base.ShardID) []int {
		if id == deadAnchor {
			return []int{3, 4, 5}
		}
		return []int{0, 1, 2}
	})
	ctx := short(t)
	h := c.hostOf(0)
	for i := range 3 {
		testkit.Eventually(t, time.Minute, fmt.Sprintf("node %d to catch up", i), func() bool {
			return c.hostOf(i).near(0) != nil && c.hostOf(i).near(2) != nil
		})
	}
	mustWrite(t, ctx, h, base.Write{Key: keyOn(h, deadAnchor, 1), Value: []byte("v")})
	prepare := func(shard, anchor base.ShardID, n int) {
		t.Helper()
		by := command.Holder{Txn: base.NewRequestID(), Anchor: anchor, Deadline: base.VersionAt(time.Now().Add(2 * time.Second))}
		cmd := command.Command{
			Step: command.Step{Kind: command.StepPrepare, Holder: by}, Writes: []base.Write{{Key: keyOn(h, shard, n), Value: []byte("w")}},
		}
		txn := &command.Txn{Parts: []command.Part{{Shard: shard, Command: cmd}}}
		if err := h.raft.log.proposeOne(ctx, txn, true); err != nil || txn.Result.Status != command.StatusApplied {
			t.Fatalf("prepare: %+v, %v", txn.Result, err)
		}
	}
	for n := range 6 {
		prepare(0, deadAnchor, 10+n)
	}
	prepare(0, 2, 1)
	prepare(2, 0, 1)
	c.stop(4)
	c.stop(5)
	testkit.Eventually(t, time.Minute, "the end of those that can be ended", func() bool {
		for i := range 3 {
			for _, g := range c.hostOf(i).groups {
				r := g.replica.Load()
				if r == nil {
					continue
				}
				for _, by := range r.machine.Prepared() {
					if by.Anchor != deadAnchor {
						return false
					}
				}
			}
		}
		return true
	})
	c.start(4)
	c.introduce(4)
	c.startReplica(4, ReplicaSpec{Shard: deadAnchor, Replica: 5, Founders: []Member{
		{Replica: 4, Node: c.peers[3].Node}, {Replica: 5, Node: c.peers[4].Node}, {Replica: 6, Node: c.peers[5].Node},
	}})
	testkit.Eventually(t, time.Minute, "the end of the others", func() bool {
		for i := range 3 {
			if len(c.hostOf(i).groups[0].replica.Load().machine.Prepared()) > 0 {
				return false
			}
		}
		return true
	})
}
