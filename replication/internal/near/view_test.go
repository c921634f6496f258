package near

import (
	"context"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/storage"
)

const (
	own    base.ShardID = 0 // holds the transaction
	anchor base.ShardID = 1 // decides it
)

// bench has the two shards of a transaction, and answers as their nodes would.
type bench struct {
	t     *testing.T
	store *storage.Store
	m     [2]*kvfsm.Machine
	asked int // how often it was asked whether the shard still holds anything
}

func newBench(t *testing.T) *bench {
	store, err := storage.Open(storage.Config{
		Dir: "/db", FS: vfs.NewMem(), Shards: 2, Durability: storage.Volatile, DiskReserveBytes: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	b := &bench{t: t, store: store}
	for i := range b.m {
		if b.m[i], err = kvfsm.Open(store, base.ShardID(i), 0); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *bench) Outcome(_ context.Context, sn *storage.Snapshot, by command.Holder) (*kvfsm.Decided, error) {
	return kvfsm.OutcomeIn(sn, by.Anchor, by.Txn)
}

func (b *bench) Holds(_ context.Context, txns map[base.ShardID][]base.RequestID) (bool, error) {
	b.asked++
	for id, txns := range txns {
		for _, txn := range txns {
			if !b.m[id].Holds(txn) {
				return false, nil
			}
		}
	}
	return true, nil
}

// step lets a shard take a step of the transaction.
func (b *bench) step(id base.ShardID, kind command.StepKind, at base.Version, writes ...base.Write) {
	b.t.Helper()
	cmd := &command.Command{Stamp: 10, Writes: writes}
	switch kind {
	case command.StepNone:
	case command.StepForget:
		cmd.Step.Kind, cmd.Forget = kind, []base.RequestID{{1}}
	default:
		cmd.Step = command.Step{Kind: kind, At: at, Holder: command.Holder{Txn: base.RequestID{1}, Anchor: anchor, Deadline: 1000}}
	}
	batch := b.store.NewBatch()
	defer batch.Release()
	var res command.Result
	err := b.m[id].Apply(batch, cmd, &res)
	if err == nil {
		err = batch.Apply()
	}
	b.m[id].Publish()
	if err != nil || res.Status != command.StatusApplied {
		b.t.Fatalf("step %d on shard %d: %+v, %v", kind, id, res, err)
	}
}

func (b *bench) eves() []Eve {
	return []Eve{{Shard: own, Held: b.m[own].Held()}, {Shard: anchor, Held: b.m[anchor].Held()}}
}

func (b *bench) view(eves []Eve) *View {
	b.t.Helper()
	snap, err := b.store.NewSnapshot()
	if err != nil {
		b.t.Fatal(err)
	}
	v := NewView(snap, 1, eves, b)
	b.t.Cleanup(v.Close)
	return v
}

func put(key, value string) base.Write {
	return base.Write{Key: base.K(key, ""), Value: []byte(value)}
}

// shows checks what a view has, by every way to read it.
func (b *bench) shows(v *View, want string, doubtful bool) {
	b.t.Helper()
	ctx := context.Background()
	for _, reverse := range []bool{false, true} {
		got := ""
		for it, err := range v.Scan(ctx, []base.ShardID{own, anchor}, base.All(), base.ReadOptions{Reverse: reverse}) {
			if err != nil {
				b.t.Fatal(err)
			}
			one := fmt.Sprintf("%s=%s@%d ", it.Key.Primary, it.Value, it.Version)
			if reverse {
				got = one + got
			} else {
				got += one
			}
			if other, err := v.Get(ctx, own, it.Key); err != nil || string(other.Value) != string(it.Value) || other.Version != it.Version {
				b.t.Errorf("a scan has %+v, a get %+v, %v", it, other, err)
			}
		}
		if got != want {
			b.t.Errorf("reverse %v: %q, want %q", reverse, got, want)
		}
	}
	if v.Doubtful != doubtful {
		b.t.Errorf("doubtful: %v", v.Doubtful)
	}
}

func TestViewFollowsDecisions(t *testing.T) {
	b := newBench(t)
	b.step(own, command.StepNone, 0, put("a", "old"), put("b", "old"), put("c", "old"))
	before := b.eves()
	b.step(own, command.StepPrepare, 0, put("a", "new"), base.Write{Kind: base.WriteDelete, Key: base.K("b", "")}, put("d", "new"))
	b.shows(b.view(before), "a=old@10 b=old@10 c=old@10 ", false)
	if b.asked != 0 {
		t.Error("asked about what it does not know of")
	}
	held := b.eves()
	undecided := b.view(held)
	b.shows(undecided, "a=old@10 b=old@10 c=old@10 ", false)
	if b.asked != 1 || undecided.Removing {
		t.Errorf("asked %d times, removing %v", b.asked, undecided.Removing)
	}
	b.step(anchor, command.StepDecide, 20)
	decided := b.view(held)
	b.shows(decided, "a=new@20 c=old@10 d=new@20 ", false)
	if it, err := decided.Get(context.Background(), own, base.K("b", "")); err != nil || it.Exists() || !decided.Removing {
		t.Errorf("%+v, %v, removing %v", it, err, decided.Removing)
	}
	b.step(own, command.StepCommit, 20)
	b.shows(b.view(held), "a=new@20 c=old@10 d=new@20 ", false) // it has followed in the view
	b.shows(undecided, "a=old@10 b=old@10 c=old@10 ", false)    // that of before stays as it is
	if b.asked != 1 {
		t.Errorf("asked %d times", b.asked)
	}
}

// A shard lags behind: it holds what all have followed, and the anchor has forgotten.
func TestViewDoubtsWhatMayBeForgotten(t *testing.T) {
	b := newBench(t)
	b.step(own, command.StepPrepare, 0, put("a", "new"))
	lagging := b.view(b.eves())
	b.step(anchor, command.StepDecide, 20)
	b.step(own, command.StepCommit, 20)
	b.step(anchor, command.StepForget, 0)
	b.shows(lagging, "", true)
}
