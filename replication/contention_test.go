package replication

import (
	"errors"
	"fmt"
	"slices"
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
					{Key: b.keys[2], Value: []byte("new")}, {Key: b.keys[0], Value: []byte("new")}, // the first is on the anchor
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

// An Update gets in line behind those that have met on one of its keys, and runs its
// function again when it is its turn; one that may run it only once does not wait.
func TestUpdatesTakeTurns(t *testing.T) {
	c := newCluster(t, 1)
	c.startAll()
	h, ctx := c.leader(0).host, testkit.Context(t)
	key := keyOn(h, 0, 1)
	ahead := h.turns.Enqueue([]base.Key{key})
	ran := make(chan int, 10)
	increment := func(attempts int) error {
		_, err := h.Update(ctx, base.DefaultLimits(), base.TxOptions{MaxAttempts: attempts}, func(tx *Tx) error {
			items, err := tx.MultiGet([]base.Key{key})
			if err != nil {
				return err
			}
			ran <- len(items[0].Value)
			return tx.Write(base.Write{Key: key, Value: append(items[0].Value, '+')})
		})
		return err
	}
	done := make(chan error, 1)
	go func() { done <- increment(2) }()
	testkit.Eventually(t, time.Minute, "one in line", func() bool { return h.turns.Guards() == 2 })
	if err := increment(1); err != nil {
		t.Error("with one attempt: ", err)
	}
	ahead.Release()
	if err := <-done; err != nil {
		t.Error("with two attempts: ", err)
	}
	close(ran)
	var saw []int
	for n := range ran {
		saw = append(saw, n)
	}
	if !slices.Equal(saw, []int{0, 0, 1}) || h.turns.Guards() != 0 {
		t.Errorf("saw lists of %v, want 0, 0 and 1; %d are in line", saw, h.turns.Guards())
	}
}

// Many calls of Update change the same keys on two shards, from all nodes. None gives
// up, and none is lost.
func TestUpdatesOfTheSameKeys(t *testing.T) {
	const callers, each = 4, 5
	c := newApart(t, 4, func(base.ShardID) []int { return []int{0, 1, 2} })
	ctx := testkit.Context(t)
	keys := []base.Key{keyOn(c.hostOf(0), 0, 1), keyOn(c.hostOf(0), 1, 1)}
	var all sync.WaitGroup
	for i := range c.nodes {
		for range callers {
			all.Go(func() {
				for range each {
					_, err := c.hostOf(i).Update(ctx, base.DefaultLimits(), base.TxOptions{MaxAttempts: 1000}, func(tx *Tx) error {
						items, err := tx.MultiGet(keys)
						for _, it := range items {
							err = errors.Join(err, tx.Write(base.Write{Key: it.Key, Value: append(it.Value, '+')}))
						}
						return err
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	all.Wait()
	items, err := c.hostOf(3).MultiGet(ctx, keys, base.ReadOptions{})
	if want := len(c.nodes) * callers * each; err != nil || len(items[0].Value) != want || len(items[1].Value) != want {
		t.Errorf("%d and %d of %d are there, %v", len(items[0].Value), len(items[1].Value), want, err)
	}
}
