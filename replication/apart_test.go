package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// testRemote takes requests to the other nodes of a cluster in this process.
type testRemote struct {
	c     *cluster
	self  string
	cut   atomic.Bool             // others cannot be reached
	asked atomic.Pointer[askedFn] // is told of each request, if there is one
	// asking is told of each before it is answered.
	asking atomic.Pointer[func(q *ask.Request)]
	// passing, if there is one, is asked whether a request may pass, before and after
	// it is answered.
	passing atomic.Pointer[passFn]
	// altered has each answer altered before it arrives.
	altered atomic.Pointer[func(q *ask.Request, answer []byte) []byte]
	mu      sync.Mutex // protects guess
	guess   map[base.ShardID]string
}

// askedFn is called with each request and what it was answered; its error takes
// the place of the answer.
type askedFn func(q *ask.Request, answered error) error

// passFn lets a request from one node to another pass, now or later, or says why not.
type passFn func(ctx context.Context, from, to string) error

func (r *testRemote) pass(ctx context.Context, node string) error {
	if fn := r.passing.Load(); fn != nil && node != r.self {
		return (*fn)(ctx, r.self, node)
	}
	return nil
}

func newTestRemote(c *cluster, self string) *testRemote {
	return &testRemote{c: c, self: self, guess: map[base.ShardID]string{}}
}

func (r *testRemote) Leader(shard base.ShardID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.guess[shard]
}

func (r *testRemote) learn(shard base.ShardID, node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guess[shard] = node
}

// host returns the host of a node, nil if it is down.
func (r *testRemote) host(node string) *Host {
	if r.cut.Load() && node != r.self {
		return nil
	}
	for i, p := range r.c.peers {
		if p.Node == node {
			return r.c.hostOf(i)
		}
	}
	return nil
}

func (r *testRemote) Ask(ctx context.Context, shard base.ShardID, request []byte) ([]byte, error) {
	for try := 0; ; try++ {
		node := r.Leader(shard)
		if node == "" {
			node = r.c.peers[try%len(r.c.peers)].Node
		}
		answer, err := r.AskNode(ctx, node, slices.Clone(request))
		var other *NotLeaderError
		switch {
		case errors.As(err, &other):
			r.learn(shard, other.Node)
		case err == nil || !errors.Is(err, base.ErrUnavailable):
			r.learn(shard, node)
			return answer, err
		default:
			r.learn(shard, "")
		}
		select {
		case <-ctx.Done():
			return nil, &base.Error{Outcome: base.OutcomeUnknown, Err: err}
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (r *testRemote) AskNode(ctx context.Context, node string, request []byte) ([]byte, error) {
	h := r.host(node)
	if h == nil {
		return nil, fmt.Errorf("%w: %s is down", base.ErrUnavailable, node)
	}
	if fn := r.asking.Load(); fn != nil {
		q, _ := ask.Decode(request)
		(*fn)(q)
	}
	if err := r.pass(ctx, node); err != nil {
		return nil, err
	}
	answer, err := h.Answer(ctx, request)
	if lost := r.pass(ctx, node); lost != nil {
		return nil, lost
	}
	if fn := r.asked.Load(); fn != nil {
		q, _ := ask.Decode(request)
		err = (*fn)(q, err)
	}
	if fn := r.altered.Load(); fn != nil && err == nil {
		q, _ := ask.Decode(request)
		answer = (*fn)(q, answer)
	}
	return answer, err
}

func (r *testRemote) Stream(ctx context.Context, node string, request []byte, yield func([]byte) error) error {
	h := r.host(node)
	if h == nil {
		return fmt.Errorf("%w: %s is down", base.ErrUnavailable, node)
	}
	return h.AnswerStream(ctx, request, yield)
}

// newApart returns a cluster in which every node knows the addresses of all, and
// the nodes given for a shard, the catalog too, found it.
func newApart(t *testing.T, nodes int, on func(base.ShardID) []int) *cluster {
	return newCluster(t, nodes).found(on)
}

// found starts the nodes as newApart does.
func (c *cluster) found(on func(base.ShardID) []int) *cluster {
	c.apart = true
	c.startAll()
	for i := range c.nodes {
		c.introduce(i)
	}
	for i := range c.nodes {
		c.startReplicas(i, on)
	}
	return c
}

// startReplicas starts the replicas that a node is to have.
func (c *cluster) startReplicas(i int, on func(base.ShardID) []int) {
	c.t.Helper()
	for _, id := range append(slices.Clone(c.hostOf(i).all), base.CatalogShard) {
		var founders []Member
		for _, j := range on(id) {
			founders = append(founders, Member{Replica: uint64(j + 1), Node: c.peers[j].Node})
		}
		if slices.Contains(on(id), i) {
			c.startReplica(i, ReplicaSpec{Shard: id, Replica: uint64(i + 1), Founders: founders})
		}
	}
}

// introduce tells a node where the others are.
func (c *cluster) introduce(i int) {
	for _, p := range c.peers {
		c.hostOf(i).SetAddress(p.Node, p.Address)
	}
}

func (c *cluster) startReplica(i int, spec ReplicaSpec) {
	c.t.Helper()
	if err := c.hostOf(i).StartReplica(testkit.Context(c.t), spec); err != nil {
		c.t.Fatalf("node %d: %v", i, err)
	}
}

func keyOn(h *Host, id base.ShardID, n int) base.Key {
	for i := 0; ; i++ {
		if key := base.K(fmt.Sprint("key-", n, "-", i), "s"); h.shardOf(key) == id {
			return key
		}
	}
}

// Every node can do everything with all shards, whether it has a replica or not.
func TestEveryNodeReachesEveryShard(t *testing.T) {
	const nodes = 5
	c := newApart(t, nodes, func(id base.ShardID) []int {
		at := int(id) % nodes
		return []int{at, (at + 1) % nodes, (at + 2) % nodes}
	})
	ctx := testkit.Context(t)
	for i := range nodes {
		h := c.hostOf(i)
		if err := h.Barrier(ctx); err != nil {
			t.Fatalf("node %d: barrier: %v", i, err)
		}
		t.Run(fmt.Sprint("node ", i), func(t *testing.T) { eachCall(t, ctx, h, i) })
	}
	items, err := c.hostOf(4).ReadCatalog(ctx)
	if err != nil || len(items) != nodes {
		t.Errorf("catalog: %d items, %v", len(items), err)
	}
}

// eachCall makes every call from one node, with keys of its own.
func eachCall(t *testing.T, ctx context.Context, h *Host, n int) {
	var keys []base.Key
	var batch []base.Write
	for _, id := range h.all {
		key := keyOn(h, id, n)
		keys = append(keys, key)
		batch = append(batch, base.Write{Key: key, Value: []byte("one")})
		if _, err := h.Write(ctx, &base.Write{Key: key, Value: []byte("zero")}, base.RequestID{}); err != nil {
			t.Fatal(err)
		}
		it, err := h.Get(ctx, id, key, base.ReadOptions{})
		if err != nil || string(it.Value) != "zero" {
			t.Fatalf("shard %d: %q, %v", id, it.Value, err)
		}
	}
	request := base.NewRequestID()
	first, err := h.MultiWrite(ctx, batch, request)
	if err != nil {
		t.Fatal(err)
	}
	again, err := h.MultiWrite(ctx, batch, request)
	if err != nil || again[0].Version != first[0].Version {
		t.Errorf("repeated: %v, %v; first %v", again, err, first)
	}
	if outcome, version, err := h.Outcome(ctx, request); err != nil || outcome != base.OutcomeApplied || version != first[0].Version {
		t.Errorf("outcome %v, version %d, %v", outcome, version, err)
	}
	items, err := h.MultiGet(ctx, append(slices.Clone(keys), base.K("absent", "")), base.ReadOptions{})
	if err != nil || len(items) != len(keys)+1 || items[len(keys)].Exists() || string(items[0].Value) != "one" {
		t.Errorf("multiget: %v, %v", items, err)
	}
	scanned := func(r base.Range, ro base.ReadOptions) (all []base.Key) {
		for it, err := range h.Scan(ctx, r, ro) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, it.Key)
		}
		return all
	}
	mine := base.PrimaryPrefix(fmt.Sprint("key-", n, "-"))
	slices.SortFunc(keys, base.Key.Compare)
	if got := scanned(mine, base.ReadOptions{}); !slices.Equal(got, keys) {
		t.Errorf("scan: %v, want %v", got, keys)
	}
	slices.Reverse(keys)
	if got := scanned(mine, base.ReadOptions{Reverse: true, Limit: 2, KeysOnly: true}); !slices.Equal(got, keys[:2]) {
		t.Errorf("reverse scan: %v, want %v", got, keys[:2])
	}
	eachTransaction(t, ctx, h, keys, mine)
	if _, err := h.WriteCatalog(ctx, []base.Write{{Key: base.K("node", fmt.Sprint(n)), Cond: base.Cond{Kind: base.CondVersion}}}); err != nil {
		t.Error(err)
	}
	if _, err := h.WriteCatalog(ctx, []base.Write{{Key: base.K("node", fmt.Sprint(n)), Cond: base.Cond{Kind: base.CondVersion}}}); !errors.Is(err, base.ErrVersionMismatch) {
		t.Errorf("second creation: %v", err)
	}
}

func eachTransaction(t *testing.T, ctx context.Context, h *Host, keys []base.Key, mine base.Range) {
	limits := base.DefaultLimits()
	request, ran := base.NewRequestID(), 0
	swap := func() (base.Version, error) {
		return h.Update(ctx, limits, base.TxOptions{RequestID: request}, func(tx *Tx) error {
			ran++
			for it, err := range tx.RangeScan(mine, base.ReadOptions{}) {
				if err != nil {
					return err
				}
				if err := tx.Write(base.Write{Key: it.Key, Value: append(it.Value, '!')}); err != nil {
					return err
				}
			}
			return tx.Write(base.Write{Kind: base.WriteDelete, Key: keys[0]})
		})
	}
	version, err := swap()
	if err != nil {
		t.Fatal(err)
	}
	before := ran
	if again, err := swap(); err != nil || again != version || ran != before {
		t.Errorf("repeated: version %d, %v, ran %d times; want %d", again, err, ran, version)
	}
	err = h.View(ctx, limits, 0, func(tx *Tx) error {
		if _, err := tx.Get(keys[0]); !errors.Is(err, base.ErrNotFound) {
			return fmt.Errorf("deleted: %w", err)
		}
		it, err := tx.Get(keys[1])
		if err == nil && string(it.Value) != "one!" {
			err = fmt.Errorf("%q", it.Value)
		}
		n := 0
		for _, e := range tx.RangeScan(mine, base.ReadOptions{}) {
			n, err = n+1, errors.Join(err, e)
		}
		if n != len(keys)-1 {
			err = errors.Join(err, fmt.Errorf("%d items of %d", n, len(keys)-1))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Replicas move from one node to another while every node writes: nothing is
// lost, nothing is applied twice, and every sum is right.
func TestReplicasMove(t *testing.T) {
	c := newApart(t, 4, func(base.ShardID) []int { return []int{0, 1, 2} })
	ctx, stop := context.WithCancel(testkit.Context(t))
	defer stop()
	for i := range c.nodes {
		if err := c.hostOf(i).Barrier(ctx); err != nil {
			t.Fatal(err)
		}
	}
	h := c.hostOf(0)
	var keys []base.Key
	for _, id := range h.all {
		for n := range 3 {
			keys = append(keys, keyOn(h, id, n))
		}
	}
	var total atomic.Int64
	var writers sync.WaitGroup
	for i := range c.nodes {
		writers.Go(func() { c.increment(ctx, i, keys, &total) })
		writers.Go(func() { c.watchSum(ctx, i, keys, &total) })
	}
	for _, id := range append(slices.Clone(h.all), base.CatalogShard) {
		c.moveReplica(ctx, id, 0, 3, uint64(100+id))
	}
	testkit.Eventually(t, time.Minute, "writes after the moves", func() bool { return total.Load() > 200 })
	stop()
	writers.Wait()
	for i := range c.nodes {
		if sum, err := c.sum(testkit.Context(t), i, keys); err != nil || sum != total.Load() {
			t.Errorf("node %d: sum %d, %v; %d were acknowledged", i, sum, err, total.Load())
		}
	}
	if left, err := h.LocalReplicas(); err != nil || len(left) != 0 {
		t.Errorf("the old node still has %v, %v", left, err)
	}
	t.Logf("%d increments", total.Load())
}

// increment adds one to two keys at a time, on any shards, until ctx ends.
func (c *cluster) increment(ctx context.Context, i int, keys []base.Key, total *atomic.Int64) {
	rng := testkit.Rand(c.t)
	for ctx.Err() == nil {
		a, b := keys[rng.IntN(len(keys))], keys[rng.IntN(len(keys))]
		call, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err := c.hostOf(i).Update(call, base.DefaultLimits(), base.TxOptions{MaxAttempts: 1000, RequestID: base.NewRequestID()}, func(tx *Tx) error {
			for key := range maps.Keys(map[base.Key]bool{a: true, b: true}) {
				it, err := tx.Get(key)
				if err != nil && !errors.Is(err, base.ErrNotFound) {
					return err
				}
				n, _ := strconv.Atoi(string(it.Value))
				if err := tx.Write(base.Write{Key: key, Value: []byte(strconv.Itoa(n + 1))}); err != nil {
					return err
				}
			}
			return nil
		})
		cancel()
		if err != nil {
			c.t.Errorf("node %d: %v", i, err)
			return
		}
		n := int64(1)
		if a != b {
			n = 2
		}
		total.Add(n)
	}
}

func (c *cluster) sum(ctx context.Context, i int, keys []base.Key) (sum int64, err error) {
	err = c.hostOf(i).View(ctx, base.DefaultLimits(), 0, func(tx *Tx) error {
		sum = 0
		items, err := tx.MultiGet(keys)
		for _, it := range items {
			n, _ := strconv.Atoi(string(it.Value))
			sum += int64(n)
		}
		return err
	})
	return sum, err
}

// watchSum makes sure that no sum is smaller than what was acknowledged before.
func (c *cluster) watchSum(ctx context.Context, i int, keys []base.Key, total *atomic.Int64) {
	for ctx.Err() == nil {
		acknowledged := total.Load()
		call, cancel := context.WithTimeout(context.Background(), time.Minute)
		sum, err := c.sum(call, i, keys)
		cancel()
		switch {
		case errors.Is(err, base.ErrConflict): // it met writers in every attempt
		case err != nil || sum < acknowledged:
			c.t.Errorf("node %d: sum %d, %v; %d were acknowledged before", i, sum, err, acknowledged)
			return
		}
	}
}

// changeOf returns a change of the members as they are now.
func (c *cluster) changeOf(ctx context.Context, id base.ShardID, m Member) Change {
	for i := range c.nodes {
		for _, s := range c.hostOf(i).NodeStatus(ctx) {
			if s.Shard == id && s.Leader == s.Replica {
				return Change{Shard: id, Member: m, ConfigChange: s.ConfigChange}
			}
		}
	}
	return Change{Shard: id, Member: m}
}

// moveReplica moves a replica of a shard as the cluster does.
func (c *cluster) moveReplica(ctx context.Context, id base.ShardID, from, to int, replica uint64) {
	c.t.Helper()
	h := c.hostOf(to)
	change := func(replica uint64) Change {
		return c.changeOf(ctx, id, Member{Replica: replica, Node: c.peers[to].Node})
	}
	try := func(what string, fn func() error) {
		c.t.Helper()
		testkit.Eventually(c.t, time.Minute, fmt.Sprintf("%s, shard %d", what, id), func() bool { return fn() == nil })
	}
	try("a learner", func() error { return h.AddLearner(ctx, change(replica)) })
	c.startReplica(to, ReplicaSpec{Shard: id, Replica: replica})
	testkit.Eventually(c.t, time.Minute, "catching up", func() bool { return h.near(id) != nil })
	try("promotion", func() error { return h.Promote(ctx, change(replica)) })
	old := uint64(from + 1)
	try("another leader", func() error {
		if c.hostOf(from).log.Leads(id) {
			_ = h.TransferLeader(ctx, id, replica)
			return errors.New("not yet")
		}
		return nil
	})
	try("removal", func() error { return h.DropMember(ctx, change(old)) })
	try("deletion", func() error { return c.hostOf(from).RemoveReplica(ctx, id) })
}

// What a node had by itself is there when it becomes the first of a cluster, and
// reaches those that join it, though no log has it.
func TestAdoptedDataReachesOthers(t *testing.T) {
	c := newCluster(t, 2)
	ctx := testkit.Context(t)
	open := func(d storage.Durability) *storage.Store {
		s, err := storage.Open(storage.Config{
			Dir: "/data", FS: c.nodes[0].fs, Shards: testShards, Durability: d, DiskReserveBytes: -1, MemTableBytes: 4 << 20,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	store := open(storage.Synced)
	h, err := OpenSolo(Config{Store: store, Clock: time.Now, Logger: slog.New(slog.DiscardHandler), MaxInFlight: 100, Synced: true})
	if err != nil {
		t.Fatal(err)
	}
	versions := map[base.Key]base.Version{}
	for _, id := range h.all {
		key := keyOn(h, id, 0)
		if versions[key], err = h.Write(ctx, &base.Write{Key: key, Value: []byte("old")}, base.RequestID{}); err != nil {
			t.Fatal(err)
		}
	}
	h.Close()
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store = open(storage.Volatile)
	if err := errors.Join(Adopt(store), Adopt(store), store.Close()); err != nil {
		t.Fatal(err)
	}
	c.apart = true
	c.startAll()
	for i := range c.nodes {
		c.introduce(i)
	}
	h = c.hostOf(0)
	for _, id := range h.all {
		c.startReplica(0, ReplicaSpec{Shard: id, Replica: 1, Founders: []Member{{Replica: 1, Node: c.peers[0].Node}}})
	}
	for key, version := range versions {
		id := h.shardOf(key)
		m := Member{Replica: 2, Node: c.peers[1].Node}
		testkit.Eventually(t, time.Minute, "a learner", func() bool { return h.AddLearner(ctx, c.changeOf(ctx, id, m)) == nil })
		c.startReplica(1, ReplicaSpec{Shard: id, Replica: 2})
		testkit.Eventually(t, time.Minute, "catching up", func() bool { return c.hostOf(1).near(id) != nil })
		rec, err := c.nodes[1].store.Space(id).Get(key)
		if err != nil || rec.Version != version {
			t.Errorf("shard %d: version %d, %v; want %d", id, rec.Version, err, version)
		}
		w := base.Write{Key: key, Value: []byte("new")}
		if v, err := c.hostOf(1).Write(ctx, &w, base.RequestID{}); err != nil || v <= version {
			t.Errorf("shard %d: version %d after %d, %v", id, v, version, err)
		}
	}
}

// A node that is asked while it closes says so. Raft must not be asked then: it would
// not survive that.
func TestAClosedHostIsAsked(t *testing.T) {
	c := onThree(t, 3)
	ctx := short(t)
	i := slices.Index(c.nodes, c.leader(0))
	h := c.hostOf(i)
	entry := command.AppendEntryHead(nil, 1, 1, 1, 0)
	q := (&ask.Request{Kind: ask.Propose, Bytes: entry}).Append(nil)
	closed := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for over := false; !over; {
				select {
				case <-closed:
					over = true
				default:
				}
				if _, err := h.Answer(ctx, q); over && !errors.Is(err, base.ErrClosed) {
					t.Errorf("after Close: %v", err)
				}
			}
		})
	}
	c.stop(i)
	close(closed)
	callers.Wait()
	if err := h.AnswerStream(ctx, q, nil); !errors.Is(err, base.ErrClosed) {
		t.Errorf("stream after Close: %v", err)
	}
}

// A node that is about to stop does not say which replicas it has, but serves them.
func TestARetiringNodeIsInDoubt(t *testing.T) {
	c := onThree(t, 3)
	ctx := testkit.Context(t)
	i := slices.Index(c.nodes, c.leader(0))
	c.hostOf(i).Retire()
	asker := c.hostOf((i + 1) % len(c.nodes))
	if status, err := asker.StatusOf(ctx, c.peers[i].Node); !errors.Is(err, base.ErrUnavailable) {
		t.Errorf("it has %d replicas, %v", len(status), err)
	}
	if _, err := asker.Write(ctx, &base.Write{Key: keyOn(asker, 0, 1)}, base.RequestID{}); err != nil {
		t.Error(err)
	}
}
