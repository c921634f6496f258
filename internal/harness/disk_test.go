package harness

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
)

var diskAll = flag.Bool("diskall", false, "let every kind of file fail, instead of some at random, and fill many disks")

// untilSeen is how long tests here wait for what must happen in the end: far more
// than a busy machine needs.
const untilSeen = 2 * time.Minute

// writePause is between two writes of one writer, and fillBytes how large those are
// that are to fill files: a crashable file in memory is copied as a whole by each
// sync, so a few large writes fill one much sooner than many small ones.
const (
	writePause = 20 * time.Millisecond
	fillBytes  = 256 << 10
)

// diskCluster is a cluster whose disks do what they are told.
type diskCluster struct {
	*Cluster
	mu     sync.Mutex
	disks  map[string]*Disk         // of the newest life of each node
	fatals map[string]*atomic.Int32 // calls of OnFatal in that life
}

func newDiskCluster(t *testing.T, cfg ClusterConfig) *diskCluster {
	d := &diskCluster{disks: map[string]*Disk{}, fatals: map[string]*atomic.Int32{}}
	tune := cfg.Tune
	cfg.Tune = func(nc *node.Config) {
		disk, fatals := NewDisk(nc.Storage.FS), new(atomic.Int32)
		nc.Storage.FS = disk
		nc.OnFatal = func(error) { fatals.Add(1) }
		d.mu.Lock()
		d.disks[nc.Raft.Node], d.fatals[nc.Raft.Node] = disk, fatals
		d.mu.Unlock()
		if tune != nil {
			tune(nc)
		}
	}
	d.Cluster = NewCluster(t, cfg)
	if err := d.Ready(testkit.Context(t)); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *diskCluster) disk(i int) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.disks[d.peers[i].Node]
}

func (d *diskCluster) fatalCalls(i int) int32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fatals[d.peers[i].Node].Load()
}

// keepWriting counts up in counters until stop is called: counter k through node
// k modulo the number of nodes, but for those that avoid names.
func (d *diskCluster) keepWriting(ctx context.Context, counters []*counter, avoid int) (stop func()) {
	work, cancel := context.WithCancel(ctx)
	var writers sync.WaitGroup
	for i, k := range counters {
		via := i % d.Nodes()
		if via == avoid {
			via = (via + 1) % d.Nodes()
		}
		writers.Go(func() {
			for work.Err() == nil {
				call, end := context.WithTimeout(work, time.Second)
				k.write(call, d.Client(via))
				end()
				time.Sleep(writePause)
			}
		})
	}
	return func() { cancel(); writers.Wait() }
}

func newCounters(n int) []*counter {
	counters := make([]*counter, n)
	for i := range counters {
		counters[i] = &counter{key: base.K(fmt.Sprint("counter/", i), "")}
	}
	return counters
}

func promised(counters []*counter) []uint64 {
	floors := make([]uint64, len(counters))
	for i, k := range counters {
		floors[i] = k.promised.Load()
	}
	return floors
}

// eachAdvances waits until every counter has been acknowledged anew: all shards take
// writes.
func eachAdvances(t *testing.T, what string, counters []*counter) {
	t.Helper()
	before := promised(counters)
	testkit.Eventually(t, untilSeen, what, func() bool {
		for i, k := range counters {
			if k.promised.Load() <= before[i] {
				return false
			}
		}
		return true
	})
}

// mustHave finds through every node what was acknowledged.
func (d *diskCluster) mustHave(ctx context.Context, t *testing.T, counters []*counter) {
	t.Helper()
	if err := d.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	floors := promised(counters)
	for node := range d.Nodes() {
		for i, k := range counters {
			k.check(ctx, t, d.Client(node), floors[i])
		}
	}
}

// TestStalledDisk lets the disk of each node stand still in turn, for longer than an
// election takes: that of the leader of some shards and of a follower of others.
// Writes to all shards go on through the others meanwhile; then the node catches up.
// After that each disk is slow for a while. The history of all clients, also of those
// at the slow node, can be explained.
func TestStalledDisk(t *testing.T) {
	rng := testkit.Rand(t)
	d := newDiskCluster(t, ClusterConfig{Nodes: 3, Shards: 4, Seed: rng.Uint64()})
	ctx := testkit.Context(t)
	rec := NewRecorder(2_000_000)
	w := Workload{Clients: 12, Keys: Keys(100), Timeout: 500 * time.Millisecond, Rand: testkit.Fork(rng)}
	work, end := context.WithCancel(ctx)
	var clients sync.WaitGroup
	clients.Go(func() { w.Run(work, rec, d.Client) })
	counters := newCounters(16) // keys of all shards
	for i := range d.Nodes() {
		stop := d.keepWriting(ctx, counters, i)
		resume := d.disk(i).Stall()
		stalled := time.Now()
		eachAdvances(t, "writes while a disk stands still", counters)
		first := time.Since(stalled)
		for time.Since(stalled) < 5*15*10*time.Millisecond { // elections after 15 ticks of 10 ms
			eachAdvances(t, "more writes while a disk stands still", counters)
		}
		t.Logf("node %d: all shards were written %v after its disk had stopped", i, first)
		resume()
		if err := d.node(i).Ready(ctx); err != nil {
			t.Fatalf("node %d after its disk has moved again: %v", i, err)
		}
		d.disk(i).Slow(20 * time.Millisecond)
		for range 3 {
			eachAdvances(t, "writes while a disk is slow", counters)
		}
		d.disk(i).Slow(0)
		stop()
		d.mustHave(ctx, t, counters)
		if err := d.node(i).Err(); err != nil {
			t.Errorf("node %d was only slow: %v", i, err)
		}
	}
	end()
	clients.Wait()
	if err := errors.Join(d.Ready(ctx), w.ReadFinally(ctx, rec, d.Client(0))); err != nil {
		t.Fatal(err)
	}
	h := rec.History()
	t.Log(h.Stats())
	mustBeExplained(t, h)
	d.MustAgree(ctx)
}

// diskFaults are what can fail of a node: each kind of file that it writes.
var diskFaults = []struct {
	name  string
	fault DiskFault
	fills bool // files have to be filled first, which takes long with the race detector
}{
	{"raft log: log write", DiskFault{Dir: "/raft/log/", File: ".log"}, false},
	{"raft log: log sync", DiskFault{Dir: "/raft/log/", File: ".log", Sync: true}, false},
	{"raft log: table write", DiskFault{Dir: "/raft/log/", File: ".sst"}, true},
	{"raft log: table sync", DiskFault{Dir: "/raft/log/", File: ".sst", Sync: true}, true},
	{"raft log: manifest write", DiskFault{Dir: "/raft/log/", File: "MANIFEST"}, true},
	{"raft log: manifest sync", DiskFault{Dir: "/raft/log/", File: "MANIFEST", Sync: true}, true},
	{"raft: write", DiskFault{Dir: "/raft/host/"}, false},
	{"raft: sync", DiskFault{Dir: "/raft/host/", Sync: true}, false},
	{"data: table write", DiskFault{Dir: "/data/", File: ".sst"}, true},
	{"data: table sync", DiskFault{Dir: "/data/", File: ".sst", Sync: true}, true},
	{"data: manifest write", DiskFault{Dir: "/data/", File: "MANIFEST"}, true},
	{"data: manifest sync", DiskFault{Dir: "/data/", File: "MANIFEST", Sync: true}, true},
	{"data: seal write", DiskFault{Dir: "/data/", File: "SEAL"}, true},
	{"data: seal sync", DiskFault{Dir: "/data/", File: "SEAL", Sync: true}, true},
}

// TestDiskErrors lets the disk of one node of three fail, at some write or sync of
// each kind of file, or of some at random: the node fences itself and says so once,
// the others go on, and when it starts again on a disk that works, everything that
// was acknowledged is there, on every node.
func TestDiskErrors(t *testing.T) {
	rng := testkit.Rand(t)
	d := newDiskCluster(t, ClusterConfig{Nodes: 3, Shards: 3, Seed: rng.Uint64(), Tune: func(cfg *node.Config) {
		cfg.Raft.SnapshotEntries, cfg.Raft.KeepEntries = 100, 10
	}})
	counters := newCounters(9)
	some, every := rng.IntN(3), 3
	if *diskAll {
		every = 1
	}
	quick := testing.Short() || invariants.Enabled
	for at, c := range diskFaults {
		if at%every != some%every || quick && c.fills {
			continue
		}
		c.fault.Nth = 1 + rng.IntN(5)
		c.fault.Err = syscall.EIO
		if c.fault.Dir != "/data/" && rng.IntN(2) == 0 { // the data store waits for space
			c.fault.Err = syscall.ENOSPC
		}
		valueBytes := 1 << 10 // many entries
		if c.fills {
			valueBytes = fillBytes
		}
		d.failDisk(t, rng, c.name, c.fault, at%3, valueBytes, counters)
		if t.Failed() {
			return
		}
	}
	d.MustAgree(testkit.Context(t))
}

// failDisk makes the disk of a node fail and repairs it.
func (d *diskCluster) failDisk(t *testing.T, rng *rand.Rand, name string, fault DiskFault, victim, valueBytes int, counters []*counter) {
	t.Helper()
	ctx := testkit.Context(t)
	if err := d.Ready(ctx); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	n, disk := d.node(victim), d.disk(victim)
	stop := d.keepWriting(ctx, counters, victim)
	began := time.Now()
	disk.Fail(fault)
	d.fillUntil(ctx, t, n.Done(), valueBytes)
	t.Logf("%s, %v at the %d.: node %d is fenced after %v", name, fault.Err, fault.Nth, victim, time.Since(began).Round(time.Millisecond))
	if d.node(victim) != n || disk.Hits() == 0 {
		t.Errorf("%s: nothing has failed", name)
	}
	want := base.ErrUnavailable
	if errors.Is(fault.Err, syscall.ENOSPC) {
		want = base.ErrNoSpace
	}
	if err := n.Err(); !errors.Is(err, want) || !errors.Is(err, fault.Err) {
		t.Errorf("%s: the node ended with %v, want %v", name, err, want)
	}
	_, err := n.Get(ctx, counters[0].key, base.ReadOptions{Stale: true, MaxStale: time.Hour})
	var e *base.Error
	if !errors.As(err, &e) || e.Outcome != base.OutcomeNotApplied {
		t.Errorf("%s: the fenced node answers a read with %v", name, err)
	}
	_, err = n.Write(ctx, base.Write{Key: counters[0].key, Value: []byte("fenced")}, base.RequestID{})
	if !errors.As(err, &e) || e.Outcome != base.OutcomeNotApplied {
		t.Errorf("%s: the fenced node answers a write with %v", name, err)
	}
	testkit.Eventually(t, untilSeen, "OnFatal", func() bool { return d.fatalCalls(victim) == 1 })
	eachAdvances(t, name+": writes without the failed node", counters)
	stop()
	d.Crash(rng, 50*rng.IntN(3), victim)
	d.Start(victim)
	if calls := d.fatalCalls(victim); calls > 1 {
		t.Errorf("%s: OnFatal was called %d times", name, calls)
	}
	d.mustHave(ctx, t, counters)
}

// fillUntil writes much to all shards until done is closed.
func (d *diskCluster) fillUntil(ctx context.Context, t *testing.T, done <-chan struct{}, valueBytes int) {
	t.Helper()
	work, cancel := context.WithTimeout(ctx, untilSeen)
	defer cancel()
	var writers sync.WaitGroup
	for w := range 6 {
		writers.Go(func() {
			value := bytes.Repeat([]byte{byte(w)}, valueBytes)
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				case <-work.Done():
					return
				default:
				}
				call, end := context.WithTimeout(work, time.Second)
				binary.BigEndian.PutUint64(value, uint64(i))
				_, _ = d.Client(w).Put(call, base.K(fmt.Sprintf("fill/%d/%d", w, i%8), ""), value, base.Cond{})
				end()
			}
		})
	}
	writers.Wait()
	select {
	case <-done:
	default:
		t.Fatal("the disk has failed and the node has not noticed")
	}
}

// TestFullDisks gives one node of three a disk of random size that fills up. As long
// as it has its reserve it refuses writes and answers reads; if others make it write
// beyond that, it fences itself. The others go on, and with room again all that was
// acknowledged is there.
func TestFullDisks(t *testing.T) {
	const reserve = 1 << 20
	rng := testkit.Rand(t)
	d := newDiskCluster(t, ClusterConfig{Nodes: 3, Shards: 3, Seed: rng.Uint64(), Tune: func(cfg *node.Config) {
		cfg.Storage.DiskReserveBytes, cfg.Storage.DiskPollInterval = reserve, time.Millisecond
		cfg.Raft.SnapshotEntries, cfg.Raft.KeepEntries = 100, 10
	}})
	ctx := testkit.Context(t)
	counters := newCounters(9)
	rounds := 2
	if *diskAll {
		rounds = 20
	}
	var refused int
	for round := range rounds {
		victim := round % 3
		n := d.node(victim)
		stop := d.keepWriting(ctx, counters, victim)
		d.disk(victim).Limit(reserve + rng.Int64N(4<<20))
		refused += d.fillThrough(ctx, t, n)
		if n.Err() == nil { // at its reserve
			_, err := n.Get(ctx, counters[0].key, base.ReadOptions{})
			if err != nil && !errors.Is(err, base.ErrNotFound) && n.Err() == nil {
				t.Errorf("a node without space does not answer reads: %v", err)
			}
		}
		d.fillUntil(ctx, t, n.Done(), fillBytes) // through the others, too
		if err := n.Err(); !errors.Is(err, base.ErrNoSpace) {
			t.Errorf("the node ended with %v", err)
		}
		eachAdvances(t, "writes without the node whose disk is full", counters)
		stop()
		d.Crash(rng, 50*rng.IntN(3), victim)
		d.Start(victim) // on a disk with room
		d.mustHave(ctx, t, counters)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d rounds, %d writes refused for want of space", rounds, refused)
	d.MustAgree(ctx)
}

// fillThrough writes through one node until it refuses for want of space or has
// failed. Every error is a typed one.
func (d *diskCluster) fillThrough(ctx context.Context, t *testing.T, n *node.Node) (refused int) {
	t.Helper()
	value := bytes.Repeat([]byte("full"), fillBytes/8)
	deadline := time.Now().Add(untilSeen)
	for i := 0; refused < 3 && n.Err() == nil; i++ {
		if time.Now().After(deadline) {
			t.Fatal("the disk is full and nobody says so")
		}
		call, end := context.WithTimeout(ctx, time.Second)
		_, err := n.Write(call, base.Write{Key: base.K(fmt.Sprint("full/", i%20), ""), Value: value}, base.RequestID{})
		end()
		var e *base.Error
		switch {
		case err == nil:
		case !errors.As(err, &e):
			t.Fatalf("untyped error %v", err)
		case errors.Is(err, base.ErrNoSpace) && e.Outcome == base.OutcomeNotApplied:
			refused++
		}
	}
	return refused
}
