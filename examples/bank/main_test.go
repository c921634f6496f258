package main

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache"
	"github.com/distributedcache/cache/internal/testkit"
)

// TestMain makes the test binary a node when the bank under test starts one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == nodeCommand {
		os.Exit(runNode(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	testkit.VerifyNoLeaks(m)
}

func TestBankInOneProcess(t *testing.T) { testBank(t) }

func TestBankOfProcesses(t *testing.T) { testBank(t, "--processes") }

func testBank(t *testing.T, args ...string) {
	t.Helper()
	dir := t.TempDir()
	for range 2 { // the second time with what the first has left
		var stdout, stderr bytes.Buffer
		args := append([]string{"--for", "3s", "--accounts", "50", "--workers", "8", "--shards", "6", "--dir", dir}, args...)
		if code := run(args, &stdout, &stderr); code != exitFine {
			t.Fatalf("exit code %d: %s\n%s\nin %s", code, stderr.String(), stdout.String(), dir)
		}
		for _, want := range []string{"as at first: yes", "exactly once: yes", "was killed", "is back", "total 5000 adds up"} {
			if !strings.Contains(stdout.String(), want) {
				t.Errorf("it does not say %q:\n%s", want, stdout.String())
			}
		}
		if strings.Contains(stdout.String(), "\x1b") {
			t.Error("there are escape sequences, though this is no terminal")
		}
	}
	var stdout, stderr bytes.Buffer
	code := run(append([]string{"--for", "1s", "--accounts", "51", "--shards", "6", "--dir", dir}, args...), &stdout, &stderr)
	if code != exitFailed || !strings.Contains(stderr.String(), "--accounts 50") {
		t.Errorf("another number of accounts: exit code %d, %s", code, stderr.String())
	}
}

func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{
		{"--nodes", "2"}, {"--nodes", "8"}, {"--accounts", "1"}, {"--workers", "0"}, {"--shards", "0"}, {"--for", "0s"}, {"x"}, {"--no"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(args, &stdout, &stderr); code != exitUsage || stderr.Len() == 0 {
			t.Errorf("%v: exit code %d, %s", args, code, stderr.String())
		}
	}
}

// The bank has to notice what it is there to notice.
func TestBankFindsFaults(t *testing.T) {
	ctx := testkit.Context(t)
	c, err := cache.Open(cache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	b := &bank{cfg: config{accounts: 3}, opened: total{Accounts: 3, Balance: 300}, screen: newScreen(new(bytes.Buffer))}
	b.counts.start(time.Now())
	node := local{c}
	if err := node.open(ctx, 0, 3); err != nil {
		t.Fatal(err)
	}
	if err := b.look(ctx, node); err != nil || b.counts.numbers().wrong != 0 {
		t.Fatalf("%+v: %v", b.counts.numbers(), err)
	}
	pay := transfer{ID: cache.NewRequestID(), From: 0, To: 1, Amount: 60}
	refuse := transfer{ID: cache.NewRequestID(), From: 0, To: 1, Amount: 60}
	for _, tr := range []transfer{pay, pay, refuse, pay, refuse} { // each counts once
		if _, err := node.move(ctx, tr); err != nil {
			t.Fatal(err)
		}
	}
	books, err := node.sum(ctx)
	if want := (total{Accounts: 3, Balance: 300, Paid: 1, Refused: 1}); err != nil || books != want {
		t.Fatalf("the books have %+v, want %+v: %v", books, want, err)
	}
	for range 2 {
		b.counts.begun()
		b.counts.settled(false, time.Now())
		b.counts.summed(books, b.right(books))
	}
	if err := b.screen.summary(b, books); err != nil {
		t.Errorf("all is well, but: %v", err)
	}
	lost := books
	lost.Paid--
	if b.screen.summary(b, lost) == nil {
		t.Error("a lost transfer is not found")
	}
	b.counts.begun()
	if b.screen.summary(b, books) == nil {
		t.Error("a transfer without an outcome is not found")
	}
	if _, err := c.Put(ctx, accountKey(2), account{Balance: 101}.encode()); err != nil {
		t.Fatal(err)
	}
	if err := b.look(ctx, node); err != nil || b.counts.numbers().wrong != 1 {
		t.Errorf("money out of nothing is not found: %v", err)
	}
}

// A door that is shut lets nobody in, and does not wait for ever for those inside.
func TestDoor(t *testing.T) {
	var d door
	var inside sync.WaitGroup
	stuck, entered, late := make(chan struct{}), make(chan struct{}), make(chan struct{})
	inside.Go(func() { d.pass(func() { close(entered); <-stuck }) })
	<-entered
	d.shut(func() {
		inside.Go(func() { d.pass(func() { close(late) }) })
		select {
		case <-late:
			t.Error("somebody came in")
		case <-time.After(20 * time.Millisecond):
		}
	})
	<-late
	close(stuck)
	inside.Wait()
	d.shut(func() {})
	d.pass(func() {})
}

// The table on a terminal fits, and says what has happened.
func TestTable(t *testing.T) {
	f := &fleet{members: []*member{{place: place{id: "node-1"}, state: up}, {place: place{id: "node-2"}, state: killed}}}
	b := &bank{cfg: config{accounts: 10, shards: 4, duration: time.Minute}, fleet: f, screen: newScreen(new(bytes.Buffer))}
	b.counts.saw(sight{
		Nodes:  []cache.NodeInfo{{ID: "node-1", Leaders: 4, Shards: 4}},
		Shards: []cache.ShardInfo{{Shard: 0, Leader: "node-2"}, {Shard: 1, Leader: "node-1"}},
	})
	b.counts.saw(sight{Shards: []cache.ShardInfo{{Shard: 0}, {Shard: 1, Leader: "node-1"}}})
	b.counts.saw(sight{Shards: []cache.ShardInfo{{Shard: 0, Leader: "node-1"}, {Shard: 1, Leader: "node-1"}}})
	b.counts.summed(total{Accounts: 10, Balance: 1000}, true)
	b.screen.event("node-2 was killed")
	text := strings.Join(b.screen.table(b, b.counts.numbers(), f.states()), "\n")
	for _, want := range []string{"1000", "adds up", "leaders moved 1 times", "node-2 was killed", "killed"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	b.counts.summed(total{}, false)
	if text := b.screen.line(b, b.counts.numbers(), f.states()); !strings.Contains(text, "WRONG") {
		t.Error(text)
	}
}
