package logstore

import (
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/testkit"
)

const patience = 2 * time.Minute

// faults fails operations that change something, from the at-th on: once, or
// each of them.
type faults struct {
	at    atomic.Int64
	ever  bool
	err   error
	count atomic.Int64
}

// MaybeError implements errorfs.Injector.
func (f *faults) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpRename, errorfs.OpReuseForWrite, errorfs.OpMkdirAll, errorfs.OpFileWrite,
		errorfs.OpFileWriteAt, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
	default:
		return nil
	}
	if n, at := f.count.Add(1), f.at.Load(); n == at || (f.ever && n > at && at > 0) {
		return &fs.PathError{Op: "fault", Path: op.Path, Err: f.err}
	}
	return nil
}

// String implements errorfs.Injector.
func (f *faults) String() string { return "faults" }

// failing opens a store on a disk that will fail, and tells of its failure.
func failing(t *testing.T, disk vfs.FS, f *faults) (s *Store, failed chan error, err error) {
	failed = make(chan error, 10)
	cfg := crashConfig(errorfs.Wrap(disk, f))
	cfg.OnFail = func(err error) { failed <- err }
	s, err = Open(cfg)
	return s, failed, err
}

func faultError(rng *rand.Rand) (err, sentinel error) {
	switch rng.IntN(3) {
	case 0:
		return syscall.ENOSPC, base.ErrNoSpace
	case 1:
		return syscall.EDQUOT, base.ErrNoSpace
	default:
		return syscall.EIO, base.ErrUnavailable
	}
}

// TestFailingDisk fails the disk at a random operation under writers: they
// park, OnFail is called once, Release lets them go, the store can be closed,
// and what was promised is found on the disk as it is and as a power failure
// leaves it.
func TestFailingDisk(t *testing.T) {
	rng := testkit.Rand(t)
	runs := 120
	if testing.Short() || invariants.Enabled {
		runs = 30
	}
	for range runs {
		failWhileWriting(t, testkit.Fork(rng))
		if t.Failed() {
			return
		}
	}
}

func failWhileWriting(t *testing.T, rng *rand.Rand) {
	disk := vfs.NewCrashableMem()
	f := &faults{ever: rng.IntN(2) == 0}
	var sentinel error
	f.err, sentinel = faultError(rng)
	s, failed, err := failing(t, freshLogs{disk}, f)
	must(t, err)
	f.at.Store(f.count.Load() + 1 + rng.Int64N(1<<(3+rng.IntN(8))))

	var released atomic.Bool
	var group sync.WaitGroup
	var histories []*history
	for w := range workers {
		h, r := newHistory(w), testkit.Fork(rng)
		histories = append(histories, h)
		group.Go(func() {
			h.work(t, s, r, w, func() bool { return !released.Load() }, func() bool { return !released.Load() })
		})
	}
	select {
	case err := <-failed:
		wantErr(t, err, sentinel)
	case <-time.After(patience):
		t.Fatal("the disk does not fail")
	}
	released.Store(true)
	s.Release()
	waitFor(t, "parked goroutines", &group)
	useReleased(t, s)
	must(t, s.Close())
	wantErr(t, s.Err(), sentinel)
	if len(failed) > 0 {
		t.Errorf("OnFail was called again: %v", <-failed)
	}
	var floors []uint64
	for _, h := range histories {
		floors = append(floors, h.promised())
	}
	clone := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * rng.IntN(3), RNG: testkit.Fork(rng)})
	checkAfterCrash(t, clone, histories, floors)
	checkAfterCrash(t, disk, histories, floors)
}

func waitFor(t *testing.T, what string, group *sync.WaitGroup) {
	t.Helper()
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
}

// useReleased calls everything on a store that was released: nothing may
// block or fail.
func useReleased(t *testing.T, s *Store) {
	t.Helper()
	err := errors.Join(
		s.SaveRaftState([]raftpb.Update{update(99, raftpb.State{Term: 1}, entries(1, 1, 3))}, 1),
		s.SaveSnapshots([]raftpb.Update{{ShardID: 99, ReplicaID: 1, Snapshot: snapshotAt(99, 2)}}),
		s.SaveBootstrapInfo(99, 1, raftpb.Bootstrap{Join: true}),
		s.RemoveEntriesTo(99, 1, 1),
		s.ImportSnapshot(snapshotAt(98, 2), 1),
		s.RemoveNodeData(98, 1),
	)
	_, err1 := s.GetBootstrapInfo(99, 1)
	_, err2 := s.GetSnapshot(99, 1)
	_, err3 := s.ListNodeInfo()
	_, err4 := s.CompactEntriesTo(99, 1, 1)
	_, err5 := s.ReadRaftState(99, 1, 0)
	list, _, err6 := s.IterateEntries(nil, 0, 99, 1, 2, 4, math.MaxUint64)
	must(t, errors.Join(err, err1, err2, err3, err4, err5, err6))
	if len(list) != 2 {
		t.Errorf("a released store holds %v of what was just saved", indexes(list))
	}
	s.Stats()
}

// TestFailingOpen fails the disk at each operation of Open and of the close
// that follows.
func TestFailingOpen(t *testing.T) {
	rng := testkit.Rand(t)
	for at := int64(1); ; at++ {
		disk := vfs.NewCrashableMem()
		f := &faults{ever: rng.IntN(2) == 0}
		f.at.Store(at)
		var sentinel error
		f.err, sentinel = faultError(rng)
		s, failed, err := failing(t, freshLogs{disk}, f)
		if err == nil {
			must(t, s.Close())
			if f.count.Load() < at {
				return // it failed nowhere
			}
			if err := s.Err(); err != nil {
				wantErr(t, err, sentinel)
				wantErr(t, <-failed, sentinel)
			}
		} else {
			wantErr(t, err, sentinel)
		}
		clone := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * rng.IntN(3), RNG: testkit.Fork(rng)})
		for _, left := range []*vfs.MemFS{clone, disk} {
			s, err := Open(crashConfig(left))
			if err != nil {
				t.Fatalf("open after operation %d failed: %v", at, err)
			}
			must(t, s.Close())
		}
	}
}

// TestFence fences a store from outside in the middle of writes.
func TestFence(t *testing.T) {
	disk := vfs.NewCrashableMem()
	s, failed, err := failing(t, freshLogs{disk}, &faults{})
	must(t, err)
	rng := testkit.Rand(t)
	h := newHistory(0)
	var released atomic.Bool
	var returned atomic.Int64
	var group sync.WaitGroup
	group.Go(func() {
		h.work(t, s, rng, 0, func() bool { returned.Add(1); return !released.Load() }, func() bool { return !released.Load() })
	})
	testkit.Eventually(t, patience, "writes", func() bool { return h.promised() > 50 })
	s.Fence(errors.New("because"))
	s.Fence(errors.New("another cause"))
	wantErr(t, <-failed, base.ErrUnavailable)
	before := returned.Load()
	var read atomic.Bool
	var reader sync.WaitGroup
	reader.Go(func() { _, _, _ = s.IterateEntries(nil, 0, 0, 1, 1, 10, 0); read.Store(true) })
	time.Sleep(50 * time.Millisecond)
	if n := returned.Load() - before; n > 1 || read.Load() { // one may have ended before
		t.Errorf("a fenced store lets %d saves return; a read: %v", n, read.Load())
	}
	released.Store(true)
	s.Release()
	waitFor(t, "parked goroutines", &group)
	waitFor(t, "a parked reader", &reader)
	useReleased(t, s)
	must(t, s.Close())
	checkAfterCrash(t, disk.CrashClone(vfs.CrashCloneCfg{}), []*history{h}, []uint64{h.promised()})
}

// TestReleaseWithoutFailure: a store that was released goes on, and a later
// failure parks nobody.
func TestReleaseWithoutFailure(t *testing.T) {
	disk := vfs.NewMem()
	f := &faults{err: syscall.EIO}
	s, failed, err := failing(t, disk, f)
	must(t, err)
	s.Release()
	s.Release()
	save(t, s, update(1, raftpb.State{Term: 1}, entries(1, 1, 3)))
	f.at.Store(f.count.Load() + 1)
	save(t, s, update(1, raftpb.State{Term: 2}, entries(1, 4, 5)))
	wantErr(t, <-failed, base.ErrUnavailable)
	useReleased(t, s)
	must(t, s.Close())
	s = mustOpen(t, crashConfig(disk))
	list, _, err := s.IterateEntries(nil, 0, 1, 1, 1, 10, math.MaxUint64)
	if err != nil || len(list) < 3 || len(list) == 4 {
		t.Errorf("found %v, error %v", indexes(list), err)
	}
}

// TestCloseReleases closes a fenced store on which a call is parked.
func TestCloseReleases(t *testing.T) {
	s := mustOpen(t, memConfig(vfs.NewMem()))
	s.Fence(base.ErrClosed)
	var parked sync.WaitGroup
	parked.Go(func() { _ = s.SaveRaftState([]raftpb.Update{update(1, raftpb.State{Term: 1}, nil)}, 1) })
	time.Sleep(10 * time.Millisecond)
	must(t, s.Close())
	waitFor(t, "a parked call", &parked)
}

// TestRottenRecordsFence: what cannot be decoded is a failure and no panic.
func TestRottenRecordsFence(t *testing.T) {
	s := mustOpen(t, memConfig(vfs.NewMem()))
	save(t, s, update(1, raftpb.State{Term: 1}, entries(1, 1, 3)))
	id := idOf(&raftpb.Update{ShardID: 1, ReplicaID: 1})
	must(t, s.db.Set(entryKey(id, 2), []byte{recordVersion + 1, 0x7f}, nil))
	s.Release()
	list, _, err := s.IterateEntries(nil, 0, 1, 1, 1, 4, math.MaxUint64)
	must(t, err)
	if len(list) != 1 {
		t.Errorf("read %v", indexes(list))
	}
	wantErr(t, s.Err(), base.ErrCorrupt)
}
