package cache_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/distributedcache/cache"
)

func ExampleCache_MultiPut() {
	c, ctx := inMemory(), context.Background()
	defer c.Close()
	ann, bob := cache.K("account/ann", "balance"), cache.K("account/bob", "balance")
	va := must(c.Put(ctx, ann, []byte("100")))
	vb := must(c.Put(ctx, bob, []byte("0")))

	// Moves 30 from Ann to Bob: both keys change, on whatever shards, or none.
	transfer := []cache.Op{
		cache.PutOp(ann, []byte("70"), cache.IfVersion(va)),
		cache.PutOp(bob, []byte("30"), cache.IfVersion(vb)),
	}
	_, err := c.MultiPut(ctx, transfer)
	fmt.Println("transferred:", err == nil)
	_, err = c.MultiPut(ctx, transfer)
	fmt.Println("again:", errors.Is(err, cache.ErrVersionMismatch))
	for _, item := range must(c.MultiGet(ctx, []cache.Key{ann, bob})) {
		fmt.Printf("%s = %s\n", item.Key, item.Value)
	}
	// Output:
	// transferred: true
	// again: true
	// account/ann:balance = 70
	// account/bob:balance = 30
}

func ExampleCheckOp() {
	c, ctx := inMemory(), context.Background()
	defer c.Close()
	frozen := cache.K("account/ann", "frozen")
	ops := []cache.Op{
		cache.CheckOp(frozen, 0), // only if there is no such key
		cache.PutOp(cache.K("account/ann", "limit"), []byte("500")),
		cache.DeleteOp(cache.K("account/ann", "request")),
	}
	_, err := c.MultiPut(ctx, ops)
	fmt.Println(err)
	must(c.Put(ctx, frozen, []byte("by court order")))
	_, err = c.MultiPut(ctx, ops)
	fmt.Println(errors.Is(err, cache.ErrVersionMismatch))
	// Output:
	// <nil>
	// true
}

func ExamplePutOp() {
	c, ctx := inMemory(), context.Background()
	defer c.Close()
	results := must(c.MultiPut(ctx, []cache.Op{cache.PutOp(cache.K("p", "a"), []byte("1"), cache.IfAbsent())}))
	fmt.Println(len(results), results[0].Key, results[0].Version > 0, results[0].Err)
	// Output: 1 p:a true <nil>
}

func ExampleDeleteOp() {
	c, ctx := ledger(), context.Background()
	defer c.Close()
	results := must(c.MultiPut(ctx, []cache.Op{
		cache.DeleteOp(cache.K("account/ann", "tx/01")), cache.DeleteOp(cache.K("account/ann", "tx/99")),
	}))
	fmt.Println(results[0].Version > 0, results[1].Version)
	// Output: true 0
}

func ExampleIndependent() {
	c, ctx := inMemory(), context.Background()
	defer c.Close()
	must(c.Put(ctx, cache.K("p", "taken"), []byte("x")))
	results, err := c.MultiPut(ctx, []cache.Op{
		cache.PutOp(cache.K("p", "taken"), []byte("1"), cache.IfAbsent()),
		cache.PutOp(cache.K("p", "free"), []byte("2"), cache.IfAbsent()),
	}, cache.Independent())
	fmt.Println(err)
	for _, r := range results {
		fmt.Println(r.Key, r.Err == nil)
	}
	// Output:
	// <nil>
	// p:taken false
	// p:free true
}

func ExampleCache_View() {
	c, ctx := ledger(), context.Background()
	defer c.Close()
	err := c.View(ctx, func(tx *cache.Tx) error {
		n := 0 // fn may run again: it starts from scratch each time
		for _, err := range tx.RangeScan(cache.All()) {
			if err != nil {
				return err
			}
			n++
		}
		fmt.Println(n, "keys at one moment")
		return nil
	})
	fmt.Println(err)
	// Output:
	// 6 keys at one moment
	// <nil>
}

func ExampleCache_Update() {
	c, ctx, key := inMemory(), context.Background(), cache.K("counters", "visits")
	defer c.Close()
	for range 3 {
		_, err := c.Update(ctx, func(tx *cache.Tx) error {
			item, err := tx.Get(key)
			if err != nil && !errors.Is(err, cache.ErrNotFound) {
				return err
			}
			n, _ := strconv.Atoi(string(item.Value))
			return tx.Put(key, strconv.AppendInt(nil, int64(n+1), 10))
		})
		check(err)
	}
	fmt.Println(string(must(c.Get(ctx, key)).Value))
	// Output: 3
}

func ExampleTx() {
	c, ctx := ledger(), context.Background()
	defer c.Close()
	errTooFew := errors.New("too few")
	_, err := c.Update(ctx, func(tx *cache.Tx) error {
		check(tx.Context().Err())
		check(tx.Delete(cache.K("account/ann", "tx/01")))
		_, err := tx.Get(cache.K("account/ann", "tx/01"))
		fmt.Println("sees its own delete:", errors.Is(err, cache.ErrNotFound))
		items := must(tx.MultiGet([]cache.Key{cache.K("account/ann", "tx/01"), cache.K("account/ann", "tx/02")}))
		fmt.Println(items[0].Exists(), items[1].Exists())
		return errTooFew // an error of the function undoes everything
	})
	fmt.Println(errors.Is(err, errTooFew))
	item, err := c.Get(ctx, cache.K("account/ann", "tx/01"))
	fmt.Println("still there:", item.Exists(), err)
	// Output:
	// sees its own delete: true
	// false true
	// true
	// still there: true <nil>
}

func ExampleMaxAttempts() {
	c, ctx, key := inMemory(), context.Background(), cache.K("p", "contended")
	defer c.Close()
	_, err := c.Update(ctx, func(tx *cache.Tx) error {
		if _, err := tx.Get(key); err != nil && !errors.Is(err, cache.ErrNotFound) {
			return err
		}
		must(c.Put(ctx, key, []byte("somebody else"))) // interferes with every attempt
		return tx.Put(key, []byte("mine"))
	}, cache.MaxAttempts(3))
	fmt.Println(errors.Is(err, cache.ErrConflict), cache.Retryable(err))
	// Output: true true
}
