package kvfsm

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// entry is an entry that appends to the value of a key, so that applying it
// twice shows.
func entry(session, sequence, floor uint64, stamp base.Version) *command.Entry {
	key := fmt.Sprintf("k%d", sequence)
	w := put(key, "v")
	w.Cond = base.Cond{Kind: base.CondVersion} // the second time it would be refused
	return &command.Entry{
		Session: session, Sequence: sequence, Floor: floor,
		Commands: []command.Command{{Stamp: stamp, Writes: []base.Write{w}}},
	}
}

// applyEntry applies an entry at the next index.
func (b *bench) applyEntry(e *command.Entry) []byte {
	b.t.Helper()
	batch := b.store.NewBatch()
	defer batch.Release()
	results, err := b.m.ApplyEntry(batch, e, b.m.Index()+1)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := errors.Join(batch.Apply(), batch.Wait()); err != nil {
		b.t.Fatal(err)
	}
	return results
}

func status(t *testing.T, results []byte) command.Status {
	t.Helper()
	var res command.Result
	if err := command.DecodeResults(results, []*command.Result{&res}); err != nil {
		t.Fatal(err)
	}
	return res.Status
}

func TestEntryIsAppliedOnce(t *testing.T) {
	b := newBench(t)
	first := b.applyEntry(entry(7, 1, 1, 100))
	if got := status(t, first); got != command.StatusApplied {
		t.Fatalf("status %d", got)
	}
	for i := range 3 {
		if again := b.applyEntry(entry(7, 1, 1, 100)); !bytes.Equal(again, first) {
			t.Errorf("round %d: %x, want %x", i, again, first)
		}
		b.reopen()
	}
	if got := status(t, b.applyEntry(entry(8, 1, 1, 100))); got != command.StatusMismatch {
		t.Errorf("the same number in another session: status %d", got)
	}
	if got := b.m.Index(); got != 5 {
		t.Errorf("index %d after 5 entries", got)
	}
}

func TestOldEntriesAreNotApplied(t *testing.T) {
	b := newBench(t)
	b.applyEntry(entry(7, 10, 5, 100))
	for i := range 2 {
		if got := b.applyEntry(entry(7, 4, 1, 100)); got != nil {
			t.Errorf("round %d: below the floor: %x", i, got)
		}
		b.reopen()
	}
	if got := status(t, b.applyEntry(entry(7, 5, 5, 100))); got != command.StatusApplied {
		t.Errorf("late but waited for: status %d", got)
	}
	b.applyEntry(entry(7, 10+command.Window, 11, 100))
	if got := b.applyEntry(entry(7, 10, 5, 100)); got != nil {
		t.Errorf("its slot has a newer entry: %x", got)
	}
	if b.record("k4").Version != 0 {
		t.Error("an entry below the floor was applied")
	}
}

func TestSessionsAreBounded(t *testing.T) {
	b := newBench(t)
	for id := range uint64(maxSessions + 50) {
		for sequence := range uint64(2) {
			b.applyEntry(entry(1000+id, sequence+1, 1, 100))
		}
	}
	if n := len(b.m.sessions); n != maxSessions {
		t.Errorf("%d sessions", n)
	}
	before := dump(t, b, storage.KindMeta)
	b.reopen()
	if n := len(b.m.sessions); n != maxSessions {
		t.Errorf("%d sessions after a reopen", n)
	}
	if _, kept := b.m.sessions[1000]; kept {
		t.Error("the oldest session is still there")
	}
	if after := dump(t, b, storage.KindMeta); len(after) != len(before) {
		t.Errorf("%d entries became %d", len(before), len(after))
	}
}

func TestSameIndexTwiceIsRefused(t *testing.T) {
	b := newBench(t)
	b.applyEntry(entry(7, 1, 1, 100))
	batch := b.store.NewBatch()
	defer batch.Release()
	if _, err := b.m.ApplyEntry(batch, entry(7, 2, 1, 100), 1); !errors.Is(err, base.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

// How far the shard has come is in what it remembers of its entries, so that an entry
// needs no record of its own for that.
func TestHeadComesWithTheEntry(t *testing.T) {
	b := newBench(t)
	for i := range uint64(3 * command.Window) {
		b.applyEntry(entry(7+i%2, 1+i/2, 1, base.Version(100+i)))
		if i%17 != 0 {
			continue
		}
		want := b.m.head()
		b.reopen()
		if got := b.m.head(); got != want {
			t.Fatalf("after entry %d: opened at %+v, want %+v", i, got, want)
		}
	}
	if _, found, err := b.space().Value(storage.KindMeta, headKey()); found || err != nil {
		t.Errorf("a head by itself: %v, %v", found, err)
	}
	b.applyEntry(entry(7, 1, 1, 100)) // long over
	want := b.m.head()
	if b.reopen(); b.m.head() != want {
		t.Errorf("after a repeated entry: opened at %+v, want %+v", b.m.head(), want)
	}
}

// What was remembered before the head came with it is read as well.
func TestEntriesWithoutHead(t *testing.T) {
	b := newBench(t)
	results := b.applyEntry(entry(7, 1, 1, 100))
	want := b.m.head()
	batch := b.store.NewBatch()
	b.m.saveHead(batch)
	old := wire.AppendUint64([]byte{slotWithoutHead}, 1)
	old = wire.AppendUint64(wire.AppendUint64(old, 1), want.index)
	batch.Set(1, storage.KindMeta, slotKey(7, 1), append(old, results...))
	if err := errors.Join(batch.Apply(), batch.Wait()); err != nil {
		t.Fatal(err)
	}
	batch.Release()
	if b.reopen(); b.m.head() != want {
		t.Errorf("opened at %+v, want %+v", b.m.head(), want)
	}
	if again := b.applyEntry(entry(7, 1, 1, 100)); !bytes.Equal(again, results) {
		t.Errorf("%x, want %x", again, results)
	}
}
