package cluster

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/testkit/faultnet"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/shard"
	"github.com/distributedcache/cache/storage"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

var showLogs = flag.Bool("logs", false, "show what the nodes log")

// patience is how long tests wait for what should take seconds.
const patience = 3 * time.Minute

// harness is some nodes in one process.
type harness struct {
	t     *testing.T
	ctx   context.Context
	net   *faultnet.Net
	tune  func(*Config) // of every node that is added from now on
	mu    sync.Mutex    // protects nodes
	nodes []*testNode
}

// testNode is a node whose disk outlives it.
type testNode struct {
	h      *harness
	cfg    Config
	fs     vfs.FS
	files  *memFiles
	alerts *alertLog

	mu       sync.Mutex // protects what follows
	endpoint *faultnet.Endpoint
	store    *storage.Store
	host     *replication.Host
	cluster  *Cluster
	calls    sync.WaitGroup // of run
}

func newHarness(t *testing.T) *harness {
	h := &harness{t: t, ctx: testkit.Context(t), net: faultnet.New(testkit.Seed(t))}
	t.Cleanup(func() {
		for _, n := range h.all() {
			n.stop()
		}
		h.net.Close()
	})
	return h
}

func (h *harness) all() []*testNode {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.nodes)
}

// running returns the nodes that run.
func (h *harness) running() (up []*testNode) {
	for _, n := range h.all() {
		if n.up() {
			up = append(up, n)
		}
	}
	return up
}

// add returns one more node, which knows the addresses of those that run and is
// not started. Without any it will found the cluster.
func (h *harness) add(shards int) *testNode {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := len(h.nodes)
	n := &testNode{h: h, fs: vfs.NewMem(), files: &memFiles{}, alerts: &alertLog{}}
	n.cfg = Config{
		NodeID: fmt.Sprint("node-", i), Address: fmt.Sprintf("n%d:1", i), Name: "test",
		Shards: shards, Replication: 3, Files: n.files, Clock: time.Now, Logger: slog.New(slog.DiscardHandler),
		DeadNodeGrace: time.Hour, MaxClockOffset: 500 * time.Millisecond, Alert: n.alerts.note, Fast: 5,
	}
	if *showLogs {
		n.cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("on", n.cfg.NodeID)
	}
	for _, other := range h.nodes {
		if other.up() {
			n.cfg.Peers = append(n.cfg.Peers, other.cfg.Address)
		}
	}
	if h.tune != nil {
		h.tune(&n.cfg)
	}
	h.nodes = append(h.nodes, n)
	return n
}

// grow adds nodes and starts them, one after the other.
func (h *harness) grow(count, shards int) {
	h.t.Helper()
	for range count {
		h.add(shards).start()
	}
}

func (n *testNode) up() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cluster != nil
}

func (n *testNode) start() {
	n.h.t.Helper()
	if err := n.open(); err != nil {
		n.h.t.Fatalf("%s: %v", n.cfg.NodeID, err)
	}
}

// open starts the node and returns why that is not possible.
func (n *testNode) open() (err error) {
	cfg := n.cfg
	endpoint := n.h.net.Node(cfg.Address)
	cfg.Network = endpoint
	c, err := Open(n.h.ctx, cfg)
	if err != nil {
		return errors.Join(err, endpoint.Close())
	}
	store, err := storage.Open(storage.Config{
		Dir: "/data", FS: n.fs, Shards: c.Shards(), Durability: storage.Volatile, DiskReserveBytes: -1, MemTableBytes: 1 << 20,
	})
	if err != nil {
		c.Close()
		return errors.Join(err, endpoint.Close())
	}
	host, err := replication.OpenRaft(replication.Config{
		Store: store, Clock: cfg.Clock, Logger: cfg.Logger, MaxInFlight: 10_000, RequestRetention: time.Hour, MaxRequests: 10_000,
	}, replication.RaftConfig{
		Dir: "/raft", FS: n.fs, Node: cfg.NodeID, Address: cfg.Address, Network: endpoint, Remote: c.Remote(),
		Tick: 40 * time.Millisecond, // elections must end while every core is busy
	})
	if err != nil {
		c.Close()
		return errors.Join(err, store.Close(), endpoint.Close())
	}
	n.mu.Lock()
	n.endpoint, n.store, n.host, n.cluster = endpoint, store, host, c
	n.mu.Unlock()
	if err = c.Start(n.h.ctx, host); err != nil {
		n.stop()
	}
	return err
}

// take returns what runs, and from then on nothing does as far as others see.
func (n *testNode) take() (c *Cluster, close func()) {
	n.mu.Lock()
	c = n.cluster
	endpoint, host, store := n.endpoint, n.host, n.store
	n.endpoint, n.store, n.host, n.cluster = nil, nil, nil, nil
	n.mu.Unlock()
	return c, func() {
		host.Close()
		n.calls.Wait()
		if err := store.Close(); err != nil {
			n.h.t.Errorf("%s: %v", n.cfg.NodeID, err)
		}
		endpoint.Close()
	}
}

// stop ends the node in good order, once what was begun by run has ended.
func (n *testNode) stop() {
	if c, close := n.take(); c != nil {
		n.calls.Wait()
		c.Close()
		close()
	}
}

// kill ends the node without a word to anybody.
func (n *testNode) kill() {
	n.mu.Lock()
	endpoint := n.endpoint
	n.mu.Unlock()
	if endpoint == nil {
		return
	}
	endpoint.Close()
	c, close := n.take()
	c.stop()
	c.leaving.Store(true)
	c.hush()
	close()
}

// hush is Close without good-byes.
func (c *Cluster) hush() {
	c.stop()
	close(c.stopped)
	c.workers.Wait()
	if c.gossip != nil {
		_ = c.gossip.Close()
	}
	c.hangUp()
}

// wipe takes away what the node has on its disk.
func (n *testNode) wipe() { n.fs, n.files = vfs.NewMem(), &memFiles{}; n.cfg.Files = n.files }

// get returns the node's part of the cluster, which must run.
func (n *testNode) get() *Cluster {
	n.h.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cluster == nil {
		n.h.t.Fatalf("%s does not run", n.cfg.NodeID)
	}
	return n.cluster
}

// run calls fn with the host of the node, which is not closed below it; false if
// the node does not run.
func (n *testNode) run(fn func(*replication.Host)) bool {
	n.mu.Lock()
	host := n.host
	if host != nil {
		n.calls.Add(1)
	}
	n.mu.Unlock()
	if host == nil {
		return false
	}
	defer n.calls.Done()
	fn(host)
	return true
}

// placement is what the nodes say of the shards themselves, the catalog included.
type placement struct {
	voters   map[base.ShardID][]string
	learners int
	leaders  map[base.ShardID]string
	replicas map[string]int // on the disks
}

// observe asks every running node that has not failed.
func (h *harness) observe() placement {
	p := placement{voters: map[base.ShardID][]string{}, leaders: map[base.ShardID]string{}, replicas: map[string]int{}}
	terms := map[base.ShardID]uint64{}
	for _, n := range h.all() {
		n.run(func(host *replication.Host) {
			if host.Err() != nil {
				return
			}
			if local, err := host.LocalReplicas(); err == nil {
				p.replicas[n.cfg.NodeID] = len(local)
			}
			for _, s := range host.NodeStatus(h.ctx) {
				if s.Leader != s.Replica || s.Term < terms[s.Shard] {
					continue
				}
				terms[s.Shard], p.leaders[s.Shard] = s.Term, n.cfg.NodeID
				p.voters[s.Shard] = nil
				for _, m := range s.Voters {
					p.voters[s.Shard] = append(p.voters[s.Shard], m.Node)
				}
				p.learners += len(s.Learners)
			}
		})
	}
	return p
}

// on returns how many replicas a node votes with.
func (p *placement) on(node string) (count int) {
	for _, nodes := range p.voters {
		for _, n := range nodes {
			if n == node {
				count++
			}
		}
	}
	return count
}

// settled waits until every shard has so many voters, all of them on nodes that
// run and are not among those left out, and nothing else is on any disk.
func (h *harness) settled(shards, copies, catalog int, without ...string) (p placement) {
	h.t.Helper()
	var why string
	defer func() {
		if h.t.Failed() {
			h.t.Log(why)
		}
	}()
	testkit.Eventually(h.t, patience, "the placement", func() bool {
		p = h.observe()
		why = h.unsettled(p, shards, copies, catalog, without)
		return why == ""
	})
	return p
}

func (h *harness) unsettled(p placement, shards, copies, catalog int, without []string) string {
	up, total := map[string]bool{}, 0
	for _, n := range h.running() {
		up[n.cfg.NodeID] = true
	}
	for i := range shards + 1 {
		id, want := base.ShardID(i), copies
		if i == shards {
			id, want = base.CatalogShard, catalog
		}
		voters := slices.Sorted(slices.Values(p.voters[id]))
		total += len(voters)
		if len(voters) != want || len(slices.Compact(slices.Clone(voters))) != want {
			return fmt.Sprintf("shard %d: voters %v, want %d; leader %q", id, voters, want, p.leaders[id])
		}
		for _, node := range voters {
			if !up[node] || slices.Contains(without, node) {
				return fmt.Sprintf("shard %d votes on %s", id, node)
			}
		}
	}
	onDisk := 0
	for _, count := range p.replicas {
		onDisk += count
	}
	if p.learners != 0 || onDisk != total {
		return fmt.Sprintf("%d learners, %d replicas on disks, want %d: %v", p.learners, onDisk, total, p.replicas)
	}
	return ""
}

// balanced waits until the replicas and the leaders are spread over the nodes
// that run as the planner promises.
func (h *harness) balanced(shards, copies, catalog int, without ...string) {
	h.t.Helper()
	var why string
	defer func() {
		if h.t.Failed() {
			h.t.Log(why)
		}
	}()
	testkit.Eventually(h.t, patience, "balance", func() bool {
		p := h.observe()
		if why = h.unsettled(p, shards, copies, catalog, without); why == "" {
			why = h.unbalanced(p, without)
		}
		return why == ""
	})
}

// unbalanced asks the planner whether it wants anything else than what is there.
func (h *harness) unbalanced(p placement, without []string) string {
	var nodes []shard.Node
	for _, n := range h.running() {
		if !slices.Contains(without, n.cfg.NodeID) {
			nodes = append(nodes, shard.Node{ID: n.cfg.NodeID, Zone: n.cfg.Zone})
		}
	}
	var groups []shard.Group
	for _, id := range slices.Sorted(maps.Keys(p.voters)) {
		g := shard.Group{Shard: id, Factor: 3, Leader: p.leaders[id]}
		if id == base.CatalogShard {
			g.Factor = maxCatalog
		}
		for i, node := range p.voters[id] {
			g.Replicas = append(g.Replicas, shard.Replica{ID: uint64(i + 1), Node: node, Member: true, Voter: true})
		}
		groups = append(groups, g)
	}
	target := shard.Target(shard.Config{MinCopies: minCopies}, nodes, groups)
	leaders := shard.Leaders(nodes, groups, target)
	if plan, left := shard.Moves(nodes, groups, target, leaders); !left.Done() {
		return fmt.Sprintf("left to do: %+v %+v", left, plan)
	}
	return ""
}

// writers is some goroutines that write through every node that runs, and know
// what was acknowledged.
type writers struct {
	h      *harness
	stop   context.CancelFunc
	done   sync.WaitGroup
	writes atomic.Int64
	failed atomic.Int64
	mu     sync.Mutex // protects newest and first
	newest map[base.Key]int
	first  error
}

// write starts writers, each with a key of its own. A write is repeated by nobody
// but the library; if it fails, or its outcome is unknown, that counts.
func (h *harness) write(count int) *writers {
	ctx, stop := context.WithCancel(h.ctx)
	w := &writers{h: h, stop: stop, newest: map[base.Key]int{}}
	for i := range count {
		w.done.Go(func() { w.loop(ctx, i) })
	}
	h.t.Cleanup(w.end)
	return w
}

func (w *writers) loop(ctx context.Context, i int) {
	for n := 1; ctx.Err() == nil; n++ {
		up := w.h.running()
		if len(up) == 0 {
			continue
		}
		key := base.K(fmt.Sprintf("key-%d-%d", i, n%16), "")
		up[(i+n)%len(up)].run(func(host *replication.Host) { w.one(host, key, n) })
	}
}

func (w *writers) one(host *replication.Host, key base.Key, n int) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := host.Write(ctx, &base.Write{Key: key, Value: fmt.Append(nil, n)}, base.NewRequestID())
	w.writes.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failed.Add(1)
		if w.first == nil {
			w.first = err
		}
		delete(w.newest, key) // unknown
		return
	}
	w.newest[key] = n
}

// end stops the writers.
func (w *writers) end() {
	w.stop()
	w.done.Wait()
}

// check ends the writers and reads what they wrote through a node. It returns how
// many writes failed, and why the first one did.
func (w *writers) check(n *testNode) (failed int64, first error) {
	w.h.t.Helper()
	w.end()
	n.run(func(host *replication.Host) {
		for key, want := range w.newest {
			item, err := host.Get(w.h.ctx, shard.Of(key.Primary, n.get().Shards()), key, base.ReadOptions{})
			if err != nil || !bytes.Equal(item.Value, fmt.Append(nil, want)) {
				w.h.t.Errorf("%v: %q, %v; %d was acknowledged", key, item.Value, err, want)
			}
		}
	})
	w.h.t.Logf("%d writes, %d failed: %v", w.writes.Load(), w.failed.Load(), w.first)
	return w.failed.Load(), w.first
}

// memFiles is Files in memory.
type memFiles struct {
	mu    sync.Mutex // protects files
	files map[string][]byte
}

func (f *memFiles) Load(name string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.files[name], nil
}

func (f *memFiles) Save(name string, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files == nil {
		f.files = map[string][]byte{}
	}
	f.files[name] = bytes.Clone(data)
	return nil
}

// alertLog keeps which alerts are raised.
type alertLog struct {
	mu     sync.Mutex // protects the maps
	active map[string]string
	ever   map[string]bool
}

func (a *alertLog) note(name, message string, active bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.active == nil {
		a.active, a.ever = map[string]string{}, map[string]bool{}
	}
	delete(a.active, name)
	if active {
		a.active[name], a.ever[name] = message, true
	}
}

func (a *alertLog) raised(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.active[name] != ""
}
