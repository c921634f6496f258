package main

import (
	"context"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache"
)

// Limits of one request. The first three are also given to the cache.
const (
	maxValueBytes = 1 << 20
	maxBatchOps   = 1000
	maxBatchBytes = 4 << 20
	// maxJSONBytes has room for maxBatchBytes in base64 and the names around.
	maxJSONBytes = 8 << 20
	// maxPageItems and maxPageBytes bound one page of a scan.
	maxPageItems = 1000
	maxPageBytes = 1 << 20
	// maxMultiGetBytes bounds the values of one multiget answer.
	maxMultiGetBytes = 8 << 20
	// maxHeavyRequests is how many batches and scans run at once; further ones
	// wait. Together they hold at most some 2 GiB, and usually far less.
	maxHeavyRequests = 64
)

// admin is what the routes need of *cache.Admin.
type admin interface {
	Nodes(ctx context.Context) ([]cache.NodeInfo, error)
	Shards(ctx context.Context) ([]cache.ShardInfo, error)
	Stats(ctx context.Context) (cache.Stats, error)
	Health(ctx context.Context) (cache.Health, error)
	HotKeys(ctx context.Context, n int) ([]cache.HotKey, error)
	SlowOps(ctx context.Context, n int) ([]cache.SlowOp, error)
	Alerts(ctx context.Context) ([]cache.Alert, error)
	Flush(ctx context.Context) error
	Compact(ctx context.Context) iter.Seq2[cache.Progress, error]
	Backup(ctx context.Context, dir string) iter.Seq2[cache.Progress, error]
	Rebalance(ctx context.Context) (cache.Plan, error)
	Drain(ctx context.Context, nodeID string) iter.Seq2[cache.Progress, error]
	Remove(ctx context.Context, nodeID string) error
	TransferLeader(ctx context.Context, shard int, nodeID string) error
}

// server answers the requests of the API. Until the cache is open it answers
// those that are about the server itself.
type server struct {
	// The cache; written before opened becomes true, and not read before.
	store  cache.Store
	admin  admin
	ready  func(ctx context.Context) error // waits until every shard answers
	done   <-chan struct{}                 // closed when the cache can no longer serve ...
	cause  func() error                    // ... and why
	opened atomic.Bool

	clusterAddr    string // where other nodes reach this one; "" without a cluster
	nodeID         string // "" if it was not given
	runID          string // random
	backups        *backupRoot
	instruments    *instruments
	log            *slog.Logger
	requestTimeout time.Duration
	loopback       bool          // listening on a loopback address only
	heavy          chan struct{} // one element per heavy request under way
	draining       atomic.Bool
	maintenance    atomic.Bool // a compaction or a backup is under way
}

// A handlerFunc answers a request or returns the error that answers it.
type handlerFunc func(w http.ResponseWriter, r *http.Request) error

// A route is one line of the API.
type route struct {
	pattern string // as documented; the label of its metrics
	methods map[string]handlerFunc
	early   bool // answers before the cache is open
}

// handler returns the API with everything that is done for all routes.
func (s *server) handler() http.Handler {
	routes := s.routes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		sw := &statusWriter{ResponseWriter: w}
		rt := findRoute(routes, r)
		if err := s.answer(sw, r, rt); err != nil {
			s.writeError(sw, r, err)
		}
		s.instruments.observe(rt.pattern, r.Method, sw.status, time.Since(start))
	})
}

// answer runs the handler of rt after the checks that all routes share.
func (s *server) answer(w http.ResponseWriter, r *http.Request, rt route) error {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if err := s.checkOrigin(r); err != nil {
		return err
	}
	if rt.methods == nil {
		return httpErrorf(http.StatusNotFound, "no_route", "there is no route %s", r.URL.EscapedPath())
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http drops the body
	}
	handle := rt.methods[method]
	if handle == nil {
		allowed := make([]string, 0, len(rt.methods))
		for m := range rt.methods {
			allowed = append(allowed, m)
		}
		slices.Sort(allowed)
		h.Set("Allow", strings.Join(allowed, ", "))
		return httpErrorf(http.StatusMethodNotAllowed, "method_not_allowed", "%s takes %s", rt.pattern, h.Get("Allow"))
	}
	if !rt.early && !s.opened.Load() {
		return refusedf(cache.ErrUnavailable, "this server is starting: its cache is not open yet")
	}
	return handle(w, r)
}

// checkOrigin refuses requests that a web page makes behind its reader's back:
// writes from another origin, and, on a loopback address, any request whose
// Host is a name that an attacker may have pointed here (DNS rebinding).
func (s *server) checkOrigin(r *http.Request) error {
	var protection http.CrossOriginProtection
	if err := protection.Check(r); err != nil {
		return httpErrorf(http.StatusForbidden, "cross_origin", "%v", err)
	}
	if !s.loopback {
		return nil
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	if host == "localhost" || net.ParseIP(strings.Trim(host, "[]")) != nil {
		return nil
	}
	return httpErrorf(http.StatusForbidden, "bad_host",
		"this server listens on a loopback address and answers to IP addresses and localhost only, not to host %q", host)
}

// routes returns the API, by path. Keys under /api/kv/ have no entry here:
// see findRoute.
func (s *server) routes() map[string]route {
	get := func(h handlerFunc) map[string]handlerFunc { return map[string]handlerFunc{http.MethodGet: h} }
	post := func(h handlerFunc) map[string]handlerFunc { return map[string]handlerFunc{http.MethodPost: h} }
	routes := map[string]route{}
	for pattern, methods := range map[string]map[string]handlerFunc{
		keyPattern: {
			http.MethodGet: s.getKey, http.MethodPut: s.putKey, http.MethodDelete: s.deleteKey,
		},
		primaryPattern:            get(s.scanPrimary),
		outcomePattern:            get(s.outcome),
		"/api/scan":               get(s.scan),
		"/api/multiget":           post(s.multiGet),
		"/api/multiput":           post(s.multiPut),
		"/api/stats":              get(s.stats),
		"/api/monitoring/hotkeys": get(s.hotKeys),
		"/api/monitoring/slow":    get(s.slowOps),
		"/api/monitoring/alerts":  get(s.alerts),
		addressPattern:            get(s.address),
		"/api/cluster/nodes":      get(s.nodes),
		nodePattern:               {http.MethodDelete: s.removeNode},
		drainPattern:              post(s.drain),
		"/api/cluster/shards":     get(s.shards),
		leaderPattern:             post(s.moveLeader),
		"/api/cluster/rebalance":  post(s.rebalance),
		"/api/storage/flush":      post(s.flush),
		"/api/storage/compact":    post(s.compact),
		"/api/storage/backup":     post(s.backup),
		"/healthz":                get(s.healthz),
		"/readyz":                 get(s.readyz),
	} {
		early := pattern == addressPattern || pattern == "/healthz" || pattern == "/readyz"
		routes[pattern] = route{pattern: pattern, methods: methods, early: early}
	}
	return routes
}

// The patterns of the routes that have a part to fill in.
const (
	kvPrefix       = "/api/kv/"
	keyPattern     = "/api/kv/{primary}/{secondary}"
	primaryPattern = "/api/kv/{primary}"
	outcomePrefix  = "/api/outcome/"
	outcomePattern = "/api/outcome/{id}"
)

// findRoute returns the route of a request; without methods if there is none.
// It works on the path as it was sent: http.ServeMux would clean it first and
// so redirect keys that hold dots or slashes to other keys.
func findRoute(routes map[string]route, r *http.Request) route {
	path := r.URL.EscapedPath()
	pattern := path
	if rest, ok := strings.CutPrefix(path, kvPrefix); ok {
		pattern = primaryPattern
		if strings.Contains(rest, "/") {
			pattern = keyPattern
		}
	} else if strings.HasPrefix(path, outcomePrefix) {
		pattern = outcomePattern
	} else if strings.ContainsAny(path, "{}") {
		pattern = "" // the patterns themselves are no paths
	} else {
		pattern = clusterPatternOf(path)
	}
	if rt, ok := routes[pattern]; ok {
		return rt
	}
	return route{pattern: "other"}
}

// bound returns the context of the work for r: it ends with the connection and
// after the request timeout.
func (s *server) bound(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), s.requestTimeout)
}

// enterHeavy waits for a place among the heavy requests.
func (s *server) enterHeavy(ctx context.Context) (leave func(), err error) {
	select {
	case s.heavy <- struct{}{}:
		return func() { <-s.heavy }, nil
	case <-ctx.Done():
		return nil, refusedf(cache.ErrOverloaded, "%d batches and scans are under way", cap(s.heavy))
	}
}
