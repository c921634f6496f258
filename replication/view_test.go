package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/command"
)

// TestViewSeesThatAKeyWasThere looks at two shards; between its two looks a key
// comes and goes.
func TestViewSeesThatAKeyWasThere(t *testing.T) {
	c := newCluster(t, 1)
	c.startAll()
	ctx := testkit.Context(t)
	h := c.leader(0).host
	if err := h.Barrier(ctx); err != nil {
		t.Fatal(err)
	}
	keys := make(map[base.ShardID]base.Key)
	for i := 0; len(keys) < 2; i++ {
		key := base.K(fmt.Sprint("key/", i), "")
		keys[h.shardOf(key)] = key
	}
	write := func(ctx context.Context, w base.Write) {
		t.Helper()
		if _, err := h.Write(ctx, &w, base.RequestID{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, meddle := range []bool{false, true} {
		tx, err := h.newTx(ctx, base.DefaultLimits(), true, false)
		if err != nil {
			t.Fatal(err)
		}
		var flicker base.Key
		for _, key := range keys {
			if _, err := tx.MultiGet([]base.Key{key}); err != nil {
				t.Fatal(err)
			}
			flicker = key
		}
		if meddle {
			write(ctx, base.Write{Key: flicker, Value: []byte("v")})
			write(ctx, base.Write{Kind: base.WriteDelete, Key: flicker})
		}
		if again, err := tx.conclude(nil); err != nil || again != meddle {
			t.Errorf("meddled %v: again %v, %v", meddle, again, err)
		}
		tx.close()
	}
}

// TestAKeyIsReadTwice reads a key of another node's twice, and lets it change in
// between: what was read is of no one moment, so the function must run again.
func TestAKeyIsReadTwice(t *testing.T) {
	c := newApart(t, 4, func(base.ShardID) []int { return []int{0, 1, 2} })
	ctx := testkit.Context(t)
	away, near := c.hostOf(3), c.hostOf(0)
	key, other := keyOn(away, 0, 1), keyOn(away, 1, 1)
	write := func(w base.Write) error {
		_, err := near.Write(ctx, &w, base.RequestID{})
		return err
	}
	put := base.Write{Key: key, Value: []byte("v")}
	remove := base.Write{Kind: base.WriteDelete, Key: key}
	view := func(fn func(*Tx) error) error { return away.View(ctx, base.DefaultLimits(), 0, fn) }
	update := func(fn func(*Tx) error) error {
		_, err := away.Update(ctx, base.DefaultLimits(), base.TxOptions{}, func(tx *Tx) error {
			return errors.Join(fn(tx), tx.Write(base.Write{Key: other}))
		})
		return err
	}
	for name, run := range map[string]func(func(*Tx) error) error{"view": view, "update": update} {
		for _, goes := range []bool{false, true} { // the key comes, and goes again
			if err := write(remove); err != nil {
				t.Fatal(err)
			}
			ran := 0
			err := run(func(tx *Tx) error {
				ran++
				first, err := tx.MultiGet([]base.Key{key})
				if err != nil {
					return err
				}
				if ran == 1 {
					if err := write(put); err != nil {
						return err
					}
				}
				second, err := tx.MultiGet([]base.Key{key})
				if err != nil {
					return err
				}
				if ran == 1 && goes {
					return write(remove)
				}
				if ran > 1 && first[0].Version != second[0].Version {
					t.Errorf("%s: run %d read versions %d and %d", name, ran, first[0].Version, second[0].Version)
				}
				return nil
			})
			if err != nil || ran != 2 {
				t.Errorf("%s, goes %v: ran %d times, %v", name, goes, ran, err)
			}
		}
	}
}

// TestViewComesToAnEnd reads keys of two shards that are written without a pause, on a
// node that has the shards and on one that has not. No View may need more than one
// attempt after those before which it holds nothing.
func TestViewComesToAnEnd(t *testing.T) {
	c := newApart(t, 4, func(base.ShardID) []int { return []int{0, 1, 2} })
	ctx, stop := context.WithCancel(testkit.Context(t))
	var writers sync.WaitGroup
	defer writers.Wait()
	defer stop()
	keys := []base.Key{keyOn(c.hostOf(0), 0, 1), keyOn(c.hostOf(0), 1, 1)}
	for i := range 8 {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				_, err := c.hostOf(i%3).Write(ctx, &base.Write{Key: keys[i%2], Value: fmt.Append(nil, n)}, base.RequestID{})
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all := base.PrimaryPrefix("key-1-")
	ran := 0
	for n := range 20 {
		err := c.hostOf(n%2*3).View(ctx, base.DefaultLimits(), freeAttempts+1, func(tx *Tx) error {
			ran++
			if n%4 > 1 {
				_, err := tx.MultiGet(keys)
				return err
			}
			for _, err := range tx.RangeScan(all, base.ReadOptions{}) {
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("view %d: %v", n, err)
		}
	}
	t.Logf("%d runs of 20 views", ran)
}

// A removal that is decided, but that its shard has yet to follow, is in no mark: a View
// that has seen it cannot tell whether the key was there in between.
func TestViewDistrustsRemovalsOnTheirWay(t *testing.T) {
	b := newStepsBench(t, 1)
	b.write("old")
	b.at = 0
	b.txn = command.Holder{Txn: base.NewRequestID(), Anchor: 1, Deadline: base.VersionAt(b.clock.Now().Add(txnPatience))}
	remove := command.Command{
		Step:   command.Step{Kind: command.StepPrepare, Holder: b.txn},
		Writes: []base.Write{{Kind: base.WriteDelete, Key: b.keys[0]}},
	}
	prepare := &command.Txn{Parts: []command.Part{{Shard: 0, Command: remove}}}
	if err := b.raftlog().proposeOne(b.ctx, prepare, true); err != nil {
		t.Fatal(err)
	}
	b.step(1, command.StatusApplied, command.StepDecide)
	for _, followed := range []bool{false, true} {
		tx, err := b.any().newTx(b.ctx, base.DefaultLimits(), true, false)
		if err != nil {
			t.Fatal(err)
		}
		items, err := tx.MultiGet(b.keys)
		if err != nil || items[0].Exists() || string(items[1].Value) != "new" {
			t.Fatal(items, err)
		}
		if again, err := tx.conclude(nil); err != nil || again == followed {
			t.Errorf("followed %v: again %v, %v", followed, again, err)
		}
		tx.close()
		b.step(0, command.StatusApplied, command.StepCommit)
	}
	b.step(1, command.StatusApplied, command.StepForget)
	b.drained()
}

// A transaction asks each other node once for the keys of a MultiGet, and notices what
// has changed there since.
func TestAMultiGetAsksEachNodeOnce(t *testing.T) {
	c := onThree(t, 4)
	h, ctx := c.hostOf(3), testkit.Context(t)
	var keys []base.Key
	for i := range 40 {
		keys = append(keys, base.K(fmt.Sprint("key-", i), ""))
		if i > 0 { // the first stays absent
			mustWrite(t, ctx, h, base.Write{Key: keys[i], Value: []byte("v")})
		}
	}
	var gets atomic.Int32
	c.onAsk(3, func(q *ask.Request, err error) error {
		if q.Kind == ask.Get {
			gets.Add(1)
		}
		return err
	})
	for _, change := range []bool{false, true} {
		tx, err := h.newTx(ctx, base.DefaultLimits(), true, false)
		if err != nil {
			t.Fatal(err)
		}
		gets.Store(0)
		items, err := tx.MultiGet(keys)
		if err != nil || items[0].Exists() || string(items[39].Value) != "v" {
			t.Fatal(items, err)
		}
		if n := gets.Load(); n < 1 || n > 3 {
			t.Errorf("%d requests", n)
		}
		if change {
			mustWrite(t, ctx, h, base.Write{Kind: base.WriteDelete, Key: keys[39]})
		}
		if again, err := tx.conclude(nil); err != nil || again != change {
			t.Errorf("changed %v: again %v, %v", change, again, err)
		}
		tx.close()
	}
}
