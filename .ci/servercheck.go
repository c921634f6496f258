//go:build ignore

// Servercheck drives a server binary from outside, as its users do: it starts
// it, talks HTTP to it, stops it with SIGTERM and kills it with SIGKILL, and
// wants every acknowledged write back each time.
//
//	go build -o /tmp/server ./examples/server
//	go run .ci/servercheck.go -server /tmp/server -dir /tmp/data
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// patience bounds each wait; only a failure waits for all of it.
const patience = 60 * time.Second

func main() {
	binary := flag.String("server", "", "the server's binary")
	dir := flag.String("dir", "", "directory for its data; must not exist yet")
	flag.Parse()
	c := &check{binary: *binary, dir: *dir}
	err := c.run()
	if err != nil {
		fmt.Fprintf(os.Stderr, "servercheck: %v\nlog of the server:\n%s\n", err, c.log())
		os.Exit(1)
	}
	fmt.Println("servercheck: ok")
}

// check holds one server and what it has acknowledged.
type check struct {
	binary, dir  string
	rest, scrape string // base URLs
	cmd          *exec.Cmd
	exited       chan error
	etag         string // of the key p/a
}

func (c *check) log() string {
	text, _ := os.ReadFile(c.dir + ".log")
	return string(text)
}

func (c *check) run() error {
	defer c.kill()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"start on an empty directory", c.start},
		{"single keys", c.keys},
		{"bad requests", c.badRequests},
		{"batches and scans", c.batches},
		{"monitoring", c.monitoring},
		{"flush, compact, backup", c.maintenance},
		{"a second server on the same directory", c.second},
		{"stop with SIGTERM", c.stop},
		{"start again", c.start},
		{"everything is there", c.allThere},
		{"kill while it writes", c.killWhileWriting},
		{"stop with SIGTERM at last", c.stop},
	} {
		began := time.Now()
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Printf("%-40s %v\n", step.name, time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// freePort returns a port that nobody listens on at the moment.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (c *check) command(port, metricsPort int) *exec.Cmd {
	return exec.Command(c.binary, "--port", strconv.Itoa(port), "--metrics-port", strconv.Itoa(metricsPort),
		"--data-dir", c.dir, "--node-id", "ci", "--backup-root", c.dir+"-backups")
}

// start runs the server and waits until it is ready.
func (c *check) start() error {
	port, err := freePort()
	if err != nil {
		return err
	}
	metricsPort, err := freePort()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(c.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	c.rest, c.scrape = fmt.Sprintf("http://127.0.0.1:%d", port), fmt.Sprintf("http://127.0.0.1:%d", metricsPort)
	c.cmd = c.command(port, metricsPort)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(c.cmd, c.exited)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err = c.want(200, "GET", "/readyz", ""); err == nil {
			return nil
		}
		select {
		case exit := <-c.exited:
			c.cmd = nil
			return fmt.Errorf("the server ended: %v", exit)
		default:
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

// stop asks the server to end and wants it to do so with code 0.
func (c *check) stop() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-c.exited:
		c.cmd = nil
		return err
	case <-time.After(patience):
		return errors.New("does not stop")
	}
}

func (c *check) kill() {
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		<-c.exited
		c.cmd = nil
	}
}

// want sends a request and wants this status. Headers are "Name: value".
func (c *check) want(status int, method, path, body string, headers ...string) (*http.Response, error) {
	res, text, err := request(method, c.rest+path, body, headers...)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != status {
		return nil, fmt.Errorf("%s %s: status %d, want %d: %s", method, path, res.StatusCode, status, text)
	}
	res.Body = io.NopCloser(strings.NewReader(text))
	return res, nil
}

// wantBody is want and wants each part to be in the body.
func (c *check) wantBody(status int, method, path, body string, parts ...string) error {
	res, err := c.want(status, method, path, body)
	if err != nil {
		return err
	}
	text, _ := io.ReadAll(res.Body)
	for _, part := range parts {
		if !strings.Contains(string(text), part) {
			return fmt.Errorf("%s %s: %q is not in %s", method, path, part, text)
		}
	}
	return nil
}

func request(method, url, body string, headers ...string) (*http.Response, string, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	client := http.Client{Timeout: patience}
	res, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res, string(text), err
}

func (c *check) keys() error {
	res, err := c.want(200, "PUT", "/api/kv/p/a", "one", "If-None-Match: *")
	if err != nil {
		return err
	}
	first := res.Header.Get("ETag")
	if first == "" {
		return errors.New("a put answers without an ETag")
	}
	if _, err := c.want(412, "PUT", "/api/kv/p/a", "two", "If-None-Match: *"); err != nil {
		return err
	}
	if res, err = c.want(200, "PUT", "/api/kv/p/a", "two", "If-Match: "+first); err != nil {
		return err
	}
	if c.etag = res.Header.Get("ETag"); c.etag == first {
		return fmt.Errorf("version %s came twice", first)
	}
	if _, err := c.want(412, "PUT", "/api/kv/p/a", "three", "If-Match: "+first); err != nil {
		return err
	}
	if err := c.wantBody(200, "GET", "/api/kv/p/a", "", "two"); err != nil {
		return err
	}
	// A request that is repeated with its id is applied once.
	id := "Idempotency-Key: 000102030405060708090a0b0c0d0e0f"
	once, err := c.want(200, "PUT", "/api/kv/p/once", "x", id)
	if err != nil {
		return err
	}
	again, err := c.want(200, "PUT", "/api/kv/p/once", "x", id)
	if err != nil {
		return err
	}
	if once.Header.Get("ETag") != again.Header.Get("ETag") {
		return errors.New("a repeated request was applied twice")
	}
	for _, want := range []int{200, 404} {
		if want == 200 {
			if _, err := c.want(want, "PUT", "/api/kv/p/gone", "x"); err != nil {
				return err
			}
		}
		if _, err := c.want(want, "GET", "/api/kv/p/gone", ""); err != nil {
			return err
		}
		if _, err := c.want(200, "DELETE", "/api/kv/p/gone", ""); err != nil {
			return err
		}
	}
	return nil
}

func (c *check) badRequests() error {
	long := strings.Repeat("x", 2000)
	for _, r := range []struct {
		status             int
		method, path, body string
	}{
		{404, "GET", "/api/nothing", ""},
		{405, "POST", "/api/stats", ""},
		{400, "GET", "/api/scan?limit=abc", ""},
		{400, "POST", "/api/multiput", "{"},
		{413, "PUT", "/api/kv/" + long + "/s", "x"},
		{413, "PUT", "/api/kv/p/s", strings.Repeat("x", 2<<20)},
		{400, "POST", "/api/storage/backup", `{"path":"../outside"}`},
	} {
		if err := c.wantBody(r.status, r.method, r.path, r.body, `"error"`, `"code"`); err != nil {
			return err
		}
	}
	return nil
}

func (c *check) batches() error {
	put := `{"op":"put","key":{"primary":"%s","secondary":"%s"},"value":"%s"}`
	ops := make([]string, 0, 20)
	for i := range 20 {
		ops = append(ops, fmt.Sprintf(put, "batch"+strconv.Itoa(i%4), fmt.Sprintf("%02d", i), "v"+strconv.Itoa(i)))
	}
	if _, err := c.want(200, "POST", "/api/multiput", `{"atomic":true,"ops":[`+strings.Join(ops, ",")+`]}`); err != nil {
		return err
	}
	return c.batchThere()
}

func (c *check) batchThere() error {
	if err := c.wantBody(200, "GET", "/api/kv/batch1", "", "v1", "v5", "v17"); err != nil {
		return err
	}
	keys := `{"keys":[{"primary":"batch0","secondary":"00"},{"primary":"batch3","secondary":"19"}]}`
	if err := c.wantBody(200, "POST", "/api/multiget", keys, "v0", "v19"); err != nil {
		return err
	}
	return c.wantBody(200, "GET", "/api/scan?start=batch0:&end=batch2:&limit=3", "", "v0", "v4", "v8", "next_cursor")
}

func (c *check) monitoring() error {
	for path, part := range map[string]string{
		"/healthz": "", "/api/stats": `"storage"`, "/api/cluster/nodes": `"ci"`, "/api/cluster/shards": `"serving"`,
		"/api/monitoring/hotkeys": "hotkeys", "/api/monitoring/slow": "slow", "/api/monitoring/alerts": "alerts",
	} {
		if err := c.wantBody(200, "GET", path, "", part); err != nil {
			return err
		}
	}
	res, text, err := request("GET", c.scrape+"/metrics", "")
	if err != nil || res.StatusCode != 200 {
		return fmt.Errorf("GET /metrics: %v %v", res, err)
	}
	for _, name := range []string{`cache_operations_total{node="ci",op="put",outcome="ok"}`, "cache_operation_duration_seconds_bucket", "cache_storage_disk_bytes"} {
		if !strings.Contains(text, name) {
			return fmt.Errorf("no %s in /metrics", name)
		}
	}
	return nil
}

func (c *check) maintenance() error {
	for path, body := range map[string]string{
		"/api/storage/flush": "", "/api/storage/compact": "", "/api/storage/backup": `{"path":"first"}`,
	} {
		if _, err := c.want(200, "POST", path, body); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(filepath.Join(c.dir+"-backups", "first"))
	if err != nil || len(entries) == 0 {
		return fmt.Errorf("the backup has %d files: %v", len(entries), err)
	}
	return nil
}

// second wants another server on the directory to be refused, not to harm.
func (c *check) second() error {
	cmd := c.command(0, 0)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "in use") {
		return fmt.Errorf("%v: %s", err, out)
	}
	return nil
}

func (c *check) allThere() error {
	res, err := c.want(200, "GET", "/api/kv/p/a", "")
	if err != nil {
		return err
	}
	if got := res.Header.Get("ETag"); got != c.etag {
		return fmt.Errorf("version %s came back as %s", c.etag, got)
	}
	if _, err := c.want(404, "GET", "/api/kv/p/gone", ""); err != nil {
		return err
	}
	return c.batchThere()
}

// killWhileWriting kills the server under four writers and wants every write
// that was acknowledged after the restart.
func (c *check) killWhileWriting() error {
	const writers, enough = 4, 200
	var acknowledged [writers]atomic.Int64
	done := make(chan error, writers)
	for w := range writers {
		go func() {
			for i := int64(1); ; i++ {
				path := fmt.Sprintf("%s/api/kv/kill%d/%d", c.rest, w, i)
				res, text, err := request("PUT", path, strconv.FormatInt(i, 10))
				if err != nil {
					done <- nil // the server is gone
					return
				}
				if res.StatusCode != 200 {
					done <- fmt.Errorf("put: status %d: %s", res.StatusCode, text)
					return
				}
				acknowledged[w].Store(i)
			}
		}()
	}
	for deadline := time.Now().Add(patience); acknowledged[0].Load() < enough && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	c.kill()
	for range writers {
		if err := <-done; err != nil {
			return err
		}
	}
	if err := c.start(); err != nil {
		return err
	}
	total := int64(0)
	for w := range writers {
		n := acknowledged[w].Load()
		for i := int64(1); i <= n; i++ {
			if err := c.wantBody(200, "GET", fmt.Sprintf("/api/kv/kill%d/%d", w, i), "", strconv.FormatInt(i, 10)); err != nil {
				return fmt.Errorf("of %d acknowledged writes: %w", n, err)
			}
		}
		total += n
	}
	if total < enough {
		return fmt.Errorf("only %d writes were acknowledged", total)
	}
	return c.allThere()
}
