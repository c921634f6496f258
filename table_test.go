package cache_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache"
)

type account struct {
	Owner string
	Cents int64
}

func TestTable(t *testing.T) {
	c, ctx := open(t, cache.Options{}), t.Context()
	accounts := cache.NewTable(c, cache.JSON[account]())
	ann, bob := cache.K("account", "ann"), cache.K("account", "bob")

	v, err := accounts.Put(ctx, ann, account{"Ann", 100}, cache.IfAbsent(), cache.TTL(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	got, err := accounts.Get(ctx, ann)
	if err != nil || got.Value != (account{"Ann", 100}) || got.Key != ann || got.Version != v || got.ExpiresAt.IsZero() {
		t.Fatalf("got %+v, %v", got, err)
	}
	if _, err := accounts.Get(ctx, bob); !errors.Is(err, cache.ErrNotFound) {
		t.Fatalf("absent: %v", err)
	}
	if _, err := c.MultiPut(ctx, []cache.Op{accounts.PutOp(bob, account{"Bob", 5})}); err != nil {
		t.Fatal(err)
	}
	many, err := accounts.MultiGet(ctx, []cache.Key{bob, cache.K("account", "eve"), ann})
	if err != nil || many[0].Value.Cents != 5 || many[1].Exists() || many[1].Key.Secondary != "eve" || many[2].Value.Owner != "Ann" {
		t.Fatalf("got %+v, %v", many, err)
	}
	var owners []string
	for e, err := range accounts.RangeScan(ctx, cache.Primary("account")) {
		if err != nil {
			t.Fatal(err)
		}
		owners = append(owners, e.Value.Owner)
	}
	if strings.Join(owners, ",") != "Ann,Bob" {
		t.Fatalf("got %v", owners)
	}
	for e, err := range accounts.RangeScan(ctx, cache.Primary("account"), cache.KeysOnly()) {
		if err != nil || e.Value != (account{}) || !e.Exists() {
			t.Fatalf("keys only: %+v, %v", e, err)
		}
	}
	if _, err := accounts.Delete(ctx, bob); err != nil {
		t.Fatal(err)
	}
	if _, err := accounts.Get(ctx, bob); !errors.Is(err, cache.ErrNotFound) {
		t.Fatalf("deleted: %v", err)
	}
}

func TestTableInATransaction(t *testing.T) {
	c, ctx := open(t, cache.Options{}), t.Context()
	accounts := cache.NewTable(c, cache.JSON[account]())
	ann := cache.K("account", "ann")
	for want := int64(1); want <= 3; want++ {
		if _, err := c.Update(ctx, func(tx *cache.Tx) error {
			e, err := accounts.GetTx(tx, ann)
			if err != nil && !errors.Is(err, cache.ErrNotFound) {
				return err
			}
			e.Value.Cents++
			if err := accounts.PutTx(tx, ann, e.Value); err != nil {
				return err
			}
			own, err := accounts.GetTx(tx, ann) // sees its own write
			if err == nil && own.Value.Cents != want {
				t.Errorf("own write: %+v", own)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if e, err := accounts.Get(ctx, ann); err != nil || e.Value.Cents != 3 {
		t.Fatalf("got %+v, %v", e, err)
	}
}

func TestTableOfOtherData(t *testing.T) {
	c, ctx := open(t, cache.Options{}), t.Context()
	accounts := cache.NewTable(c, cache.JSON[account]())
	bad := cache.K("account", "bad")
	if _, err := c.Put(ctx, bad, []byte("not json")); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err error) {
		t.Helper()
		wantError(t, what, err, cache.ErrCorrupt)
		if err != nil && !strings.Contains(err.Error(), bad.String()) {
			t.Errorf("%s: the error does not name the key: %v", what, err)
		}
	}
	check("Get", second(accounts.Get(ctx, bad)))
	check("MultiGet", second(accounts.MultiGet(ctx, []cache.Key{bad})))
	check("RangeScan", drain(accounts.RangeScan(ctx, cache.All())))

	funcs := cache.NewTable(c, cache.JSON[func()]())
	k := cache.K("f", "")
	wantError(t, "Put", second(funcs.Put(ctx, k, func() {})), cache.ErrInvalid)
	wantError(t, "PutOp", second(c.MultiPut(ctx, []cache.Op{funcs.PutOp(k, func() {})})), cache.ErrInvalid)
	_, err := c.Update(ctx, func(tx *cache.Tx) error { return funcs.PutTx(tx, k, func() {}) })
	if !errors.Is(err, cache.ErrInvalid) {
		t.Errorf("PutTx: %v", err)
	}
}
