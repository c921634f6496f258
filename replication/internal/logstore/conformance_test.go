package logstore

import (
	"cmp"
	"errors"
	"math"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// The suite runs on this package's store and on the one it replaces, so that
// what it says is what dragonboat relies on and not what we think it does.

func TestConformance(t *testing.T) {
	t.Run("Store", func(t *testing.T) {
		runConformance(t, func(t *testing.T) func() raftio.ILogDB {
			fs := vfs.NewMem()
			return func() raftio.ILogDB { return mustOpen(t, memConfig(fs)) }
		})
	})
	t.Run("BuiltIn", func(t *testing.T) {
		runConformance(t, func(t *testing.T) func() raftio.ILogDB {
			dir := t.TempDir()
			return func() raftio.ILogDB { return openBuiltIn(t, dir) }
		})
	})
}

// suite is one log store under test.
type suite struct {
	*testing.T
	raftio.ILogDB
	open func() raftio.ILogDB
}

// reopen closes the store and opens it again.
func (s *suite) reopen() {
	s.Helper()
	must(s, s.Close())
	s.ILogDB = s.open()
}

// twice runs a check on the store as it is and after it was opened anew.
func (s *suite) twice(check func()) {
	check()
	s.reopen()
	check()
}

// runConformance runs the suite. setup returns what opens one and the same
// store, which is empty at first.
func runConformance(t *testing.T, setup func(*testing.T) func() raftio.ILogDB) {
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"EmptyStore", conformEmpty},
		{"BootstrapInfo", conformBootstrap},
		{"State", conformState},
		{"Entries", conformEntries},
		{"OverwrittenSuffixStaysAway", conformOverwrite},
		{"MaxSize", conformMaxSize},
		{"RemoveEntries", conformRemove},
		{"Compaction", conformCompaction},
		{"SnapshotRecords", conformSnapshots},
		{"InstalledSnapshotReplacesTheLog", conformInstall},
		{"RemoveNodeData", conformRemoveNode},
		{"ImportSnapshot", conformImport},
		{"Workers", conformWorkers},
	} {
		t.Run(c.name, func(t *testing.T) {
			open := setup(t)
			s := &suite{T: t, ILogDB: open(), open: open}
			defer func() { must(t, s.Close()) }()
			c.test(s)
		})
	}
}

// wantEntries checks what is read from low to high.
func (s *suite) wantEntries(shard, low, high uint64, want []raftpb.Entry) {
	s.Helper()
	got, size, err := s.IterateEntries(nil, 0, shard, 1, low, high, math.MaxUint64)
	must(s, err)
	var wantSize uint64
	for i := range want {
		wantSize += uint64(want[i].SizeUpperLimit())
	}
	if len(got) != len(want) || (len(want) > 0 && !reflect.DeepEqual(got, want)) || size != wantSize {
		s.Fatalf("entries [%d, %d) of shard %d: %d bytes, %v; want %d bytes, %v", low, high, shard, size, got, wantSize, want)
	}
}

func (s *suite) wantState(shard, lastIndex uint64, want raftio.RaftState) {
	s.Helper()
	got, err := s.ReadRaftState(shard, 1, lastIndex)
	must(s, err)
	if got != want {
		s.Fatalf("state of shard %d from %d: %+v, want %+v", shard, lastIndex, got, want)
	}
}

func (s *suite) wantNothing(shard uint64) {
	s.Helper()
	if _, err := s.ReadRaftState(shard, 1, 0); !errors.Is(err, raftio.ErrNoSavedLog) {
		s.Fatalf("state of shard %d: error %v", shard, err)
	}
	if _, err := s.GetBootstrapInfo(shard, 1); !errors.Is(err, raftio.ErrNoBootstrapInfo) {
		s.Fatalf("bootstrap info of shard %d: error %v", shard, err)
	}
	if snap, err := s.GetSnapshot(shard, 1); err != nil || !raftpb.IsEmptySnapshot(snap) {
		s.Fatalf("snapshot of shard %d: %v, error %v", shard, snap, err)
	}
	s.wantEntries(shard, 1, 100, nil)
}

func (s *suite) wantNodes(want ...raftio.NodeInfo) {
	s.Helper()
	got, err := s.ListNodeInfo()
	must(s, err)
	slices.SortFunc(got, func(a, b raftio.NodeInfo) int {
		return cmp.Or(cmp.Compare(a.ShardID, b.ShardID), cmp.Compare(a.ReplicaID, b.ReplicaID))
	})
	if !slices.Equal(got, want) {
		s.Fatalf("nodes %v, want %v", got, want)
	}
}

func (s *suite) wantSnapshot(shard uint64, want raftpb.Snapshot) {
	s.Helper()
	got, err := s.GetSnapshot(shard, 1)
	must(s, err)
	a, err1 := got.Marshal()
	b, err2 := want.Marshal()
	if err1 != nil || err2 != nil || !slices.Equal(a, b) {
		s.Fatalf("snapshot of shard %d: %+v, want %+v", shard, got, want)
	}
}

func snapshotAt(shard, index uint64) raftpb.Snapshot {
	return raftpb.Snapshot{
		ShardID: shard, Index: index, Term: 3, Filepath: "somewhere", Type: raftpb.OnDiskStateMachine, OnDiskIndex: index,
		Membership: raftpb.Membership{ConfigChangeId: 4, Addresses: map[uint64]string{1: "a"}},
	}
}

func conformEmpty(s *suite) {
	s.twice(func() { s.wantNothing(1); s.wantNodes() })
	must(s, s.SaveRaftState(nil, 1))
}

func conformBootstrap(s *suite) {
	want := raftpb.Bootstrap{Addresses: map[uint64]string{1: "a", 2: "b"}, Type: raftpb.OnDiskStateMachine}
	must(s, s.SaveBootstrapInfo(7, 1, raftpb.Bootstrap{Join: true}))
	must(s, s.SaveBootstrapInfo(7, 1, want))
	must(s, s.SaveBootstrapInfo(7, 2, raftpb.Bootstrap{Join: true}))
	must(s, s.SaveBootstrapInfo(math.MaxUint64, 1, raftpb.Bootstrap{Join: true}))
	s.twice(func() {
		got, err := s.GetBootstrapInfo(7, 1)
		if err != nil || !reflect.DeepEqual(got, want) {
			s.Fatalf("bootstrap info %+v, error %v", got, err)
		}
		s.wantNodes(raftio.GetNodeInfo(7, 1), raftio.GetNodeInfo(7, 2), raftio.GetNodeInfo(math.MaxUint64, 1))
	})
}

func conformState(s *suite) {
	first := raftpb.State{Term: 2, Vote: 3}
	save(s, s, update(1, first, nil), update(2, first, nil))
	s.wantState(1, 0, raftio.RaftState{State: first})
	s.wantState(1, 9, raftio.RaftState{State: first, FirstIndex: 9})
	second := raftpb.State{Term: 3, Vote: 1, Commit: 8}
	save(s, s, update(1, second, nil))
	save(s, s, update(1, raftpb.State{}, nil)) // nothing to save
	s.twice(func() {
		s.wantState(1, 0, raftio.RaftState{State: second})
		s.wantState(2, 0, raftio.RaftState{State: first})
	})
}

func conformEntries(s *suite) {
	all := entries(1, 1, 20)
	all[3].Type, all[3].Cmd = raftpb.ConfigChangeEntry, nil
	all[4] = raftpb.Entry{Index: 5, Term: 1, Type: raftpb.EncodedEntry, Key: math.MaxUint64, ClientID: 1, SeriesID: 2, RespondedTo: 3, Cmd: make([]byte, 1<<16)}
	state := raftpb.State{Term: 1, Vote: 1, Commit: 15}
	save(s, s, update(1, state, all[:12]), update(2, state, all[:3]))
	save(s, s, update(1, raftpb.State{}, all[12:]))
	s.twice(func() {
		s.wantEntries(1, 1, 21, all)
		s.wantEntries(1, 5, 6, all[4:5])
		s.wantEntries(1, 18, 100, all[17:])
		s.wantEntries(1, 21, 30, nil)
		s.wantEntries(1, 21, 22, nil)
		s.wantEntries(1, 7, 7, nil)
		s.wantEntries(2, 1, 21, all[:3])
		s.wantEntries(3, 1, 21, nil)
		s.wantState(1, 0, raftio.RaftState{State: state, FirstIndex: 1, EntryCount: 20})
		s.wantState(1, 8, raftio.RaftState{State: state, FirstIndex: 8, EntryCount: 13})
		s.wantState(1, 20, raftio.RaftState{State: state, FirstIndex: 20})
	})
	before := []raftpb.Entry{{Index: 9}}
	got, size, err := s.IterateEntries(before, 1000, 1, 1, 10, 12, math.MaxUint64)
	if err != nil || len(got) != 3 || got[0].Index != 9 || got[2].Index != 11 || size <= 1000 {
		s.Fatalf("appended to what was given: %v, %d, %v", got, size, err)
	}
}

func conformOverwrite(s *suite) {
	state := raftpb.State{Term: 1, Vote: 1, Commit: 4}
	save(s, s, update(1, state, entries(1, 1, 10)), update(2, state, entries(1, 1, 10)))
	state.Term = 2
	save(s, s, update(1, state, entries(2, 5, 6)))
	want := append(entries(1, 1, 4), entries(2, 5, 6)...)
	s.twice(func() {
		s.wantEntries(1, 1, 11, want)
		s.wantEntries(1, 7, 8, nil)
		s.wantEntries(2, 1, 11, entries(1, 1, 10))
		s.wantState(1, 0, raftio.RaftState{State: state, FirstIndex: 1, EntryCount: 6})
	})
	save(s, s, update(1, raftpb.State{}, entries(2, 7, 8)))
	want = append(want, entries(2, 7, 8)...)
	s.twice(func() { s.wantEntries(1, 1, 11, want) })
	save(s, s, update(1, raftpb.State{}, entries(3, 1, 1)))
	s.twice(func() { s.wantEntries(1, 1, 11, entries(3, 1, 1)) })
}

func conformMaxSize(s *suite) {
	all := entries(1, 1, 10)
	save(s, s, update(1, raftpb.State{Term: 1}, all))
	one := uint64(all[0].SizeUpperLimit())
	for _, c := range []struct{ maxSize, want uint64 }{
		{0, 1}, {one - 1, 1}, {one, 2}, {2*one + 1, 3}, {5 * one, 6}, {math.MaxUint64, 9},
	} {
		got, size, err := s.IterateEntries(nil, 0, 1, 1, 1, 10, c.maxSize)
		if err != nil || uint64(len(got)) != c.want || size != c.want*one {
			s.Fatalf("at most %d bytes: %d entries of %d bytes, error %v; want %d entries", c.maxSize, len(got), size, err, c.want)
		}
	}
}

// conformRemove leaves open whether the last entry to remove is still there:
// the interface says no, the built-in store keeps it, dragonboat does not care.
func conformRemove(s *suite) {
	state := raftpb.State{Term: 1, Commit: 10}
	all := entries(1, 1, 10)
	save(s, s, update(1, state, all), update(2, state, all))
	must(s, s.RemoveEntriesTo(1, 1, 5))
	must(s, s.RemoveEntriesTo(1, 1, 3))
	must(s, s.RemoveEntriesTo(9, 1, 5))
	s.twice(func() {
		s.wantEntries(1, 1, 4, nil)
		s.wantEntries(1, 6, 11, all[5:])
		s.wantEntries(2, 1, 11, all)
		s.wantState(1, 6, raftio.RaftState{State: state, FirstIndex: 6, EntryCount: 5})
	})
	save(s, s, update(1, raftpb.State{}, entries(1, 11, 12)))
	s.twice(func() { s.wantEntries(1, 6, 20, entries(1, 6, 12)) })
}

func conformCompaction(s *suite) {
	state := raftpb.State{Term: 1, Commit: 10}
	save(s, s, update(1, state, entries(1, 1, 100)))
	must(s, s.RemoveEntriesTo(1, 1, 50))
	for _, index := range []uint64{40, 50, math.MaxUint64} {
		shard := uint64(1)
		if index == math.MaxUint64 {
			shard = 77
		}
		done, err := s.CompactEntriesTo(shard, 1, index)
		must(s, err)
		select {
		case <-done:
		case <-time.After(time.Minute):
			s.Fatal("compaction does not end")
		}
	}
	s.twice(func() { s.wantEntries(1, 51, 200, entries(1, 51, 100)) })
}

func conformSnapshots(s *suite) {
	state := raftpb.State{Term: 1, Commit: 10}
	save(s, s, update(1, state, entries(1, 1, 10)))
	must(s, s.SaveSnapshots(nil))
	must(s, s.SaveSnapshots([]raftpb.Update{{ShardID: 1, ReplicaID: 1}}))
	s.wantSnapshot(1, raftpb.Snapshot{})
	for _, index := range []uint64{3, 8, 5} {
		must(s, s.SaveSnapshots([]raftpb.Update{{ShardID: 1, ReplicaID: 1, Snapshot: snapshotAt(1, index)}}))
		s.GetSnapshot(1, 1) // the built-in store learns the newest index from reads
	}
	s.twice(func() {
		s.wantSnapshot(1, snapshotAt(1, 8))
		s.wantSnapshot(2, raftpb.Snapshot{})
		s.wantEntries(1, 1, 11, entries(1, 1, 10))
		s.wantState(1, 8, raftio.RaftState{State: state, FirstIndex: 8, EntryCount: 3})
	})
}

func conformInstall(s *suite) {
	for shard, index := range map[uint64]uint64{1: 5, 2: 20} { // inside the log, and beyond it
		save(s, s, update(shard, raftpb.State{Term: 1}, entries(1, 1, 10)))
		state := raftpb.State{Term: 3, Commit: index}
		u := update(shard, state, nil)
		u.Snapshot = snapshotAt(shard, index)
		save(s, s, u)
		s.twice(func() {
			s.wantSnapshot(shard, snapshotAt(shard, index))
			s.wantState(shard, index, raftio.RaftState{State: state, FirstIndex: index})
			s.wantEntries(shard, index+1, index+10, nil)
		})
		save(s, s, update(shard, raftpb.State{}, entries(3, index+1, index+2)))
		s.twice(func() {
			s.wantEntries(shard, index+1, index+10, entries(3, index+1, index+2))
			s.wantState(shard, index+1, raftio.RaftState{State: state, FirstIndex: index + 1, EntryCount: 2})
		})
	}
}

func conformRemoveNode(s *suite) {
	state := raftpb.State{Term: 1, Commit: 10}
	for shard := uint64(1); shard <= 3; shard++ {
		must(s, s.SaveBootstrapInfo(shard, 1, raftpb.Bootstrap{Join: true}))
		save(s, s, update(shard, state, entries(1, 1, 10)))
		must(s, s.SaveSnapshots([]raftpb.Update{{ShardID: shard, ReplicaID: 1, Snapshot: snapshotAt(shard, 4)}}))
	}
	must(s, s.RemoveNodeData(2, 1))
	must(s, s.RemoveNodeData(9, 9))
	s.twice(func() {
		s.wantNothing(2)
		s.wantNodes(raftio.GetNodeInfo(1, 1), raftio.GetNodeInfo(3, 1))
		for _, shard := range []uint64{1, 3} {
			s.wantEntries(shard, 1, 11, entries(1, 1, 10))
			s.wantSnapshot(shard, snapshotAt(shard, 4))
			s.wantState(shard, 0, raftio.RaftState{State: state, FirstIndex: 1, EntryCount: 10})
		}
	})
	state.Term = 2
	save(s, s, update(2, state, entries(2, 1, 2)))
	s.twice(func() { s.wantEntries(2, 1, 11, entries(2, 1, 2)) })
}

func conformImport(s *suite) {
	save(s, s, update(1, raftpb.State{Term: 7, Vote: 2, Commit: 10}, entries(7, 1, 20)))
	must(s, s.SaveBootstrapInfo(1, 1, raftpb.Bootstrap{Addresses: map[uint64]string{1: "a"}}))
	for _, index := range []uint64{4, 18} {
		must(s, s.SaveSnapshots([]raftpb.Update{{ShardID: 1, ReplicaID: 1, Snapshot: snapshotAt(1, index)}}))
	}
	imported := snapshotAt(1, 12)
	must(s, s.ImportSnapshot(imported, 1))
	s.reopen() // as it is used: on a store that nobody runs on
	s.twice(func() {
		s.wantSnapshot(1, imported)
		s.wantState(1, 12, raftio.RaftState{State: raftpb.State{Term: 3, Commit: 12}, FirstIndex: 12})
		s.wantEntries(1, 13, 21, nil)
		got, err := s.GetBootstrapInfo(1, 1)
		if err != nil || !got.Join || len(got.Addresses) > 0 || got.Type != imported.Type {
			s.Fatalf("bootstrap info %+v, error %v", got, err)
		}
	})
}

func conformWorkers(s *suite) {
	const workers, rounds = 4, 20
	var group sync.WaitGroup
	for w := range uint64(workers) {
		group.Go(func() {
			for i := range uint64(rounds) {
				var updates []raftpb.Update
				for shard := w; shard < 16; shard += workers {
					updates = append(updates, update(shard, raftpb.State{Term: 1, Commit: i}, entries(1, 5*i+1, 5*i+5)))
				}
				if err := s.SaveRaftState(updates, w+1); err != nil {
					s.Error(err)
				}
			}
		})
	}
	group.Wait()
	s.twice(func() {
		for shard := range uint64(16) {
			s.wantEntries(shard, 1, 1000, entries(1, 1, 5*rounds))
		}
	})
}
