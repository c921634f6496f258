package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/storage"
)

// failingDisk is a disk whose log files fail from a moment on.
func failingDisk(inner storage.FS, broken *atomic.Bool, kinds ...errorfs.OpKind) storage.FS {
	return errorfs.Wrap(inner, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if !broken.Load() || !strings.HasSuffix(op.Path, ".log") {
			return nil
		}
		for _, kind := range kinds {
			if op.Kind == kind {
				return syscall.EIO
			}
		}
		return nil
	}))
}

// TestFailedLogFencesTheNode breaks the disk under the log: the writes in
// flight have an unknown outcome, Done, Err and OnFatal tell, everything else
// is refused, and after a restart what was acknowledged is there.
func TestFailedLogFencesTheNode(t *testing.T) {
	for name, kinds := range map[string][]errorfs.OpKind{
		"write": {errorfs.OpFileWrite, errorfs.OpFileWriteAt},
		"sync":  {errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo},
	} {
		t.Run(name, func(t *testing.T) {
			disk := vfs.NewCrashableMem()
			var broken atomic.Bool
			cfg := testConfig(failingDisk(disk, &broken, kinds...), storage.Synced)
			fatal := make(chan error, 2)
			cfg.OnFatal = func(err error) { fatal <- err }
			n := openTest(t, cfg)
			ctx := testkit.Context(t)
			mustWrite(t, n, put(base.K("before", ""), "v"))
			broken.Store(true)
			_, err := n.Write(ctx, put(base.K("during", ""), "v"), base.RequestID{1})
			e := wantError(t, err, base.ErrIndeterminate, base.OutcomeUnknown, "put")
			if e.RequestID != (base.RequestID{1}) || !errors.Is(err, syscall.EIO) {
				t.Errorf("%#v", e)
			}
			<-n.Done()
			if err := <-fatal; !errors.Is(err, syscall.EIO) || n.Err() == nil {
				t.Errorf("OnFatal(%v), Err %v", err, n.Err())
			}
			_, err = n.Write(ctx, put(base.K("after", ""), "v"), base.RequestID{})
			wantError(t, err, base.ErrUnavailable, base.OutcomeNotApplied, "put")
			_, err = n.Get(ctx, base.K("before", ""), base.ReadOptions{})
			wantError(t, err, base.ErrUnavailable, base.OutcomeNotApplied, "get")
			if h, _ := n.Health(ctx); h.OK || len(h.Problems) == 0 {
				t.Errorf("health %+v", h)
			}
			_ = n.Close()
			again := openTest(t, testConfig(disk.CrashClone(vfs.CrashCloneCfg{}), storage.Synced))
			if _, err := again.Get(ctx, base.K("before", ""), base.ReadOptions{}); err != nil {
				t.Errorf("acknowledged before the failure: %v", err)
			}
		})
	}
}

// fullDisk is a disk of limited size: what is written counts against its
// budget, what is removed does not come back.
type fullDisk struct {
	storage.FS
	budget atomic.Int64
}

func (d *fullDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	free := max(d.budget.Load(), 0)
	return vfs.DiskUsage{AvailBytes: uint64(free), TotalBytes: 1 << 40, UsedBytes: 1<<40 - uint64(free)}, nil
}

// newFullDisk charges every write. A write over the budget gets ENOSPC.
func newFullDisk(budget int64) *fullDisk {
	d := &fullDisk{}
	d.budget.Store(budget)
	d.FS = chargingFS{FS: vfs.NewMem(), charge: func(n int) error {
		if d.budget.Add(-int64(n)) < 0 {
			d.budget.Add(int64(n))
			return syscall.ENOSPC
		}
		return nil
	}}
	return d
}

type chargingFS struct {
	storage.FS
	charge func(int) error
}

func (c chargingFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	return chargingFile{File: f, charge: c.charge}, nil
}

func (c chargingFS) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := c.FS.ReuseForWrite(from, to, category)
	if err != nil {
		return nil, err
	}
	return chargingFile{File: f, charge: c.charge}, nil
}

type chargingFile struct {
	vfs.File
	charge func(int) error
}

func (f chargingFile) Write(p []byte) (int, error) {
	if err := f.charge(len(p)); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

// TestFullDisk fills disks of 100 random sizes while writes go on: each is
// either acknowledged, or refused with ErrNoSpace, or, if its deadline comes
// first, of unknown outcome; reads go on, and once there is room again writes
// resume by themselves.
func TestFullDisk(t *testing.T) {
	rng := testkit.Rand(t)
	disks := 100
	if testing.Short() {
		disks = 10
	}
	var refused, unknown int
	for range disks {
		disk := newFullDisk(int64(50_000 + rng.IntN(4_000_000)))
		cfg := testConfig(disk, storage.Synced)
		cfg.Storage.DiskReserveBytes = int64(rng.IntN(3)) * 20_000 // 0 = default: more than there is
		if cfg.Storage.DiskReserveBytes == 0 {
			cfg.Storage.DiskReserveBytes = -1
		}
		cfg.Storage.DiskPollInterval = time.Millisecond
		n, err := Open(testkit.Context(t), cfg)
		if err != nil {
			if !errors.Is(err, base.ErrNoSpace) {
				t.Errorf("open: %v", err)
			}
			continue
		}
		r, u := fillAndRecover(t, n, disk)
		refused, unknown = refused+r, unknown+u
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d disks, %d writes refused, %d of unknown outcome", disks, refused, unknown)
	if refused == 0 {
		t.Error("no write was refused: the test proves too little")
	}
}

func fillAndRecover(t *testing.T, n *Node, disk *fullDisk) (refused, unknown int) {
	acked := map[base.Key]int{}
	value := strings.Repeat("x", 10_000)
	write := func(i int) error {
		ctx, cancel := context.WithTimeout(context.Background(), 250*time.Millisecond)
		defer cancel()
		key := base.K(fmt.Sprint("k", i%50), "")
		_, err := n.Write(ctx, put(key, strconv.Itoa(i)+value), base.RequestID{})
		if err == nil {
			acked[key] = i
		}
		return err
	}
	for i := 1; refused+unknown < 5; i++ {
		err := write(i)
		var e *base.Error
		switch {
		case err == nil:
		case errors.Is(err, base.ErrNoSpace) && errors.As(err, &e) && e.Outcome == base.OutcomeNotApplied:
			refused++
		case errors.Is(err, context.DeadlineExceeded) && errors.As(err, &e):
			unknown++
		default:
			t.Errorf("write on a full disk: %v", err)
			return refused, unknown
		}
	}
	mustHave := func(when string) {
		for key, i := range acked {
			item, err := n.Get(context.Background(), key, base.ReadOptions{Stale: true})
			got, _, _ := strings.Cut(string(item.Value), "x")
			if seq, _ := strconv.Atoi(got); err != nil || seq < i {
				t.Errorf("%s: %v holds %q, %v; %d was acknowledged", when, key, got, err, i)
			}
		}
	}
	mustHave("on a full disk")
	disk.budget.Add(1 << 30)
	testkit.Eventually(t, time.Minute, "writes to resume", func() bool { return write(1_000_000) == nil })
	mustHave("with room again")
	return refused, unknown
}

const childEnv = "CACHE_TEST_CHILD_DIR"

// TestChildWrites is the process that TestKillProcess kills.
func TestChildWrites(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		t.Skip("only a part of TestKillProcess")
	}
	cfg := testConfig(nil, storage.Synced)
	cfg.Dir = dir
	n, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	from, _ := strconv.Atoi(os.Getenv(childEnv + "_FROM"))
	acks := make(chan string, 1000)
	for w := range 8 {
		go func() {
			for i := from; ; i++ {
				key := base.K(fmt.Sprintf("w%d", w), fmt.Sprint(i))
				if _, err := n.Write(context.Background(), put(key, key.String()), base.RequestID{}); err != nil {
					acks <- "error " + err.Error()
					return
				}
				acks <- fmt.Sprintf("ack %d %d", w, i)
			}
		}()
	}
	for ack := range acks {
		fmt.Println(ack)
	}
}

// TestKillProcess kills a writing process with SIGKILL, again and again, and
// finds every write that it acknowledged.
func TestKillProcess(t *testing.T) {
	kills := 10
	if testing.Short() {
		kills = 3
	}
	dir := t.TempDir()
	rng := testkit.Rand(t)
	acked := map[base.Key]bool{}
	for kill := range kills {
		child := exec.Command(os.Args[0], "-test.run=^TestChildWrites$", "-test.v")
		child.Env = append(os.Environ(), childEnv+"="+dir, fmt.Sprintf("%s_FROM=%d", childEnv, kill*1_000_000))
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		child.Stderr = os.Stderr
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		readAcks(t, out, 200+rng.IntN(2000), acked)
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		readAcks(t, out, 1<<30, acked) // what it said before it died
		_ = child.Wait()
		checkAcked(t, dir, acked)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills, %d writes acknowledged, all found", kills, len(acked))
}

// readAcks reads up to n acknowledgements.
func readAcks(t *testing.T, r io.Reader, n int, acked map[base.Key]bool) {
	t.Helper()
	lines := bufio.NewScanner(r)
	for ; n > 0 && lines.Scan(); n-- {
		var w, i int
		if strings.HasPrefix(lines.Text(), "error ") {
			t.Errorf("child: %s", lines.Text())
		}
		if _, err := fmt.Sscanf(lines.Text(), "ack %d %d", &w, &i); err == nil {
			acked[base.K(fmt.Sprintf("w%d", w), fmt.Sprint(i))] = true
		}
	}
}

func checkAcked(t *testing.T, dir string, acked map[base.Key]bool) {
	t.Helper()
	cfg := testConfig(nil, storage.Synced)
	cfg.Dir = dir
	n := openTest(t, cfg)
	defer n.Close()
	for key := range acked {
		item, err := n.Get(context.Background(), key, base.ReadOptions{})
		if err != nil || string(item.Value) != key.String() {
			t.Errorf("%v was acknowledged: %q, %v", key, item.Value, err)
			return
		}
	}
}
