package replication

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/command"
)

// onThree is a cluster whose shards are on the first three of its nodes, after
// all of these have caught up.
func onThree(t *testing.T, nodes int) *cluster {
	t.Helper()
	return newCluster(t, nodes).foundOnThree()
}

func (c *cluster) foundOnThree() *cluster {
	c.t.Helper()
	c.found(func(base.ShardID) []int { return []int{0, 1, 2} })
	for i := range 3 {
		c.near(i)
	}
	return c
}

// near waits until a node can read all shards by itself.
func (c *cluster) near(i int) {
	c.t.Helper()
	h := c.hostOf(i)
	testkit.Eventually(c.t, time.Minute, fmt.Sprintf("node %d to catch up", i), func() bool {
		_, away := h.split(h.all, base.ReadOptions{})
		return len(away) == 0
	})
}

// follower returns a node with a replica that leads none of the shards, which it
// sees to.
func (c *cluster) follower(ctx context.Context) int {
	c.t.Helper()
	const i = 2
	h := c.hostOf(i)
	testkit.Eventually(c.t, time.Minute, "the others to lead", func() bool {
		led := h.Led()
		for _, l := range led {
			_ = h.TransferLeader(ctx, l.Shard, 1)
		}
		return len(led) == 0
	})
	for _, id := range h.all {
		c.leader(id)
	}
	return i
}

// isolate cuts the raft of a node off, and its requests too if they are to be.
func (c *cluster) isolate(i int, requests bool) {
	c.net.Isolate(c.peers[i].Address)
	c.nodes[i].remote.cut.Store(requests)
}

func (c *cluster) onAsk(i int, fn askedFn) { c.nodes[i].remote.asked.Store(&fn) }

// short returns a context for calls that must not hang.
func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(testkit.Context(t), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustWrite(t *testing.T, ctx context.Context, h *Host, w base.Write) base.Version {
	t.Helper()
	v, err := h.Write(ctx, &w, base.RequestID{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// prepareOn lets a transaction that nobody goes on with hold a key of each shard.
func (c *cluster) prepareOn(ctx context.Context, h *Host, keys []base.Key) command.Holder {
	c.t.Helper()
	by := command.Holder{Txn: base.NewRequestID(), Anchor: h.shardOf(keys[len(keys)-1]), Deadline: base.VersionAt(time.Now().Add(time.Hour))}
	for _, key := range keys {
		cmd := command.Command{
			Step:   command.Step{Kind: command.StepPrepare, Holder: by},
			Writes: []base.Write{{Key: key, Value: []byte("new")}},
		}
		txn := &command.Txn{Parts: []command.Part{{Shard: h.shardOf(key), Command: cmd}}}
		if err := h.raft.log.proposeOne(ctx, txn, true); err != nil || txn.Result.Status != command.StatusApplied {
			c.t.Fatalf("prepare %v: %+v, %v", key, txn.Result, err)
		}
	}
	return by
}

// A node that is cut off serves stale reads as long as they may be that old, also
// of what a transaction holds, and no longer.
func TestStaleReadsOfANodeThatIsCutOff(t *testing.T) {
	c := onThree(t, 3)
	ctx := short(t)
	i := c.follower(ctx)
	h := c.hostOf(i)
	keys := []base.Key{keyOn(h, 0, 1), keyOn(h, 1, 1)}
	for _, key := range keys {
		mustWrite(t, ctx, h, base.Write{Key: key, Value: []byte("old")})
	}
	c.prepareOn(ctx, h, keys)
	if err := h.Barrier(ctx); err != nil { // now it is known how far it is
		t.Fatal(err)
	}
	c.isolate(i, true)
	defer c.net.Heal()
	for _, id := range h.all {
		g := h.raft.log.group(id)
		g.lose(g.replica.Load())
	}
	ro := base.ReadOptions{Stale: true, MaxStale: time.Hour}
	for _, key := range keys {
		if it, err := h.Get(ctx, h.shardOf(key), key, ro); err != nil || string(it.Value) != "old" {
			t.Errorf("get: %q, %v", it.Value, err)
		}
	}
	if items, err := h.MultiGet(ctx, keys, ro); err != nil || string(items[1].Value) != "old" {
		t.Errorf("multiget: %v, %v", items, err)
	}
	n := 0
	for it, err := range h.Scan(ctx, base.All(), ro) {
		if n++; err != nil || string(it.Value) != "old" {
			t.Fatalf("scan: %q, %v", it.Value, err)
		}
	}
	if n != len(keys) {
		t.Errorf("scan: %d items", n)
	}
	call, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	ro.MaxStale = time.Nanosecond
	if it, err := h.Get(call, 0, keys[0], ro); !errors.Is(err, base.ErrUnavailable) {
		t.Errorf("a read that must not be that old: %q, %v", it.Value, err)
	}
}

// A node loses touch while it reads a key that a transaction holds, whose anchor
// it could read a moment ago.
func TestHeldKeyOnANodeThatLosesTouch(t *testing.T) {
	c := onThree(t, 3)
	ctx := short(t)
	i := c.follower(ctx)
	h := c.hostOf(i)
	keys := []base.Key{keyOn(h, 0, 1), keyOn(h, 1, 1)}
	for _, key := range keys {
		mustWrite(t, ctx, h, base.Write{Key: key, Value: []byte("old")})
	}
	c.prepareOn(ctx, h, keys)
	if err := h.Barrier(ctx); err != nil {
		t.Fatal(err)
	}
	c.isolate(i, false)
	defer c.net.Heal()
	type read struct {
		it  base.Item
		err error
	}
	done := make(chan read, 1)
	go func() {
		it, err := h.Get(ctx, 0, keys[0], base.ReadOptions{})
		done <- read{it, err}
	}()
	select {
	case r := <-done:
		if r.err != nil || string(r.it.Value) != "old" {
			t.Errorf("%q, %v", r.it.Value, r.err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the read hangs")
	}
}

// The replica of a node becomes current between the barriers of Outcome and its
// look at what is remembered.
func TestOutcomeOnANodeThatComesBack(t *testing.T) {
	c := onThree(t, 3)
	ctx := short(t)
	i := c.follower(ctx)
	h := c.hostOf(i)
	c.isolate(i, false)
	defer c.net.Heal()
	for _, g := range h.groups {
		g.renew(g.replica.Load(), false)
	}
	id := base.NewRequestID()
	w := base.Write{Key: keyOn(h, 0, 1), Value: []byte("v")}
	version, err := c.hostOf(0).Write(ctx, &w, id)
	if err != nil {
		t.Fatal(err)
	}
	c.onAsk(i, func(q *ask.Request, err error) error {
		if q.Kind == ask.Barrier && q.Shard == 0 {
			g := h.groups[0] // as if it had caught up before the write
			g.renew(g.replica.Load(), true)
		}
		return err
	})
	outcome, at, err := h.Outcome(ctx, id)
	if err != nil || outcome != base.OutcomeApplied || at != version {
		t.Errorf("%v, version %d, %v; want version %d", outcome, at, err, version)
	}
}

// A transaction that has deleted keys scans others behind them, all of which are
// on another node.
func TestScanBehindDeletionsOfTheTransaction(t *testing.T) {
	c := onThree(t, 4)
	ctx := short(t)
	h := c.hostOf(3)
	for n := range 6 {
		mustWrite(t, ctx, h, base.Write{Key: base.K("p", fmt.Sprint(n)), Value: []byte("v")})
	}
	ran := 0
	_, err := h.Update(ctx, base.DefaultLimits(), base.TxOptions{MaxAttempts: 3}, func(tx *Tx) error {
		ran++
		for n := range 2 {
			if err := tx.Write(base.Write{Kind: base.WriteDelete, Key: base.K("p", fmt.Sprint(n))}); err != nil {
				return err
			}
		}
		var got []string
		for it, err := range tx.RangeScan(base.Primary("p"), base.ReadOptions{Limit: 3}) {
			if err != nil {
				return err
			}
			got = append(got, it.Key.Secondary)
		}
		if fmt.Sprint(got) != "[2 3 4]" {
			t.Errorf("scan of three: %v", got)
		}
		return nil
	})
	if err != nil || ran != 1 {
		t.Errorf("%v after %d attempts", err, ran)
	}
}

// What another node asks is not trusted to make sense.
func TestSenselessRequestsAreAnswered(t *testing.T) {
	c := onThree(t, 3)
	ctx := short(t)
	cmd := command.Command{Ranges: []command.RangeRead{{Range: base.All()}}, Reads: []command.Read{{Key: base.K("k", "")}}}
	q := ask.Request{Kind: ask.Check, Shard: base.CatalogShard, Bytes: cmd.Append(nil)}
	h := c.leader(base.CatalogShard).host
	testkit.Eventually(t, time.Minute, "an answer", func() bool {
		_, err := h.Answer(ctx, q.Append(nil))
		return err == nil
	})
}

// One of two keys is there at any time. A View of a node without replicas must
// never see both, or none.
func TestViewFromAfarIsOfOneMoment(t *testing.T) {
	c := onThree(t, 4)
	ctx, stop := context.WithCancel(testkit.Context(t))
	h := c.hostOf(3)
	a, b := keyOn(h, 0, 1), keyOn(h, 1, 1)
	flip := func(on, off base.Key) error {
		_, err := c.hostOf(0).MultiWrite(ctx, []base.Write{{Key: on, Value: []byte("v")}, {Kind: base.WriteDelete, Key: off}}, base.RequestID{})
		return err
	}
	if err := flip(a, b); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := errors.Join(flip(b, a), flip(a, b)); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	}()
	seen := 0
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		there := 0
		err := h.View(ctx, base.DefaultLimits(), 0, func(tx *Tx) error {
			there = 0
			items, err := tx.MultiGet([]base.Key{a, b})
			for _, it := range items {
				if it.Exists() {
					there++
				}
			}
			return err
		})
		switch {
		case errors.Is(err, base.ErrConflict):
		case err != nil:
			t.Fatal(err)
		case there != 1:
			t.Fatalf("%d of the two keys, after %d good views", there, seen)
		default:
			seen++
		}
	}
	stop()
	<-done
	t.Logf("%d views", seen)
}

// What the leader says for good is not asked again until the time is over.
func TestRefusalsOfTheLeaderAreFinal(t *testing.T) {
	c := onThree(t, 4)
	ctx := short(t)
	h := c.hostOf(3)
	key := keyOn(h, 0, 1)
	mustWrite(t, ctx, h, base.Write{Key: key, Value: []byte("v")})
	for _, cause := range []error{base.ErrTooLarge, base.ErrNoSpace, base.ErrInvalid} {
		c.onAsk(3, func(q *ask.Request, err error) error {
			if q.Kind == ask.Propose {
				return &base.Error{Outcome: base.OutcomeNotApplied, Err: cause}
			}
			return err
		})
		started := time.Now()
		_, err := h.Write(ctx, &base.Write{Key: key, Value: []byte("w")}, base.RequestID{})
		var e *base.Error
		if !errors.Is(err, cause) || !errors.As(err, &e) || e.Outcome != base.OutcomeNotApplied {
			t.Errorf("%v: %v after %v", cause, err, time.Since(started))
		}
	}
}

// A node has one replica of a shard, also if that does not run.
func TestAnotherReplicaOnTheDiskIsKept(t *testing.T) {
	c := onThree(t, 3)
	ctx := short(t)
	h := c.hostOf(0)
	key := keyOn(h, 0, 1)
	mustWrite(t, ctx, h, base.Write{Key: key, Value: []byte("v")})
	if _, err := h.Get(ctx, 0, key, base.ReadOptions{}); err != nil { // it has applied the write
		t.Fatal(err)
	}
	c.stop(0)
	c.start(0)
	h = c.hostOf(0)
	err := h.StartReplica(ctx, ReplicaSpec{Shard: 0, Replica: 100})
	if !errors.Is(err, base.ErrInvalid) {
		t.Errorf("another replica: %v", err)
	}
	if rec, err := h.groups[0].space.Get(key); err != nil || string(rec.Value) != "v" {
		t.Errorf("the data of the first: %q, %v", rec.Value, err)
	}
}

// Close returns soon, whoever waits for other nodes that say nothing.
func TestCloseWhileOthersAreSilent(t *testing.T) {
	c := onThree(t, 4)
	ctx := short(t)
	h := c.hostOf(3)
	keys := []base.Key{keyOn(h, 0, 1), keyOn(h, 1, 1)}
	for _, key := range keys {
		mustWrite(t, ctx, h, base.Write{Key: key, Value: []byte("v")})
	}
	c.nodes[3].remote.cut.Store(true)
	calls, cancel := context.WithCancel(ctx)
	results := make(chan error, 3)
	go func() {
		_, err := h.Write(calls, &base.Write{Key: keys[0], Value: []byte("w")}, base.RequestID{})
		results <- err
	}()
	go func() {
		_, err := h.MultiWrite(calls, []base.Write{{Key: keys[0]}, {Key: keys[1]}}, base.RequestID{})
		results <- err
	}()
	go func() { results <- h.Barrier(calls) }()
	testkit.Eventually(t, time.Minute, "writes under way", func() bool { n, _ := h.InFlight(); return n >= 3 })
	started := time.Now()
	c.stop(3)
	if took := time.Since(started); took > 15*time.Second {
		t.Errorf("close took %v", took)
	}
	cancel()
	for range cap(results) {
		if err := <-results; err == nil {
			t.Error("done without the others")
		}
	}
}

// A node comes to lead a shard, and can read by itself again, while its readers wait
// for the leader to answer: then that is the node itself, which must not wait for
// those who wait for it.
func TestReadersOfANodeThatComesToLead(t *testing.T) {
	c := onThree(t, 3)
	ctx := short(t)
	n := c.leader(0)
	g := n.host.raft.log.group(0)
	hold := make(chan struct{})
	var held atomic.Int64
	asking := func(q *ask.Request) {
		if q.Kind == ask.Barrier {
			held.Add(1)
			<-hold
		}
	}
	n.remote.asking.Store(&asking)
	if g.renew(g.replica.Load(), false) == nil {
		t.Fatal("the replica is another one by now")
	}
	done := make(chan error, maxRounds)
	for i := range maxRounds { // all that may wait at once
		go func() { done <- g.pass(ctx) }()
		testkit.Eventually(t, time.Minute, "the question", func() bool { return held.Load() > int64(i) })
	}
	g.renew(g.replica.Load(), true)
	close(hold)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Errorf("the node waits for itself: %v", err)
		}
	}
}
