package cache_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/distributedcache/cache"
)

func ExampleRestore() {
	ctx, tmp := context.Background(), must(os.MkdirTemp("", "cache-example"))
	defer os.RemoveAll(tmp)
	data, backup, copied := filepath.Join(tmp, "data"), filepath.Join(tmp, "backup"), filepath.Join(tmp, "copy")

	c := must(cache.Open(cache.Options{Dir: data}))
	put := must(c.Put(ctx, cache.K("p", "s"), []byte("precious")))
	for _, err := range c.Admin().Backup(ctx, backup) { // while it is in use
		check(err)
	}
	check(c.Close())

	check(cache.VerifyBackup(ctx, backup))
	check(cache.Restore(ctx, backup, cache.Options{Dir: copied}))
	c = must(cache.Open(cache.Options{Dir: copied}))
	defer c.Close()
	item := must(c.Get(ctx, cache.K("p", "s")))
	fmt.Println(string(item.Value), item.Version == put)
	// Output: precious true
}

func ExampleAdmin_Backup() {
	ctx, tmp := context.Background(), must(os.MkdirTemp("", "cache-example"))
	defer os.RemoveAll(tmp)
	c := must(cache.Open(cache.Options{Dir: filepath.Join(tmp, "data")}))
	defer c.Close()
	must(c.Put(ctx, cache.K("p", "s"), []byte("precious")))

	dir := filepath.Join(tmp, "backup")
	var last cache.Progress
	for p, err := range c.Admin().Backup(ctx, dir) {
		if err != nil {
			panic(err)
		}
		last = p
	}
	fmt.Println(last.Done == last.Total, c.Admin().VerifyBackup(ctx, dir))
	// Output: true <nil>
}

func ExampleVerifyBackup() {
	dir := must(os.MkdirTemp("", "cache-example"))
	defer os.RemoveAll(dir)
	fmt.Println(cache.VerifyBackup(context.Background(), dir) != nil) // no backup at all
	// Output: true
}

func ExampleCheck() {
	ctx, dir := context.Background(), must(os.MkdirTemp("", "cache-example"))
	defer os.RemoveAll(dir)
	c := must(cache.Open(cache.Options{Dir: dir}))
	must(c.Put(ctx, cache.K("p", "s"), []byte("x")))
	_, err := cache.Check(ctx, dir)
	fmt.Println("while it is open:", errors.Is(err, cache.ErrInUse))
	check(c.Close())

	report, err := cache.Check(ctx, dir)
	fmt.Println(report.Records, len(report.Problems), err)
	// Output:
	// while it is open: true
	// 1 0 <nil>
}

func ExampleCache_Admin() {
	c, ctx := ledger(), context.Background()
	defer c.Close()
	health := must(c.Admin().Health(ctx))
	fmt.Println(health.OK, health.Reads, health.Writes, len(health.Problems))
	// Output: true true true 0
}

func ExampleAdmin_Health() {
	c := inMemory()
	defer c.Close()
	fmt.Println(must(c.Admin().Health(context.Background())).OK)
	// Output: true
}

func ExampleAdmin_Nodes() {
	c := must(cache.Open(cache.Options{NodeID: "teller-1"}))
	defer c.Close()
	for _, n := range must(c.Admin().Nodes(context.Background())) {
		fmt.Println(n.ID, n.State, n.Self, n.Shards)
	}
	// Output: teller-1 active true 30
}

func ExampleAdmin_Shards() {
	c := must(cache.Open(cache.Options{NodeID: "teller-1", Shards: 2}))
	defer c.Close()
	for _, s := range must(c.Admin().Shards(context.Background())) {
		fmt.Println(s.Shard, s.Leader, s.State)
	}
	// Output:
	// 0 teller-1 serving
	// 1 teller-1 serving
}

func ExampleAdmin_Stats() {
	c := ledger()
	defer c.Close()
	for _, op := range must(c.Admin().Stats(context.Background())).Ops {
		if op.Op == "put" {
			fmt.Println(op.Count, op.Errors)
		}
	}
	// Output: 6 0
}

func ExampleAdmin_HotKeys() {
	c, ctx, hot := ledger(), context.Background(), cache.K("bank", "name")
	defer c.Close()
	for range 10_000 {
		must(c.Get(ctx, hot))
	}
	for _, k := range must(c.Admin().HotKeys(ctx, 1)) {
		fmt.Println(k.Key)
	}
	// Output: bank:name
}

func ExampleAdmin_SlowOps() {
	c := must(cache.Open(cache.Options{Observe: cache.ObserveOptions{SlowOp: 1}})) // everything is slow
	defer c.Close()
	must(c.Put(context.Background(), cache.K("p", "s"), nil))
	for _, op := range must(c.Admin().SlowOps(context.Background(), 1)) {
		fmt.Println(op.Op, op.Key, op.Duration > 0)
	}
	// Output: put p:s true
}

func ExampleAdmin_Alerts() {
	c := inMemory()
	defer c.Close()
	fmt.Println(len(must(c.Admin().Alerts(context.Background()))))
	// Output: 0
}

func ExampleAdmin_Flush() {
	c := ledger()
	defer c.Close()
	fmt.Println(c.Admin().Flush(context.Background()))
	// Output: <nil>
}

func ExampleAdmin_Compact() {
	c, ctx := ledger(), context.Background()
	defer c.Close()
	for p, err := range c.Admin().Compact(ctx) {
		if err != nil {
			panic(err)
		}
		_ = p // p.Stage, p.Done and p.Total say how far it is
	}
	fmt.Println("compacted")
	// Output: compacted
}

func ExampleAdmin_Rebalance() {
	c := inMemory()
	defer c.Close()
	plan, err := c.Admin().Rebalance(context.Background())
	fmt.Println(len(plan.Moves), err)
	// Output: 0 <nil>
}

func ExampleAdmin_Drain() {
	c, ctx := must(cache.Open(cache.Options{NodeID: "teller-1"})), context.Background()
	defer c.Close()
	for _, err := range c.Admin().Drain(ctx, "teller-1") {
		fmt.Println("drain:", errors.Is(err, cache.ErrInvalid)) // there is nowhere to go
	}
	fmt.Println("remove:", errors.Is(c.Admin().Remove(ctx, "teller-1"), cache.ErrInvalid))
	fmt.Println("transfer:", c.Admin().TransferLeader(ctx, 0, "teller-1")) // leads it already
	// Output:
	// drain: true
	// remove: true
	// transfer: <nil>
}
