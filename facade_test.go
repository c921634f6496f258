package cache_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// open returns a cache in memory that is closed with the test.
func open(t testing.TB, opts cache.Options) *cache.Cache {
	t.Helper()
	c, err := cache.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// call is one call of the public surface.
type call struct {
	name string
	do   func(context.Context) error
}

// calls returns every call that takes a context, with arguments that are
// otherwise fine.
func calls(c *cache.Cache, dir string) []call {
	k, v, a := cache.K("p", "s"), []byte("v"), c.Admin()
	nothing := func(*cache.Tx) error { return nil }
	return []call{
		{"Get", func(ctx context.Context) error { _, err := c.Get(ctx, k); return err }},
		{"MultiGet", func(ctx context.Context) error { _, err := c.MultiGet(ctx, []cache.Key{k}); return err }},
		{"RangeScan", func(ctx context.Context) error { return drain(c.RangeScan(ctx, cache.All())) }},
		{"Put", func(ctx context.Context) error { _, err := c.Put(ctx, k, v); return err }},
		{"Delete", func(ctx context.Context) error { _, err := c.Delete(ctx, k); return err }},
		{"MultiPut", func(ctx context.Context) error { _, err := c.MultiPut(ctx, []cache.Op{cache.PutOp(k, v)}); return err }},
		{"View", func(ctx context.Context) error { return c.View(ctx, nothing) }},
		{"Update", func(ctx context.Context) error { _, err := c.Update(ctx, nothing); return err }},
		{"Outcome", func(ctx context.Context) error { _, _, err := c.Outcome(ctx, cache.NewRequestID()); return err }},
		{"Ready", c.Ready},
		{"Nodes", func(ctx context.Context) error { _, err := a.Nodes(ctx); return err }},
		{"Shards", func(ctx context.Context) error { _, err := a.Shards(ctx); return err }},
		{"Stats", func(ctx context.Context) error { _, err := a.Stats(ctx); return err }},
		{"Health", func(ctx context.Context) error { _, err := a.Health(ctx); return err }},
		{"HotKeys", func(ctx context.Context) error { _, err := a.HotKeys(ctx, 1); return err }},
		{"SlowOps", func(ctx context.Context) error { _, err := a.SlowOps(ctx, 1); return err }},
		{"Alerts", func(ctx context.Context) error { _, err := a.Alerts(ctx); return err }},
		{"Flush", a.Flush},
		{"Compact", func(ctx context.Context) error { return drain(a.Compact(ctx)) }},
		{"Backup", func(ctx context.Context) error { return drain(a.Backup(ctx, dir)) }},
		{"Rebalance", func(ctx context.Context) error { _, err := a.Rebalance(ctx); return err }},
		{"Drain", func(ctx context.Context) error { return drain(a.Drain(ctx, "n")) }},
		{"Remove", func(ctx context.Context) error { return a.Remove(ctx, "n") }},
		{"TransferLeader", func(ctx context.Context) error { return a.TransferLeader(ctx, 0, "n") }},
	}
}

// drain returns the error of an iteration.
func drain[T any](seq func(func(T, error) bool)) error {
	for _, err := range seq {
		if err != nil {
			return err
		}
	}
	return nil
}

// wantError fails the test unless err is an *Error that wraps want.
func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	var detail *cache.Error
	if !errors.Is(err, want) || !errors.As(err, &detail) {
		t.Errorf("%s: got %v (%T), want *Error with %v", what, err, err, want)
		return
	}
	if detail.Op == "" || detail.Err == nil {
		t.Errorf("%s: the error has no op or no cause: %+v", what, detail)
	}
}

func TestNilContextIsInvalid(t *testing.T) {
	c := open(t, cache.Options{})
	var none context.Context
	for _, call := range calls(c, t.TempDir()+"/backup") {
		wantError(t, call.name, call.do(none), cache.ErrInvalid)
	}
	_, err := cache.OpenContext(none, cache.Options{})
	wantError(t, "OpenContext", err, cache.ErrInvalid)
	wantError(t, "VerifyBackup", c.Admin().VerifyBackup(none, "x"), cache.ErrInvalid)
	wantError(t, "Restore", cache.Restore(none, "x", cache.Options{Dir: "y"}), cache.ErrInvalid)
	_, err = cache.Check(none, "x")
	wantError(t, "Check", err, cache.ErrInvalid)
}

func TestClosedCacheRefusesEverything(t *testing.T) {
	c := open(t, cache.Options{})
	if err := c.Err(); err != nil {
		t.Fatalf("Err of an open cache: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, cache.ErrClosed) {
		t.Errorf("Err: %v", err)
	}
	for _, call := range calls(c, t.TempDir()+"/backup") {
		wantError(t, call.name, call.do(t.Context()), cache.ErrClosed)
	}
	if err := c.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}

// A call that is refused for its options has no effect.
func TestBadOptionsApplyNothing(t *testing.T) {
	c := open(t, cache.Options{})
	ctx, k, v := t.Context(), cache.K("p", "s"), []byte("v")
	put := func(opts ...cache.WriteOption) error { _, err := c.Put(ctx, k, v, opts...); return err }
	multi := func(ops []cache.Op, opts ...cache.TxOption) error {
		_, err := c.MultiPut(ctx, ops, opts...)
		return err
	}
	fine := []cache.Op{cache.PutOp(k, v)}
	for name, err := range map[string]error{
		"ttl":            put(cache.TTL(0)),
		"contradiction":  put(cache.IfAbsent(), cache.IfPresent()),
		"zero id":        put(cache.WithRequestID(cache.RequestID{})),
		"nil option":     put(nil),
		"op with ttl":    multi([]cache.Op{cache.PutOp(k, v), cache.DeleteOp(k, cache.TTL(time.Second))}),
		"op with id":     multi([]cache.Op{cache.PutOp(k, v, cache.WithRequestID(cache.NewRequestID()))}),
		"zero op":        multi([]cache.Op{cache.PutOp(k, v), {}}),
		"attempts":       multi(fine, cache.MaxAttempts(-1)),
		"nil tx option":  multi(fine, nil),
		"view with id":   c.View(ctx, func(*cache.Tx) error { return put() }, cache.WithRequestID(cache.NewRequestID())),
		"view without f": c.View(ctx, nil),
		"independent": func() error {
			_, err := c.Update(ctx, func(*cache.Tx) error { return put() }, cache.Independent())
			return err
		}(),
		"limit of a get":   second(c.Get(ctx, k, cache.Limit(1))),
		"reverse multiget": second(c.MultiGet(ctx, []cache.Key{k}, cache.Reverse())),
		"negative limit":   drain(c.RangeScan(ctx, cache.All(), cache.Limit(-1))),
		"bad cursor":       drain(c.RangeScan(ctx, cache.All(), cache.From("nonsense"))),
		"no hot keys":      second(c.Admin().HotKeys(ctx, 0)),
		"zero outcome":     func() error { _, _, err := c.Outcome(ctx, cache.RequestID{}); return err }(),
	} {
		wantError(t, name, err, cache.ErrInvalid)
	}
	if _, err := c.Get(ctx, k); !errors.Is(err, cache.ErrNotFound) {
		t.Fatalf("something was applied: %v", err)
	}
	err := multi([]cache.Op{cache.PutOp(k, v), cache.PutOp(cache.K("q", ""), v, cache.TTL(-1))})
	if err == nil || !strings.Contains(err.Error(), "operation 1") {
		t.Errorf("the error does not say which operation is bad: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestTxOutsideItsFunction(t *testing.T) {
	c := open(t, cache.Options{})
	ctx, k := t.Context(), cache.K("p", "s")
	var leaked *cache.Tx
	if _, err := c.Update(ctx, func(tx *cache.Tx) error {
		leaked = tx
		wantError(t, "ttl in a transaction", tx.Put(k, nil, cache.TTL(-1)), cache.ErrInvalid)
		wantError(t, "id in a transaction", tx.Put(k, nil, cache.WithRequestID(cache.NewRequestID())), cache.ErrInvalid)
		wantError(t, "stale scan", drain(tx.RangeScan(cache.All(), cache.Stale(time.Second))), cache.ErrInvalid)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	useAfter := func(what string) {
		wantError(t, what+" Put", leaked.Put(k, []byte("v")), cache.ErrInvalid)
		wantError(t, what+" Delete", leaked.Delete(k), cache.ErrInvalid)
		wantError(t, what+" Get", second(leaked.Get(k)), cache.ErrInvalid)
		wantError(t, what+" MultiGet", second(leaked.MultiGet([]cache.Key{k})), cache.ErrInvalid)
		wantError(t, what+" RangeScan", drain(leaked.RangeScan(cache.All())), cache.ErrInvalid)
	}
	useAfter("after Update:")
	if err := c.View(ctx, func(tx *cache.Tx) error {
		leaked = tx
		wantError(t, "Put in a View", tx.Put(k, []byte("v")), cache.ErrInvalid)
		wantError(t, "Delete in a View", tx.Delete(k), cache.ErrInvalid)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	useAfter("after View:")
	if _, err := c.Get(ctx, k); !errors.Is(err, cache.ErrNotFound) {
		t.Fatalf("something was applied: %v", err)
	}
}

func TestErrorsSayWhat(t *testing.T) {
	c := open(t, cache.Options{})
	ctx, k := t.Context(), cache.K("p", "s")
	v, err := c.Put(ctx, k, []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Put(ctx, k, []byte("two"), cache.IfVersion(v-1))
	wantError(t, "put", err, cache.ErrVersionMismatch)
	var mismatch *cache.VersionError
	if !errors.As(err, &mismatch) || mismatch.Key != k || mismatch.Want != v-1 || mismatch.Have != v {
		t.Errorf("got %+v", mismatch)
	}
	var detail *cache.Error
	if errors.As(err, &detail) && (detail.Op != "put" || detail.Key != k || detail.Outcome != cache.OutcomeNotApplied) {
		t.Errorf("got %+v", detail)
	}
	_, err = c.Delete(ctx, cache.K("q", ""), cache.IfPresent())
	if !errors.As(err, &mismatch) || mismatch.Want != cache.AnyVersion || mismatch.Have != 0 {
		t.Errorf("delete of an absent key: %v", err)
	}
	wantError(t, "empty primary", second(c.Put(ctx, cache.K("", "s"), nil)), cache.ErrInvalid)
	wantError(t, "long primary", second(c.Put(ctx, cache.K(strings.Repeat("x", 1025), ""), nil)), cache.ErrTooLarge)
	wantError(t, "large value", second(c.Put(ctx, k, make([]byte, 1<<20+1))), cache.ErrTooLarge)
	wantError(t, "large batch", second(c.MultiPut(ctx, make1001(k))), cache.ErrTooLarge)
}

func make1001(k cache.Key) []cache.Op {
	ops := make([]cache.Op, 1001)
	for i := range ops {
		ops[i] = cache.PutOp(cache.K(k.Primary, fmt.Sprint(i)), nil)
	}
	return ops
}

func TestSentinelsAreDistinct(t *testing.T) {
	for i, a := range sentinels {
		for j, b := range sentinels {
			if errors.Is(a, b) != (i == j) {
				t.Errorf("errors.Is(%v, %v) = %v", a, b, i != j)
			}
		}
	}
}

// A read of a hot key allocates for the copy of the value and nothing else.
func TestHotGetAllocatesOnce(t *testing.T) {
	c := open(t, cache.Options{})
	ctx, k := t.Context(), cache.K("p", "s")
	if _, err := c.Put(ctx, k, make([]byte, 256)); err != nil {
		t.Fatal(err)
	}
	get := func() {
		if _, err := c.Get(ctx, k); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		get() // the read cache takes a key in when it is asked for again
	}
	if allocs := testing.AllocsPerRun(1000, get); allocs > 1 {
		t.Errorf("%v allocations, want at most 1", allocs)
	}
}

func TestKeysOnlyLeavesValuesOut(t *testing.T) {
	c := open(t, cache.Options{})
	ctx, k := t.Context(), cache.K("p", "s")
	v, err := c.Put(ctx, k, []byte("v"))
	if err != nil {
		t.Fatal(err)
	}
	one, err := c.Get(ctx, k, cache.KeysOnly())
	if err != nil || one.Value != nil || one.Version != v {
		t.Errorf("Get: %+v, %v", one, err)
	}
	many, err := c.MultiGet(ctx, []cache.Key{k}, cache.KeysOnly())
	if err != nil || many[0].Value != nil || many[0].Version != v {
		t.Errorf("MultiGet: %+v, %v", many, err)
	}
	for item, err := range c.RangeScan(ctx, cache.All(), cache.KeysOnly()) {
		if err != nil || item.Value != nil || item.Version != v {
			t.Errorf("RangeScan: %+v, %v", item, err)
		}
	}
}

func TestRestoreAndCheckNeedTheirArguments(t *testing.T) {
	ctx := t.Context()
	wantError(t, "no backup", cache.Restore(ctx, "", cache.Options{Dir: t.TempDir()}), cache.ErrInvalid)
	wantError(t, "no directory", cache.Restore(ctx, t.TempDir(), cache.Options{}), cache.ErrInvalid)
	wantError(t, "bad options", cache.Restore(ctx, "x", cache.Options{Dir: "y", Shards: -1}), cache.ErrInvalid)
	wantError(t, "check nothing", second(cache.Check(ctx, "")), cache.ErrInvalid)
	wantError(t, "verify nothing", cache.VerifyBackup(ctx, ""), cache.ErrInvalid)
	c := open(t, cache.Options{})
	wantError(t, "backup nowhere", drain(c.Admin().Backup(ctx, "")), cache.ErrInvalid)
}
