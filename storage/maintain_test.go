package storage

import (
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/testkit"
)

// diskFS is a file system whose free space the test decides.
type diskFS struct {
	vfs.FS
	free, total atomic.Uint64
	unknown     atomic.Bool
}

func (fs *diskFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	if fs.unknown.Load() {
		return vfs.DiskUsage{}, syscall.EIO
	}
	return vfs.DiskUsage{AvailBytes: fs.free.Load(), TotalBytes: fs.total.Load()}, nil
}

func becomes(t *testing.T, what string, cond func() bool) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, what, cond)
}

func TestDiskReserve(t *testing.T) {
	fs := &diskFS{FS: vfs.NewMem()}
	fs.total.Store(100 << 30)
	fs.free.Store(10 << 30)
	cfg := memConfig(fs)
	cfg.DiskReserveBytes = 1 << 30
	cfg.DiskPollInterval = time.Millisecond
	s := mustOpen(t, cfg)
	full := func() bool { return s.Writable() != nil }
	if full() {
		t.Fatal(s.Writable())
	}
	mustPut(t, s, 0, base.K("a", ""), 1, "x")

	fs.free.Store(1<<30 - 1)
	becomes(t, "full", full)
	wantErr(t, "Writable", s.Writable(), base.ErrNoSpace)
	wantGet(t, s, 0, base.K("a", ""), 1, "x") // reads go on

	fs.free.Store(1<<30 + 1) // not enough yet, or it would flap
	seen := s.disk.Load()
	becomes(t, "looked at again", func() bool { return s.disk.Load() != seen && s.disk.Load().free == 1<<30+1 })
	if !full() {
		t.Fatal("writes resumed too early")
	}
	fs.free.Store(2 << 30)
	becomes(t, "writable", func() bool { return !full() })
	if st := s.Stats(); st.DiskFreeBytes != 2<<30 || st.ReserveBytes != 1<<30 {
		t.Fatalf("%+v", st)
	}
	fs.free.Store(0)
	becomes(t, "full again", full)
	fs.unknown.Store(true) // what is not known does not stop anybody
	becomes(t, "writable", func() bool { return !full() })
}

// TestReserveIsWatchedWhileWriting: a burst of writes between two looks at
// the disk cannot eat the reserve.
func TestReserveIsWatchedWhileWriting(t *testing.T) {
	fs := &diskFS{FS: vfs.NewMem()}
	fs.total.Store(100 << 30)
	fs.free.Store(1<<30 + 100<<10)
	cfg := memConfig(fs)
	cfg.DiskReserveBytes = 1 << 30
	cfg.DiskPollInterval = time.Hour
	s := mustOpen(t, cfg)
	becomes(t, "looked", func() bool { return s.disk.Load() != nil })
	fs.free.Store(1 << 20)
	for n := 0; s.Writable() == nil; n++ {
		if n > 10_000 {
			t.Fatal("the reserve is gone")
		}
		mustPut(t, s, 0, testKey(n), 1, string(make([]byte, 1000)))
	}
}

func TestReserveDefaults(t *testing.T) {
	for _, c := range []struct {
		total uint64
		cfg   int64
		want  int64
	}{
		{10 << 30, 0, 10 << 30 / 20}, {1 << 40, 0, 1 << 30}, {1 << 40, 5, 5}, {1 << 40, -1, 0},
	} {
		s := &Store{cfg: Config{DiskReserveBytes: c.cfg}}
		if got := s.reserveBytes(vfs.DiskUsage{TotalBytes: c.total}); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// TestDiskFull: when the disk is full, whoever writes waits, everybody else
// gets a typed error, reads go on, and all resumes when there is space.
func TestDiskFull(t *testing.T) {
	for _, file := range []string{".log", ".sst", "MANIFEST"} {
		t.Run(file, func(t *testing.T) {
			mem := vfs.NewMem()
			fault := &diskFault{kinds: append(append([]errorfs.OpKind{}, opWrite...), opMake...), file: file, nth: 1, lasts: true, err: syscall.ENOSPC}
			cfg := memConfig(faulty(mem, fault))
			cfg.DiskPollInterval = time.Millisecond
			s := mustOpen(t, cfg)
			mustPut(t, s, 0, base.K("a", ""), 1, "x")
			fault.armed.Store(true)
			done := make(chan error, 1)
			go func() {
				err := write(s, func(b *Batch) { b.Put(0, base.K("b", ""), Record{Version: 2, Value: []byte("y")}) })
				if err == nil {
					err = s.Flush(t.Context())
				}
				done <- err
			}()
			becomes(t, "full", func() bool { return s.Writable() != nil })
			wantErr(t, "Writable", s.Writable(), base.ErrNoSpace)
			wantGet(t, s, 0, base.K("a", ""), 1, "x")
			fault.armed.Store(false)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			becomes(t, "writable", func() bool { return s.Writable() == nil })
			mustPut(t, s, 0, base.K("c", ""), 3, "z")
			mustClose(t, s)
			s = mustOpen(t, memConfig(mem))
			wantGet(t, s, 0, base.K("b", ""), 2, "y")
			wantGet(t, s, 0, base.K("c", ""), 3, "z")
		})
	}
}

// TestCloseWithFullDisk: Close does not wait for space. What was acknowledged
// is found again.
func TestCloseWithFullDisk(t *testing.T) {
	for _, file := range []string{".log", ".sst", "MANIFEST"} {
		mem := vfs.NewMem()
		fault := &diskFault{kinds: append(append([]errorfs.OpKind{}, opWrite...), opMake...), file: file, nth: 1, lasts: true, err: syscall.ENOSPC}
		cfg := memConfig(faulty(mem, fault))
		cfg.DiskPollInterval = time.Millisecond
		s := mustOpen(t, cfg)
		mustPut(t, s, 0, base.K("a", ""), 1, "x")
		fault.armed.Store(true)
		wantErr(t, "Close", s.Close(), base.ErrNoSpace)
		s = mustOpen(t, memConfig(mem))
		wantGet(t, s, 0, base.K("a", ""), 1, "x")
		mustClose(t, s)
	}
}

// budgetFS is a disk with room for so many bytes; removing gives none back.
type budgetFS struct {
	left atomic.Int64
}

// MaybeError implements errorfs.Injector. Sizes are not known here, so each
// write counts as one block.
func (b *budgetFS) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpCreate, errorfs.OpReuseForWrite:
		if b.left.Add(-1) < 0 {
			return &errInjected{op: op, err: syscall.ENOSPC}
		}
	}
	return nil
}

func (b *budgetFS) String() string { return "budget" }

// TestDiskFullAnywhere: the disk fills up at random moments; nothing
// acknowledged is lost, whether space comes back or the store is closed.
func TestDiskFullAnywhere(t *testing.T) {
	r := testkit.Rand(t)
	rounds := 100
	if testing.Short() || invariants.Enabled {
		rounds = 20
	}
	for round := range rounds {
		mem, budget := vfs.NewMem(), &budgetFS{}
		budget.left.Store(1 << 40)
		cfg := memConfig(faulty(mem, budget))
		cfg.DiskPollInterval = time.Millisecond
		s := mustOpen(t, cfg)
		budget.left.Store(r.Int64N(200))
		acked := make(chan int, 1)
		go func() {
			n := 0
			defer func() { acked <- n }()
			for ; n < 400; n++ {
				err := write(s, func(b *Batch) {
					b.Put(0, testKey(n), Record{Version: base.Version(n + 1), Value: make([]byte, 8000)})
				})
				if err == nil && n%100 == 50 {
					err = s.Compact(t.Context(), nil)
				}
				if err != nil {
					if sentinels(err) != 1 {
						t.Errorf("round %d: untyped error %v", round, err)
					}
					return
				}
			}
		}()
		becomes(t, "full", func() bool { return budget.left.Load() < 0 })
		if _, err := s.Space(0).Get(testKey(0)); err != nil {
			t.Fatalf("round %d: read on a full disk: %v", round, err)
		}
		if round%2 == 0 {
			budget.left.Store(1 << 40)
			if n := <-acked; n != 400 {
				t.Fatalf("round %d: writes did not resume: %d", round, n)
			}
			mustClose(t, s)
			acked <- 400
		} else if err := s.Close(); err == nil || sentinels(err) != 1 {
			t.Fatalf("round %d: Close: %v", round, err)
		}
		s = mustOpen(t, memConfig(mem))
		for n := range <-acked {
			if head, err := s.Space(0).Head(testKey(n)); err != nil || head.Version != base.Version(n+1) {
				t.Fatalf("round %d: key %d is %+v, %v", round, n, head, err)
			}
		}
		mustClose(t, s)
	}
}
