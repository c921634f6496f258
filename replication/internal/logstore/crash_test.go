package logstore

import (
	"flag"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/testkit"
)

var crashPoints = flag.Int("crashpoints", 500, "power failures of TestPowerLoss")

// crashesPerStore is how many power failures one running store sees before it
// starts anew, so that what is cloned stays small.
const crashesPerStore = 25

const (
	workers = 3
	// stepsPerCrash bounds how far a worker gets between two power failures.
	stepsPerCrash = 40
)

// TestPowerLoss takes the power from a store that is written to, at random
// moments, and opens what is left on the disk, of which none, half or all of
// the data that was not synced is there. What was promised must be found, and
// every batch whole or not at all.
func TestPowerLoss(t *testing.T) {
	points := *crashPoints
	if testing.Short() || invariants.Enabled { // with the race detector it takes long
		points = min(points, 75)
	}
	rng := testkit.Rand(t)
	var promised uint64
	for done := 0; done < points && !t.Failed(); done += crashesPerStore {
		promised += crashWhileWriting(t, testkit.Fork(rng), min(crashesPerStore, points-done))
	}
	t.Logf("%d power failures, %d steps promised", points, promised)
	if promised < uint64(points) {
		t.Errorf("only %d promised steps: the test proves too little", promised)
	}
}

// freshLogs does not recycle files: in the memory file system that takes a
// lock twice and would hang with a clone in between.
type freshLogs struct{ *vfs.MemFS }

func (f freshLogs) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Remove(from); err != nil {
		return nil, err
	}
	return f.Create(to, category)
}

func crashConfig(fs vfs.FS) Config {
	cfg := memConfig(fs)
	cfg.MemTableBytes = 64 << 10
	return cfg
}

func crashWhileWriting(t *testing.T, rng *rand.Rand, crashes int) (promised uint64) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, crashConfig(freshLogs{fs}))
	var stop atomic.Bool
	var allowed atomic.Int64
	var group sync.WaitGroup
	var histories []*history
	for w := range workers {
		h, r := newHistory(w), testkit.Fork(rng)
		histories = append(histories, h)
		steps := int64(0)
		more := func() bool {
			for steps++; steps > allowed.Load() && !stop.Load(); {
				time.Sleep(100 * time.Microsecond)
			}
			return !stop.Load()
		}
		group.Go(func() { h.work(t, s, r, w, more, func() bool { return true }) })
	}
	for i := 0; i < crashes && !t.Failed(); i++ {
		allowed.Add(stepsPerCrash)
		time.Sleep(time.Duration(rng.IntN(1500)) * time.Microsecond)
		var floors []uint64 // before the clone: all of this must be in it
		for _, h := range histories {
			floors = append(floors, h.promised())
		}
		clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * (i % 3), RNG: testkit.Fork(rng)})
		checkAfterCrash(t, clone, histories, floors)
	}
	stop.Store(true)
	group.Wait()
	must(t, s.Close())
	for _, h := range histories {
		promised += h.promised()
	}
	return promised
}

func checkAfterCrash(t *testing.T, fs *vfs.MemFS, histories []*history, floors []uint64) {
	t.Helper()
	s, err := Open(crashConfig(fs))
	if err != nil {
		t.Errorf("open after a power failure: %v", err)
		return
	}
	for i, h := range histories {
		if err := h.check(s, floors[i]); err != nil {
			t.Errorf("after a power failure: worker %d: %v", i, err)
		}
	}
	must(t, s.Close())
}

// TestRecordsAreDurable takes the power after each kind of call that must not
// be forgotten.
func TestRecordsAreDurable(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, crashConfig(freshLogs{fs}))
	after := func(check func(s *Store)) {
		t.Helper()
		left := mustOpen(t, crashConfig(fs.CrashClone(vfs.CrashCloneCfg{})))
		check(left)
		must(t, left.Close())
	}
	must(t, s.SaveBootstrapInfo(1, 1, raftpb.Bootstrap{Join: true}))
	after(func(s *Store) {
		if nodes, err := s.ListNodeInfo(); err != nil || len(nodes) != 1 {
			t.Errorf("bootstrap info: %v, error %v", nodes, err)
		}
	})
	save(t, s, update(1, raftpb.State{Term: 1}, entries(1, 1, 9)))
	must(t, s.SaveSnapshots([]raftpb.Update{{ShardID: 1, ReplicaID: 1, Snapshot: snapshotAt(1, 5)}}))
	after(func(s *Store) {
		if snapshot, err := s.GetSnapshot(1, 1); err != nil || snapshot.Index != 5 {
			t.Errorf("snapshot record: %+v, error %v", snapshot, err)
		}
	})
	must(t, s.ImportSnapshot(snapshotAt(1, 3), 1))
	after(func(s *Store) {
		snapshot, err := s.GetSnapshot(1, 1)
		rs, err1 := s.ReadRaftState(1, 1, 3)
		if err != nil || err1 != nil || snapshot.Index != 3 || rs.EntryCount != 0 {
			t.Errorf("imported snapshot: %+v, %+v, errors %v, %v", snapshot, rs, err, err1)
		}
	})
	must(t, s.RemoveNodeData(1, 1))
	after(func(s *Store) {
		if nodes, err := s.ListNodeInfo(); err != nil || len(nodes) != 0 {
			t.Errorf("removed node: %v, error %v", nodes, err)
		}
	})
}
