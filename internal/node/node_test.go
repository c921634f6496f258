package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/storage"
)

func memNode(t testing.TB) *Node { return openTest(t, testConfig(vfs.NewMem(), storage.Synced)) }

func mustWrite(t testing.TB, n *Node, w base.Write) base.Version {
	t.Helper()
	v, err := n.Write(testkit.Context(t), w, base.RequestID{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantError checks kind and outcome of an error, and that it names operation
// and key.
func wantError(t testing.TB, err, kind error, outcome base.Outcome, op string) *base.Error {
	t.Helper()
	var e *base.Error
	if !errors.As(err, &e) || !errors.Is(err, kind) {
		t.Fatalf("got %v, want an *Error that is %q", err, kind)
	}
	if e.Outcome != outcome || e.Op != op {
		t.Errorf("%v: op %q outcome %v, want %q %v", err, e.Op, e.Outcome, op, outcome)
	}
	return e
}

// badCall is a call with an argument that is not allowed.
type badCall struct {
	kind error
	op   string
	call func() error
}

func badKeyCalls(ctx context.Context, n *Node) map[string]badCall {
	big := strings.Repeat("x", base.MaxSecondaryBytes+1)
	return map[string]badCall{
		"get empty primary":  {base.ErrInvalid, "get", func() error { _, err := n.Get(ctx, base.K("", "x"), base.ReadOptions{}); return err }},
		"get long primary":   {base.ErrTooLarge, "get", func() error { _, err := n.Get(ctx, base.K(big, ""), base.ReadOptions{}); return err }},
		"get long secondary": {base.ErrTooLarge, "get", func() error { _, err := n.Get(ctx, base.K("p", big), base.ReadOptions{}); return err }},
		"get without context": {base.ErrInvalid, "get", func() error {
			var none context.Context
			_, err := n.Get(none, base.K("p", ""), base.ReadOptions{})
			return err
		}},
		"put large value": {base.ErrTooLarge, "put", func() error {
			_, err := n.Write(ctx, put(base.K("p", ""), strings.Repeat("x", n.cfg.Limits.MaxValueBytes+1)), base.RequestID{})
			return err
		}},
		"put negative ttl": {base.ErrInvalid, "put", func() error {
			_, err := n.Write(ctx, base.Write{Key: base.K("p", ""), TTL: -1}, base.RequestID{})
			return err
		}},
		"delete empty key": {base.ErrInvalid, "delete", func() error {
			_, err := n.Write(ctx, base.Write{Kind: base.WriteDelete}, base.RequestID{})
			return err
		}},
	}
}

func badBatchCalls(ctx context.Context, n *Node) map[string]badCall {
	limit := n.cfg.Limits
	return map[string]badCall{
		"empty batch": {base.ErrInvalid, "multiput", func() error { _, err := n.MultiWrite(ctx, nil, base.TxOptions{}); return err }},
		"batch of too many": {base.ErrTooLarge, "multiput", func() error {
			ws := make([]base.Write, limit.MaxBatchOps+1)
			for i := range ws {
				ws[i] = put(base.K("p", fmt.Sprint(i)), "")
			}
			_, err := n.MultiWrite(ctx, ws, base.TxOptions{})
			return err
		}},
		"batch too large": {base.ErrTooLarge, "multiput", func() error {
			ws := make([]base.Write, 5)
			for i := range ws {
				ws[i] = put(base.K("p", fmt.Sprint(i)), strings.Repeat("x", limit.MaxValueBytes))
			}
			_, err := n.MultiWrite(ctx, ws, base.TxOptions{})
			return err
		}},
		"same key twice": {base.ErrInvalid, "multiput", func() error {
			_, err := n.MultiWrite(ctx, []base.Write{put(base.K("p", ""), "a"), put(base.K("p", ""), "b")}, base.TxOptions{})
			return err
		}},
		"independent with id": {base.ErrInvalid, "multiput", func() error {
			_, err := n.MultiWrite(ctx, []base.Write{put(base.K("p", ""), "a")}, base.TxOptions{Independent: true, RequestID: base.NewRequestID()})
			return err
		}},
		"multiget of too many": {base.ErrTooLarge, "multiget", func() error {
			_, err := n.MultiGet(ctx, make([]base.Key, limit.MaxBatchOps+1), base.ReadOptions{})
			return err
		}},
		"scan with bad cursor": {base.ErrInvalid, "rangescan", func() error {
			for _, err := range n.RangeScan(ctx, base.All(), base.ReadOptions{Cursor: "zzz"}) {
				return err
			}
			return nil
		}},
		"outcome of no id":   {base.ErrInvalid, "outcome", func() error { _, _, err := n.Outcome(ctx, base.RequestID{}); return err }},
		"drain alone":        {base.ErrInvalid, "drain", func() error { return n.Drain(ctx, "other", nil) }},
		"remove alone":       {base.ErrInvalid, "remove", func() error { return n.Remove(ctx, "other") }},
		"transfer elsewhere": {base.ErrInvalid, "transferleader", func() error { return n.TransferLeader(ctx, 0, "other") }},
	}
}

func TestBadArguments(t *testing.T) {
	n := memNode(t)
	ctx := testkit.Context(t)
	calls := badKeyCalls(ctx, n)
	maps.Copy(calls, badBatchCalls(ctx, n))
	for name, c := range calls {
		t.Run(name, func(t *testing.T) { wantError(t, c.call(), c.kind, base.OutcomeNotApplied, c.op) })
	}
	for item := range n.RangeScan(ctx, base.All(), base.ReadOptions{}) {
		t.Errorf("%v was applied", item.Key)
	}
}

func TestWritesAndReads(t *testing.T) {
	n := memNode(t)
	ctx := testkit.Context(t)
	key := base.K("acct", "balance")
	_, err := n.Get(ctx, key, base.ReadOptions{})
	wantError(t, err, base.ErrNotFound, base.OutcomeNotApplied, "get")
	v1 := mustWrite(t, n, put(key, "100"))
	w := put(key, "200")
	w.Cond = base.Cond{Kind: base.CondVersion, Version: v1 - 1}
	_, err = n.Write(ctx, w, base.RequestID{})
	e := wantError(t, err, base.ErrVersionMismatch, base.OutcomeNotApplied, "put")
	var mismatch *base.VersionError
	if !errors.As(err, &mismatch) || mismatch.Have != v1 || e.Key != key || e.Shard < 0 {
		t.Errorf("%#v", e)
	}
	item, err := n.Get(ctx, key, base.ReadOptions{})
	if err != nil || string(item.Value) != "100" || item.Version != v1 {
		t.Errorf("%+v, %v", item, err)
	}
	item.Value[0] = 'X' // the caller's own
	if item, _ = n.Get(ctx, key, base.ReadOptions{}); string(item.Value) != "100" {
		t.Errorf("a caller's change shows: %q", item.Value)
	}
	removed, err := n.Write(ctx, base.Write{Kind: base.WriteDelete, Key: key}, base.RequestID{})
	if err != nil || removed != v1 {
		t.Errorf("removed %d, %v", removed, err)
	}
}

func TestBatchReportsEveryFailedCondition(t *testing.T) {
	n := memNode(t)
	ctx := testkit.Context(t)
	v := mustWrite(t, n, put(base.K("a", ""), "1"))
	absent := base.Cond{Kind: base.CondVersion}
	results, err := n.MultiWrite(ctx, []base.Write{
		put(base.K("new", ""), "x"),
		{Key: base.K("a", ""), Value: []byte("2"), Cond: absent},
		{Kind: base.WriteCheck, Key: base.K("b", ""), Cond: base.Cond{Kind: base.CondPresent}},
	}, base.TxOptions{})
	wantError(t, err, base.ErrVersionMismatch, base.OutcomeNotApplied, "multiput")
	if len(results) != 3 || results[0].Err == nil || results[1].Err == nil || results[2].Err == nil {
		t.Fatalf("results %+v", results)
	}
	var first, second *base.VersionError
	if !errors.As(results[1].Err, &first) || first.Have != v || !errors.As(results[2].Err, &second) || second.Want != base.AnyVersion {
		t.Errorf("results %+v", results)
	}
	if _, err := n.Get(ctx, base.K("new", ""), base.ReadOptions{}); !errors.Is(err, base.ErrNotFound) {
		t.Errorf("half of a batch was applied: %v", err)
	}
}

func TestIndependentBatch(t *testing.T) {
	n := memNode(t)
	ctx := testkit.Context(t)
	mustWrite(t, n, put(base.K("a", ""), "1"))
	results, err := n.MultiWrite(ctx, []base.Write{
		{Key: base.K("a", ""), Cond: base.Cond{Kind: base.CondVersion}},
		put(base.K("b", ""), "2"),
	}, base.TxOptions{Independent: true})
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(results[0].Err, base.ErrVersionMismatch) || results[1].Err != nil || results[1].Version == 0 {
		t.Errorf("results %+v", results)
	}
}

func TestRequestIDs(t *testing.T) {
	n := memNode(t)
	ctx := testkit.Context(t)
	id := base.NewRequestID()
	if o, _, err := n.Outcome(ctx, id); err != nil || o != base.OutcomeUnknown {
		t.Errorf("outcome of an unused id: %v, %v", o, err)
	}
	first, err := n.Write(ctx, put(base.K("k", ""), "v"), id)
	if err != nil {
		t.Fatal(err)
	}
	again, err := n.Write(ctx, put(base.K("k", ""), "v"), id)
	if err != nil || again != first {
		t.Errorf("repetition: %d, %v; first %d", again, err, first)
	}
	_, err = n.Write(ctx, put(base.K("k", ""), "other"), id)
	if e := wantError(t, err, base.ErrRequestReused, base.OutcomeNotApplied, "put"); e.RequestID != id {
		t.Errorf("error carries id %v", e.RequestID)
	}
	if o, v, err := n.Outcome(ctx, id); err != nil || o != base.OutcomeApplied || v != first {
		t.Errorf("outcome: %v %d %v", o, v, err)
	}
	// An Update runs its function once for an id, whatever it would do now.
	runs := 0
	add := func() (base.Version, error) {
		return n.Update(ctx, func(tx *Tx) error {
			runs++
			item, err := tx.Get(base.K("sum", ""))
			if err != nil && !errors.Is(err, base.ErrNotFound) {
				return err
			}
			return tx.Write(put(base.K("sum", ""), string(item.Value)+"+"))
		}, base.TxOptions{RequestID: base.RequestID{7}})
	}
	v1, err1 := add()
	v2, err2 := add()
	if err1 != nil || err2 != nil || v1 != v2 || runs != 1 {
		t.Errorf("%d %v, %d %v, %d runs", v1, err1, v2, err2, runs)
	}
	_, err = n.Write(ctx, put(base.K("k", ""), "v"), base.RequestID{7})
	if err == nil {
		t.Log("an id of an Update used on another shard is not noticed") // documented
	}
}

func TestRequestsAreForgotten(t *testing.T) {
	clock := testkit.NewClock(time.Time{})
	cfg := testConfig(vfs.NewMem(), storage.Synced)
	cfg.Clock, cfg.SweepInterval = clock.Now, time.Millisecond
	cfg.Requests = RequestConfig{Retention: time.Minute, MaxPerShard: 5}
	n := openTest(t, cfg)
	ctx := testkit.Context(t)
	for i := range 20 {
		if _, err := n.Write(ctx, put(base.K("one", fmt.Sprint(i)), "v"), base.NewRequestID()); err != nil {
			t.Fatal(err)
		}
	}
	remembered := func() int64 {
		stats, err := n.Stats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return stats.Requests
	}
	testkit.Eventually(t, time.Minute, "requests over the count to go", func() bool { return remembered() == 5 })
	clock.Advance(2 * time.Minute)
	testkit.Eventually(t, time.Minute, "old requests to go", func() bool { return remembered() == 0 })
}

func TestTTL(t *testing.T) {
	clock := testkit.NewClock(time.Time{})
	cfg := testConfig(vfs.NewMem(), storage.Synced)
	cfg.Clock, cfg.SweepInterval = clock.Now, time.Millisecond
	n := openTest(t, cfg)
	ctx := testkit.Context(t)
	key := base.K("session", "1")
	v := mustWrite(t, n, base.Write{Key: key, Value: []byte("x"), TTL: time.Minute})
	item, err := n.Get(ctx, key, base.ReadOptions{})
	if err != nil || !item.ExpiresAt.Equal(v.Time().Add(time.Minute)) {
		t.Errorf("%+v, %v", item, err)
	}
	clock.Advance(2 * time.Minute)
	if _, err := n.Get(ctx, key, base.ReadOptions{}); !errors.Is(err, base.ErrNotFound) {
		t.Errorf("expired, but %v", err)
	}
	clock.Advance(-90 * time.Second) // a clock that jumps back brings nothing to life that others saw dead
	mustWrite(t, n, put(base.K("session", "2"), "y"))
	testkit.Eventually(t, time.Minute, "the sweep", func() bool {
		clock.Advance(time.Second)
		expired, err := n.store.Space(n.shardOf(key)).Expired(^uint64(0), 10)
		return err == nil && len(expired) == 0
	})
	if rec, err := n.store.Space(n.shardOf(key)).Get(key); err != nil || rec.Version != 0 {
		t.Errorf("the sweep left %+v, %v", rec, err)
	}
}

// TestTransfers moves money among accounts while readers add it all up.
func TestTransfers(t *testing.T) {
	n := memNode(t)
	ctx := testkit.Context(t)
	const accounts, total = 20, 20 * 100
	account := func(i int) base.Key { return base.K(fmt.Sprint("acct", i), "balance") }
	amount := func(item base.Item) (v int) {
		_, _ = fmt.Sscan(string(item.Value), &v)
		return v
	}
	for i := range accounts {
		mustWrite(t, n, put(account(i), "100"))
	}
	rng := testkit.Rand(t)
	var group sync.WaitGroup
	for range 4 {
		r := testkit.Fork(rng)
		group.Go(func() {
			for range 200 {
				from, to, sum := r.IntN(accounts), r.IntN(accounts-1), r.IntN(50)
				if to >= from {
					to++
				}
				_, err := n.Update(ctx, func(tx *Tx) error {
					items, err := tx.MultiGet([]base.Key{account(from), account(to)})
					if err != nil || amount(items[0]) < sum {
						return err
					}
					if err := tx.Write(put(account(from), fmt.Sprint(amount(items[0])-sum))); err != nil {
						return err
					}
					return tx.Write(put(account(to), fmt.Sprint(amount(items[1])+sum)))
				}, base.TxOptions{})
				if err != nil {
					t.Errorf("transfer: %v", err)
				}
			}
		})
	}
	for range 2 {
		group.Go(func() {
			for range 100 {
				sum := 0
				err := n.View(ctx, func(tx *Tx) error {
					for item, err := range tx.RangeScan(base.PrimaryPrefix("acct"), base.ReadOptions{}) {
						if err != nil {
							return err
						}
						sum += amount(item)
					}
					return nil
				}, base.TxOptions{})
				if err != nil || sum != total {
					t.Errorf("the accounts hold %d, want %d (%v)", sum, total, err)
				}
			}
		})
	}
	group.Wait()
}

// TestPhantoms has transactions that each add an item if there are fewer than
// ten: there must never be eleven.
func TestPhantoms(t *testing.T) {
	n := memNode(t)
	ctx := testkit.Context(t)
	var group sync.WaitGroup
	for w := range 8 {
		group.Go(func() {
			for i := range 10 {
				_, err := n.Update(ctx, func(tx *Tx) error {
					count := 0
					for _, err := range tx.RangeScan(base.PrimaryPrefix("slot"), base.ReadOptions{}) {
						if err != nil {
							return err
						}
						count++
					}
					if count >= 10 {
						return nil
					}
					return tx.Write(put(base.K(fmt.Sprint("slot", w, "-", i), ""), "taken"))
				}, base.TxOptions{MaxAttempts: 1000})
				if err != nil {
					t.Errorf("update: %v", err)
				}
			}
		})
	}
	group.Wait()
	count := 0
	for _, err := range n.RangeScan(ctx, base.PrimaryPrefix("slot"), base.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		count++
	}
	if count != 10 {
		t.Errorf("%d slots were taken of 10", count)
	}
}

func TestTxMisuse(t *testing.T) {
	n := memNode(t)
	ctx := testkit.Context(t)
	var kept *Tx
	boom := errors.New("boom")
	_, err := n.Update(ctx, func(tx *Tx) error {
		kept = tx
		if err := tx.Write(put(base.K("k", ""), "v")); err != nil {
			t.Error(err)
		}
		return boom
	}, base.TxOptions{})
	if err != boom { //nolint:errorlint // it must be the very same
		t.Errorf("got %v, want the function's own error", err)
	}
	if _, err := kept.Get(base.K("k", "")); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("use after the end: %v", err)
	}
	if err := n.View(ctx, func(tx *Tx) error { return tx.Write(put(base.K("k", ""), "v")) }, base.TxOptions{}); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("write in a view: %v", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic of the function was swallowed")
			}
		}()
		_, _ = n.Update(ctx, func(tx *Tx) error { panic("oops") }, base.TxOptions{})
	}()
	_, err = n.Update(ctx, func(tx *Tx) error {
		if _, err := tx.Get(base.K("k", "")); err != nil && !errors.Is(err, base.ErrNotFound) {
			return err
		}
		mustWrite(t, n, put(base.K("k", ""), "from outside"))
		return tx.Write(put(base.K("k", ""), "v"))
	}, base.TxOptions{MaxAttempts: 3})
	wantError(t, err, base.ErrConflict, base.OutcomeNotApplied, "update")
}

func TestOverload(t *testing.T) {
	cfg := testConfig(vfs.NewMem(), storage.Synced)
	cfg.Limits.MaxInFlight = 4
	n := openTest(t, cfg)
	ctx := testkit.Context(t)
	var refused, applied sync.Map
	var group sync.WaitGroup
	for w := range 64 {
		group.Go(func() {
			for i := range 50 {
				_, err := n.Write(ctx, put(base.K(fmt.Sprint(w, "-", i), ""), "v"), base.RequestID{})
				if err == nil {
					applied.Store([2]int{w, i}, true)
					continue
				}
				if e := wantError(t, err, base.ErrOverloaded, base.OutcomeNotApplied, "put"); e.RetryAfter <= 0 || !base.Retryable(err) {
					t.Errorf("%v: retry after %v", err, e.RetryAfter)
				}
				refused.Store([2]int{w, i}, true)
			}
		})
	}
	group.Wait()
	n0, n1 := 0, 0
	applied.Range(func(any, any) bool { n0++; return true })
	refused.Range(func(any, any) bool { n1++; return true })
	stats, _ := n.Stats(ctx)
	if n0 == 0 || n1 == 0 || stats.Refused != int64(n1) || stats.InFlight != 0 {
		t.Errorf("%d applied, %d refused, stats %d refused, %d in flight", n0, n1, stats.Refused, stats.InFlight)
	}
}

func TestClose(t *testing.T) {
	n := memNode(t)
	ctx := testkit.Context(t)
	mustWrite(t, n, put(base.K("k", ""), "v"))
	for range 2 {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	<-n.Done()
	if !errors.Is(n.Err(), base.ErrClosed) {
		t.Errorf("Err: %v", n.Err())
	}
	_, err := n.Get(ctx, base.K("k", ""), base.ReadOptions{})
	wantError(t, err, base.ErrClosed, base.OutcomeNotApplied, "get")
	_, err = n.Write(ctx, put(base.K("k", ""), "w"), base.RequestID{})
	wantError(t, err, base.ErrClosed, base.OutcomeNotApplied, "put")
	for _, err := range n.RangeScan(ctx, base.All(), base.ReadOptions{}) {
		wantError(t, err, base.ErrClosed, base.OutcomeNotApplied, "rangescan")
	}
	_, err = n.Update(ctx, func(*Tx) error { return nil }, base.TxOptions{})
	wantError(t, err, base.ErrClosed, base.OutcomeNotApplied, "update")
	if h, err := n.Health(ctx); err != nil || h.OK {
		t.Errorf("health of a closed node: %+v, %v", h, err)
	}
}

// TestCloseWhileBusy closes under load: every write has a clear end, and what
// was acknowledged is there afterwards.
func TestCloseWhileBusy(t *testing.T) {
	cfg := testConfig(vfs.NewMem(), storage.Synced)
	n := openTest(t, cfg)
	ctx := testkit.Context(t)
	acked := make([]int, 16)
	started := make(chan struct{}, len(acked))
	var group sync.WaitGroup
	for w := range acked {
		group.Go(func() {
			for i := 1; ; i++ {
				_, err := n.Write(ctx, put(base.K(fmt.Sprint(w), ""), fmt.Sprint(i)), base.RequestID{})
				if err != nil {
					wantError(t, err, base.ErrClosed, base.OutcomeNotApplied, "put")
					return
				}
				if acked[w] = i; i == 10 {
					started <- struct{}{}
				}
			}
		})
		group.Go(func() {
			for {
				for _, err := range n.RangeScan(ctx, base.All(), base.ReadOptions{}) {
					if err != nil {
						wantError(t, err, base.ErrClosed, base.OutcomeNotApplied, "rangescan")
						return
					}
				}
			}
		})
	}
	for range acked {
		<-started
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	group.Wait()
	n = openTest(t, cfg)
	for w, want := range acked {
		item, err := n.Get(ctx, base.K(fmt.Sprint(w), ""), base.ReadOptions{})
		if err != nil || string(item.Value) != fmt.Sprint(want) {
			t.Errorf("writer %d: %q, %v; acknowledged %d", w, item.Value, err, want)
		}
	}
}

func TestDeadlines(t *testing.T) {
	n := memNode(t)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := n.Get(ended, base.K("k", ""), base.ReadOptions{})
	wantError(t, err, base.ErrUnavailable, base.OutcomeNotApplied, "get")
	_, err = n.Write(ended, put(base.K("k", ""), "v"), base.RequestID{})
	wantError(t, err, base.ErrUnavailable, base.OutcomeNotApplied, "put")
	if !errors.Is(err, context.Canceled) || base.Retryable(err) {
		t.Errorf("%v: retryable %v", err, base.Retryable(err))
	}
	for i := range 500 {
		mustWrite(t, n, put(base.K("many", fmt.Sprintf("%03d", i)), "v"))
	}
	ctx, cancel := context.WithCancel(context.Background())
	seen := 0
	for _, err := range n.RangeScan(ctx, base.All(), base.ReadOptions{}) {
		if err != nil {
			wantError(t, err, base.ErrUnavailable, base.OutcomeNotApplied, "rangescan")
			break
		}
		if seen++; seen == 10 {
			cancel()
		}
	}
	if seen >= 500 {
		t.Error("a cancelled scan went on to its end")
	}
	cancel()
}
