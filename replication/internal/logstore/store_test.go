package logstore

import (
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestConfigIsValidated(t *testing.T) {
	for _, cfg := range []Config{{}, {Dir: "/x", MemTableBytes: 1}, {Dir: "/x", MemTableBytes: -1}} {
		cfg.FS = vfs.NewMem()
		_, err := Open(cfg)
		wantErr(t, err, base.ErrInvalid)
	}
}

func TestDirectoryIsLocked(t *testing.T) {
	cfg := Config{Dir: t.TempDir() + "/a/b"}
	s := mustOpen(t, cfg)
	_, err := Open(cfg)
	wantErr(t, err, base.ErrInUse)
	must(t, s.Close())
	must(t, s.Close())
	must(t, mustOpen(t, cfg).Close())
}

func TestFormat(t *testing.T) {
	if got := string(encodeFormat(1)); got != "raftlog 1\n924f0242accdc7d2\n" {
		t.Errorf("format file %q", got)
	}
	for _, c := range []struct {
		name   string
		change func(fs vfs.FS, path string, content []byte)
		want   error
	}{
		{"Newer", func(fs vfs.FS, path string, _ []byte) { rewrite(t, fs, path, encodeFormat(FormatVersion+1)) }, base.ErrInvalid},
		{"Empty", func(fs vfs.FS, path string, _ []byte) { rewrite(t, fs, path, nil) }, base.ErrCorrupt},
		{"Rotten", func(fs vfs.FS, path string, b []byte) { b[3] ^= 1; rewrite(t, fs, path, b) }, base.ErrCorrupt},
		{"Longer", func(fs vfs.FS, path string, b []byte) { rewrite(t, fs, path, append(b, 'x')) }, base.ErrCorrupt},
		{"Lost", func(fs vfs.FS, path string, _ []byte) { must(t, fs.Remove(path)) }, base.ErrCorrupt},
		{"EngineLost", func(fs vfs.FS, _ string, _ []byte) { must(t, fs.RemoveAll("/node/log/engine")) }, base.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := mustOpen(t, memConfig(fs))
			save(t, s, update(1, raftpb.State{Term: 1}, nil))
			must(t, s.Close())
			path := "/node/log/" + formatFile
			c.change(fs, path, slurp(t, fs, path))
			_, err := Open(memConfig(fs))
			wantErr(t, err, c.want)
		})
	}
}

// A directory keeps its format, and with that its number of step workers.
func TestOlderFormatIsKept(t *testing.T) {
	fs := vfs.NewMem()
	path := "/node/log/" + formatFile
	for _, c := range []struct {
		format  int
		workers uint64
	}{{FormatVersion, 2}, {1, 4}} {
		s := mustOpen(t, memConfig(fs))
		save(t, s, update(1, raftpb.State{Term: 1}, nil))
		must(t, s.Close())
		rewrite(t, fs, path, encodeFormat(c.format))
		s = mustOpen(t, memConfig(fs))
		if got := s.StepWorkers(); got != c.workers {
			t.Errorf("format %d: %d step workers, want %d", c.format, got, c.workers)
		}
		must(t, s.Close())
		if got := slurp(t, fs, path); !bytes.Equal(got, encodeFormat(c.format)) {
			t.Errorf("format %d has become %q", c.format, got)
		}
	}
}

func slurp(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	b, err := io.ReadAll(f)
	must(t, err)
	return b
}

func rewrite(t *testing.T, fs vfs.FS, path string, content []byte) {
	t.Helper()
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	must(t, err)
	_, err = f.Write(content)
	must(t, errors.Join(err, f.Close()))
}

// TestRecordBytes pins the keys and values.
func TestRecordBytes(t *testing.T) {
	s := mustOpen(t, memConfig(vfs.NewMem()))
	id := raftio.NodeInfo{ShardID: 2, ReplicaID: 3}
	must(t, s.SaveBootstrapInfo(2, 3, raftpb.Bootstrap{Join: true, Type: raftpb.OnDiskStateMachine}))
	must(t, s.SaveRaftState([]raftpb.Update{{
		ShardID: 2, ReplicaID: 3, State: raftpb.State{Term: 4, Vote: 5, Commit: 6},
		EntriesToSave: []raftpb.Entry{{Term: 4, Index: 258, Cmd: []byte("x")}},
	}}, 1))
	node := "\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x03"
	want := [][2]string{
		{"b" + node, "\x01\x10\x01\x18\x03"},
		{"e" + node + "\x00\x00\x00\x00\x00\x00\x01\x02", "\x01\x00\x04\x01\x82\x02\x07\x01x\x7f"},
		{"s" + node, "\x01\x08\x04\x10\x05\x18\x06"},
	}
	var got [][2]string
	must(t, s.scan([]byte{0}, []byte{0xff}, func(key, value []byte) (bool, error) {
		got = append(got, [2]string{string(key), string(value)})
		return true, nil
	}))
	if !slices.Equal(got, want) {
		t.Errorf("records\n%q\nwant\n%q", got, want)
	}
	if key := entryKey(id, 258); !bytes.Equal(key, []byte(want[1][0])) {
		t.Errorf("key %x", key)
	}
}

// The commit index is written late, but no later than what raft wants to find together
// with it: a snapshot.
func TestCommitIndexIsWrittenLate(t *testing.T) {
	fs := vfs.NewCrashableMem()
	cfg := memConfig(fs)
	cfg.commitLag = 100
	s := mustOpen(t, cfg)
	commit := func(index uint64) raftpb.State { return raftpb.State{Term: 2, Vote: 1, Commit: index} }
	found := func(fs vfs.FS) uint64 {
		left := cfg
		left.FS = fs
		s := mustOpen(t, left)
		defer func() { must(t, s.Close()) }()
		rs, err := s.ReadRaftState(1, 1, 1)
		must(t, err)
		return rs.State.Commit
	}
	rng := testkit.Rand(t)
	crashed := func() uint64 {
		return found(fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: testkit.Fork(rng)}))
	}

	save(t, s, update(1, commit(3), entries(2, 1, 50)))
	save(t, s, update(1, commit(40), entries(2, 51, 300)))
	if rs, err := s.ReadRaftState(1, 1, 1); err != nil || rs.State.Commit != 40 {
		t.Errorf("the store itself has %+v, %v; want 40", rs, err)
	}
	if got := crashed(); got != 3 {
		t.Errorf("commit index %d after a crash, want that of the vote, 3", got)
	}
	save(t, s, update(1, commit(103), nil))
	save(t, s, update(1, commit(104), entries(2, 301, 301))) // with a sync
	if got := crashed(); got != 103 {
		t.Errorf("commit index %d after a crash, want 103, which is far ahead", got)
	}
	save(t, s, update(1, commit(140), nil))
	must(t, s.SaveSnapshots([]raftpb.Update{{ShardID: 1, ReplicaID: 1, Snapshot: snapshotAt(1, 130)}}))
	if got := crashed(); got < 130 {
		t.Errorf("commit index %d after a crash, behind the snapshot at 130", got)
	}
	save(t, s, update(1, commit(200), nil))
	must(t, s.Close())
	if got := found(fs); got != 200 {
		t.Errorf("commit index %d after a close, want 200", got)
	}
}

func TestOnlyWhatMustBeDurableIsSynced(t *testing.T) {
	cfg := memConfig(vfs.NewMem())
	cfg.commitLag = 0
	s := mustOpen(t, cfg)
	state := raftpb.State{Term: 1, Vote: 1, Commit: 1}
	withSnapshot := update(2, raftpb.State{}, nil)
	withSnapshot.Snapshot = snapshotAt(2, 9)
	for _, c := range []struct {
		name           string
		updates        []raftpb.Update
		batches, syncs int64
	}{
		{"first state", []raftpb.Update{update(1, state, nil)}, 1, 1},
		{"same state", []raftpb.Update{update(1, state, nil)}, 0, 0},
		{"no state", []raftpb.Update{update(1, raftpb.State{}, nil)}, 0, 0},
		{"commit index", []raftpb.Update{update(1, raftpb.State{Term: 1, Vote: 1, Commit: 2}, nil)}, 0, 0},
		{"vote", []raftpb.Update{update(1, raftpb.State{Term: 1, Vote: 2, Commit: 2}, nil)}, 1, 1},
		{"term", []raftpb.Update{update(1, raftpb.State{Term: 2, Vote: 2, Commit: 2}, nil)}, 1, 1},
		{"entries of two shards", []raftpb.Update{
			update(1, raftpb.State{}, entries(2, 1, 5)), update(2, state, entries(1, 1, 5)),
		}, 1, 1},
		{"commit index of one, entries of the other", []raftpb.Update{
			update(1, raftpb.State{Term: 2, Vote: 2, Commit: 3}, nil), update(2, state, entries(1, 6, 6)),
		}, 1, 1},
		{"snapshot", []raftpb.Update{withSnapshot}, 1, 1},
	} {
		before := s.Stats()
		save(t, s, c.updates...)
		after := s.Stats()
		if after.Batches-before.Batches != c.batches || after.Fsyncs-before.Fsyncs != c.syncs {
			t.Errorf("%s: %d batches, %d fsyncs; want %d, %d", c.name,
				after.Batches-before.Batches, after.Fsyncs-before.Fsyncs, c.batches, c.syncs)
		}
	}
	before := s.Stats()
	must(t, s.RemoveEntriesTo(1, 1, 3))
	if after := s.Stats(); after.Fsyncs != before.Fsyncs || after.LiveEntries != 2 || before.LiveEntries != 5 {
		t.Errorf("removing entries: %+v, before %+v", after, before)
	}
}

func TestStateIsComparedWithWhatIsOnDisk(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, memConfig(fs))
	state := raftpb.State{Term: 5, Vote: 1, Commit: 2}
	save(t, s, update(1, state, entries(5, 1, 9)))
	must(t, s.Close())
	s = mustOpen(t, memConfig(fs))
	save(t, s, update(1, state, nil))
	if got := s.Stats(); got.Batches != 0 || got.LiveEntries != 9 {
		t.Errorf("after the same state was saved again: %+v", got)
	}
	save(t, s, update(1, raftpb.State{}, entries(6, 3, 4)))
	got, _, err := s.IterateEntries(nil, 0, 1, 1, 1, 100, math.MaxUint64)
	if err != nil || len(got) != 4 {
		t.Errorf("entries behind a suffix that was overwritten after a restart: %v, error %v", got, err)
	}
}

func TestEntriesAreNotShared(t *testing.T) {
	s := mustOpen(t, memConfig(vfs.NewMem()))
	list := entries(1, 1, 3)
	save(t, s, update(1, raftpb.State{Term: 1}, list))
	list[1].Cmd[0] = '#'
	first, _, _ := s.IterateEntries(nil, 0, 1, 1, 1, 4, math.MaxUint64)
	first[0].Cmd[0] = '#'
	again, _, _ := s.IterateEntries(nil, 0, 1, 1, 1, 4, math.MaxUint64)
	for i, want := range entries(1, 1, 3) {
		if !bytes.Equal(again[i].Cmd, want.Cmd) {
			t.Errorf("entry %d holds %q", i+1, again[i].Cmd)
		}
	}
}

func TestEntrySizeIsExact(t *testing.T) {
	rng := testkit.Rand(t)
	number := func() uint64 { return rng.Uint64() >> rng.IntN(65) }
	for range 10_000 {
		e := raftpb.Entry{
			Term: number(), Index: number(), Type: raftpb.EntryType(rng.IntN(4)), Key: number(), ClientID: number(),
			SeriesID: number(), RespondedTo: number(), Cmd: testkit.Bytes(rng, rng.IntN(300)),
		}
		if err := marshalTo(make([]byte, e.Size()), &e); err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
	}
}

func TestClosedStore(t *testing.T) {
	s := mustOpen(t, memConfig(vfs.NewMem()))
	must(t, s.Close())
	wantErr(t, s.SaveRaftState([]raftpb.Update{update(1, raftpb.State{Term: 1}, nil)}, 1), base.ErrClosed)
	_, _, err := s.IterateEntries(nil, 0, 1, 1, 1, 2, 0)
	wantErr(t, err, base.ErrClosed)
	_, err = Factory(s).Create(config.NodeHostConfig{}, nil, nil, nil)
	wantErr(t, err, base.ErrClosed)
	s.Stats()
	if s.Err() != nil {
		t.Error(s.Err())
	}
}

func TestFactory(t *testing.T) {
	s := mustOpen(t, memConfig(vfs.NewMem()))
	db, err := Factory(s).Create(config.NodeHostConfig{}, nil, nil, nil)
	if err != nil || db != raftio.ILogDB(s) || db.Name() != Factory(s).Name() {
		t.Errorf("created %v, error %v", db, err)
	}
	if db.Name() != "distributedcache-pebble" || db.BinaryFormat() != 1 {
		t.Error("NodeHost refuses directories in which these have changed")
	}
}

// TestDiskUseIsBounded writes fifty times the live log and looks at the
// directory on the way.
func TestDiskUseIsBounded(t *testing.T) {
	const (
		shards, batch, live = 5, 200, 1200 // entries
		entryBytes          = 350
	)
	times := 50
	if testing.Short() || invariants.Enabled { // with the race detector it takes long
		times = 6
	}
	rounds := uint64(times * live / batch)
	fs := vfs.NewMem()
	cfg := memConfig(fs)
	cfg.MemTableBytes = 128 << 10
	s := mustOpen(t, cfg)
	rng := testkit.Rand(t)
	const liveBytes = shards * live * entryBytes
	var worst int64
	for i := range rounds {
		var updates []raftpb.Update
		for shard := range uint64(shards) {
			list := entries(1, i*batch+1, (i+1)*batch)
			for j := range list {
				list[j].Cmd = testkit.Bytes(rng, entryBytes-50)
			}
			updates = append(updates, update(shard, raftpb.State{Term: 1, Commit: i * batch}, list))
		}
		save(t, s, updates...)
		if (i+1)*batch <= live {
			continue
		}
		var done <-chan struct{}
		for shard := range uint64(shards) {
			must(t, s.RemoveEntriesTo(shard, 1, (i+1)*batch-live))
			c, err := s.CompactEntriesTo(shard, 1, (i+1)*batch-live)
			must(t, err)
			done = c
		}
		<-done
		worst = max(worst, s.Stats().DiskBytes)
		if used := dirBytes(t, fs, "/node/log"); used > 3*liveBytes {
			t.Log(s.db.Metrics().String())
			t.Fatalf("after %d bytes: the live log is %d bytes, the directory %d", i*batch*shards*entryBytes, liveBytes, used)
		}
	}
	t.Logf("live log %d bytes, disk use at most %d bytes, %.2f times", liveBytes, worst, float64(worst)/liveBytes)
	if got := s.Stats().LiveEntries; got != shards*live {
		t.Errorf("%d live entries", got)
	}
}

func dirBytes(t *testing.T, fs vfs.FS, dir string) (n int64) {
	t.Helper()
	names, err := fs.List(dir)
	must(t, err)
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		info, err := fs.Stat(path)
		switch {
		case err != nil: // removed meanwhile
		case info.IsDir():
			n += dirBytes(t, fs, path)
		default:
			n += info.Size()
		}
	}
	return n
}

// TestCompactionIsOwned closes a store in the middle of compactions.
func TestCompactionIsOwned(t *testing.T) {
	for range 20 {
		s := mustOpen(t, memConfig(vfs.NewMem()))
		var waiting []<-chan struct{}
		for i := range uint64(20) {
			save(t, s, update(1, raftpb.State{Term: 1}, entries(1, i*500+1, i*500+500)))
			must(t, s.RemoveEntriesTo(1, 1, i*500+400))
			done, err := s.CompactEntriesTo(1, 1, i*500+400)
			must(t, err)
			waiting = append(waiting, done)
		}
		var closing sync.WaitGroup
		closing.Go(func() { must(t, s.Close()) })
		for _, done := range waiting {
			<-done
		}
		closing.Wait()
		if s.Err() != nil {
			t.Fatal(s.Err())
		}
	}
}
