package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/distributedcache/cache"
	"github.com/distributedcache/cache/internal/testkit"
)

// process is the real server in a process of its own.
type process struct {
	t       *testing.T
	cmd     *exec.Cmd
	api     string
	metrics string
	drained chan struct{} // closed when stderr has ended
	log     strings.Builder
}

// build returns the path of the server's binary.
func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// start starts the binary on free ports and waits until it says that it
// serves.
func start(t *testing.T, binary, dir string) *process {
	t.Helper()
	p := &process{t: t, drained: make(chan struct{})}
	p.cmd = exec.CommandContext(t.Context(), binary, "--port=0", "--metrics-port=0", "--node-id=node1",
		"--data-dir", filepath.Join(dir, "data"), "--backup-root", filepath.Join(dir, "backups"))
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	serving := make(chan struct{})
	go func() {
		defer close(p.drained)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.log.WriteString(lines.Text() + "\n")
			if api, ok := attribute(lines.Text(), "api"); ok && strings.Contains(lines.Text(), "msg=serving") {
				p.api = api
				p.metrics, _ = attribute(lines.Text(), "metrics")
				close(serving)
			}
		}
	}()
	select {
	case <-serving:
	case <-p.drained:
		t.Fatalf("the server ended before it served: %v\n%s", p.cmd.Wait(), p.log.String())
	}
	return p
}

// attribute returns the value of name=value in a line of the log.
func attribute(line, name string) (string, bool) {
	_, rest, found := strings.Cut(line, " "+name+"=")
	value, _, _ := strings.Cut(rest, " ")
	return value, found
}

// end sends a signal and returns the exit code, -1 after a kill.
func (p *process) end(signal os.Signal) int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	<-p.drained
	_ = p.cmd.Wait() // the exit code says it
	return p.cmd.ProcessState.ExitCode()
}

// acknowledged is what the server told one writer, and so what must be there
// after a crash. Only its writer touches it while there is one.
type acknowledged struct {
	writer int
	next   int                // number of the next unit of work
	lasts  map[string]present // by path
}

// present is a state of a key that was acknowledged. A write after it may or
// may not have been applied: then maybe is its value, "" for a delete.
type present struct {
	value string // "" = absent
	maybe *string
}

// work writes until the server is gone: new keys, overwritten ones, deleted
// ones, and pairs in batches.
func (a *acknowledged) work(ctx context.Context, client *http.Client, api string, acks *atomic.Int64) {
	for ; ; a.next++ {
		value := fmt.Sprintf("value %d of %d", a.next, a.writer)
		var ok bool
		switch a.next % 4 {
		case 0:
			ok = a.write(ctx, client, api, fmt.Sprintf("/api/kv/w%d/new%08d", a.writer, a.next), value)
		case 1:
			ok = a.write(ctx, client, api, fmt.Sprintf("/api/kv/w%d/counter", a.writer), value)
		case 2:
			path := fmt.Sprintf("/api/kv/w%d/new%08d", a.writer, a.next-2)
			ok = a.next%8 == 2 || a.write(ctx, client, api, path, "")
		case 3:
			ok = a.pair(ctx, client, api, value)
		}
		if !ok {
			return
		}
		acks.Add(1)
	}
}

// write puts or, if value is empty, deletes, and notes what was acknowledged.
func (a *acknowledged) write(ctx context.Context, client *http.Client, api, path, value string) bool {
	method := http.MethodPut
	if value == "" {
		method = http.MethodDelete
	}
	if request(ctx, client, method, api+path, value) != http.StatusOK {
		a.lasts[path] = present{a.lasts[path].value, &value}
		return false
	}
	a.lasts[path] = present{value: value}
	return true
}

// pair writes one value to two keys of different primaries in one batch.
func (a *acknowledged) pair(ctx context.Context, client *http.Client, api, value string) bool {
	type op struct {
		Op    string `json:"op"`
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	var ops []op
	for side := range 2 {
		ops = append(ops, op{"put", cache.K(fmt.Sprintf("pair%d-%d", side, a.writer), "s").String(), value})
	}
	body, err := json.Marshal(map[string]any{"ops": ops})
	ok := err == nil && request(ctx, client, http.MethodPost, api+"/api/multiput", string(body)) == http.StatusOK
	for side := range 2 {
		path := fmt.Sprintf("/api/kv/pair%d-%d/s", side, a.writer)
		if ok {
			a.lasts[path] = present{value: value}
		} else {
			a.lasts[path] = present{a.lasts[path].value, &value}
		}
	}
	return ok
}

// request returns the status of a request, 0 if there was no answer.
func request(ctx context.Context, client *http.Client, method, url, body string) int {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0
	}
	return resp.StatusCode
}

// check compares what the server has with what it acknowledged, and returns
// how many keys it compared. What is there becomes the acknowledged state.
func (a *acknowledged) check(t *testing.T, client *http.Client, api string) int {
	t.Helper()
	for path, want := range a.lasts {
		status, got := fetch(t, client, http.MethodGet, api+path, "")
		if status == http.StatusNotFound {
			got = ""
		} else if status != http.StatusOK {
			t.Fatalf("%s: status %d: %s", path, status, got)
		}
		if got != want.value && (want.maybe == nil || got != *want.maybe) {
			t.Errorf("%s has %q, acknowledged was %q", path, got, want.value)
		}
		a.lasts[path] = present{value: got}
	}
	left := a.lasts[fmt.Sprintf("/api/kv/pair0-%d/s", a.writer)]
	right := a.lasts[fmt.Sprintf("/api/kv/pair1-%d/s", a.writer)]
	if left != right {
		t.Errorf("a batch was applied in part: %q and %q", left.value, right.value)
	}
	return len(a.lasts)
}

// TestKillLosesNothing kills the server with SIGKILL while it writes, again
// and again, and looks for every write that it acknowledged.
func TestKillLosesNothing(t *testing.T) {
	const writers, cycles, minAcks = 8, 6, 200
	binary, dir := build(t), t.TempDir()
	r := testkit.Rand(t)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: writers}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	all := make([]*acknowledged, writers)
	for i := range all {
		all[i] = &acknowledged{writer: i, lasts: map[string]present{}}
	}
	var total, compared int64
	for range cycles {
		p := start(t, binary, dir)
		for _, a := range all {
			compared += int64(a.check(t, client, p.api))
		}
		total += killDuringWrites(t, p, r, client, all, minAcks)
	}
	p := start(t, binary, dir)
	for _, a := range all {
		compared += int64(a.check(t, client, p.api))
	}
	if code := p.end(syscall.SIGTERM); code != exitStopped {
		t.Errorf("exit code %d after SIGTERM\n%s", code, p.log.String())
	}
	t.Logf("%d kills, %d writes acknowledged, %d keys compared", cycles, total, compared)
	if total < cycles*minAcks {
		t.Errorf("only %d writes were acknowledged: this run proves nothing", total)
	}
}

// killDuringWrites lets all writers work, kills the server after a random
// number of acknowledgements, and returns how many there were.
func killDuringWrites(t *testing.T, p *process, r *rand.Rand, client *http.Client, all []*acknowledged, least int) int64 {
	t.Helper()
	var acks atomic.Int64
	var wg sync.WaitGroup
	for _, a := range all {
		wg.Go(func() { a.work(t.Context(), client, p.api, &acks) })
	}
	enough := int64(least + r.IntN(4*least))
	testkit.Eventually(t, 2*time.Minute, "writes to be acknowledged", func() bool { return acks.Load() >= enough })
	p.end(syscall.SIGKILL)
	wg.Wait()
	client.CloseIdleConnections()
	return acks.Load()
}

// TestProcess checks what only a process shows: exit codes, signals, what is
// said on stderr, and a directory that is in use.
func TestProcess(t *testing.T) {
	binary, dir := build(t), t.TempDir()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()

	p := start(t, binary, dir)
	if status, body := fetch(t, client, "PUT", p.api+"/api/kv/p/s", "first run"); status != 200 {
		t.Fatalf("put: %d %s", status, body)
	}
	if status, body := fetch(t, client, "GET", p.metrics, ""); status != 200 || !strings.Contains(body, "cache_operations_total") {
		t.Errorf("metrics: %d, %d bytes", status, len(body))
	}
	if status, body := fetch(t, client, "GET", p.api+"/readyz", ""); status != 200 {
		t.Errorf("readyz: %d %s", status, body)
	}
	second := exec.CommandContext(t.Context(), binary, "--port=0", "--metrics-port=0",
		"--data-dir", filepath.Join(dir, "data"), "--backup-root", filepath.Join(dir, "backups"))
	out, err := second.CombinedOutput()
	if second.ProcessState.ExitCode() != exitFailed || !strings.Contains(string(out), "in use") {
		t.Errorf("a second server on the same directory: %v\n%s", err, out)
	}
	if code := p.end(syscall.SIGTERM); code != exitStopped {
		t.Errorf("exit code %d after SIGTERM\n%s", code, p.log.String())
	}

	p = start(t, binary, dir)
	if status, body := fetch(t, client, "GET", p.api+"/api/kv/p/s", ""); status != 200 || body != "first run" {
		t.Errorf("after a restart: %d %q", status, body)
	}
	if code := p.end(os.Interrupt); code != exitStopped {
		t.Errorf("exit code %d after an interrupt\n%s", code, p.log.String())
	}

	bad := exec.CommandContext(t.Context(), binary, "--peers", "node1:8080")
	out, err = bad.CombinedOutput()
	if bad.ProcessState.ExitCode() != exitUsage || !strings.Contains(string(out), "peers") {
		t.Errorf("an unknown flag: %v\n%s", err, out)
	}
}
