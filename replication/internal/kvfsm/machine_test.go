package kvfsm

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// bench is one machine on a store of its own.
type bench struct {
	t     *testing.T
	fs    storage.FS
	store *storage.Store
	m     *Machine
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, fs: vfs.NewMem()}
	b.open()
	t.Cleanup(func() { _ = b.store.Close() })
	return b
}

func (b *bench) open() {
	var err error
	if b.store, err = storage.Open(storage.Config{Dir: "/db", FS: b.fs, Shards: 2, DiskReserveBytes: -1}); err != nil {
		b.t.Fatal(err)
	}
	if b.m, err = Open(b.store, 1, 0); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) reopen() {
	if err := b.store.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open()
}

// apply runs commands in one batch, like a replica that catches up.
func (b *bench) apply(cmds ...*command.Command) []command.Result {
	b.t.Helper()
	batch := b.store.NewBatch()
	results := make([]command.Result, len(cmds))
	for i, cmd := range cmds {
		if err := b.m.Apply(batch, cmd, &results[i]); err != nil {
			b.t.Fatal(err)
		}
	}
	b.m.saveHead(batch)
	if err := errors.Join(batch.Apply(), batch.Wait()); err != nil {
		b.t.Fatal(err)
	}
	batch.Release()
	return results
}

func (b *bench) space() storage.Space { return b.store.Space(1) }

func (b *bench) record(key string) storage.Record {
	b.t.Helper()
	rec, err := b.space().Get(base.K(key, ""))
	if err != nil {
		b.t.Fatal(err)
	}
	return rec
}

func cmd(stamp base.Version, writes ...base.Write) *command.Command {
	return &command.Command{Stamp: stamp, Writes: writes}
}

func put(key, value string) base.Write {
	return base.Write{Key: base.K(key, ""), Value: []byte(value)}
}

func TestVersionsRise(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct{ stamp, want base.Version }{
		{100, 100}, {100, 101}, {50, 102}, {200, 200}, {0, 201},
	} {
		if got := b.apply(cmd(c.stamp, put("k", "v")))[0].Version; got != c.want {
			t.Errorf("stamp %d: version %d, want %d", c.stamp, got, c.want)
		}
	}
	b.reopen()
	if b.m.Clock() != 201 || b.m.Applied() != 5 {
		t.Errorf("after a reopen: clock %d, applied %d", b.m.Clock(), b.m.Applied())
	}
	floored, err := Open(b.store, 1, 1000)
	if err != nil || floored.Clock() != 1000 {
		t.Errorf("with a floor: %v, %v", floored.Clock(), err)
	}
}

func TestConditionsSeeTheBatchBeforeThem(t *testing.T) {
	b := newBench(t)
	create := put("k", "v")
	create.Cond = base.Cond{Kind: base.CondVersion}
	results := b.apply(cmd(1, create), cmd(2, create),
		cmd(3, base.Write{Kind: base.WriteDelete, Key: base.K("k", "")}), cmd(4, create))
	for i, want := range []command.Status{command.StatusApplied, command.StatusMismatch, command.StatusApplied, command.StatusApplied} {
		if results[i].Status != want {
			t.Errorf("command %d: %+v, want status %d", i, results[i], want)
		}
	}
	if rec := b.record("k"); rec.Version != 4 {
		t.Errorf("version %d", rec.Version)
	}
}

func TestReadsAreValidated(t *testing.T) {
	b := newBench(t)
	b.apply(cmd(10, put("k", "v")))
	read := func(key string, v base.Version) *command.Command {
		c := cmd(20, put("out", "x"))
		c.Reads = []command.Read{{Key: base.K(key, ""), Version: v}}
		return c
	}
	results := b.apply(read("k", 9), read("none", 5), read("k", 10), read("none", 0))
	for i, want := range []command.Status{command.StatusConflict, command.StatusConflict, command.StatusApplied, command.StatusApplied} {
		if results[i].Status != want {
			t.Errorf("command %d: status %d, want %d", i, results[i].Status, want)
		}
	}
}

func TestExpiredIsAbsentToCommands(t *testing.T) {
	b := newBench(t)
	short := put("k", "v")
	short.TTL = 10 * time.Microsecond
	b.apply(cmd(100, short))
	present := put("k", "w")
	present.Cond = base.Cond{Kind: base.CondPresent}
	results := b.apply(cmd(109, base.Write{Kind: base.WriteCheck, Key: base.K("k", ""), Cond: base.Cond{Kind: base.CondPresent}}),
		cmd(110, present), cmd(110, base.Write{Kind: base.WriteDelete, Key: base.K("k", "")}))
	if results[0].Status != command.StatusApplied || results[1].Status != command.StatusMismatch || results[2].Versions[0] != 0 {
		t.Errorf("%+v", results)
	}
}

// TestSweep expires some keys and overwrites others meanwhile: only what has
// really run out may go.
func TestSweep(t *testing.T) {
	b := newBench(t)
	short := func(key string) base.Write {
		w := put(key, "v")
		w.TTL = 10 * time.Microsecond
		return w
	}
	b.apply(cmd(100, short("gone")), cmd(100, short("kept")), cmd(100, short("again")))
	b.apply(cmd(105, put("kept", "w")), cmd(105, short("again")))
	sweep := func(now base.Version) *command.Command {
		expired, err := b.space().Expired(uint64(now), 100)
		if err != nil {
			t.Fatal(err)
		}
		c := cmd(now)
		for _, e := range expired {
			c.Sweep.Expired = append(c.Sweep.Expired, command.Expired(e))
		}
		return c
	}
	c := sweep(113)
	if len(c.Sweep.Expired) != 3 { // gone, kept's and again's first entry
		t.Fatalf("expired: %+v", c.Sweep.Expired)
	}
	late := *c
	late.Stamp = 100 // a proposer whose clock is behind removes nothing
	b.apply(&late)
	if b.record("gone").Version == 0 {
		t.Error("removed before its time")
	}
	b.apply(c)
	for key, want := range map[string]bool{"gone": false, "kept": true, "again": true} {
		if got := b.record(key).Version != 0; got != want {
			t.Errorf("%s exists: %v, want %v", key, got, want)
		}
	}
	if b.m.Removed() == 0 {
		t.Error("a sweep that removes is not noted as a removal")
	}
	b.apply(sweep(1000))
	if left, _ := b.space().Expired(^uint64(0), 100); len(left) != 0 {
		t.Errorf("left in the index: %+v", left)
	}
}

func requestCmd(id byte, stamp base.Version) *command.Command {
	c := cmd(stamp, put(fmt.Sprint("k", id), "v"))
	c.Request, c.Digest = base.RequestID{id}, uint64(id)
	return c
}

func TestRequestsAreForgottenFromTheOldest(t *testing.T) {
	b := newBench(t)
	for i := range 10 {
		b.apply(requestCmd(byte(i+1), base.Version(100*(i+1))))
	}
	b.reopen()
	if b.m.Requests() != 10 {
		t.Fatalf("%d remembered after a reopen", b.m.Requests())
	}
	for _, c := range []struct {
		keep   int
		before base.Version
		limit  int
		want   uint64
	}{{10, 0, 100, 0}, {7, 0, 100, 3}, {10, 401, 100, 4}, {7, 401, 100, 4}, {0, 0, 5, 5}, {0, 9999, 100, 10}} {
		to, err := Expiring(b.space(), b.m.Requests(), c.keep, c.before, c.limit)
		if err != nil || to != c.want {
			t.Errorf("keep %d before %d limit %d: %d, %v, want %d", c.keep, c.before, c.limit, to, err, c.want)
		}
	}
	b.apply(&command.Command{Stamp: 2000, Sweep: command.Sweep{RequestsTo: 4}})
	if b.m.Requests() != 6 {
		t.Errorf("%d remembered, want 6", b.m.Requests())
	}
	b.reopen()
	if b.m.Requests() != 6 {
		t.Errorf("%d remembered after a reopen, want 6", b.m.Requests())
	}
	if res := b.apply(requestCmd(4, 3000))[0]; res.Replayed {
		t.Error("a forgotten request was replayed")
	}
	if res := b.apply(requestCmd(5, 3000))[0]; !res.Replayed || res.Version != 500 {
		t.Errorf("a remembered request: %+v", res)
	}
	b.apply(&command.Command{Stamp: 4000, Sweep: command.Sweep{RequestsTo: 1 << 60}})
	if b.m.Requests() != 0 {
		t.Errorf("%d remembered after all were forgotten", b.m.Requests())
	}
	if res := b.apply(requestCmd(5, 5000))[0]; res.Replayed {
		t.Error("a forgotten request was replayed")
	}
}

// TestDeterminism runs random commands on two replicas, one command in each
// batch here and all in one there, through their bytes: results and storage
// must be the same.
func TestDeterminism(t *testing.T) {
	rng := testkit.Rand(t)
	one, other := newBench(t), newBench(t)
	var all []*command.Command
	for i := range 500 {
		key := base.K(string(rune('a'+rng.IntN(6))), "")
		w := base.Write{Kind: base.WriteKind(rng.IntN(3)), Key: key}
		if w.Kind == base.WritePut {
			w.Value, w.TTL = testkit.Bytes(rng, rng.IntN(20)), time.Duration(rng.IntN(3))*20*time.Microsecond
		}
		if rng.IntN(2) == 0 {
			w.Cond = base.Cond{Kind: base.CondVersion, Version: base.Version(rng.IntN(3)) * one.record(key.Primary).Version}
		}
		c := cmd(base.Version(1000+2*i+rng.IntN(5)), w)
		if rng.IntN(4) == 0 {
			c.Request, c.Digest = base.RequestID{byte(rng.IntN(50) + 1)}, 1
		}
		if rng.IntN(10) == 0 {
			expired, err := one.space().Expired(uint64(c.Stamp), 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range expired {
				c.Sweep.Expired = append(c.Sweep.Expired, command.Expired(e))
			}
		}
		one.apply(c)
		decoded, err := command.Decode(c.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, decoded)
	}
	other.apply(all...)
	if a, b := one.m.Clock(), other.m.Clock(); a != b {
		t.Errorf("clocks %d and %d", a, b)
	}
	for c := range 6 {
		key := string(rune('a' + c))
		if a, b := one.record(key), other.record(key); !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %+v and %+v", key, a, b)
		}
	}
	for _, kind := range []storage.Kind{storage.KindMeta, storage.KindRequest} {
		if a, b := dump(t, one, kind), dump(t, other, kind); !reflect.DeepEqual(a, b) {
			t.Errorf("space %v differs:\n%v\n%v", kind, a, b)
		}
	}
}

func dump(t *testing.T, b *bench, kind storage.Kind) (all []string) {
	for kv, err := range b.space().Values(kind, nil, 0) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%x=%x", kv.Key, kv.Value))
	}
	return all
}
