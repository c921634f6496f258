// Command quickstart shows in a minute what the cache does: it writes, reads,
// compares and sets, moves money in a transaction, scans, closes, opens again
// and finds everything. Run it with
//
//	go run ./examples/quickstart
//
// It uses a temporary directory, which it removes, or the one named by -dir,
// which it keeps.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/distributedcache/cache"
)

func main() {
	dir := flag.String("dir", "", "data directory to use and keep; default: a temporary one")
	flag.Parse()
	if err := run(context.Background(), os.Stdout, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run gives the whole tour, on a temporary directory if dir is empty.
func run(ctx context.Context, out io.Writer, dir string) error {
	if dir == "" {
		tmp, err := os.MkdirTemp("", "quickstart-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		dir = tmp
	}
	t := &tour{
		ctx: ctx, out: out,
		// The first level of a key decides where it lives, the second orders
		// the keys of one first level.
		greeting: cache.K("quickstart", "greeting"),
		ann:      cache.K("account/ann", "balance"),
		bob:      cache.K("account/bob", "balance"),
	}
	if err := t.visit(dir, t.oneKey, t.expiring, t.transfer, t.update, t.scans); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nClosed. Everything was synced to disk before each call returned; opening again.\n")
	return t.visit(dir, t.allThere)
}

// tour walks through the cache and prints what it sees.
type tour struct {
	ctx context.Context
	out io.Writer
	c   *cache.Cache

	greeting, ann, bob cache.Key
}

// visit opens the cache, takes the steps and closes it.
func (t *tour) visit(dir string, steps ...func() error) (err error) {
	start := time.Now()
	t.c, err = cache.Open(cache.Options{Dir: dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.c.Close()) }()
	fmt.Fprintf(t.out, "Opened %s in %v.\n", dir, time.Since(start).Round(time.Millisecond))
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (t *tour) title(text string) { fmt.Fprintf(t.out, "\n%s\n", text) }

func (t *tour) say(format string, args ...any) { fmt.Fprintf(t.out, "  "+format+"\n", args...) }

func (t *tour) oneKey() error {
	t.title("One key: put, get, compare and set")
	first, err := t.c.Put(t.ctx, t.greeting, []byte("hello"))
	if err != nil {
		return err
	}
	item, err := t.c.Get(t.ctx, t.greeting)
	if err != nil {
		return err
	}
	t.say("put and got %s = %q, written at %s", item.Key, item.Value, item.Version.Time().Format(time.TimeOnly))

	if _, err = t.c.Put(t.ctx, t.greeting, []byte("hello again"), cache.IfVersion(first)); err != nil {
		return err
	}
	t.say("changed it on the condition that nobody else did")

	_, err = t.c.Put(t.ctx, t.greeting, []byte("too late"), cache.IfVersion(first))
	if !errors.Is(err, cache.ErrVersionMismatch) {
		return fmt.Errorf("a lost race was not noticed: %w", err)
	}
	t.say("the same condition again is refused: ErrVersionMismatch, and nothing changes")
	return nil
}

func (t *tour) expiring() error {
	t.title("A value that expires")
	key := cache.K("quickstart", "token")
	if _, err := t.c.Put(t.ctx, key, []byte("secret"), cache.TTL(50*time.Millisecond)); err != nil {
		return err
	}
	item, err := t.c.Get(t.ctx, key)
	switch {
	case err == nil:
		t.say("put with a TTL of 50 ms: it is there now")
		time.Sleep(time.Until(item.ExpiresAt) + time.Millisecond)
	case !errors.Is(err, cache.ErrNotFound): // on a very slow machine it is gone by now
		return err
	}
	if _, err := t.c.Get(t.ctx, key); !errors.Is(err, cache.ErrNotFound) {
		return fmt.Errorf("an expired value is still there: %w", err)
	}
	t.say("and after 50 ms it is not: ErrNotFound")
	return nil
}

func (t *tour) transfer() error {
	t.title("A batch: all of it or nothing")
	if _, err := t.c.MultiPut(t.ctx, []cache.Op{
		cache.PutOp(t.ann, []byte("100")),
		cache.PutOp(t.bob, []byte("20")),
	}); err != nil {
		return err
	}
	accounts, err := t.c.MultiGet(t.ctx, []cache.Key{t.ann, t.bob})
	if err != nil {
		return err
	}
	ops := []cache.Op{
		cache.PutOp(t.ann, []byte("70"), cache.IfVersion(accounts[0].Version)),
		cache.PutOp(t.bob, []byte("50"), cache.IfVersion(accounts[1].Version)),
	}
	if _, err := t.c.MultiPut(t.ctx, ops); err != nil {
		return err
	}
	t.say("moved 30 from Ann (100 -> 70) to Bob (20 -> 50) in one step, though they live on different shards")
	if _, err := t.c.MultiPut(t.ctx, ops); !errors.Is(err, cache.ErrVersionMismatch) {
		return fmt.Errorf("a repeated transfer was not noticed: %w", err)
	}
	t.say("the same transfer again is refused as a whole: the balances have changed since")
	return nil
}

func (t *tour) update() error {
	t.title("A transaction: read, decide, write")
	_, err := t.c.Update(t.ctx, func(tx *cache.Tx) error {
		balance, err := tx.Get(t.ann)
		if err != nil {
			return err
		}
		cents, err := strconv.Atoi(string(balance.Value))
		if err != nil {
			return err
		}
		if err := tx.Put(t.ann, []byte(strconv.Itoa(cents-5))); err != nil {
			return err
		}
		return tx.Put(cache.K("account/ann", "fee"), []byte("5"))
	})
	if err != nil {
		return err
	}
	t.say("took a fee of 5 from Ann and noted it; had anybody interfered, it would have run again")
	return nil
}

func (t *tour) scans() error {
	t.title("Scans: ordered by key")
	for item, err := range t.c.RangeScan(t.ctx, cache.PrimaryPrefix("account/")) {
		if err != nil {
			return err
		}
		t.say("%s = %s", item.Key, item.Value)
	}
	const entries = 25
	var ops []cache.Op
	for i := range entries {
		ops = append(ops, cache.PutOp(cache.K("journal", fmt.Sprintf("%03d", i)), []byte("entry")))
	}
	if _, err := t.c.MultiPut(t.ctx, ops); err != nil {
		return err
	}
	cursor, total := "", 0
	for pages := 1; ; pages++ {
		n := 0
		for item, err := range t.c.RangeScan(t.ctx, cache.Primary("journal"), cache.Limit(10), cache.From(cursor)) {
			if err != nil {
				return err
			}
			cursor, n = item.Cursor(), n+1
		}
		if total += n; n < 10 {
			t.say("a journal of %d entries, read in %d pages of 10 with a cursor", total, pages)
			return nil
		}
	}
}

func (t *tour) allThere() error {
	t.title("After reopening")
	want := map[cache.Key]string{t.greeting: "hello again", t.ann: "65", t.bob: "50"}
	for key, value := range want {
		item, err := t.c.Get(t.ctx, key)
		if err != nil {
			return err
		}
		if string(item.Value) != value {
			return fmt.Errorf("%s is %q, want %q", key, item.Value, value)
		}
	}
	n := 0
	for _, err := range t.c.RangeScan(t.ctx, cache.All(), cache.KeysOnly()) {
		if err != nil {
			return err
		}
		n++
	}
	t.say("Ann has 65, Bob has 50, the greeting is %q; %d keys in all", want[t.greeting], n)
	return nil
}
