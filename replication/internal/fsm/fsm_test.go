package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/storage"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// rig is one replica on a store of its own.
type rig struct {
	t       *testing.T
	fs      vfs.FS
	store   *storage.Store
	kv      *kvfsm.Machine
	sm      statemachine.IOnDiskStateMachine
	failed  atomic.Pointer[error]
	stopped chan struct{}
}

func newRig(t *testing.T, fs vfs.FS) *rig {
	r := &rig{t: t, fs: fs}
	r.open()
	t.Cleanup(func() { _ = r.store.Close() })
	return r
}

func (r *rig) open() {
	r.t.Helper()
	var err error
	r.store, err = storage.Open(storage.Config{Dir: "/db", FS: r.fs, Shards: 2, Durability: storage.Volatile, DiskReserveBytes: -1})
	if err != nil {
		r.t.Fatal(err)
	}
	if r.kv, err = kvfsm.Open(r.store, 1, 0); err != nil {
		r.t.Fatal(err)
	}
	r.stopped = make(chan struct{})
	r.sm = New(Config{
		Store: r.store, Shard: 1, Machine: r.kv, Stopped: r.stopped, Failed: func() bool { return r.failed.Load() != nil },
		Fail: func(err error) { r.failed.CompareAndSwap(nil, &err) },
	})
}

// entries makes log entries from index on, one put each.
func entries(index uint64, keys ...string) []statemachine.Entry {
	var all []statemachine.Entry
	for i, key := range keys {
		cmd := command.Command{Stamp: 100, Writes: []base.Write{{Key: base.K(key, ""), Value: []byte(key)}}}
		at := index + uint64(i)
		buf := command.AppendEntryHead(nil, 7, at, at, 1)
		buf, _ = command.AppendEntryCommand(buf, nil, &cmd)
		all = append(all, statemachine.Entry{Index: at, Cmd: buf})
	}
	return all
}

func (r *rig) update(all []statemachine.Entry) []statemachine.Entry {
	r.t.Helper()
	done, err := r.sm.Update(all)
	if err != nil {
		r.t.Fatal(err)
	}
	return done
}

func (r *rig) has(key string) bool {
	r.t.Helper()
	rec, err := r.store.Space(1).Get(base.K(key, ""))
	if err != nil {
		r.t.Fatal(err)
	}
	return rec.Version != 0
}

func TestUpdateAnswersEachEntry(t *testing.T) {
	r := newRig(t, vfs.NewMem())
	done := r.update(append(entries(5, "a", "b"), entries(7, "c")...))
	for _, e := range done {
		var res command.Result
		if err := command.DecodeResults(e.Result.Data, []*command.Result{&res}); err != nil || e.Result.Value != Applied {
			t.Errorf("entry %d: %+v, %v", e.Index, e.Result, err)
		}
	}
	again := entries(5, "a")
	again[0].Index = 8
	if got := r.update(again)[0].Result; got.Value != Superseded && got.Value != Applied {
		t.Errorf("repeated: %+v", got)
	}
	if index, _ := r.sm.Open(nil); index != 8 {
		t.Errorf("index %d, want 8", index)
	}
}

// TestWhatIsLostCanBeReplayed loses power after some of the entries were synced:
// the machine says from where on it needs them again.
func TestWhatIsLostCanBeReplayed(t *testing.T) {
	fs := vfs.NewCrashableMem()
	r := newRig(t, fs)
	r.update(entries(1, "a", "b"))
	if err := r.sm.Sync(); err != nil {
		t.Fatal(err)
	}
	r.update(entries(3, "c"))
	crashed := newRig(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	index, _ := crashed.sm.Open(nil)
	if index != 2 || !crashed.has("b") || crashed.has("c") {
		t.Fatalf("index %d, b %v, c %v", index, crashed.has("b"), crashed.has("c"))
	}
	crashed.update(entries(3, "c", "d"))
	if !crashed.has("c") || !crashed.has("d") {
		t.Error("replayed entries are missing")
	}
}

func TestSnapshotMovesAShard(t *testing.T) {
	from, to := newRig(t, vfs.NewMem()), newRig(t, vfs.NewMem())
	for i := range uint64(20) {
		from.update(entries(i+1, fmt.Sprint("k", i)))
	}
	to.update(entries(1, "gone"))
	prepared, err := from.sm.PrepareSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	from.update(entries(21, "late"))
	var stream bytes.Buffer
	if err := from.sm.SaveSnapshot(prepared, &stream, nil); err != nil {
		t.Fatal(err)
	}
	if err := to.sm.RecoverFromSnapshot(&stream, nil); err != nil {
		t.Fatal(err)
	}
	if to.kv.Index() != 20 || !to.has("k19") || to.has("late") || to.has("gone") {
		t.Errorf("index %d, k19 %v, late %v, gone %v", to.kv.Index(), to.has("k19"), to.has("late"), to.has("gone"))
	}
	repeated := entries(20, "k19")
	repeated[0].Index = 21
	if got := to.update(repeated)[0].Result; got.Value != Applied || to.kv.Clock() != from.kv.Clock()-1 {
		t.Errorf("the sessions did not come along: %+v, clock %d of %d", got, to.kv.Clock(), from.kv.Clock())
	}
}

// TestDamagedSnapshotChangesNothing flips and cuts a stream everywhere.
func TestDamagedSnapshotChangesNothing(t *testing.T) {
	from := newRig(t, vfs.NewMem())
	from.update(entries(1, "a", "b", "c"))
	prepared, err := from.sm.PrepareSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if err := from.sm.SaveSnapshot(prepared, &stream, nil); err != nil {
		t.Fatal(err)
	}
	rng := testkit.Rand(t)
	for range 60 {
		to := newRig(t, vfs.NewMem())
		to.update(entries(1, "mine"))
		bad := bytes.Clone(stream.Bytes())
		if rng.IntN(2) == 0 {
			bad = bad[:rng.IntN(len(bad))]
		} else {
			bad[rng.IntN(len(bad))] ^= 1 << rng.IntN(8)
		}
		if err := to.sm.RecoverFromSnapshot(bytes.NewReader(bad), nil); err == nil {
			t.Fatal("a damaged stream was taken")
		}
		if to.failed.Load() == nil {
			t.Error("nobody was told")
		}
		if !to.has("mine") || to.has("a") {
			t.Error("a damaged stream changed the shard")
		}
		_ = to.store.Close()
	}
}

// TestFailureIsNeverReturned breaks the disk: dragonboat must see no error, and
// must not be told that anything is durable.
func TestFailureIsNeverReturned(t *testing.T) {
	var broken atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if broken.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errors.New("injected: input/output error")
		}
		return nil
	}))
	r := newRig(t, fs)
	r.update(entries(1, "a"))
	broken.Store(true)
	synced := make(chan error, 1)
	go func() { synced <- r.sm.Sync() }()
	testkit.Eventually(t, time.Minute, "the failure to be reported", func() bool { return r.failed.Load() != nil })
	select {
	case err := <-synced:
		t.Fatalf("Sync returned %v on a broken disk", err)
	case <-time.After(20 * time.Millisecond):
	}
	if got := r.update(entries(2, "b"))[0].Result; got.Value != Failed {
		t.Errorf("applied on a failed node: %+v", got)
	}
	close(r.stopped)
	if err := <-synced; err != nil {
		t.Errorf("Sync: %v", err)
	}
}

func TestUndecodableEntryFailsTheNode(t *testing.T) {
	r := newRig(t, vfs.NewMem())
	got := r.update([]statemachine.Entry{{Index: 1, Cmd: []byte("not an entry")}})
	if got[0].Result.Value != Failed || r.failed.Load() == nil {
		t.Errorf("got %+v", got[0].Result)
	}
}
