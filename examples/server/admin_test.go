package main

import (
	"context"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distributedcache/cache"
)

// otherAdmin is an admin of which single methods are replaced.
type otherAdmin struct {
	admin
	health  cache.Health
	compact iter.Seq2[cache.Progress, error]
}

func (o *otherAdmin) Health(context.Context) (cache.Health, error)             { return o.health, nil }
func (o *otherAdmin) Compact(context.Context) iter.Seq2[cache.Progress, error] { return o.compact }

func TestMonitoringRoutes(t *testing.T) {
	a := newAPI(t, nil)
	a.put(cache.K("p", "s"), "v")
	stats := decode[cache.Stats](t, a.want(200, a.do("GET", "/api/stats", "")))
	if stats.Shards == 0 || len(stats.Ops) == 0 {
		t.Errorf("stats %+v", stats)
	}
	type nodes struct{ Nodes []cache.NodeInfo }
	if got := decode[nodes](t, a.want(200, a.do("GET", "/api/cluster/nodes", ""))); len(got.Nodes) != 1 || !got.Nodes[0].Self {
		t.Errorf("nodes %+v", got)
	}
	type shards struct{ Shards []cache.ShardInfo }
	if got := decode[shards](t, a.want(200, a.do("GET", "/api/cluster/shards", ""))); len(got.Shards) != stats.Shards {
		t.Errorf("shards %+v", got)
	}
	for path, field := range map[string]string{
		"/api/monitoring/hotkeys?n=5": `"hotkeys":[`, "/api/monitoring/slow": `"slow":[`, "/api/monitoring/alerts": `"alerts":[`,
	} {
		if got := a.want(200, a.do("GET", path, "")); !strings.Contains(string(got.body), field) {
			t.Errorf("%s: %s", path, got.body)
		}
	}
	for _, path := range []string{"/api/monitoring/hotkeys?n=0", "/api/monitoring/slow?n=1001", "/api/stats?n=1", "/api/cluster/nodes?x"} {
		wantError(t, a.do("GET", path, ""), 400, "invalid", "")
	}
}

func TestProbes(t *testing.T) {
	done := make(chan struct{})
	probe := &otherAdmin{health: cache.Health{OK: true, Reads: true, Writes: true}}
	a := newAPI(t, func(s *server) { s.admin, s.done = probe, done })
	a.want(200, a.do("GET", "/healthz", ""))
	a.want(200, a.do("GET", "/readyz", ""))

	probe.health = cache.Health{Reads: true, Problems: []string{"disk full"}}
	got := decode[cache.Health](t, a.want(503, a.do("GET", "/readyz", "")))
	if got.OK || !got.Reads || got.Problems[0] != "disk full" {
		t.Errorf("health %+v", got)
	}
	probe.health.OK = true
	a.server.draining.Store(true)
	a.want(503, a.do("GET", "/readyz", ""))
	a.want(200, a.do("GET", "/healthz", ""))
	close(done)
	wantError(t, a.do("GET", "/healthz", ""), 503, "unavailable", "")
}

func TestFlushAndCompact(t *testing.T) {
	a := newAPI(t, nil)
	a.put(cache.K("p", "s"), "v")
	a.want(200, a.do("POST", "/api/storage/flush", ""))
	a.want(200, a.do("POST", "/api/storage/compact", ""))
	wantError(t, a.do("POST", "/api/storage/flush", "x"), 400, "invalid", "")
	wantError(t, a.do("POST", "/api/storage/compact?force=1", ""), 400, "invalid", "")
	wantError(t, a.do("GET", "/api/storage/compact", ""), 405, "method_not_allowed", "")
}

func TestMaintenanceRunsOneAtATime(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	slow := &otherAdmin{compact: func(yield func(cache.Progress, error) bool) {
		close(entered)
		<-leave
		yield(cache.Progress{Stage: "done", Done: 7}, nil)
	}}
	a := newAPI(t, func(s *server) { s.admin = slow })
	first := make(chan answer)
	go func() { first <- a.do("POST", "/api/storage/compact", "") }()
	<-entered
	wantError(t, a.do("POST", "/api/storage/compact", ""), 409, "busy", "")
	close(leave)
	if got := <-first; got.status != 200 || decode[workJSON](t, got).Progress.Done != 7 {
		t.Errorf("compaction: %d %s", got.status, got.body)
	}
}

func TestBackupRestores(t *testing.T) {
	a := newAPI(t, nil)
	version := a.put(cache.K("p", "s"), "v")
	for _, path := range []string{"one", "nightly/2031-01-02", filepath.Join(a.server.backups.path, "absolute")} {
		got := decode[workJSON](t, a.want(200, a.do("POST", "/api/storage/backup", `{"path":"`+path+`"}`)))
		dir := filepath.Join(a.server.backups.path, got.Path)
		if err := cache.VerifyBackup(t.Context(), dir); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		wantError(t, a.do("POST", "/api/storage/backup", `{"path":"`+path+`"}`), 409, "exists", "")
		restored := cache.Options{Dir: t.TempDir()}
		if err := cache.Restore(t.Context(), dir, restored); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		store, err := cache.Open(restored)
		if err != nil {
			t.Fatal(err)
		}
		item, err := store.Get(t.Context(), cache.K("p", "s"))
		if err != nil || string(item.Value) != "v" || uint64(item.Version) != version {
			t.Errorf("restored %+v: %v", item, err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBackupsStayBelowTheirRoot(t *testing.T) {
	a := newAPI(t, nil)
	elsewhere := t.TempDir()
	if err := os.Symlink(elsewhere, filepath.Join(a.server.backups.path, "link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"", ".", "..", "../x", "a/../../x", "/", "/etc/x", elsewhere + "/x", "link/x", "link/../../x", "a\\u0000b", strings.Repeat("x", 600),
	} {
		wantError(t, a.do("POST", "/api/storage/backup", `{"path":"`+path+`"}`), 400, "invalid", "")
	}
	wantError(t, a.do("POST", "/api/storage/backup", `{"path":"link"}`), 409, "exists", "")
	wantError(t, a.do("POST", "/api/storage/backup", `{"dir":"x"}`), 400, "invalid", "")
	wantError(t, a.do("POST", "/api/storage/backup", ``), 400, "invalid", "")
	if entries, err := os.ReadDir(elsewhere); err != nil || len(entries) != 0 {
		t.Errorf("something was written outside the root: %v %v", entries, err)
	}
}
