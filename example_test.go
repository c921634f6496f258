package cache_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/distributedcache/cache"
)

// inMemory opens a cache for an example.
func inMemory() *cache.Cache {
	c, err := cache.Open(cache.Options{})
	check(err)
	return c
}

// check ends an example that does not work.
func check(err error) {
	if err != nil {
		panic(err)
	}
}

// must returns the result of a call that an example relies on.
func must[T any](result T, err error) T {
	check(err)
	return result
}

func Example() {
	dir := must(os.MkdirTemp("", "cache-example"))
	defer os.RemoveAll(dir)
	c, err := cache.Open(cache.Options{Dir: dir})
	if err != nil {
		panic(err)
	}
	defer c.Close()
	ctx, key := context.Background(), cache.K("account/4711", "balance")

	version, err := c.Put(ctx, key, []byte("100"))
	check(err)
	_, err = c.Put(ctx, key, []byte("90"), cache.IfVersion(version))
	fmt.Println("first change:", err)
	_, err = c.Put(ctx, key, []byte("80"), cache.IfVersion(version))
	fmt.Println("second change lost the race:", errors.Is(err, cache.ErrVersionMismatch))

	item, err := c.Get(ctx, key)
	fmt.Printf("%s = %s, %v\n", item.Key, item.Value, err)
	// Output:
	// first change: <nil>
	// second change lost the race: true
	// account/4711:balance = 90, <nil>
}

func ExampleOpen() {
	dir := must(os.MkdirTemp("", "cache-example"))
	defer os.RemoveAll(dir)

	c := must(cache.Open(cache.Options{Dir: dir}))
	must(c.Put(context.Background(), cache.K("p", "s"), []byte("kept")))
	check(c.Close())

	c = must(cache.Open(cache.Options{Dir: dir}))
	defer c.Close()
	item := must(c.Get(context.Background(), cache.K("p", "s")))
	fmt.Println(string(item.Value))

	_, err := cache.Open(cache.Options{Dir: dir})
	fmt.Println("a second time:", errors.Is(err, cache.ErrInUse))
	// Output:
	// kept
	// a second time: true
}

func ExampleOpenContext() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := cache.OpenContext(ctx, cache.Options{}) // without Dir: in memory
	if err != nil {
		panic(err)
	}
	fmt.Println(c.Ready(ctx), c.Close())
	// Output: <nil> <nil>
}

func ExampleOptions_Validate() {
	opts := cache.Options{Shards: 5000, Limits: cache.LimitOptions{MaxValueBytes: -1}}
	fmt.Println(opts.Validate())
	// Output:
	// invalid: Shards is 5000: it must be from 1 to 1024, or 0 for the default
	// invalid: Limits.MaxValueBytes is -1: it must be from 1 to 4194304, or 0 for the default
}

func ExampleCache_Ready() {
	c := inMemory()
	defer c.Close()
	fmt.Println(c.Ready(context.Background()))
	// Output: <nil>
}

func ExampleCache_Close() {
	c := inMemory()
	fmt.Println(c.Close())
	_, err := c.Get(context.Background(), cache.K("p", "s"))
	fmt.Println(errors.Is(err, cache.ErrClosed))
	// Output:
	// <nil>
	// true
}

func ExampleCache_Done() {
	c := inMemory()
	go func() { check(c.Close()) }()
	<-c.Done() // also closed when a failing disk fences the cache
	fmt.Println(errors.Is(c.Err(), cache.ErrClosed))
	// Output: true
}

func ExampleCache_Err() {
	c := inMemory()
	defer c.Close()
	fmt.Println(c.Err())
	// Output: <nil>
}

func ExampleCache_Get() {
	c, ctx := inMemory(), context.Background()
	defer c.Close()
	must(c.Put(ctx, cache.K("user/ann", "name"), []byte("Ann")))

	item, err := c.Get(ctx, cache.K("user/ann", "name"))
	fmt.Println(string(item.Value), err)
	_, err = c.Get(ctx, cache.K("user/bob", "name"))
	fmt.Println(errors.Is(err, cache.ErrNotFound))
	fmt.Println(err)
	// Output:
	// Ann <nil>
	// true
	// cache: get user/bob:name: not found
}

func ExampleCache_MultiGet() {
	c, ctx := inMemory(), context.Background()
	defer c.Close()
	must(c.Put(ctx, cache.K("user/ann", "name"), []byte("Ann")))

	items := must(c.MultiGet(ctx, []cache.Key{cache.K("user/bob", "name"), cache.K("user/ann", "name")}))
	for _, item := range items {
		fmt.Printf("%s %q %v\n", item.Key, item.Value, item.Exists())
	}
	// Output:
	// user/bob:name "" false
	// user/ann:name "Ann" true
}

func ExampleCache_Put() {
	c, ctx, key := inMemory(), context.Background(), cache.K("user/ann", "name")
	defer c.Close()

	v1 := must(c.Put(ctx, key, []byte("Ann")))
	v2 := must(c.Put(ctx, key, []byte("Anne"), cache.IfVersion(v1)))
	fmt.Println(v2 > v1)

	_, err := c.Put(ctx, key, []byte("Anna"), cache.IfVersion(v1))
	var mismatch *cache.VersionError
	fmt.Println(errors.As(err, &mismatch) && mismatch.Want == v1 && mismatch.Have == v2)
	// Output:
	// true
	// true
}

func ExampleCache_Delete() {
	c, ctx, key := inMemory(), context.Background(), cache.K("user/ann", "name")
	defer c.Close()
	put := must(c.Put(ctx, key, []byte("Ann")))

	fmt.Println(must(c.Delete(ctx, key)) == put) // the version removed
	fmt.Println(must(c.Delete(ctx, key)))        // there was none
	// Output:
	// true
	// 0
}

func ExampleIfVersion() {
	c, ctx, key := inMemory(), context.Background(), cache.K("counter", "")
	defer c.Close()
	must(c.Put(ctx, key, []byte{1}))

	item := must(c.Get(ctx, key))
	item.Value[0]++
	_, err := c.Put(ctx, key, item.Value, cache.IfVersion(item.Version))
	fmt.Println(err, must(c.Get(ctx, key)).Value)
	// Output: <nil> [2]
}

func ExampleIfAbsent() {
	c, ctx, key := inMemory(), context.Background(), cache.K("lock", "nightly-job")
	defer c.Close()

	for _, owner := range []string{"a", "b"} {
		_, err := c.Put(ctx, key, []byte(owner), cache.IfAbsent(), cache.TTL(time.Minute))
		fmt.Println(owner, err == nil)
	}
	// Output:
	// a true
	// b false
}

func ExampleIfPresent() {
	c := inMemory()
	defer c.Close()
	_, err := c.Put(context.Background(), cache.K("user/bob", "name"), []byte("Bob"), cache.IfPresent())
	fmt.Println(err)
	// Output: cache: put user/bob:name: version mismatch: user/bob:name: want present, have absent
}

func ExampleTTL() {
	c, ctx, key := inMemory(), context.Background(), cache.K("login", "ann")
	defer c.Close()
	must(c.Put(ctx, key, []byte("token"), cache.TTL(time.Hour)))

	item := must(c.Get(ctx, key))
	left := item.ExpiresAt.Sub(item.Version.Time())
	fmt.Println(left)
	// Output: 1h0m0s
}

func ExampleWithRequestID() {
	c, ctx, key := inMemory(), context.Background(), cache.K("log", "1")
	defer c.Close()
	id := cache.NewRequestID()

	first := must(c.Put(ctx, key, []byte("paid"), cache.WithRequestID(id)))
	again := must(c.Put(ctx, key, []byte("paid"), cache.WithRequestID(id))) // after a timeout, say
	fmt.Println("applied once:", first == again)

	_, err := c.Put(ctx, key, []byte("paid twice"), cache.WithRequestID(id))
	fmt.Println(errors.Is(err, cache.ErrRequestReused))
	// Output:
	// applied once: true
	// true
}

func ExampleCache_Outcome() {
	c, ctx := inMemory(), context.Background()
	defer c.Close()
	id := cache.NewRequestID()
	outcome, _, err := c.Outcome(ctx, id)
	fmt.Println(outcome, err)

	put := must(c.Put(ctx, cache.K("log", "1"), []byte("paid"), cache.WithRequestID(id)))
	outcome, version, err := c.Outcome(ctx, id)
	fmt.Println(outcome, version == put, err)
	// Output:
	// unknown <nil>
	// applied true <nil>
}

func ExampleRetryable() {
	fmt.Println(cache.Retryable(cache.ErrOverloaded), cache.Retryable(cache.ErrVersionMismatch))
	// Output: true false
}

func ExampleError() {
	c := inMemory()
	defer c.Close()
	_, err := c.Put(context.Background(), cache.K("p", "s"), nil, cache.IfPresent())
	var detail *cache.Error
	if errors.As(err, &detail) {
		fmt.Println(detail.Op, detail.Key, detail.Outcome)
	}
	// Output: put p:s not applied
}

func ExampleKey() {
	k := cache.K("a:b", "c d\n")
	fmt.Println(k)
	back, err := cache.ParseKey(k.String())
	fmt.Println(back == k, err)
	// Output:
	// a%3Ab:c%20d%0A
	// true <nil>
}

func ExampleParseKey() {
	k, err := cache.ParseKey("account/4711:tx:2024")
	fmt.Printf("%q %q %v\n", k.Primary, k.Secondary, err)
	_, err = cache.ParseKey("no colon")
	fmt.Println(errors.Is(err, cache.ErrInvalid))
	// Output:
	// "account/4711" "tx:2024" <nil>
	// true
}

func ExampleParseRequestID() {
	id, err := cache.ParseRequestID("000102030405060708090a0b0c0d0e0f")
	fmt.Println(id, err)
	// Output: 000102030405060708090a0b0c0d0e0f <nil>
}

func ExampleVersion() {
	fmt.Println(cache.Version(1_700_000_000_000_000).Time())
	// Output: 2023-11-14 22:13:20 +0000 UTC
}
