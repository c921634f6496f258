package replication

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/command"
)

// TestTheOlderWaits puts a transaction in the way of another one. If it is the
// younger of them, the other waits for it and keeps what it holds; if it is the
// older, the other lets go.
func TestTheOlderWaits(t *testing.T) {
	b := newStepsBench(t, 1)
	for name, ahead := range map[string]time.Duration{"for the younger": time.Second, "not for the older": -time.Second} {
		t.Run(name, func(t *testing.T) {
			b.write("old")
			now := max(base.VersionAt(b.clock.Now()), b.raftlog().Ordered())
			b.txn.Txn, b.txn.Anchor, b.at = base.NewRequestID(), 1, 0
			b.txn.Deadline = now + base.Version((txnPatience + ahead).Microseconds())
			b.step(2, command.StatusApplied, command.StepPrepare)
			holds, refuses := b.any().groups[0].replica.Load().machine, b.any().groups[2].replica.Load().machine
			from := []uint64{holds.Index(), refuses.Index()}
			done := make(chan error, 1)
			go func() {
				_, err := b.any().MultiWrite(b.ctx, []base.Write{
					{Key: b.keys[0], Value: []byte("new")}, {Key: b.keys[2], Value: []byte("new")},
				}, base.RequestID{})
				done <- err
			}()
			testkit.Eventually(t, time.Minute, "some attempts", func() bool { return refuses.Index() >= from[1]+5 })
			if entries := holds.Index() - from[0]; (entries == 1) != (ahead > 0) {
				t.Errorf("%d entries on the shard that lets it prepare", entries)
			}
			b.step(2, command.StatusApplied, command.StepAbort)
			if err := <-done; err != nil {
				t.Error(err)
			}
			b.drained()
		})
	}
}

// TestAllMeetOnTheSameKeys has transactions from all nodes write the same keys of
// all shards at once, again and again. All must get through.
func TestAllMeetOnTheSameKeys(t *testing.T) {
	const callers, each = 3, 5
	c := newApart(t, 4, func(base.ShardID) []int { return []int{0, 1, 2} })
	ctx := testkit.Context(t)
	var writes []base.Write
	for _, id := range c.hostOf(0).all {
		writes = append(writes, base.Write{Key: keyOn(c.hostOf(0), id, 1)})
	}
	var all sync.WaitGroup
	for i := range c.nodes {
		for n := range callers {
			all.Go(func() {
				for m := range each {
					mine := make([]base.Write, len(writes))
					for j := range writes {
						mine[j] = base.Write{Key: writes[j].Key, Value: fmt.Appendf(nil, "%d of caller %d of node %d", m, n, i)}
					}
					if _, err := c.hostOf(i).MultiWrite(ctx, mine, base.RequestID{}); err != nil {
						t.Errorf("%s: %v", mine[0].Value, err)
					}
				}
			})
		}
	}
	all.Wait()
	var keys []base.Key
	for i := range writes {
		keys = append(keys, writes[i].Key)
	}
	items, err := c.hostOf(3).MultiGet(ctx, keys, base.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if it.Version != items[0].Version || string(it.Value) != string(items[0].Value) {
			t.Errorf("%v has %q, %v has %q", it.Key, it.Value, items[0].Key, items[0].Value)
		}
	}
}
