package replication

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
)

// stepsBench is a cluster whose clock stands still, and a transaction on three
// shards of it that the test coordinates by hand.
type stepsBench struct {
	*cluster
	ctx  context.Context
	keys []base.Key // one on each shard
	txn  command.Holder
	at   base.Version // least version that every shard can give
}

func newStepsBench(t *testing.T, nodes int) *stepsBench {
	b := &stepsBench{cluster: newCluster(t, nodes), ctx: testkit.Context(t)}
	b.clock = testkit.NewClock(time.Time{})
	b.startAll()
	for shard := range base.ShardID(3) {
		b.keys = append(b.keys, b.keyOn(shard))
		b.leader(shard)
	}
	return b
}

// any returns a node; which one makes no difference to what the test asks.
func (b *stepsBench) any() *Host { return b.hostOf(len(b.nodes) - 1) }

func (b *stepsBench) raftlog() *raftlog { return b.any().log.(*raftlog) }

// keyOn returns a key that lies on a shard.
func (b *stepsBench) keyOn(id base.ShardID) base.Key {
	for i := 0; ; i++ {
		if key := base.K(fmt.Sprint("key-", i), ""); b.any().shardOf(key) == id {
			return key
		}
	}
}

func (b *stepsBench) write(value string) {
	b.t.Helper()
	writes := make([]base.Write, len(b.keys))
	for i, key := range b.keys {
		writes[i] = base.Write{Key: key, Value: []byte(value)}
	}
	if _, err := b.any().MultiWrite(b.ctx, writes, base.RequestID{}); err != nil {
		b.t.Fatal(err)
	}
	b.drained()
}

// drained waits until no shard of any node holds anything or remembers an
// outcome.
func (b *stepsBench) drained() {
	b.t.Helper()
	testkit.Eventually(b.t, time.Minute, "the end of all transactions", func() bool {
		for i := range b.nodes {
			h := b.hostOf(i)
			for _, g := range h.groups {
				left, err := kvfsm.Outcomes(g.space, 1)
				if err != nil || len(left)+len(g.replica.Load().machine.Prepared()) > 0 {
					return false
				}
			}
		}
		return true
	})
}

// step makes one step on a shard and checks how it ends.
func (b *stepsBench) step(shard base.ShardID, want command.Status, kind command.StepKind) {
	b.t.Helper()
	cmd := command.Command{Step: command.Step{Kind: kind, Holder: b.txn, At: b.at}}
	switch kind {
	case command.StepDecide:
		cmd.Step.Shards = []base.ShardID{0, 1, 2}
		fallthrough
	case command.StepPrepare:
		cmd.Writes = []base.Write{{Key: b.keys[shard], Value: []byte("new")}}
	case command.StepForget:
		cmd.Forget = []base.RequestID{b.txn.Txn}
	}
	txn := &command.Txn{Parts: []command.Part{{Shard: shard, Command: cmd}}}
	if err := b.raftlog().proposeOne(b.ctx, txn, true); err != nil || txn.Result.Status != want {
		b.t.Fatalf("step %d on shard %d: %+v, %v; want status %d", kind, shard, txn.Result, err, want)
	}
	b.at = max(b.at, txn.Result.Version)
}

// stopAfter makes the steps of a coordinator that dies after the first n, and
// reports whether it had decided. The anchor is shard 1.
func (b *stepsBench) stopAfter(n int) (decided bool) {
	b.t.Helper()
	b.at = 0
	b.txn = command.Holder{Txn: base.NewRequestID(), Anchor: 1, Deadline: base.VersionAt(b.clock.Now().Add(txnPatience))}
	for i, s := range []struct {
		shard base.ShardID
		kind  command.StepKind
	}{
		{0, command.StepPrepare}, {2, command.StepPrepare},
		{1, command.StepDecide}, {0, command.StepCommit}, {2, command.StepCommit}, {1, command.StepForget},
	} {
		if i == n {
			break
		}
		decided = decided || s.kind == command.StepDecide
		b.step(s.shard, command.StatusApplied, s.kind)
	}
	return decided
}

// see reads all keys in every way, and wants the same of each.
func (b *stepsBench) see(want string) {
	b.t.Helper()
	for i := range b.nodes {
		h := b.hostOf(i)
		for shard, key := range b.keys {
			it, err := h.Get(b.ctx, base.ShardID(shard), key, base.ReadOptions{})
			if err != nil || string(it.Value) != want {
				b.t.Fatalf("node %d, shard %d: %q, %v; want %q", i, shard, it.Value, err, want)
			}
		}
		items, err := h.MultiGet(b.ctx, b.keys, base.ReadOptions{})
		if err != nil || len(items) != len(b.keys) {
			b.t.Fatal(err)
		}
		err = h.View(b.ctx, base.DefaultLimits(), 0, func(tx *Tx) error {
			for it, err := range tx.RangeScan(base.All(), base.ReadOptions{}) {
				if err != nil {
					return err
				}
				items = append(items, it)
			}
			return nil
		})
		for it, e := range h.Scan(b.ctx, base.All(), base.ReadOptions{}) {
			items, err = append(items, it), errors.Join(err, e)
		}
		for _, it := range items {
			if string(it.Value) != want {
				b.t.Fatalf("node %d: %v is %q, want %q", i, it.Key, it.Value, want)
			}
		}
		if err != nil || len(items) != 3*len(b.keys) {
			b.t.Fatalf("node %d: %d items, %v", i, len(items), err)
		}
	}
}

// deadSteps is how many steps a coordinator makes at most.
const deadSteps = 6

func TestDeadCoordinatorIsEndedByTheChores(t *testing.T) {
	b := newStepsBench(t, 3)
	for n := range deadSteps + 1 {
		b.write("old")
		want := map[bool]string{false: "old", true: "new"}[b.stopAfter(n)]
		b.see(want)
		b.clock.Advance(txnPatience + time.Second)
		b.drained()
		b.see(want)
		if n < deadSteps && want == "old" { // it is not dead after all, but late
			b.step(1, command.StatusExpired, command.StepDecide)
			b.see("old")
		}
		t.Logf("after %d steps: %s", n, want)
	}
}

func TestDeadCoordinatorIsEndedByWriters(t *testing.T) {
	b := newStepsBench(t, 3)
	for n := range deadSteps + 1 {
		b.write("old")
		decided := b.stopAfter(n)
		w := base.Write{Key: b.keys[2], Value: []byte("newer")}
		// Only what is prepared and undecided keeps writers out, and does so for as
		// long as the clock stands still; the others may take the time they need.
		call, cancel, held := b.ctx, context.CancelFunc(func() {}), n == 2
		if held {
			call, cancel = context.WithTimeout(b.ctx, 30*time.Millisecond)
		}
		_, err := b.raftlog().proposeTest(call, &w)
		cancel()
		if held != (err != nil) {
			t.Errorf("after %d steps, before the deadline: %v", n, err)
		}
		b.clock.Advance(txnPatience + time.Second)
		if _, err := b.raftlog().proposeTest(b.ctx, &w); err != nil {
			t.Fatalf("after %d steps: %v", n, err)
		}
		b.drained()
		want := map[bool]string{false: "old", true: "new"}[decided]
		for shard, value := range []string{want, want, "newer"} {
			it, err := b.any().Get(b.ctx, base.ShardID(shard), b.keys[shard], base.ReadOptions{})
			if err != nil || string(it.Value) != value {
				t.Errorf("after %d steps: shard %d has %q, %v; want %q", n, shard, it.Value, err, value)
			}
		}
	}
}

// proposeTest writes one key, wherever its shard is led.
func (l *raftlog) proposeTest(ctx context.Context, w *base.Write) (*command.Result, error) {
	txn := &command.Txn{Parts: []command.Part{{Shard: 2, Command: command.Command{Writes: []base.Write{*w}}}}}
	for attempt := 1; ; attempt++ {
		err := l.proposeOne(ctx, txn, true)
		if err != nil || txn.Result.Status != command.StatusLocked {
			return &txn.Result, err
		}
		if err := l.giveWay(ctx, blockage{2, txn.Result.Holder, true}, attempt); err != nil {
			return nil, err
		}
	}
}

// A coordinator that was held up, while others ended its transaction, must not
// apply any of it.
func TestLateCoordinator(t *testing.T) {
	b := newStepsBench(t, 1)
	b.write("old")
	b.stopAfter(1) // the prepare of shard 2 is on its way
	b.clock.Advance(txnPatience + time.Second)
	b.drained()
	b.step(2, command.StatusExpired, command.StepPrepare)
	b.step(1, command.StatusExpired, command.StepDecide)
	b.step(0, command.StatusApplied, command.StepAbort)
	b.see("old")
}

// A restart of every node between two steps changes nothing.
func TestStepsAcrossRestarts(t *testing.T) {
	b := newStepsBench(t, 3)
	for n := 1; n <= deadSteps; n++ {
		b.write("old")
		want := map[bool]string{false: "old", true: "new"}[b.stopAfter(n)]
		b.stopAll()
		b.startAll()
		b.see(want)
		b.clock.Advance(txnPatience + time.Second)
		b.drained()
		b.see(want)
	}
}

// A request that was decided has its first outcome whatever its repetition finds,
// also on a node that has not heard of it yet, or while other shards are silent.
func TestRequestsKeepTheirOutcome(t *testing.T) {
	b := newStepsBench(t, 1)
	h := b.any()
	id, ran := base.NewRequestID(), 0
	poor := errors.New("poor")
	spend := func(tx *Tx) error {
		ran++
		for _, key := range b.keys {
			if it, err := tx.Get(key); err == nil && string(it.Value) == "spent" {
				return poor
			}
			if err := tx.Write(base.Write{Key: key, Value: []byte("spent")}); err != nil {
				return err
			}
		}
		return nil
	}
	update := func() (base.Version, error) {
		return h.Update(b.ctx, base.DefaultLimits(), base.TxOptions{RequestID: id}, spend)
	}
	version, err := update()
	if err != nil || ran != 1 {
		t.Fatal(ran, err)
	}
	if again, err := update(); err != nil || again != version || ran != 1 {
		t.Errorf("repeated: version %d, %v, ran %d times; want %d", again, err, ran, version)
	}

	// The first call is decided while the function of the second runs.
	b.write("full")
	id = base.NewRequestID()
	first := true
	again, err := h.Update(b.ctx, base.DefaultLimits(), base.TxOptions{RequestID: id}, func(tx *Tx) error {
		if first {
			first = false
			if version, err = update(); err != nil {
				t.Error(err)
			}
			return poor // as if it had seen what was written
		}
		return spend(tx)
	})
	if err != nil || again != version {
		t.Errorf("decided meanwhile: version %d, %v; want %d", again, err, version)
	}
}

// A refused request stays refused, also by an attempt that saw nothing wrong, and
// an applied one applied, also by an attempt that was refused.
func TestRefusedRequestsKeepTheirOutcome(t *testing.T) {
	b := newStepsBench(t, 1)
	b.write("old")
	l, id := b.raftlog(), base.NewRequestID()
	txn := func(cond base.CondKind) *command.Txn {
		txn := &command.Txn{Request: id, Digest: 7, Parts: make([]command.Part, 2)}
		for i := range txn.Parts {
			w := base.Write{Key: b.keys[i], Value: []byte("new")}
			if i == 1 { // not the anchor
				w.Cond = base.Cond{Kind: cond}
			}
			txn.Parts[i] = command.Part{Shard: base.ShardID(i), Positions: []int{i}, Command: command.Command{Writes: []base.Write{w}}}
		}
		return txn
	}
	applied := txn(base.CondPresent)
	if err := l.Propose(b.ctx, applied); err != nil || applied.Result.Status != command.StatusApplied {
		t.Fatalf("%+v, %v", applied.Result, err)
	}
	// An attempt whose prepares came before that, and whose refusal comes after it.
	refused := txn(base.CondVersion)
	c := &coordination{log: l, txn: refused, parts: make([]stance, 2), holder: command.Holder{Txn: base.NewRequestID(), Deadline: base.VersionAt(b.clock.Now().Add(txnPatience))}}
	refused.Parts[1].Result = command.Result{Status: command.StatusMismatch, Versions: []base.Version{3}, Failed: []int{0}}
	refused.Result.Status = command.StatusMismatch
	if err := c.refuse(b.ctx); err != nil || refused.Result.Status != command.StatusApplied || refused.Result.Version != applied.Result.Version {
		t.Errorf("refused after it was applied: %+v, %v", refused.Result, err)
	}
	b.drained()
}

// Shards whose clocks are ahead, since some node's clock once was, still take
// transactions.
func TestClockThatWentBack(t *testing.T) {
	b := newStepsBench(t, 3)
	b.clock.Advance(time.Hour)
	for _, key := range b.keys {
		w := base.Write{Key: key, Value: []byte("from the future")}
		err := b.do(b.ctx, b.any().shardOf(key), func(h *Host) error { _, err := h.Write(b.ctx, &w, base.RequestID{}); return err })
		if err != nil {
			t.Fatal(err)
		}
	}
	b.clock.Advance(-time.Hour)
	b.write("now")
	b.see("now")
}
