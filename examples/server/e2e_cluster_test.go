package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/distributedcache/cache"
	"github.com/distributedcache/cache/internal/testkit"
)

// patience is many times what a slow machine takes.
const patience = 2 * time.Minute

// servers are processes that are one cluster, at ports that stay theirs.
type servers struct {
	t      *testing.T
	binary string
	dir    string
	ports  []int
	client *http.Client
	args   []string
}

func newServers(t *testing.T, n int) *servers {
	t.Helper()
	s := &servers{t: t, binary: build(t), dir: t.TempDir(), client: &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}}
	t.Cleanup(s.client.CloseIdleConnections)
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() // when all have one
		s.ports = append(s.ports, l.Addr().(*net.TCPAddr).Port)
	}
	var seeds []string
	for _, p := range s.ports {
		seeds = append(seeds, "127.0.0.1:"+strconv.Itoa(p))
	}
	s.args = []string{"--metrics-port=0", "--cluster-port=0", "--insecure", "--shards=6", "--seeds", strings.Join(seeds, ",")}
	return s
}

func (s *servers) url(i int) string { return "http://127.0.0.1:" + strconv.Itoa(s.ports[i]) }

// launch starts a server without waiting for the others, which it may need.
func (s *servers) launch(i int, args ...string) *process {
	s.t.Helper()
	p := &process{t: s.t, drained: make(chan struct{}), api: s.url(i)}
	dir := filepath.Join(s.dir, strconv.Itoa(i))
	args = append([]string{"--port", strconv.Itoa(s.ports[i]), "--node-id", fmt.Sprintf("node%d", i+1),
		"--data-dir", filepath.Join(dir, "data"), "--backup-root", filepath.Join(dir, "backups")}, append(s.args, args...)...)
	p.cmd = exec.CommandContext(s.t.Context(), s.binary, args...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(p.drained)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.log.WriteString(lines.Text() + "\n")
		}
	}()
	return p
}

// await waits until a route answers 200 and ok holds for the answer.
func (s *servers) await(i int, path, what string, ok func(body string) bool) {
	s.t.Helper()
	testkit.Eventually(s.t, patience, what, func() bool {
		res, err := s.client.Get(s.url(i) + path)
		if err != nil {
			return false
		}
		defer func() { _ = res.Body.Close() }()
		var body strings.Builder
		if _, err := bufio.NewReader(res.Body).WriteTo(&body); err != nil {
			return false
		}
		return res.StatusCode == http.StatusOK && ok(body.String())
	})
}

func always(string) bool { return true }

// replicated waits until each shard has a leader and n replicas.
func (s *servers) replicated(i, n int) {
	s.t.Helper()
	s.await(i, "/api/cluster/shards", fmt.Sprintf("%d replicas of each shard", n), func(body string) bool {
		var got struct{ Shards []cache.ShardInfo }
		if err := json.Unmarshal([]byte(body), &got); err != nil || len(got.Shards) != 6 {
			return false
		}
		for _, shard := range got.Shards {
			if shard.State != "serving" || len(shard.Replicas) != n {
				return false
			}
		}
		return true
	})
}

// TestServersAreACluster joins three servers by --seeds, kills one while all are
// written to, and starts it again: every acknowledged write is there, on each.
func TestServersAreACluster(t *testing.T) {
	s := newServers(t, 3)
	running := make([]*process, 3)
	for i := range running {
		running[i] = s.launch(i, "--expect=3")
	}
	for i := range running {
		s.await(i, "/readyz", "a server to be ready", always)
	}
	s.replicated(0, 3)

	var acks atomic.Int64
	lasts := make([]int64, 2)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range lasts {
		writers.Go(func() { lasts[w] = s.write(w, &acks, stop) })
	}
	more := func(what string) {
		t.Helper()
		from := acks.Load()
		testkit.Eventually(t, patience, what, func() bool { return acks.Load() > from+50 })
	}
	more("writes to three servers")
	running[2].end(syscall.SIGKILL)
	more("writes to two servers of three")
	running[2] = s.launch(2, "--expect=3")
	s.await(2, "/readyz", "the killed server to be ready again", always)
	more("writes to three servers again")
	close(stop)
	writers.Wait()

	for i := range running {
		for w, last := range lasts {
			for n := int64(1); n <= last; n += max(last/20, 1) {
				path := fmt.Sprintf("/api/kv/w%d-%d/s", w, n)
				if status, body := fetch(t, s.client, "GET", s.url(i)+path, ""); status != 200 || body != strconv.FormatInt(n, 10) {
					t.Errorf("server %d: %s: %d %s", i, path, status, body)
				}
			}
		}
	}
	for i, p := range running {
		if code := p.end(syscall.SIGTERM); code != exitStopped {
			t.Errorf("server %d: exit code %d after SIGTERM\n%s", i, code, p.log.String())
		}
	}
}

// write writes to server w until stop, repeating what is not acknowledged, and
// returns the number of the last write that was.
func (s *servers) write(w int, acks *atomic.Int64, stop <-chan struct{}) int64 {
	for n := int64(1); ; n++ {
		path := fmt.Sprintf("%s/api/kv/w%d-%d/s", s.url(w), w, n)
		for request(s.t.Context(), s.client, http.MethodPut, path, strconv.FormatInt(n, 10)) != http.StatusOK {
			select {
			case <-stop:
				return n - 1
			case <-time.After(10 * time.Millisecond):
			}
		}
		acks.Add(1)
		select {
		case <-stop:
			return n
		default:
		}
	}
}

// TestServerGrows starts one server, has a second join it, moves a leader there,
// and takes the second out again.
func TestServerGrows(t *testing.T) {
	s := newServers(t, 2)
	first := s.launch(0, "--seeds", "") // found a cluster, alone
	s.await(0, "/readyz", "the first server to be ready", always)
	if status, body := fetch(t, s.client, "PUT", s.url(0)+"/api/kv/p/s", "v"); status != 200 {
		t.Fatalf("put: %d %s", status, body)
	}
	second := s.launch(1)
	s.await(1, "/readyz", "the second server to be ready", always)
	s.await(1, "/api/kv/p/s", "the value on the second", func(body string) bool { return body == "v" })
	s.await(0, "/api/cluster/nodes", "shards on two nodes", func(body string) bool {
		var got struct{ Nodes []cache.NodeInfo }
		err := json.Unmarshal([]byte(body), &got)
		return err == nil && len(got.Nodes) == 2 && got.Nodes[0].Shards > 0 && got.Nodes[1].Shards > 0
	})
	if status, body := fetch(t, s.client, "POST", s.url(0)+"/api/cluster/rebalance", ""); status != 200 {
		t.Errorf("rebalance: %d %s", status, body)
	}
	if status, body := fetch(t, s.client, "DELETE", s.url(0)+"/api/cluster/nodes/node2", ""); status < 400 {
		t.Errorf("removed a node that was not drained: %d %s", status, body)
	}
	status, body := fetch(t, s.client, "POST", s.url(0)+"/api/cluster/nodes/node2/drain", "")
	if status != 200 || !strings.HasSuffix(strings.TrimSpace(body), `{"ok":true}`) {
		t.Errorf("drain: %d %s", status, body)
	}
	if code := second.end(syscall.SIGTERM); code != exitStopped {
		t.Errorf("the second: exit code %d\n%s", code, second.log.String())
	}
	if status, body := fetch(t, s.client, "DELETE", s.url(0)+"/api/cluster/nodes/node2", ""); status != 200 {
		t.Errorf("remove: %d %s", status, body)
	}
	s.await(0, "/api/kv/p/s", "the value on the first", func(body string) bool { return body == "v" })
	if code := first.end(syscall.SIGTERM); code != exitStopped {
		t.Errorf("the first: exit code %d\n%s", code, first.log.String())
	}
}
