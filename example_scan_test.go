package cache_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/distributedcache/cache"
)

// ledger opens a cache with a few keys of two accounts.
func ledger() *cache.Cache {
	c := inMemory()
	for _, k := range []cache.Key{
		cache.K("account/ann", "name"), cache.K("account/ann", "tx/01"), cache.K("account/ann", "tx/02"),
		cache.K("account/ann", "tx/03"), cache.K("account/bob", "name"), cache.K("bank", "name"),
	} {
		must(c.Put(context.Background(), k, []byte("x")))
	}
	return c
}

// list prints the keys of a scan on one line.
func list(c *cache.Cache, r cache.Range, opts ...cache.ReadOption) {
	var keys []string
	for item, err := range c.RangeScan(context.Background(), r, opts...) {
		check(err)
		keys = append(keys, item.Key.String())
	}
	fmt.Println(strings.Join(keys, " "))
}

func ExampleCache_RangeScan() {
	c, ctx := ledger(), context.Background()
	defer c.Close()
	for item, err := range c.RangeScan(ctx, cache.Primary("account/ann").Prefix("tx/")) {
		if err != nil {
			panic(err) // the scan ends with its first error
		}
		fmt.Printf("%s = %s\n", item.Key, item.Value)
	}
	// Output:
	// account/ann:tx/01 = x
	// account/ann:tx/02 = x
	// account/ann:tx/03 = x
}

func ExampleAll() {
	c := ledger()
	defer c.Close()
	list(c, cache.All(), cache.KeysOnly())
	// Output: account/ann:name account/ann:tx/01 account/ann:tx/02 account/ann:tx/03 account/bob:name bank:name
}

func ExamplePrimary() {
	c := ledger()
	defer c.Close()
	list(c, cache.Primary("account/ann"))
	list(c, cache.Primary("account/ann").Prefix("tx/"))
	list(c, cache.Primary("account/ann").Between("tx/02", "tx/03"))
	// Output:
	// account/ann:name account/ann:tx/01 account/ann:tx/02 account/ann:tx/03
	// account/ann:tx/01 account/ann:tx/02 account/ann:tx/03
	// account/ann:tx/02
}

func ExamplePrimaryPrefix() {
	c := ledger()
	defer c.Close()
	list(c, cache.PrimaryPrefix("account/"), cache.Limit(2))
	// Output: account/ann:name account/ann:tx/01
}

func ExampleRange() {
	c := ledger()
	defer c.Close()
	list(c, cache.Range{Start: cache.K("account/ann", "tx/03"), End: cache.K("bank", "")})
	// Output: account/ann:tx/03 account/bob:name
}

func ExampleReverse() {
	c := ledger()
	defer c.Close()
	list(c, cache.Primary("account/ann"), cache.Reverse(), cache.Limit(2))
	// Output: account/ann:tx/03 account/ann:tx/02
}

func ExampleLimit() {
	c := ledger()
	defer c.Close()
	list(c, cache.All(), cache.Limit(1))
	// Output: account/ann:name
}

func ExampleFrom() {
	c, ctx := ledger(), context.Background()
	defer c.Close()
	cursor := "" // kept by a caller between pages, in a URL for instance
	for page := 1; ; page++ {
		n := 0
		for item, err := range c.RangeScan(ctx, cache.All(), cache.From(cursor), cache.Limit(4)) {
			check(err)
			cursor, n = item.Cursor(), n+1
		}
		if n == 0 {
			break
		}
		fmt.Printf("page %d has %d items\n", page, n)
	}
	// Output:
	// page 1 has 4 items
	// page 2 has 2 items
}

func ExampleAfter() {
	c := ledger()
	defer c.Close()
	list(c, cache.All(), cache.After(cache.K("account/ann", "tx/02")))
	// Output: account/ann:tx/03 account/bob:name bank:name
}

func ExampleKeysOnly() {
	c := ledger()
	defer c.Close()
	for item, err := range c.RangeScan(context.Background(), cache.Primary("bank"), cache.KeysOnly()) {
		check(err)
		fmt.Println(item.Key, item.Value == nil, item.Exists())
	}
	// Output: bank:name true true
}

func ExampleStale() {
	c, ctx := ledger(), context.Background()
	defer c.Close()
	item, err := c.Get(ctx, cache.K("bank", "name"), cache.Stale(time.Second))
	fmt.Println(string(item.Value), err)
	// Output: x <nil>
}

func ExampleLinearizable() {
	c, ctx := ledger(), context.Background()
	defer c.Close()
	item, err := c.Get(ctx, cache.K("bank", "name"), cache.Linearizable()) // the default
	fmt.Println(string(item.Value), err)
	// Output: x <nil>
}

func ExampleTable() {
	type user struct {
		Name string `json:"name"`
		Age  int    `json:"age"`
	}
	c, ctx := inMemory(), context.Background()
	defer c.Close()
	users := cache.NewTable(c, cache.JSON[user]())

	must(users.Put(ctx, cache.K("users", "ann"), user{"Ann", 30}))
	must(users.Put(ctx, cache.K("users", "bob"), user{"Bob", 40}))
	ann := must(users.Get(ctx, cache.K("users", "ann")))
	ann.Value.Age++
	must(users.Put(ctx, ann.Key, ann.Value, cache.IfVersion(ann.Version)))
	for u, err := range users.RangeScan(ctx, cache.Primary("users")) {
		check(err)
		fmt.Println(u.Key.Secondary, u.Value.Name, u.Value.Age)
	}
	must(users.Delete(ctx, ann.Key))
	for _, u := range must(users.MultiGet(ctx, []cache.Key{ann.Key, cache.K("users", "bob")})) {
		fmt.Println(u.Key.Secondary, u.Exists())
	}
	// Output:
	// ann Ann 31
	// bob Bob 40
	// ann false
	// bob true
}

func ExampleTable_PutTx() {
	c, ctx := inMemory(), context.Background()
	defer c.Close()
	counters, key := cache.NewTable(c, cache.JSON[int]()), cache.K("counters", "visits")
	must(c.MultiPut(ctx, []cache.Op{counters.PutOp(key, 41)}))

	must(c.Update(ctx, func(tx *cache.Tx) error {
		visits, err := counters.GetTx(tx, key)
		if err != nil {
			return err
		}
		return counters.PutTx(tx, key, visits.Value+1)
	}))
	fmt.Println(must(counters.Get(ctx, key)).Value)
	// Output: 42
}

// lines is a codec of the user's own.
type lines struct{}

func (lines) Encode(s string) ([]byte, error)    { return []byte(s + "\n"), nil }
func (lines) Decode(data []byte) (string, error) { return string(data[:len(data)-1]), nil }

func ExampleCodec() {
	c, ctx := inMemory(), context.Background()
	defer c.Close()
	texts := cache.NewTable(c, lines{})
	must(texts.Put(ctx, cache.K("t", "1"), "hello"))
	fmt.Printf("%q\n", must(texts.Get(ctx, cache.K("t", "1"))).Value)
	// Output: "hello"
}
