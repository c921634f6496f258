// Package logtest says what every log must do, whether it orders transactions
// in one process or over many. Run is called by the tests of each.
package logtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// Log is what is tested.
type Log interface {
	Propose(ctx context.Context, txn *command.Txn) error
	Current(ctx context.Context, shards []base.ShardID) error
	Settle(ctx context.Context, shard base.ShardID, v base.Version) error
	Ordered() base.Version
	InFlight() (waiting, refused int64)
	Close()
}

// Fixture is a running log with at least two shards.
type Fixture struct {
	Log
	Read   func(shard base.ShardID, key base.Key) storage.Record
	Reopen func() // closes everything and opens it again, in place
}

// Run runs the suite. open starts a fixture that its cleanup stops.
func Run(t *testing.T, open func(t *testing.T) *Fixture) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *Fixture)
	}{
		{"AppliesInOrder", appliesInOrder},
		{"ConditionsHoldOrNothingIsApplied", conditions},
		{"IncrementsAreNotLost", increments},
		{"ShardsCommitTogether", shardsCommitTogether},
		{"RepetitionsGetTheFirstResult", repetitions},
		{"RangesAreValidated", ranges},
		{"TTLCountsFromTheCommit", ttl},
		{"BarrierWaitsForWhatWasBefore", barrier},
		{"EndedContextAppliesNothing", endedContext},
		{"CloseRefuses", closeRefuses},
		{"ReopenKeepsEverything", reopen},
		{"NoVersionIsGivenTwice", noVersionTwice},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func (f *Fixture) propose(t *testing.T, txn *command.Txn) *command.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := f.Propose(ctx, txn); err != nil {
		t.Fatalf("propose: %v", err)
	}
	return &txn.Result
}

func one(shard base.ShardID, writes ...base.Write) *command.Txn {
	return &command.Txn{Parts: []command.Part{{Shard: shard, Command: command.Command{Writes: writes}}}}
}

func put(key, value string) base.Write {
	return base.Write{Key: base.K(key, ""), Value: []byte(value)}
}

func putIf(key, value string, v base.Version) base.Write {
	w := put(key, value)
	w.Cond = base.Cond{Kind: base.CondVersion, Version: v}
	return w
}

func (f *Fixture) value(shard base.ShardID, key string) string {
	return string(f.Read(shard, base.K(key, "")).Value)
}

func appliesInOrder(t *testing.T, f *Fixture) {
	last := base.Version(0)
	for i := range 100 {
		res := f.propose(t, one(0, put("k", fmt.Sprint(i))))
		if res.Status != command.StatusApplied || res.Version <= last {
			t.Fatalf("write %d: %+v after version %d", i, res, last)
		}
		last = res.Version
		if got := f.value(0, "k"); got != fmt.Sprint(i) {
			t.Fatalf("write %d was answered, but %q is read", i, got)
		}
		if rec := f.Read(0, base.K("k", "")); rec.Version != last {
			t.Fatalf("answered version %d, stored %d", last, rec.Version)
		}
	}
	if got := f.Ordered(); got < last {
		t.Errorf("ordered %d, a visible write has %d", got, last)
	}
	if err := f.Settle(context.Background(), 0, last); err != nil {
		t.Errorf("settle: %v", err)
	}
}

func conditions(t *testing.T, f *Fixture) {
	first := f.propose(t, one(0, putIf("k", "a", 0))).Version
	res := f.propose(t, one(0, put("other", "x"), putIf("k", "b", 0)))
	if res.Status != command.StatusMismatch || len(res.Failed) != 1 || res.Failed[0] != 1 || res.Versions[1] != first {
		t.Errorf("create of what exists: %+v", res)
	}
	if got := f.value(0, "other"); got != "" {
		t.Errorf("half of a refused command was applied: %q", got)
	}
	res = f.propose(t, one(0, putIf("k", "b", first)))
	if res.Status != command.StatusApplied || f.value(0, "k") != "b" {
		t.Errorf("compare and set: %+v", res)
	}
	del := base.Write{Kind: base.WriteDelete, Key: base.K("k", "")}
	second := res.Version
	if res = f.propose(t, one(0, del)); res.Versions[0] != second || f.value(0, "k") != "" {
		t.Errorf("delete: %+v, left %q", res, f.value(0, "k"))
	}
	if res = f.propose(t, one(0, del)); res.Status != command.StatusApplied || res.Versions[0] != 0 {
		t.Errorf("delete of nothing: %+v", res)
	}
	if res = f.propose(t, one(0, putIf("k", "c", 0))); res.Version <= second {
		t.Errorf("version %d after the delete of %d", res.Version, second)
	}
}

// increments has writers race with compare-and-set: the sum must be the number
// of successes.
func increments(t *testing.T, f *Fixture) {
	const writers, each = 8, 50
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for done := 0; done < each; {
				rec := f.Read(0, base.K("n", ""))
				txn := one(0, putIf("n", string(rec.Value)+"+", rec.Version))
				if err := f.Propose(context.Background(), txn); err != nil {
					t.Errorf("propose: %v", err)
					return
				}
				if txn.Result.Status == command.StatusApplied {
					done++
				}
			}
		})
	}
	group.Wait()
	if got := len(f.value(0, "n")); got != writers*each {
		t.Errorf("%d increments were acknowledged, %d are there", writers*each, got)
	}
}

func pair(value string, cond base.Version) *command.Txn {
	return &command.Txn{Parts: []command.Part{
		{Shard: 0, Positions: []int{1}, Command: command.Command{Writes: []base.Write{put("left", value)}}},
		{Shard: 1, Positions: []int{0}, Command: command.Command{Writes: []base.Write{putIf("right", value, cond)}}},
	}}
}

func shardsCommitTogether(t *testing.T, f *Fixture) {
	res := f.propose(t, pair("a", 0))
	left, right := f.Read(0, base.K("left", "")), f.Read(1, base.K("right", ""))
	if res.Status != command.StatusApplied || left.Version != res.Version || right.Version != res.Version {
		t.Fatalf("%+v: left %d, right %d", res, left.Version, right.Version)
	}
	res = f.propose(t, pair("b", 0)) // right exists
	if res.Status != command.StatusMismatch || len(res.Failed) != 1 || res.Failed[0] != 0 {
		t.Errorf("%+v", res)
	}
	if f.value(0, "left") != "a" || f.value(1, "right") != "a" {
		t.Error("half of a refused transaction was applied")
	}
}

func repetitions(t *testing.T, f *Fixture) {
	request := func(value string) *command.Txn {
		txn := one(0, put("k", value))
		txn.Request = base.RequestID{1}
		txn.Digest = command.Digest(txn.Parts[0].Command.Writes)
		return txn
	}
	first := f.propose(t, request("a"))
	f.propose(t, one(0, put("k", "b")))
	again := f.propose(t, request("a"))
	if !again.Replayed || again.Version != first.Version || f.value(0, "k") != "b" {
		t.Errorf("first %+v, again %+v, value %q", first, again, f.value(0, "k"))
	}
	if res := f.propose(t, request("c")); res.Status != command.StatusReused || f.value(0, "k") != "b" {
		t.Errorf("another request with the same id: %+v", res)
	}
	f.Reopen()
	if again = f.propose(t, request("a")); !again.Replayed || again.Version != first.Version {
		t.Errorf("after a reopen: %+v", again)
	}
}

func ranges(t *testing.T, f *Fixture) {
	seen := f.propose(t, one(0, base.Write{Key: base.K("p", "1")})).Version
	var digest command.RangeDigest
	digest.Add(base.K("p", "1"), seen)
	guarded := func() *command.Txn {
		txn := one(0, put("result", "x"))
		txn.Parts[0].Command.Ranges = []command.RangeRead{{Range: base.Primary("p"), Digest: digest.Sum()}}
		return txn
	}
	if res := f.propose(t, guarded()); res.Status != command.StatusApplied {
		t.Errorf("nothing has changed: %+v", res)
	}
	f.propose(t, one(0, base.Write{Key: base.K("p", "2")}))
	if res := f.propose(t, guarded()); res.Status != command.StatusConflict {
		t.Errorf("a key was added to the range: %+v", res)
	}
}

func ttl(t *testing.T, f *Fixture) {
	w := put("k", "v")
	w.TTL = time.Hour
	res := f.propose(t, one(0, w))
	rec := f.Read(0, base.K("k", ""))
	if want := uint64(res.Version) + uint64(time.Hour.Microseconds()); rec.ExpiresAt != want {
		t.Errorf("expires at %d, want %d", rec.ExpiresAt, want)
	}
}

func barrier(t *testing.T, f *Fixture) {
	var group sync.WaitGroup
	for i := range 32 {
		group.Go(func() {
			if err := f.Propose(context.Background(), one(0, put(fmt.Sprint("k", i), "v"))); err != nil {
				t.Errorf("propose: %v", err)
			}
		})
	}
	group.Wait()
	f.propose(t, &command.Txn{})
	for i := range 32 {
		if f.value(0, fmt.Sprint("k", i)) != "v" {
			t.Errorf("write %d is not visible after a barrier", i)
		}
	}
	if waiting, _ := f.InFlight(); waiting != 0 {
		t.Errorf("%d waiting at rest", waiting)
	}
}

func endedContext(t *testing.T, f *Fixture) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	// The log may or may not have looked at it before the context is found
	// ended; what it says about the outcome must be true.
	err := f.Propose(ctx, one(0, put("k", "v")))
	f.propose(t, &command.Txn{})
	var e *base.Error
	switch there := f.value(0, "k") == "v"; {
	case err == nil && !there:
		t.Error("acknowledged and not there")
	case err != nil && !errors.As(err, &e):
		t.Errorf("untyped error %v", err)
	case err != nil && e.Outcome == base.OutcomeNotApplied && there:
		t.Errorf("%v, but it was applied", err)
	case err != nil && !errors.Is(err, context.Canceled):
		t.Errorf("%v does not name the cause", err)
	}
}

func closeRefuses(t *testing.T, f *Fixture) {
	f.Close()
	err := f.Propose(context.Background(), one(0, put("k", "v")))
	var e *base.Error
	if !errors.Is(err, base.ErrClosed) || !errors.As(err, &e) || e.Outcome != base.OutcomeNotApplied {
		t.Errorf("propose after close: %v", err)
	}
	f.Reopen()
	if f.value(0, "k") != "" {
		t.Error("refused and applied")
	}
}

func reopen(t *testing.T, f *Fixture) {
	last := f.propose(t, pair("a", 0)).Version
	for i := range 3 {
		f.Reopen()
		left, right := f.Read(0, base.K("left", "")), f.Read(1, base.K("right", ""))
		if left.Version != last || right.Version != last {
			t.Fatalf("reopen %d: left %d, right %d, want %d", i, left.Version, right.Version, last)
		}
		if v := f.propose(t, pair("b", right.Version)).Version; v <= last {
			t.Fatalf("reopen %d: version %d after %d", i, v, last)
		} else {
			last = v
		}
	}
}

// noVersionTwice gives out a version for a transaction that changes nothing:
// it must be gone for ever all the same.
func noVersionTwice(t *testing.T, f *Fixture) {
	last := f.propose(t, one(0, put("k", "a"))).Version
	for i := range 3 {
		res := f.propose(t, one(0, base.Write{Kind: base.WriteDelete, Key: base.K("none", "")}))
		if res.Version <= last {
			t.Fatalf("round %d: version %d after %d", i, res.Version, last)
		}
		last = res.Version
		f.Reopen()
	}
}
