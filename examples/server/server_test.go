package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// api is a server under test and a client for it.
type api struct {
	t      *testing.T
	url    string
	client *http.Client
	server *server
	store  *cache.Cache
}

// newAPI serves a cache that lives in memory. change may alter the server
// before it starts.
func newAPI(t *testing.T, change func(*server)) *api {
	t.Helper()
	store, err := cache.Open(cache.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	backups, err := openBackupRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = backups.Close() })
	s := &server{
		store: store, admin: store.Admin(), ready: store.Ready, done: store.Done(), cause: store.Err, backups: backups,
		instruments: newInstruments(), log: slog.New(slog.DiscardHandler),
		requestTimeout: time.Minute, loopback: true, heavy: make(chan struct{}, maxHeavyRequests),
	}
	s.opened.Store(true)
	if change != nil {
		change(s)
	}
	ts := httptest.NewServer(s.handler())
	t.Cleanup(ts.Close)
	client := ts.Client()
	// Redirects would hide a path that was changed on the way.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &api{t: t, url: ts.URL, client: client, server: s, store: store}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request; headers are pairs of name and value.
func (a *api) do(method, path, body string, headers ...string) answer {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.url+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := a.client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, data}
}

// want fails the test if the status is another one.
func (a *api) want(status int, got answer) answer {
	a.t.Helper()
	if got.status != status {
		a.t.Fatalf("status %d, want %d; body %s", got.status, status, got.body)
	}
	return got
}

// put stores a value and returns its version.
func (a *api) put(key cache.Key, value string, headers ...string) uint64 {
	a.t.Helper()
	return decode[versionJSON](a.t, a.want(200, a.do("PUT", pathOfKey(key), value, headers...))).Version
}

func decode[T any](t *testing.T, a answer) (out T) {
	t.Helper()
	if err := json.Unmarshal(a.body, &out); err != nil {
		t.Fatalf("answer %q: %v", a.body, err)
	}
	return out
}

// wantError checks status, code and, unless "", outcome of a failure.
func wantError(t *testing.T, got answer, status int, code, outcome string) errorJSON {
	t.Helper()
	body := decode[errorBody](t, got).Error
	if got.status != status || body.Code != code || (outcome != "" && body.Outcome != outcome) {
		t.Errorf("got %d %s, want %d %s %s", got.status, got.body, status, code, outcome)
	}
	if body.Message == "" {
		t.Errorf("no message in %s", got.body)
	}
	return body
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	a := newAPI(t, nil)
	for _, path := range []string{"/", "/api", "/api/kv", "/api/nothing", "/debug/pprof/", "/metrics", "/api/%7Bid%7D"} {
		wantError(t, a.do("GET", path, ""), 404, "no_route", "")
	}
	for _, c := range []struct{ method, path, allow string }{
		{"POST", "/api/kv/p/s", "DELETE, GET, PUT"},
		{"PUT", "/api/kv/p", "GET"},
		{"GET", "/api/multiput", "POST"},
		{"BREW", "/api/stats", "GET"},
	} {
		got := a.do(c.method, c.path, "")
		wantError(t, got, 405, "method_not_allowed", "")
		if got.header.Get("Allow") != c.allow {
			t.Errorf("%s %s: Allow %q, want %q", c.method, c.path, got.header.Get("Allow"), c.allow)
		}
	}
}

func TestOtherOriginsAreRefused(t *testing.T) {
	a := newAPI(t, nil)
	cross := []string{"Sec-Fetch-Site", "cross-site"}
	wantError(t, a.do("PUT", "/api/kv/p/s", "v", cross...), 403, "cross_origin", "not_applied")
	wantError(t, a.do("POST", "/api/storage/flush", "", "Origin", "https://evil.example"), 403, "cross_origin", "")
	wantError(t, a.do("GET", "/api/scan", "", "Host", "evil.example:8080"), 403, "bad_host", "")
	for _, host := range []string{"localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", "[::1]", "10.0.0.1"} {
		a.want(200, a.do("GET", "/api/scan", "", "Host", host))
	}
	open := newAPI(t, func(s *server) { s.loopback = false })
	open.want(200, open.do("GET", "/api/scan", "", "Host", "cache.example"))
}

func TestMetricsHaveNoKeysInLabels(t *testing.T) {
	a := newAPI(t, nil)
	a.put(cache.K("secret-primary", "s"), "v")
	a.do("GET", "/api/secret-route", "")
	a.do("BREW", "/healthz", "")
	rec := httptest.NewRecorder()
	a.server.instruments.handler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	text := rec.Body.String()
	for _, want := range []string{
		`cache_http_requests_total{code="200",method="PUT",route="/api/kv/{primary}/{secondary}"} 1`,
		`cache_http_requests_total{code="404",method="GET",route="other"} 1`,
		`cache_http_requests_total{code="405",method="other",route="/healthz"} 1`,
		"go_goroutines ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	if strings.Contains(text, "secret") {
		t.Error("/metrics holds parts of paths")
	}
	rec = httptest.NewRecorder()
	a.server.instruments.handler().ServeHTTP(rec, httptest.NewRequest("GET", "/debug/pprof/", nil))
	if rec.Code != 404 {
		t.Errorf("pprof on the metrics port: status %d", rec.Code)
	}
}
