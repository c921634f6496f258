package replication

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/command"
)

// heldEntries notes the entries of a shard that a node sends to another one, and holds
// the first of them.
type heldEntries struct {
	first   chan struct{} // closed when the first is held
	release chan struct{} // to be closed
	mu      sync.Mutex    // protects kinds
	kinds   [][]command.StepKind
}

func (c *cluster) holdEntries(i int, shard base.ShardID) *heldEntries {
	h := &heldEntries{first: make(chan struct{}), release: make(chan struct{})}
	asking := func(q *ask.Request) {
		e, err := command.DecodeEntry(q.Bytes)
		if q.Kind != ask.Propose || q.Shard != shard || err != nil {
			return
		}
		var kinds []command.StepKind
		for i := range e.Commands {
			kinds = append(kinds, e.Commands[i].Step.Kind)
		}
		h.mu.Lock()
		h.kinds = append(h.kinds, kinds)
		n := len(h.kinds)
		h.mu.Unlock()
		if n == 1 {
			close(h.first)
			<-h.release
		}
	}
	c.nodes[i].remote.asking.Store(&asking)
	return h
}

// entries returns the kinds of the steps in each.
func (h *heldEntries) entries() [][]command.StepKind {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.kinds)
}

// Writes of one shard that come while an entry is on its way share the next one, and do
// not wait for it for ever.
func TestEntriesAreShared(t *testing.T) {
	const writes = 30
	c := onThree(t, 4)
	ctx := testkit.Context(t)
	h := c.hostOf(3) // has no replica, so that each of its entries is a request
	held := c.holdEntries(3, 1)
	put := func(i int) error {
		_, err := h.Write(ctx, &base.Write{Key: keyOn(h, 1, i), Value: []byte("v")}, base.RequestID{})
		return err
	}
	first := make(chan error, 1)
	go func() { first <- put(0) }()
	<-held.first
	rest := make(chan error, writes)
	for i := range writes {
		go func() { rest <- put(1 + i) }()
	}
	for range writes {
		if err := <-rest; err != nil {
			t.Error(err)
		}
	}
	close(held.release)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if entries := held.entries(); len(entries) > maxFlights {
		t.Errorf("entries with steps of kinds %v", entries)
	}
}

// diskFS is a file system in memory that says how much of it is free.
type diskFS struct {
	vfs.FS
	free atomic.Uint64
}

func (fs *diskFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: fs.free.Load(), TotalBytes: 1 << 40}, nil
}

// onDisks is a cluster as onThree, of disks that end.
func onDisks(t *testing.T, nodes int) *cluster {
	c := newCluster(t, nodes)
	c.reserve = 1 << 30
	for _, n := range c.nodes {
		disk := &diskFS{FS: n.fs}
		disk.free.Store(1 << 35)
		n.fs = disk
	}
	return c.foundOnThree()
}

// A leader whose disk is full refuses what fills it, though it comes in one entry with
// what gives keys free; that goes on.
func TestFullLeaderRefusesWhatSharesAnEntry(t *testing.T) {
	c := onDisks(t, 4)
	ctx := testkit.Context(t)
	h := c.hostOf(3)
	key := keyOn(h, 1, 1)
	mustWrite(t, ctx, h, base.Write{Key: key, Value: []byte("old")})
	by := c.prepareOn(ctx, h, []base.Key{key})
	leader := c.leader(1)
	leader.fs.(*diskFS).free.Store(1<<30 - 1<<20)
	testkit.Eventually(t, time.Minute, "a full disk", func() bool { return leader.store.Writable() != nil })

	held := c.holdEntries(3, 1)
	results := make(chan error, 2)
	prepare := func(i int) {
		cmd := command.Command{Step: command.Step{Kind: command.StepPrepare, Holder: by}}
		cmd.Writes = []base.Write{{Key: keyOn(h, 1, i), Value: []byte("v")}}
		results <- h.raft.log.proposeOne(ctx, &command.Txn{Parts: []command.Part{{Shard: 1, Command: cmd}}}, true)
	}
	g := h.raft.log.group(1)
	waiting := func(n int) func() bool {
		return func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.mu.left = time.Now() // the first entry is never late
			return len(g.mu.queue) == n
		}
	}
	go prepare(2)
	<-held.first
	go prepare(3)
	testkit.Eventually(t, time.Minute, "a prepare that waits", waiting(1))
	freed := make(chan error, 1)
	go func() {
		_, err := h.raft.log.step(ctx, 1, command.Step{Kind: command.StepAbort, Holder: by})
		freed <- err
	}()
	testkit.Eventually(t, time.Minute, "a step that waits", waiting(2))
	close(held.release)
	for range cap(results) {
		var e *base.Error
		if err := <-results; !errors.Is(err, base.ErrNoSpace) || !errors.As(err, &e) || e.Outcome != base.OutcomeNotApplied {
			t.Errorf("a prepare on a full disk: %v", err)
		}
	}
	if err := <-freed; err != nil {
		t.Errorf("the step: %v", err)
	}
	entries := held.entries()
	shared := slices.ContainsFunc(entries, func(kinds []command.StepKind) bool { return len(kinds) == 2 })
	if last := entries[len(entries)-1]; !shared || !slices.Equal(last, []command.StepKind{command.StepAbort}) {
		t.Errorf("entries with steps of kinds %v", entries)
	}
}
