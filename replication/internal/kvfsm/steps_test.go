package kvfsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/command"
)

// deadline is that of the transactions of these tests. Their commands are
// stamped before it unless they are to be late.
const deadline = 1000

func txnID(n byte) (id base.RequestID) {
	id[0] = n
	return id
}

func holder(txn byte) command.Holder {
	return command.Holder{Txn: txnID(txn), Anchor: 1, Deadline: deadline}
}

// step is a step of a transaction without writes.
func step(stamp base.Version, kind command.StepKind, txn byte) *command.Command {
	return &command.Command{Stamp: stamp, Step: command.Step{Kind: kind, Holder: holder(txn)}}
}

func prepareCmd(stamp base.Version, txn byte, writes ...base.Write) *command.Command {
	c := step(stamp, command.StepPrepare, txn)
	c.Writes = writes
	return c
}

// decideCmd has at most one write, and is of a transaction with one more elsewhere.
func decideCmd(stamp base.Version, txn byte, at base.Version, writes ...base.Write) *command.Command {
	c := step(stamp, command.StepDecide, txn)
	c.Writes, c.Step.At, c.Step.Shards = writes, at, []base.ShardID{0, 1}
	return c
}

// refuseCmd ends a transaction of which a condition elsewhere has failed.
func refuseCmd(stamp base.Version, txn byte, writes ...base.Write) *command.Command {
	c := step(stamp, command.StepRefuse, txn)
	c.Writes = writes
	c.Step.Outcome.Status = command.StatusMismatch
	return c
}

func forgetCmd(stamp base.Version, txns ...byte) *command.Command {
	c := &command.Command{Stamp: stamp, Step: command.Step{Kind: command.StepForget}}
	for _, txn := range txns {
		c.Forget = append(c.Forget, txnID(txn))
	}
	return c
}

func commitCmd(stamp base.Version, txn byte, at base.Version) *command.Command {
	c := step(stamp, command.StepCommit, txn)
	c.Step.At = at
	return c
}

func withRequest(c *command.Command, request byte) *command.Command {
	c.Request, c.Digest = txnID(request), 99
	switch c.Step.Kind {
	case command.StepDecide:
		c.Step.Outcome.Versions = []base.Version{3, base.PendingVersion, 0}
	case command.StepRefuse:
		c.Step.Outcome.Versions, c.Step.Outcome.Failed = []base.Version{7, 0, 0}, []int{0}
	default:
		return c
	}
	for i := range c.Writes {
		c.Positions = append(c.Positions, 2-i)
	}
	return c
}

func reading(c *command.Command, key string, version base.Version) *command.Command {
	c.Reads = append(c.Reads, command.Read{Key: base.K(key, ""), Version: version})
	return c
}

func remove(key string) base.Write {
	return base.Write{Kind: base.WriteDelete, Key: base.K(key, "")}
}

// do applies one command and checks its status. It publishes as a log does.
func (b *bench) do(want command.Status, c *command.Command) command.Result {
	b.t.Helper()
	res := b.apply(c)[0]
	b.m.Publish()
	if res.Status != want {
		b.t.Fatalf("step %d of %x: status %d, want %d: %+v", c.Step.Kind, c.Step.Txn[0], res.Status, want, res)
	}
	return res
}

func (b *bench) value(key, want string) base.Version {
	b.t.Helper()
	rec := b.record(key)
	if string(rec.Value) != want {
		b.t.Fatalf("%s is %q of version %d, want %q", key, rec.Value, rec.Version, want)
	}
	return rec.Version
}

// held checks that the transactions hold something, and no others do.
func (b *bench) held(want ...byte) {
	b.t.Helper()
	var got []byte
	for _, by := range b.m.Prepared() {
		got = append(got, by.Txn[0])
		if !b.m.Holds(by.Txn) || by != holder(by.Txn[0]) {
			b.t.Errorf("holder %+v", by)
		}
	}
	slices.Sort(got)
	if !bytes.Equal(got, want) {
		b.t.Fatalf("%v hold keys, want %v", got, want)
	}
}

// outcome returns the version that the anchor remembers of a transaction; 0 if
// it remembers none.
func (b *bench) outcome(txn byte) base.Version {
	b.t.Helper()
	d, err := Outcome(b.space(), txnID(txn))
	if err != nil {
		b.t.Fatal(err)
	}
	all, err := Outcomes(b.space(), 10)
	if err != nil || slices.ContainsFunc(all, func(o *Decided) bool { return o.Txn == txnID(txn) }) != (d != nil) {
		b.t.Fatalf("outcomes %v, %v", all, err)
	}
	if d == nil {
		return 0
	}
	return d.At
}

// eachStep runs a test twice: the second time the machine is opened anew after
// each step.
func eachStep(t *testing.T, test func(b *bench, pause func())) {
	for _, reopen := range []bool{false, true} {
		t.Run(fmt.Sprintf("reopen=%v", reopen), func(t *testing.T) {
			b := newBench(t)
			test(b, func() {
				if reopen {
					b.reopen()
				}
			})
		})
	}
}

func TestStepsOfTheAnchor(t *testing.T) {
	eachStep(t, func(b *bench, pause func()) {
		b.do(command.StatusApplied, cmd(10, put("k", "old")))
		pause()
		if res := b.do(command.StatusPending, step(30, command.StepExpire, 1)); res.Version != 0 {
			t.Errorf("pending: %+v", res)
		}
		if res := b.do(command.StatusApplied, withRequest(decideCmd(31, 1, 50, put("k", "new")), 5)); res.Version != 50 || res.Versions[0] != 50 {
			t.Errorf("decided: %+v", res)
		}
		pause()
		b.held()
		if v := b.value("k", "new"); v != 50 || b.outcome(1) != 50 || b.m.Clock() != 50 {
			t.Errorf("version %d, outcome %d, clock %d", v, b.outcome(1), b.m.Clock())
		}
		for _, stamp := range []base.Version{40, deadline + 1} { // however late it is
			if res := b.do(command.StatusApplied, step(stamp, command.StepExpire, 1)); res.Version != 50 {
				t.Errorf("expire of an applied one: %+v", res)
			}
		}
		b.do(command.StatusApplied, commitCmd(60, 1, 50)) // does nothing, as does the next
		b.do(command.StatusApplied, step(61, command.StepAbort, 1))
		b.value("k", "new")
		again := b.do(command.StatusApplied, withRequest(decideCmd(70, 2, 0, put("k", "twice")), 5))
		if !again.Replayed || again.Version != 50 || !slices.Equal(again.Versions, []base.Version{3, 50, 50}) {
			t.Errorf("the repeated request: %+v", again)
		}
		if res := b.do(command.StatusApplied, decideCmd(80, 3, 60, put("j", "v"))); res.Version != 80 {
			t.Errorf("decided by its own clock: %+v", res)
		}
		b.do(command.StatusApplied, forgetCmd(81, 1, 3))
		pause()
		if b.outcome(1) != 0 || b.outcome(3) != 0 {
			t.Error("not forgotten")
		}
		b.do(command.StatusApplied, withRequest(decideCmd(90, 1, 95, put("k", "again")), 5))
		b.value("k", "new")
	})
}

// The anchor refuses to decide what it would refuse to prepare.
func TestDecideChecks(t *testing.T) {
	eachStep(t, func(b *bench, pause func()) {
		at := b.do(command.StatusApplied, cmd(10, put("k", "old"))).Version
		b.do(command.StatusConflict, reading(decideCmd(20, 1, 30, put("k", "new")), "k", at-1))
		create := put("k", "new")
		create.Cond = base.Cond{Kind: base.CondVersion}
		res := b.do(command.StatusMismatch, withRequest(decideCmd(20, 1, 30, create), 5))
		if !slices.Equal(res.Failed, []int{0}) || !slices.Equal(res.Versions, []base.Version{at}) || b.m.Requests() != 0 {
			t.Errorf("refused: %+v, %d requests", res, b.m.Requests())
		}
		b.do(command.StatusApplied, prepareCmd(20, 2, put("k", "held")))
		pause()
		if res := b.do(command.StatusLocked, decideCmd(20, 1, 30, put("k", "new"))); res.Holder != holder(2) {
			t.Errorf("locked: %+v", res)
		}
		b.do(command.StatusApplied, step(21, command.StepAbort, 2))
		b.do(command.StatusExpired, decideCmd(deadline+1, 1, 30, put("k", "new")))
		pause()
		if v := b.value("k", "old"); v != at || b.outcome(1) != 0 {
			t.Errorf("version %d, outcome %d", v, b.outcome(1))
		}
		b.do(command.StatusApplied, reading(decideCmd(40, 1, 30, remove("k")), "k", at))
		if b.record("k").Version != 0 {
			t.Error("not removed")
		}
	})
}

func TestStepsOfAnotherShard(t *testing.T) {
	eachStep(t, func(b *bench, pause func()) {
		b.do(command.StatusApplied, cmd(10, put("k", "old"), put("gone", "x")))
		b.do(command.StatusApplied, prepareCmd(20, 1, put("k", "new"), remove("gone"), remove("never"),
			base.Write{Kind: base.WriteCheck, Key: base.K("checked", "")}))
		b.do(command.StatusApplied, prepareCmd(21, 2, put("other", "aborted")))
		pause()
		b.held(1, 2)
		b.do(command.StatusApplied, step(22, command.StepAbort, 2))
		pause()
		b.held(1)
		b.do(command.StatusApplied, commitCmd(23, 1, 40))
		pause()
		b.held()
		if v := b.value("k", "new"); v != 40 {
			t.Errorf("version %d", v)
		}
		if b.record("gone").Version != 0 || b.record("never").Version != 0 || b.record("other").Version != 0 || b.record("checked").Version != 0 {
			t.Error("a key is there that should not be")
		}
		if b.outcome(1) != 0 {
			t.Error("only the anchor remembers outcomes")
		}
		b.do(command.StatusApplied, commitCmd(24, 1, 40))                                    // again
		if res := b.do(command.StatusApplied, cmd(0, put("k", "next"))); res.Version != 42 { // the removal took 41
			t.Errorf("next version %d", res.Version)
		}
	})
}

func TestExpire(t *testing.T) {
	eachStep(t, func(b *bench, pause func()) {
		b.do(command.StatusPending, step(deadline, command.StepExpire, 1))
		b.do(command.StatusExpired, step(deadline+1, command.StepExpire, 1))
		pause()
		b.do(command.StatusExpired, decideCmd(30, 1, 40, put("k", "v"))) // late, whatever its stamp is
		b.do(command.StatusExpired, step(20, command.StepExpire, 1))
		b.do(command.StatusExpired, prepareCmd(20, 2, put("k", "late")))
		b.held()
		if b.record("k").Version != 0 || b.outcome(1) != 0 {
			t.Error("an expired transaction was applied")
		}
	})
}

// A shard that nobody told that the transaction has expired takes a late prepare
// only if its own clock is behind; that one is dropped when others ask the anchor.
func TestLatePrepare(t *testing.T) {
	b := newBench(t)
	b.do(command.StatusExpired, prepareCmd(deadline+1, 1, put("k", "v")))
	b.do(command.StatusApplied, prepareCmd(deadline, 1, put("k", "v")))
	b.do(command.StatusExpired, prepareCmd(deadline, 1, put("k", "v"))) // has been
	b.held(1)
	b.do(command.StatusApplied, cmd(deadline+5, put("other", "v")))
	b.do(command.StatusExpired, prepareCmd(20, 2, put("k2", "v")))
	b.held(1)
}

func TestLocks(t *testing.T) {
	all := command.RangeRead{Range: base.Range{Start: base.K("k", ""), End: base.K("l", "")}}
	elsewhere := command.RangeRead{Range: base.Range{Start: base.K("x", ""), End: base.K("y", "")}}
	scanning := func(c *command.Command, r command.RangeRead) *command.Command {
		c.Ranges = append(c.Ranges, r)
		return c
	}
	for _, c := range []struct {
		name        string
		first, then *command.Command
		blocked     bool
	}{
		{"write, write", prepareCmd(10, 1, put("k", "1")), cmd(20, put("k", "2")), true},
		{"write, write elsewhere", prepareCmd(10, 1, put("k", "1")), cmd(20, put("j", "2")), false},
		{"write, delete", prepareCmd(10, 1, put("k", "1")), cmd(20, remove("k")), true},
		{"delete, write", prepareCmd(10, 1, remove("k")), cmd(20, put("k", "2")), true},
		{"check, write", prepareCmd(10, 1, base.Write{Kind: base.WriteCheck, Key: base.K("k", "")}), cmd(20, put("k", "2")), true},
		{"write, read", prepareCmd(10, 1, put("k", "1")), reading(cmd(20, put("j", "2")), "k", 0), true},
		{"read, write", reading(prepareCmd(10, 1), "k", 0), cmd(20, put("k", "2")), true},
		{"read, read", reading(prepareCmd(10, 1), "k", 0), reading(cmd(20, put("j", "2")), "k", 0), false},
		{"range, write", scanning(prepareCmd(10, 1), all), cmd(20, put("k", "2")), true},
		{"range, write outside", scanning(prepareCmd(10, 1), all), cmd(20, put("l", "2")), false},
		{"write, range", prepareCmd(10, 1, put("k", "1")), scanning(cmd(20, put("j", "2")), all), true},
		{"write, range elsewhere", prepareCmd(10, 1, put("k", "1")), scanning(cmd(20, put("j", "2")), elsewhere), false},
		{"range, range", scanning(prepareCmd(10, 1), all), scanning(cmd(20, put("j", "2")), all), false},
		{"sweep", prepareCmd(10, 1, put("k", "1")), &command.Command{Stamp: 20, Sweep: command.Sweep{RequestsTo: 1}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachStep(t, func(b *bench, pause func()) { tryLock(b, pause, c.first, c.then, c.blocked) })
		})
	}
}

// tryLock applies a command, by itself and as a prepare, after another was
// prepared, and after that has ended.
func tryLock(b *bench, pause func(), first, then *command.Command, blocked bool) {
	b.t.Helper()
	prepare := *then
	prepare.Step = command.Step{Kind: command.StepPrepare, Holder: holder(2)}
	want := command.StatusApplied
	if blocked {
		want = command.StatusLocked
	}
	b.do(command.StatusApplied, first)
	pause()
	if then.Sweep.Empty() {
		if res := b.do(want, &prepare); blocked && res.Holder != holder(1) {
			b.t.Errorf("locked by %+v", res.Holder)
		}
		b.do(command.StatusApplied, step(21, command.StepAbort, 2))
	}
	if res := b.do(want, then); blocked && (res.Holder != holder(1) || res.Version != 0) {
		b.t.Errorf("locked: %+v", res)
	}
	b.held(1)
	b.do(command.StatusApplied, step(22, command.StepAbort, 1))
	pause()
	b.held()
	if blocked {
		b.do(command.StatusApplied, then)
	}
	if n := len(b.m.holds.writers) + len(b.m.holds.readers) + len(b.m.holds.ranges); n > 0 {
		b.t.Errorf("%d holds are left", n)
	}
}

// The lock that is named is the same on every replica, whatever the order of its
// maps.
func TestTheNamedHolderIsTheLeast(t *testing.T) {
	b := newBench(t)
	for _, txn := range []byte{9, 4, 7} {
		b.do(command.StatusApplied, prepareCmd(10, txn, put(fmt.Sprint("k", txn), "v")))
	}
	c := cmd(20, put("j", "v"))
	c.Ranges = []command.RangeRead{{Range: base.All()}}
	for range 50 {
		if res := b.do(command.StatusLocked, c); res.Holder != holder(4) {
			t.Fatalf("locked by %+v", res.Holder)
		}
	}
	if all := b.m.Held(); len(all) != 3 {
		t.Errorf("held %+v", all)
	}
}

// Versions of a key rise, whatever versions other keys get meanwhile.
func TestResolvedVersionsRise(t *testing.T) {
	b := newBench(t)
	before := b.do(command.StatusApplied, cmd(10, put("k", "old"))).Version
	prepared := b.do(command.StatusApplied, prepareCmd(0, 1, put("k", "new"))).Version
	b.do(command.StatusApplied, cmd(500, put("other", "v")))
	b.do(command.StatusApplied, commitCmd(0, 1, prepared)) // below the clock, which stays
	if v := b.value("k", "new"); v <= before || v != prepared || b.m.Clock() != 500 {
		t.Errorf("versions %d, %d, %d, clock %d", before, prepared, v, b.m.Clock())
	}
	if v := b.do(command.StatusApplied, cmd(0, put("k", "next"))).Version; v != 501 {
		t.Errorf("next version %d", v)
	}
	b.do(command.StatusApplied, prepareCmd(0, 2, put("k", "z")))
	batch := b.store.NewBatch()
	defer batch.Release()
	err := b.m.Apply(batch, commitCmd(0, 2, 501), new(command.Result))
	if !errors.Is(err, base.ErrCorrupt) {
		t.Errorf("a commit below what was prepared: %v", err)
	}
}

func TestChecksInTransactions(t *testing.T) {
	b := newBench(t)
	at := b.do(command.StatusApplied, cmd(10, put("k", "v"))).Version
	create := put("k", "new")
	create.Cond = base.Cond{Kind: base.CondVersion}
	res := b.do(command.StatusMismatch, prepareCmd(20, 1, put("j", "v"), create))
	if !slices.Equal(res.Failed, []int{1}) || !slices.Equal(res.Versions, []base.Version{0, at}) {
		t.Errorf("refused: %+v", res)
	}
	b.do(command.StatusConflict, reading(prepareCmd(20, 1, put("j", "v")), "k", at-1))
	changed := prepareCmd(20, 1, put("j", "v"))
	changed.Ranges = []command.RangeRead{{Range: base.All()}} // it saw nothing there
	b.do(command.StatusConflict, changed)
	b.held()
	replace := put("k", "new")
	replace.Cond = base.Cond{Kind: base.CondVersion, Version: at}
	if res := b.do(command.StatusApplied, prepareCmd(20, 2, replace, remove("none"))); !slices.Equal(res.Versions, []base.Version{at, 0}) {
		t.Errorf("prepared: %+v", res)
	}
	b.held(2)
	b.do(command.StatusApplied, commitCmd(30, 2, 90))
	b.value("k", "new")
}

// What a transaction writes lives from its commit on.
func TestExpiryCountsFromTheCommit(t *testing.T) {
	eachStep(t, func(b *bench, pause func()) {
		w := put("k", "v")
		w.TTL = 100 * time.Microsecond
		b.do(command.StatusApplied, prepareCmd(20, 1, w))
		pause()
		b.do(command.StatusApplied, commitCmd(30, 1, 70))
		pause()
		if rec := b.record("k"); rec.Version != 70 || rec.ExpiresAt != 170 {
			b.t.Errorf("%+v", rec)
		}
		due, err := b.space().Expired(170, 10)
		if err != nil || len(due) != 1 || due[0].Version != 70 {
			b.t.Errorf("due: %+v, %v", due, err)
		}
		b.do(command.StatusMismatch, prepareCmd(170, 2, base.Write{
			Kind: base.WriteCheck, Key: base.K("k", ""), Cond: base.Cond{Kind: base.CondPresent},
		}))
	})
}

func TestRefusedRequests(t *testing.T) {
	eachStep(t, func(b *bench, pause func()) {
		at := b.do(command.StatusApplied, cmd(10, put("k", "old"))).Version
		create := put("k", "new")
		create.Cond = base.Cond{Kind: base.CondVersion}
		res := b.do(command.StatusMismatch, withRequest(refuseCmd(21, 1, create), 5))
		if res.Replayed || !slices.Equal(res.Failed, []int{0}) || !slices.Equal(res.Versions, []base.Version{at}) {
			t.Errorf("refused: %+v", res)
		}
		pause()
		for _, c := range []*command.Command{decideCmd(30, 2, 40, put("k", "v")), cmd(31, put("k", "v"))} {
			res := b.do(command.StatusMismatch, withRequest(c, 5))
			if !res.Replayed || !slices.Equal(res.Failed, []int{0, 2}) || !slices.Equal(res.Versions, []base.Version{7, 0, at}) {
				t.Errorf("repeated: %+v", res)
			}
		}
		reused := withRequest(decideCmd(32, 3, 40, put("k", "v")), 5)
		reused.Digest++
		b.do(command.StatusReused, reused)
		if res := b.do(command.StatusMismatch, refuseCmd(41, 4, put("k", "v"))); len(res.Failed) != 0 { // without a request
			t.Errorf("refused: %+v", res)
		}
		if b.value("k", "old"); b.m.Requests() != 1 {
			t.Errorf("%d requests", b.m.Requests())
		}
	})
}

// One attempt at a request was refused on another shard while a repetition of the
// request is about to be decided. There can be one outcome only.
func TestARefusalEndsRepetitions(t *testing.T) {
	eachStep(t, func(b *bench, pause func()) {
		b.do(command.StatusMismatch, withRequest(refuseCmd(21, 1), 5))
		pause()
		if res := b.do(command.StatusMismatch, withRequest(decideCmd(22, 2, 30, put("k", "v")), 5)); !res.Replayed {
			t.Errorf("%+v", res)
		}
		if b.record("k").Version != 0 || b.outcome(2) != 0 || b.m.Requests() != 1 {
			t.Errorf("applied and refused: %+v, %d requests", b.record("k"), b.m.Requests())
		}
		// And one that comes after the request was applied is told so.
		b.do(command.StatusApplied, withRequest(decideCmd(41, 3, 50, put("k", "v")), 6))
		if res := b.do(command.StatusApplied, withRequest(refuseCmd(42, 4), 6)); !res.Replayed || res.Version != 50 {
			t.Errorf("a refusal after the request was applied: %+v", res)
		}
	})
}

// Readers see at every moment of a reload that the key is held.
func TestReloadKeepsKeysHeld(t *testing.T) {
	b := newBench(t)
	b.do(command.StatusApplied, prepareCmd(20, 1, put("k", "v")))
	for i := range byte(100) { // so that a reload takes a while
		b.do(command.StatusApplied, prepareCmd(20, i+2, put(fmt.Sprint("k", i), "v")))
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, held := b.m.Holder(base.K("k", "")); !held || !b.m.Holds(txnID(1)) {
					t.Error("the key looked free")
					return
				}
			}
		})
	}
	for range 300 {
		if err := b.m.Load(0); err != nil {
			t.Error(err)
		}
	}
	close(done)
	readers.Wait()
	for i := range byte(101) {
		b.apply(step(21, command.StepAbort, i+1))
	}
	if err := b.m.Load(0); err != nil || b.m.holds.count.Load() != 0 {
		t.Errorf("%d holds counted, %v", b.m.holds.count.Load(), err)
	}
}

// Readers learn of holds only with what the batch has written.
func TestHoldsShowWithTheirBatch(t *testing.T) {
	b := newBench(t)
	b.apply(prepareCmd(20, 1, put("k", "v")))
	if _, held := b.m.Holder(base.K("k", "")); held {
		t.Error("held before Publish")
	}
	b.m.Publish()
	b.held(1)
	b.apply(commitCmd(21, 1, 30), prepareCmd(22, 2, put("k", "w")))
	b.held(1)
	b.m.Publish()
	b.held(2)
	snap, err := b.store.NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	for txn, want := range map[byte]bool{1: false, 2: true} {
		if prepared, err := PreparedIn(snap, 1, txnID(txn)); err != nil || prepared != want {
			t.Errorf("transaction %d is prepared in a snapshot: %v, %v", txn, prepared, err)
		}
	}
	if all := b.m.Held(); len(all) != 1 || all[0].Holder != holder(2) || string(all[0].Writes[0].Value) != "w" {
		t.Errorf("held %+v", all)
	}
}

// randomSteps makes commands of transactions that get in each other's way.
func randomSteps(r *rand.Rand, n int) []*command.Command {
	key := func() string { return fmt.Sprint("k", r.IntN(8)) }
	cmds := make([]*command.Command, n)
	for i := range cmds {
		stamp := base.Version(10 + i + r.IntN(20))
		txn := byte(1 + i/16 + r.IntN(4))
		at := base.Version(200 + 3*i) // the clock cannot be past it
		h := command.Holder{Txn: txnID(txn), Anchor: 1, Deadline: at - 100 + base.Version(r.IntN(300))}
		c := &command.Command{Stamp: stamp, Step: command.Step{Holder: h}}
		switch r.IntN(9) {
		case 0, 1, 2:
			c.Step.Kind, c.Writes = command.StepPrepare, []base.Write{put(key(), fmt.Sprint(i))}
			if w := remove(key()); w.Key != c.Writes[0].Key && r.IntN(2) == 0 {
				c.Writes = append(c.Writes, w)
			}
			if r.IntN(3) == 0 {
				c.Reads = []command.Read{{Key: base.K("never", "")}}
			}
		case 3:
			c.Step.Kind, c.Step.At, c.Step.Shards = command.StepDecide, at, []base.ShardID{0, 1}
			c.Writes = []base.Write{put(key(), fmt.Sprint(i))}
			if r.IntN(2) == 0 {
				withRequest(c, byte(r.IntN(20)+1))
			}
		case 4:
			c.Step.Kind, c.Step.At = command.StepCommit, at
		case 5:
			c.Step.Kind = command.StepAbort
			if r.IntN(2) == 0 {
				c = forgetCmd(stamp, txn)
			}
		case 6:
			c.Step.Kind = command.StepExpire
		case 7:
			c = withRequest(refuseCmd(stamp, txn), byte(r.IntN(20)+1))
		default:
			c = cmd(stamp, put(key(), fmt.Sprint("by itself ", i)))
		}
		cmds[i] = c
	}
	return cmds
}

// digest sums up everything that the store has of the shard.
func (b *bench) digest() [32]byte {
	b.t.Helper()
	snap, err := b.store.NewSnapshot()
	if err != nil {
		b.t.Fatal(err)
	}
	defer snap.Close()
	info, err := snap.Export(context.Background(), 1, io.Discard)
	if err != nil || info.Entries == 0 {
		b.t.Fatalf("%+v, %v", info, err)
	}
	return info.Digest
}

// TestStepsAreDeterministic runs the same commands on two machines, of which one
// is opened anew now and then and takes them in batches of other sizes.
func TestStepsAreDeterministic(t *testing.T) {
	rng := testkit.Rand(t)
	for range 20 {
		cmds := randomSteps(rng, 400)
		one, other := newBench(t), newBench(t)
		var want, got []command.Result
		for _, c := range cmds {
			want = append(want, one.apply(c)...)
			one.m.Publish()
		}
		for rest := cmds; len(rest) > 0; {
			n := min(1+rng.IntN(30), len(rest))
			got = append(got, other.apply(rest[:n]...)...)
			other.m.Publish()
			rest = rest[n:]
			if rng.IntN(3) == 0 {
				other.reopen()
			}
		}
		seen := map[command.Status]int{}
		for i := range want {
			seen[want[i].Status]++
			if !sameResult(&want[i], &got[i]) {
				t.Fatalf("command %d, %+v: %+v, and after a reload %+v", i, cmds[i], want[i], got[i])
			}
		}
		if one.digest() != other.digest() {
			t.Fatal("the stores differ")
		}
		for _, status := range []command.Status{command.StatusApplied, command.StatusLocked, command.StatusExpired, command.StatusPending} {
			if seen[status] == 0 {
				t.Errorf("no command had status %d: %v", status, seen)
			}
		}
	}
}

func sameResult(a, b *command.Result) bool {
	x, y := *a, *b
	x.Versions, x.Failed, y.Versions, y.Failed = nil, nil, nil, nil
	return reflect.DeepEqual(x, y) && slices.Equal(a.Versions, b.Versions) && slices.Equal(a.Failed, b.Failed)
}

// StepHold keeps what it reads as it is, whatever that is, until it is dropped; what
// only reads may pass.
func TestHold(t *testing.T) {
	b := newBench(t)
	b.do(command.StatusApplied, &command.Command{Stamp: 10, Writes: []base.Write{put("a", "1")}})
	old := reading(step(20, command.StepHold, 1), "a", 7) // not its version
	old.Ranges = []command.RangeRead{{Range: base.PrimaryPrefix("b")}}
	b.do(command.StatusApplied, old)
	b.held(1)
	for _, key := range []string{"a", "b", "bb"} {
		blocked := b.do(command.StatusLocked, &command.Command{Stamp: 30, Writes: []base.Write{put(key, "2")}})
		if blocked.Holder != holder(1) {
			t.Errorf("%s is held by %+v", key, blocked.Holder)
		}
	}
	b.do(command.StatusApplied, &command.Command{Stamp: 30, Writes: []base.Write{put("c", "2")}})
	b.do(command.StatusApplied, reading(step(30, command.StepHold, 2), "a", 0))
	b.held(1, 2)
	b.do(command.StatusApplied, step(40, command.StepAbort, 1))
	b.do(command.StatusApplied, step(40, command.StepAbort, 2))
	b.held()
	b.do(command.StatusApplied, &command.Command{Stamp: 50, Writes: []base.Write{put("a", "2"), put("b", "2")}})
	b.do(command.StatusApplied, reading(step(60, command.StepHold, 3), "a", 0))
	b.do(command.StatusExpired, step(deadline+1, command.StepExpire, 3))
	b.held()
}
