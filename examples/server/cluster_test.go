package main

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distributedcache/cache"
	"github.com/distributedcache/cache/internal/testkit"
)

// clusterAdmin is an admin that notes what it is asked to change.
type clusterAdmin struct {
	admin
	asked string
	err   error
	steps []cache.Progress
}

func (c *clusterAdmin) Rebalance(context.Context) (cache.Plan, error) {
	return cache.Plan{Moves: []cache.Move{{Shard: 3, From: "a", To: "b"}}}, c.err
}

func (c *clusterAdmin) Remove(_ context.Context, id string) error {
	c.asked = "remove " + id
	return c.err
}

func (c *clusterAdmin) TransferLeader(_ context.Context, shard int, id string) error {
	c.asked = string(rune('0'+shard)) + " to " + id
	return c.err
}

func (c *clusterAdmin) Drain(_ context.Context, id string) iter.Seq2[cache.Progress, error] {
	return func(yield func(cache.Progress, error) bool) {
		c.asked = "drain " + id
		for _, p := range c.steps {
			if !yield(p, nil) {
				return
			}
		}
		if c.err != nil {
			yield(cache.Progress{}, c.err)
		}
	}
}

func TestClusterRoutes(t *testing.T) {
	ca := &clusterAdmin{}
	a := newAPI(t, func(s *server) { s.admin = ca })
	plan := decode[cache.Plan](t, a.want(200, a.do("POST", "/api/cluster/rebalance", "")))
	if len(plan.Moves) != 1 || plan.Moves[0].To != "b" {
		t.Errorf("plan %+v", plan)
	}
	for _, c := range []struct{ method, path, body, asked string }{
		{"DELETE", "/api/cluster/nodes/n%2F1", "", "remove n/1"},
		{"POST", "/api/cluster/shards/7/leader", `{"node":"n"}`, "7 to n"},
		{"POST", "/api/cluster/nodes/n/drain", "", "drain n"},
	} {
		if a.want(200, a.do(c.method, c.path, c.body)); ca.asked != c.asked {
			t.Errorf("%s %s asked for %q", c.method, c.path, ca.asked)
		}
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"GET", "/api/cluster/nodes/n", "", 405, "method_not_allowed"},
		{"GET", "/api/cluster/nodes/n/drain", "", 405, "method_not_allowed"},
		{"GET", "/api/cluster/rebalance", "", 405, "method_not_allowed"},
		{"POST", "/api/cluster/nodes/n/fill", "", 404, "no_route"},
		{"DELETE", "/api/cluster/nodes/", "", 404, "no_route"},
		{"POST", "/api/cluster/shards/x/leader", `{"node":"n"}`, 400, "invalid"},
		{"POST", "/api/cluster/shards/1/leader", `{"nodes":"n"}`, 400, "invalid"},
		{"POST", "/api/cluster/shards/1/leader?x", `{"node":"n"}`, 400, "invalid"},
		{"POST", "/api/cluster/rebalance", "x", 400, "invalid"},
		{"GET", "/api/cluster/address", "", 404, "no_cluster"},
	} {
		wantError(t, a.do(c.method, c.path, c.body), c.status, c.code, "")
	}
	ca.err = cache.ErrInvalid
	for _, path := range []string{"/api/cluster/rebalance", "/api/cluster/nodes/n/drain"} {
		if e := wantError(t, a.do("POST", path, ""), 400, "invalid", ""); e.Outcome != "" {
			t.Errorf("%s: an outcome %q of what is no write of a key", path, e.Outcome)
		}
	}
	if e := wantError(t, a.do("DELETE", "/api/cluster/nodes/n", ""), 400, "invalid", ""); e.Outcome != "" {
		t.Errorf("an outcome %q of what is no write of a key", e.Outcome)
	}
}

// A drain answers with a line for each report, and says in the last how it ended.
func TestDrainReports(t *testing.T) {
	for _, failure := range []error{nil, cache.ErrConflict} {
		ca := &clusterAdmin{steps: []cache.Progress{{Done: 1, Total: 2}, {Done: 2, Total: 2}}, err: failure}
		a := newAPI(t, func(s *server) { s.admin = ca })
		got := a.want(200, a.do("POST", "/api/cluster/nodes/n/drain", ""))
		lines := strings.Split(strings.TrimSpace(string(got.body)), "\n")
		var last drainLine
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
			t.Fatalf("%q: %v", lines, err)
		}
		if last.OK != (failure == nil) || (last.Error != nil) != (failure != nil) || !strings.Contains(lines[0], `"total":2`) {
			t.Errorf("drain that ends with %v: %q", failure, lines)
		}
	}
}

func TestStartingServer(t *testing.T) {
	a := newAPI(t, func(s *server) { s.opened.Store(false); s.clusterAddr = "0.0.0.0:9080"; s.nodeID = "n" })
	wantError(t, a.do("GET", "/api/kv/p/s", ""), 503, "unavailable", "")
	wantError(t, a.do("PUT", "/api/kv/p/s", "v"), 503, "unavailable", "not_applied")
	a.want(200, a.do("GET", "/healthz", ""))
	if h := decode[cache.Health](t, a.want(503, a.do("GET", "/readyz", ""))); h.OK || len(h.Problems) != 1 {
		t.Errorf("health %+v", h)
	}
	// Who listens on all addresses names the one it was asked at.
	if got := decode[addressJSON](t, a.want(200, a.do("GET", "/api/cluster/address", ""))); got.Address != "127.0.0.1:9080" || got.NodeID != "n" {
		t.Errorf("address %+v", got)
	}
}

func TestNotReadyWhileAShardIsSilent(t *testing.T) {
	a := newAPI(t, func(s *server) { s.ready = func(context.Context) error { return cache.ErrUnavailable } })
	if h := decode[cache.Health](t, a.want(503, a.do("GET", "/readyz", ""))); h.OK || !strings.Contains(h.Problems[0], "not every shard") {
		t.Errorf("health %+v", h)
	}
}

func TestClusterAddress(t *testing.T) {
	rest := &net.TCPAddr{Port: 8081}
	cfg, err := parseConfig([]string{"--insecure"}, environment())
	if err != nil || !cfg.clustered() {
		t.Fatal(err)
	}
	if got, err := cfg.clusterAddress(rest); err != nil || got != "127.0.0.1:9081" {
		t.Errorf("default: %s %v", got, err)
	}
	if _, err := cfg.clusterAddress(&net.TCPAddr{Port: 65000}); err == nil {
		t.Error("a port over 65535")
	}
	if cfg, err = parseConfig([]string{"--insecure", "--cluster-port", "7"}, environment()); err != nil {
		t.Fatal(err)
	}
	if got, err := cfg.clusterAddress(rest); err != nil || got != "127.0.0.1:7" {
		t.Errorf("given: %s %v", got, err)
	}
	if cfg, err = parseConfig([]string{"--insecure", "--cluster-port", "0"}, environment()); err != nil {
		t.Fatal(err)
	}
	if got, err := cfg.clusterAddress(rest); err != nil || strings.HasSuffix(got, ":0") {
		t.Errorf("any: %s %v", got, err)
	}
}

// seedsOf returns a finder of seeds that answer as said; those that are not in
// answers are not up.
func seedsOf(t *testing.T, all bool, answers map[string]addressJSON, seeds ...string) *finder {
	return &finder{
		seeds: seeds, all: all, file: filepath.Join(t.TempDir(), "seeds.json"), log: slog.New(slog.DiscardHandler),
		ask: func(_ context.Context, seed string) (addressJSON, error) {
			if a, ok := answers[seed]; ok {
				return a, nil
			}
			return addressJSON{}, errors.New("not up")
		},
	}
}

func TestSeeds(t *testing.T) {
	ctx := testkit.Context(t)
	me, other := addressJSON{Address: "m:1", Run: "me"}, addressJSON{Address: "o:1", Run: "other"}
	want := func(f *finder, peers ...string) {
		t.Helper()
		got, err := f.find(ctx, "me")
		if err != nil || strings.Join(got, " ") != strings.Join(peers, " ") {
			t.Errorf("peers %q, want %q: %v", got, peers, err)
		}
	}
	want(seedsOf(t, false, nil))
	want(seedsOf(t, false, map[string]addressJSON{"a": me}, "a"))                              // the first of a cluster
	want(seedsOf(t, false, map[string]addressJSON{"a": me, "b": other}, "a", "b", "c"), "o:1") // one is enough
	want(seedsOf(t, true, map[string]addressJSON{"a": me, "b": other}, "a", "b"), "o:1")       // all are there

	f := seedsOf(t, true, map[string]addressJSON{"a": me, "b": other}, "a", "b", "c")
	stopped, stop := context.WithCancel(ctx)
	stop()
	if _, err := f.find(stopped, "me"); err == nil {
		t.Error("found what is not there")
	}
	// What was found once stands in for what is gone, but not for what has moved.
	f.found = map[string]string{"a": "", "b": "moved:1", "c": "gone:1"}
	f.keep()
	want(f, "o:1", "gone:1")
}
