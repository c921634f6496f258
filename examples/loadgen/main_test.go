package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/testkit"
)

// TestMain makes the test binary a node when the generator under test starts one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == nodeCommand {
		os.Exit(runNode(os.Stdin, os.Stdout, os.Stderr))
	}
	testkit.VerifyNoLeaks(m)
}

// loadgen runs the program, wants it to be fine, and returns what it printed and
// the result that it wrote.
func loadgen(t *testing.T, args ...string) (string, *result) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "result.json")
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := run(append(args, "--dir", data, "--json", file), &stdout, &stderr); code != exitFine {
		t.Fatalf("exit code %d: %s\n%s", code, stderr.String(), stdout.String())
	}
	if left, err := os.ReadDir(data); err != nil || len(left) > 0 {
		t.Errorf("it left %v behind: %v", left, err)
	}
	r, err := readResult(file)
	if err != nil {
		t.Fatal(err)
	}
	return stdout.String(), r
}

// loadgenAtLeast is loadgen with as many calls as a test needs to say anything. A
// machine that is busy with something else may take more than one try.
func loadgenAtLeast(t *testing.T, calls int64, args ...string) (text string, r *result) {
	t.Helper()
	for range 3 {
		if text, r = loadgen(t, args...); r.Runs[0].Repeats[0].All.Count >= calls {
			return text, r
		}
	}
	t.Fatalf("void: fewer than %d calls three times:\n%s", calls, text)
	return text, r
}

// everything does every operation.
func everything() string {
	all := names()
	return strings.Join(all[:], ",")
}

func TestSolo(t *testing.T) {
	text, r := loadgenAtLeast(t, 300, "--for", "2s", "--warmup", "100ms", "--idle", "100ms", "--clients", "8", "--keys", "1000", "--accounts", "50", "--durability", "relaxed", "--mix", everything())
	if len(r.Runs) != 1 || len(r.Runs[0].Repeats) != 1 {
		t.Fatalf("%d runs", len(r.Runs))
	}
	rep := &r.Runs[0].Repeats[0]
	if len(rep.Ops) != int(operations) {
		t.Errorf("%d operations were done, want all %d:\n%s", len(rep.Ops), operations, text)
	}
	for _, o := range rep.Ops {
		l := o.Latency
		if o.Count == 0 || l.P50 <= 0 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max {
			t.Errorf("%s: %d calls, %+v", o.Name, o.Count, l)
		}
		delete(o.Errors, "version_mismatch") // of cas, where clients meet
		delete(o.Errors, "conflict")
		if len(o.Errors) > 0 {
			t.Errorf("%s failed: %v", o.Name, o.Errors)
		}
		if !strings.Contains(text, o.Name) {
			t.Errorf("the table does not have %s:\n%s", o.Name, text)
		}
	}
	checkMoney(t, rep, text)
	if runtime.GOOS == "linux" && (len(rep.Processes) != 1 || rep.Processes[0].RSSBytes == 0 || rep.CPUPer1000 <= 0) {
		t.Errorf("cost: %+v, %v", rep.Processes, rep.CPUPer1000)
	}
}

func checkMoney(t *testing.T, rep *repeat, text string) {
	t.Helper()
	a := rep.Transfers
	if a == nil || !a.AddsUp || a.Confirmed == 0 {
		t.Fatalf("the money: %+v\n%s", a, text)
	}
	for _, o := range rep.Ops {
		if o.Name == opTransfer.String() && o.Count > a.Confirmed {
			t.Errorf("%d transfers were measured, %d confirmed", o.Count, a.Confirmed)
		}
	}
	if want := int64(a.Books.Accounts) * openingBalance; a.Books.Balance != want {
		t.Errorf("there is %d in %d accounts, want %d", a.Books.Balance, a.Books.Accounts, want)
	}
	if a.Books.Sent < a.Confirmed || a.Books.Sent > a.Confirmed+a.Unknown {
		t.Errorf("%d transfers in the books, %d confirmed, %d unknown", a.Books.Sent, a.Confirmed, a.Unknown)
	}
}

func TestProcesses(t *testing.T) {
	text, r := loadgenAtLeast(t, 100, "--topology", "processes", "--shards", "6", "--for", "2s", "--warmup", "100ms", "--callers", "all", "--rate", "100",
		"--arrivals", "even", "--keys", "500", "--accounts", "60", "--mix", "get=4,put=2,transfer=2,stale-get=1,scan=1")
	rep := &r.Runs[0].Repeats[0]
	checkMoney(t, rep, text)
	if rep.Open == nil {
		t.Fatalf("it was no open loop:\n%s", text)
	}
	if got := rep.All.Count + rep.All.Failed + rep.Open.Missed; got < 197 || got > 203 { // each of three may begin one more or less
		t.Errorf("%d starts in two seconds, want 200:\n%s", got, text)
	}
	led := 0
	for _, n := range rep.Leaders {
		led += n
	}
	if len(rep.Leaders) != 3 || led != 6 {
		t.Errorf("leaders: %v", rep.Leaders)
	}
	if runtime.GOOS == "linux" && len(rep.Processes) != 3 {
		t.Errorf("cost: %+v", rep.Processes)
	}
}

func TestInProcessRepeats(t *testing.T) {
	profiled := filepath.Join(t.TempDir(), "cpu.prof")
	_, r := loadgen(t, "--topology", "inprocess", "--nodes", "2", "--shards", "4", "--for", "200ms", "--warmup", "0s", "--keys", "100",
		"--clients", "4", "--repeat", "2", "--consistency", "stale", "--dist", "hotset",
		"--cpuprofile", profiled)
	if info, err := os.Stat(profiled); err != nil || info.Size() == 0 {
		t.Errorf("the profile: %v", err)
	}
	if n := len(r.Runs[0].Repeats); n != 2 {
		t.Fatalf("%d repeats", n)
	}
	var out bytes.Buffer
	if err := compare(&out, r, r); err != nil || !strings.Contains(out.String(), "no difference shown") || strings.Contains(out.String(), "differ:") {
		t.Errorf("compared with itself: %v\n%s", err, out.String())
	}
}

// An interrupt ends the run, its processes and its files.
func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	var stdout, stderr bytes.Buffer
	done := make(chan error)
	go func() {
		done <- commandRun(ctx, []string{"--topology", "processes", "--nodes", "2", "--shards", "2", "--for", "1h", "--keys", "100", "--dir", dir}, &stdout, &stderr)
	}()
	testkit.Eventually(t, time.Minute, "both nodes have files", func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, "*", "*", "node-*", "*"))
		return len(found) > 1
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("it left %v behind", left)
	}
}

// A child that cannot start says why.
func TestChildFails(t *testing.T) {
	c, err := startChild("node-9")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err = c.open(t.Context(), place{ID: "node-9", Dir: file, Shards: 1})
	if err == nil || !strings.Contains(err.Error(), "node-9") || !strings.Contains(err.Error(), file) {
		t.Errorf("a file for a directory: %v", err)
	}
	if c.close() == nil {
		t.Error("it ended as if all was well")
	}
}

func TestTail(t *testing.T) {
	var said tail
	for range 1000 {
		if n, err := said.Write([]byte("0123456789")); n != 10 || err != nil {
			t.Fatal(n, err)
		}
	}
	if s := said.String(); len(s) != maxTail || !strings.HasSuffix(s, "789") {
		t.Errorf("%d bytes, ...%q", len(s), s[len(s)-3:])
	}
}
