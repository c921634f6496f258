package hostfs

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/lni/dragonboat/v4"

	"github.com/distributedcache/cache/internal/testkit"
)

// failing is a disk of which one change fails, and every later one with it.
type failing struct {
	after  int64 // changes that still succeed
	err    error
	seen   atomic.Int64
	failed atomic.Int64
}

// String implements errorfs.Injector.
func (f *failing) String() string { return "failing" }

// MaybeError implements errorfs.Injector.
func (f *failing) MaybeError(op errorfs.Op) error {
	change := op.Kind.ReadOrWrite() == errorfs.OpIsWrite || op.Kind == errorfs.OpOpenDir
	if !change || op.Kind == errorfs.OpLock || !strings.Contains(op.Path, "snapshot-") || f.seen.Add(1) <= f.after {
		return nil
	}
	f.failed.Add(1)
	return f.err
}

// over returns a file system on the failing disk.
func (f *failing) over(inner vfs.FS) vfs.FS { return creating{errorfs.Wrap(inner, f), f} }

// creating lets opening a file for writing fail, which errorfs takes for one
// for reading.
type creating struct {
	vfs.FS
	disk *failing
}

// OpenReadWrite implements vfs.FS.
func (c creating) OpenReadWrite(
	name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption,
) (vfs.File, error) {
	if err := c.disk.MaybeError(errorfs.Op{Kind: errorfs.OpCreate, Path: name}); err != nil {
		return nil, err
	}
	return c.FS.OpenReadWrite(name, category, opts...)
}

// TestFailedDiskDoesNotPanic lets each change of a snapshot fail in turn. The
// process survives it, the host serves on as far as it has no need of the
// disk, and the disk is left as it was: the next host starts from it.
func TestFailedDiskDoesNotPanic(t *testing.T) {
	every := int64(1)
	if testing.Short() {
		every = 7
	}
	points := int64(0)
	for after := int64(0); ; after += every {
		disk := &failing{after: after, err: syscall.EIO}
		if points%2 == 1 {
			disk.err = syscall.ENOSPC
		}
		if !failedDisk(t, disk) || t.Failed() {
			break
		}
		points++
	}
	t.Logf("%d points", points)
	if points < 40/every {
		t.Errorf("only %d changes were made to fail", points)
	}
}

// failedDisk runs a host on the disk and reports whether a change failed.
func failedDisk(t *testing.T, disk *failing) bool {
	t.Helper()
	mem := vfs.NewMem()
	var reported atomic.Int64
	fs := New(disk.over(mem), Config{Root: testRoot, OnError: func(string, error) { reported.Add(1) }})
	nh := openHost(t, fs, testRoot, logElsewhere{})
	started := tryStartReplica(t, nh, fs)
	if started {
		for _, command := range []string{"a", "b"} {
			propose(t, nh, command)
			_ = takeSnapshot(t, nh) // refused once the disk is dead
		}
		if got := read(t, nh, "b"); got != 1 {
			t.Errorf("after the failure at %d: %d times b", disk.after, got)
		}
	}
	nh.Close()
	failed := disk.failed.Load() > 0
	if failed != (reported.Load() > 0) || failed != fs.Dead() {
		t.Errorf("%d failed, %d reported, dead: %t", disk.failed.Load(), reported.Load(), fs.Dead())
	}
	openHost(t, New(mem, Config{Root: testRoot, OnError: failOnError(t)}), testRoot, logElsewhere{}).Close()
	return failed
}

// tryStartReplica reports whether the replica starts. It may only not do so
// because the disk is dead.
func tryStartReplica(t *testing.T, nh *dragonboat.NodeHost, fs *FS) bool {
	t.Helper()
	err := startOnly(nh)
	if err != nil && (!fs.Dead() || !errors.Is(err, dragonboat.ErrReplicaRemoved)) {
		t.Errorf("StartReplica: %v, dead: %t", err, fs.Dead())
	}
	return err == nil
}

func TestDeadDiskRefuses(t *testing.T) {
	disk := &failing{err: syscall.EIO}
	fs := New(disk.over(vfs.NewMem()), Config{Root: testRoot})
	nh := openHost(t, fs, testRoot, logElsewhere{})
	defer nh.Close()
	if _, err := fs.Create("/node/x/snapshot-1"); err != nil || !fs.Dead() {
		t.Fatalf("create: %v, dead: %t", err, fs.Dead())
	}
	if tryStartReplica(t, nh, fs) {
		t.Error("a replica started on a dead disk")
	}
	if _, err := fs.Lock("/node/LOCK"); err == nil {
		t.Error("locked a dead disk")
	}
}

// TestFailedDiskWhileReceiving lets each change of a snapshot that comes from
// another host fail. The receiver does not get it and does not panic.
func TestFailedDiskWhileReceiving(t *testing.T) {
	every := int64(4)
	if testing.Short() {
		every = 10
	}
	points := int64(0)
	for after := int64(0); receive(t, &failing{after: after, err: syscall.EIO}) && !t.Failed(); after += every {
		points++
	}
	t.Logf("%d points", points)
	if points < 24/every {
		t.Errorf("only %d changes were made to fail", points)
	}
}

// receive lets a host with this disk join another whose log is compacted, and
// reports whether a change failed.
func receive(t *testing.T, disk *failing) bool {
	t.Helper()
	sender := openHostAt(t, "sender", New(vfs.NewMem(), Config{Root: testRoot, OnError: failOnError(t)}))
	defer sender.Close()
	if err := startOnly(sender); err != nil {
		t.Fatal(err)
	}
	propose(t, sender, strings.Repeat("large", 1<<19))
	propose(t, sender, "a")
	if err := takeSnapshot(t, sender); err != nil {
		t.Fatal(err)
	}
	ctx := testkit.Context(t)
	if err := sender.SyncRequestAddNonVoting(ctx, testShard, 2, "receiver", 0); err != nil {
		t.Fatal(err)
	}
	fs := New(disk.over(vfs.NewMem()), Config{Root: testRoot})
	receiver := openHostAt(t, "receiver", fs)
	defer receiver.Close()
	if err := startMember(receiver, 2, nil); err != nil {
		return fs.Dead()
	}
	testkit.Eventually(t, time.Minute, "the snapshot, or the fault", func() bool {
		got, err := receiver.StaleRead(testShard, "a")
		return fs.Dead() || err == nil && got == 1
	})
	propose(t, sender, "b")
	return fs.Dead()
}
