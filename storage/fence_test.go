package storage

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/distributedcache/cache/internal/base"
)

// diskFault is one failure of the disk: the nth operation of some kinds on
// some files fails, and if it is a lasting one all later ones of them too.
type diskFault struct {
	name   string
	kinds  []errorfs.OpKind
	file   string // prefix or suffix of the base name
	nth    int64
	lasts  bool
	err    error
	armed  atomic.Bool
	counts atomic.Int64
}

func (f *diskFault) MaybeError(op errorfs.Op) error {
	name := path.Base(op.Path)
	if !f.armed.Load() || (!strings.HasPrefix(name, f.file) && !strings.HasSuffix(name, f.file)) {
		return nil
	}
	for _, kind := range f.kinds {
		if op.Kind != kind {
			continue
		}
		if n := f.counts.Add(1); n == f.nth || (f.lasts && n > f.nth) {
			return &errInjected{op: op, err: f.err}
		}
	}
	return nil
}

func (f *diskFault) String() string { return f.name }

type errInjected struct {
	op  errorfs.Op
	err error
}

func (e *errInjected) Error() string { return fmt.Sprintf("injected at %s: %v", e.op.Path, e.err) }
func (e *errInjected) Unwrap() error { return e.err }

var (
	opWrite = []errorfs.OpKind{errorfs.OpFileWrite, errorfs.OpFileWriteAt}
	opSync  = []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo}
	opMake  = []errorfs.OpKind{errorfs.OpCreate, errorfs.OpReuseForWrite}
)

func diskFaults() (faults []*diskFault) {
	for _, lasts := range []bool{false, true} {
		add := func(name, file string, nth int64, kinds []errorfs.OpKind) {
			if lasts {
				name += ", lasting"
			}
			faults = append(faults, &diskFault{name: name, file: file, nth: nth, kinds: kinds, lasts: lasts, err: syscall.EIO})
		}
		for _, nth := range []int64{1, 7} {
			add(fmt.Sprintf("log write %d", nth), ".log", nth, opWrite)
			add(fmt.Sprintf("log sync %d", nth), ".log", nth, opSync)
		}
		add("log create", ".log", 1, opMake)
		add("manifest write", "MANIFEST", 2, opWrite)
		add("manifest sync", "MANIFEST", 1, opSync)
		add("table create", ".sst", 2, opMake)
		add("table write", ".sst", 3, opWrite)
		add("table sync", ".sst", 1, opSync)
		add("directory sync", "data", 1, opSync)
	}
	return faults
}

// TestDiskFailureFences: whatever fails, every caller gets a typed error,
// nobody hangs, OnFence is called once, Close returns, and the directory then
// holds every write that was acknowledged.
func TestDiskFailureFences(t *testing.T) {
	for _, fault := range diskFaults() {
		for _, durability := range []Durability{Synced, Volatile} {
			if durability == Volatile && strings.HasPrefix(fault.name, "log") {
				continue
			}
			t.Run(fmt.Sprintf("%v/%v", fault.name, durability), func(t *testing.T) {
				f := *fault.clone()
				testDiskFailure(t, &f, durability)
			})
		}
	}
}

func (f *diskFault) clone() *diskFault {
	return &diskFault{name: f.name, kinds: f.kinds, file: f.file, nth: f.nth, lasts: f.lasts, err: f.err}
}

func testDiskFailure(t *testing.T, fault *diskFault, durability Durability) {
	mem := vfs.NewCrashableMem()
	cfg := memConfig(faulty(mem, fault))
	cfg.Durability = durability
	var told atomic.Int32
	cfg.OnFence = func(err error) { told.Add(1) }
	s := mustOpen(t, cfg)
	fault.armed.Store(true)

	w := &ackedWriters{s: s, value: make([]byte, 2000)}
	w.run(t, 4)
	fault.armed.Store(false) // a fenced store stays fenced when the disk recovers

	select {
	case <-s.Fenced():
	case <-time.After(10 * time.Second):
		t.Fatal("not fenced")
	}
	wantErr(t, "Err", s.Err(), base.ErrUnavailable)
	if !errors.Is(s.Err(), syscall.EIO) {
		t.Fatalf("cause %v", s.Err())
	}
	_, getErr := s.Space(0).Get(base.K("w0", "0"))
	wantErr(t, "Get", getErr, base.ErrUnavailable)
	wantErr(t, "Sync", s.Sync(), base.ErrUnavailable)
	wantErr(t, "Flush", s.Flush(t.Context()), base.ErrUnavailable)
	wantErr(t, "Writable", s.Writable(), base.ErrUnavailable)
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})

	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		wantErr(t, "Close", err, base.ErrUnavailable)
	case <-time.After(20 * time.Second):
		t.Fatal("Close hangs")
	}
	if told.Load() != 1 {
		t.Fatalf("OnFence was called %d times", told.Load())
	}
	w.check(t, crashed, durability)
	w.check(t, mem, durability)
}

// ackedWriters write until they are refused and remember what was
// acknowledged.
type ackedWriters struct {
	s     *Store
	value []byte
	acked []int // by writer: how many of its keys
}

// run returns when every writer was refused. All of them call Sync or Flush
// now and then.
func (w *ackedWriters) run(t *testing.T, writers int) {
	w.acked = make([]int, writers)
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() { errs[i] = w.write(i) })
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("writers hang")
	}
	for i, err := range errs {
		wantErr(t, fmt.Sprintf("writer %d", i), err, base.ErrUnavailable)
	}
}

func (w *ackedWriters) write(i int) error {
	for n := 0; ; n++ {
		err := write(w.s, func(b *Batch) {
			b.Put(base.ShardID(i), w.key(i, n), Record{Version: base.Version(n + 1), Value: w.value})
		})
		if err == nil && w.s.cfg.Durability != Synced && n%50 == 0 {
			if err = w.s.Sync(); err == nil {
				w.acked[i] = n + 1
			}
		}
		if err == nil && n%400 == 399 && i == 0 {
			err = w.s.Compact(context.Background(), nil)
		}
		if err != nil {
			return err
		}
		if w.s.cfg.Durability == Synced {
			w.acked[i] = n + 1
		}
	}
}

func (w *ackedWriters) key(i, n int) base.Key { return base.K(fmt.Sprint("w", i), fmt.Sprint(n)) }

func (w *ackedWriters) check(t *testing.T, fs *vfs.MemFS, durability Durability) {
	t.Helper()
	cfg := memConfig(fs)
	cfg.Durability = durability
	s, err := Open(cfg)
	if err != nil {
		t.Fatal("reopen:", err)
	}
	defer mustClose(t, s)
	for i, acked := range w.acked {
		for n := range acked {
			wantGet(t, s, base.ShardID(i), w.key(i, n), base.Version(n+1), string(w.value))
		}
	}
}

// TestFenceWhileIdle: a failure nobody waits for is noticed all the same.
func TestFenceOnFlush(t *testing.T) {
	fault := &diskFault{kinds: opMake, file: ".sst", nth: 1, err: syscall.EIO}
	s := mustOpen(t, memConfig(faulty(vfs.NewMem(), fault)))
	mustPut(t, s, 0, base.K("a", ""), 1, "x")
	fault.armed.Store(true)
	wantErr(t, "Flush", s.Flush(t.Context()), base.ErrUnavailable)
	wantErr(t, "Close", s.Close(), base.ErrUnavailable)
	wantErr(t, "Close again", s.Close(), base.ErrUnavailable)
}

// TestFailureOfClose: what fails while closing is an error of Close.
func TestFailureOfClose(t *testing.T) {
	fault := &diskFault{kinds: opSync, file: ".sst", nth: 1, err: syscall.EIO}
	s := mustOpen(t, memConfig(faulty(vfs.NewMem(), fault)))
	mustPut(t, s, 0, base.K("a", ""), 1, "x")
	fault.armed.Store(true)
	wantErr(t, "Close", s.Close(), base.ErrUnavailable)
}

// TestFailureOfOpen: every write that Open makes may fail, and the error is
// typed. The next Open works.
func TestFailureOfOpen(t *testing.T) {
	for _, errno := range []error{syscall.EIO, syscall.ENOSPC} {
		want := map[error]error{syscall.EIO: base.ErrUnavailable, syscall.ENOSPC: base.ErrNoSpace}[errno]
		for nth := int64(1); ; nth++ {
			mem := vfs.NewMem()
			fault := &diskFault{
				kinds: append(append(append([]errorfs.OpKind{errorfs.OpRename}, opWrite...), opSync...), opMake...),
				nth:   nth, err: errno, lasts: true,
			}
			fault.armed.Store(true)
			s, err := Open(memConfig(faulty(mem, fault)))
			if err == nil {
				if err := s.Close(); err != nil { // it writes too
					wantErr(t, "Close", err, want)
				}
				if nth < 10 {
					t.Fatalf("Open makes only %d writes?", nth)
				}
				break
			}
			wantErr(t, fmt.Sprintf("operation %d", nth), err, want)
			mustClose(t, mustOpen(t, memConfig(mem)))
		}
	}
}

// TestPanicFences: if committing panics, that caller gets an error and so do
// all others; Close returns although the engine's locks are lost.
func TestPanicFences(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for closePatience")
	}
	s := mustOpen(t, Config{})
	defer func() { _ = s.Close() }()
	b := s.NewBatch()
	func() {
		var err error
		defer func() { wantErr(t, "commit", err, base.ErrUnavailable) }()
		defer b.crashed(&err)
		panic("broken")
	}()
	wantErr(t, "Put", write(s, func(b *Batch) { b.Put(0, base.K("a", ""), Record{Version: 1}) }), base.ErrUnavailable)
	wantErr(t, "Close", s.Close(), base.ErrUnavailable)
}

// TestFatalOfTheEngineFences: the engine's last resort does not end the
// process.
func TestFatalOfTheEngineFences(t *testing.T) {
	s := openMem(t)
	s.events.Fatalf("cannot go on: %v", &errInjected{err: syscall.EIO})
	wantErr(t, "Err", s.Err(), base.ErrUnavailable)
	if !errors.Is(s.Err(), syscall.EIO) {
		t.Fatal(s.Err())
	}
	wantErr(t, "Close", s.Close(), base.ErrUnavailable)
}

// TestBackgroundFailures: what the engine would retry for ever fences.
func TestBackgroundFailures(t *testing.T) {
	s := openMem(t)
	for range maxBackgroundFailures - 1 {
		s.events.backgroundError(errors.New("some failure"))
	}
	s.events.backgroundError(syscall.ENOSPC)
	if s.Err() != nil {
		t.Fatal("fenced too early:", s.Err())
	}
	s.events.backgroundDone(nil)
	s.events.backgroundError(errors.New("some failure"))
	if s.Err() != nil {
		t.Fatal("success does not count:", s.Err())
	}
	for range maxBackgroundFailures {
		s.events.backgroundError(errors.New("some failure"))
	}
	wantErr(t, "Err", s.Err(), base.ErrUnavailable)
}

// TestStallEnds: writers that wait for compactions go on when those caught
// up, when the store is fenced and when it is closed.
func TestStallEnds(t *testing.T) {
	for what, end := range map[string]func(s *Store){
		"caught up": func(s *Store) { s.poke() },
		"fenced":    func(s *Store) { s.fence.Trip(base.ErrUnavailable) },
		"closed":    func(s *Store) { _ = s.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			s := openMem(t)
			s.stalled.Store(&stall{over: make(chan struct{})})
			written := make(chan error, 1)
			go func() {
				written <- write(s, func(b *Batch) { b.Put(0, base.K("a", ""), Record{Version: 1}) })
			}()
			end(s)
			select {
			case err := <-written:
				if (what == "caught up") != (err == nil) {
					t.Fatal(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("the writer hangs")
			}
		})
	}
}

// injectFS is errorfs.FS with faults in reused files too, which that forgets
// to wrap: the engine reuses its logs.
type injectFS struct {
	*errorfs.FS
	inj errorfs.Injector
}

func faulty(fs vfs.FS, inj errorfs.Injector) vfs.FS { return injectFS{errorfs.Wrap(fs, inj), inj} }

func (fs injectFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := fs.inj.MaybeError(errorfs.Op{Kind: errorfs.OpReuseForWrite, Path: newname}); err != nil {
		return nil, err
	}
	if err := fs.Unwrap().Rename(oldname, newname); err != nil {
		return nil, err
	}
	return fs.OpenReadWrite(newname, category)
}
