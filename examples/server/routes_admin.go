package main

import (
	"context"
	"iter"
	"net/http"
	"time"

	"github.com/distributedcache/cache"
)

// stats answers GET /api/stats with cache.Stats.
func (s *server) stats(w http.ResponseWriter, r *http.Request) error {
	return list(s, w, r, func(ctx context.Context, _ int) (any, error) { return s.admin.Stats(ctx) })
}

// nodes answers GET /api/cluster/nodes.
func (s *server) nodes(w http.ResponseWriter, r *http.Request) error {
	return list(s, w, r, func(ctx context.Context, _ int) (any, error) {
		nodes, err := s.admin.Nodes(ctx)
		return map[string]any{"nodes": orEmpty(nodes)}, err
	})
}

// shards answers GET /api/cluster/shards.
func (s *server) shards(w http.ResponseWriter, r *http.Request) error {
	return list(s, w, r, func(ctx context.Context, _ int) (any, error) {
		shards, err := s.admin.Shards(ctx)
		return map[string]any{"shards": orEmpty(shards)}, err
	})
}

// hotKeys answers GET /api/monitoring/hotkeys?n=.
func (s *server) hotKeys(w http.ResponseWriter, r *http.Request) error {
	return list(s, w, r, func(ctx context.Context, n int) (any, error) {
		keys, err := s.admin.HotKeys(ctx, n)
		return map[string]any{"hotkeys": orEmpty(keys)}, err
	}, "n")
}

// slowOps answers GET /api/monitoring/slow?n=.
func (s *server) slowOps(w http.ResponseWriter, r *http.Request) error {
	return list(s, w, r, func(ctx context.Context, n int) (any, error) {
		ops, err := s.admin.SlowOps(ctx, n)
		return map[string]any{"slow": orEmpty(ops)}, err
	}, "n")
}

// alerts answers GET /api/monitoring/alerts.
func (s *server) alerts(w http.ResponseWriter, r *http.Request) error {
	return list(s, w, r, func(ctx context.Context, _ int) (any, error) {
		alerts, err := s.admin.Alerts(ctx)
		return map[string]any{"alerts": orEmpty(alerts)}, err
	})
}

// Bounds of the lists that have a length.
const (
	defaultListItems = 20
	maxListItems     = 1000
)

// list answers with what read returns for at most n entries.
func list(s *server, w http.ResponseWriter, r *http.Request,
	read func(ctx context.Context, n int) (any, error), parameters ...string) error {
	q, err := parseQuery(r, parameters...)
	if err != nil {
		return err
	}
	n, err := q.number("n", defaultListItems, maxListItems)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	out, err := read(ctx, n)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// orEmpty makes a list without elements [] instead of null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// okJSON is the answer of a command that has nothing to tell.
type okJSON struct {
	OK bool `json:"ok"`
}

// flush answers POST /api/storage/flush: memtables are on disk afterwards.
func (s *server) flush(w http.ResponseWriter, r *http.Request) error {
	if err := emptyRequest(r); err != nil {
		return err
	}
	unlimited(w)
	if err := s.admin.Flush(r.Context()); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, okJSON{true})
	return nil
}

// workJSON is the answer of long work: its last report.
type workJSON struct {
	Path     string         `json:"path,omitempty"` // of a backup, below the backup root
	Progress cache.Progress `json:"progress"`
	TookMS   int64          `json:"took_ms"`
}

// compact answers POST /api/storage/compact when the compaction is done.
func (s *server) compact(w http.ResponseWriter, r *http.Request) error {
	if err := emptyRequest(r); err != nil {
		return err
	}
	return s.maintain(w, "", func() iter.Seq2[cache.Progress, error] { return s.admin.Compact(r.Context()) })
}

// backupJSON is the body of POST /api/storage/backup.
type backupJSON struct {
	Path string `json:"path"`
}

// backup answers POST /api/storage/backup when the backup is complete.
func (s *server) backup(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	body, err := readBody(w, r, 16<<10)
	if err != nil {
		return err
	}
	var in backupJSON
	if err := decodeJSON(body, &in); err != nil {
		return err
	}
	name, dir, err := s.backups.resolve(in.Path)
	if err != nil {
		return err
	}
	return s.maintain(w, name, func() iter.Seq2[cache.Progress, error] { return s.admin.Backup(r.Context(), dir) })
}

// maintain does long work, one at a time: two compactions or backups at once
// would only take the disk from each other and from the requests. The work
// ends when the client goes away.
func (s *server) maintain(w http.ResponseWriter, path string, work func() iter.Seq2[cache.Progress, error]) error {
	if !s.maintenance.CompareAndSwap(false, true) {
		return httpErrorf(http.StatusConflict, "busy", "a compaction or a backup is under way")
	}
	defer s.maintenance.Store(false)
	unlimited(w)
	start := time.Now()
	out := workJSON{Path: path}
	for progress, err := range work() {
		if err != nil {
			return err
		}
		out.Progress = progress
	}
	out.TookMS = time.Since(start).Milliseconds()
	writeJSON(w, http.StatusOK, out)
	return nil
}

// unlimited lifts the timeouts of the connection for this one answer. The read
// timeout is one of them: when it fires, net/http takes the client for gone and
// cancels the work. Only a connection has them, so errors mean nothing to do.
func unlimited(w http.ResponseWriter) {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Time{})
}

// emptyRequest refuses parameters and a body where there is no use for them.
func emptyRequest(r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	return noBody(r)
}

// healthz answers whether the process is worth keeping: 200 until the cache
// can no longer serve.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) error {
	if s.opened.Load() {
		select {
		case <-s.done:
			return refusedf(cache.ErrUnavailable, "the cache can no longer serve; restart this process")
		default:
		}
	}
	writeJSON(w, http.StatusOK, okJSON{true})
	return nil
}

// readyz answers with cache.Health: 200 if this node should get requests, 503
// if not: while it starts, while it stops, and while a shard does not answer.
func (s *server) readyz(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := s.bound(r)
	defer cancel()
	health, err := s.health(ctx)
	if err != nil {
		return err
	}
	if s.draining.Load() {
		health.OK = false
		health.Problems = append(health.Problems, "the server is stopping")
	}
	health.Problems = orEmpty(health.Problems)
	status := http.StatusOK
	if !health.OK {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, health)
	return nil
}

// health returns cache.Health, with what the shards say.
func (s *server) health(ctx context.Context) (cache.Health, error) {
	if !s.opened.Load() {
		return cache.Health{Problems: []string{"the server is starting: its cache is not open yet"}}, nil
	}
	health, err := s.admin.Health(ctx)
	if err != nil || !health.OK {
		return health, err
	}
	if err := s.ready(ctx); err != nil {
		health.OK = false
		health.Problems = append(health.Problems, "not every shard answers: "+err.Error())
	}
	return health, nil
}
