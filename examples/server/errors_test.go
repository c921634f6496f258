package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache"
)

// failing is a store whose every operation fails with err.
type failing struct {
	cache.Store
	err     error
	results []cache.Result
}

func (f *failing) Get(context.Context, cache.Key, ...cache.ReadOption) (cache.Item, error) {
	return cache.Item{}, f.err
}

func (f *failing) Put(context.Context, cache.Key, []byte, ...cache.WriteOption) (cache.Version, error) {
	return 0, f.err
}

func (f *failing) Delete(context.Context, cache.Key, ...cache.WriteOption) (cache.Version, error) {
	return 0, f.err
}

func (f *failing) MultiGet(context.Context, []cache.Key, ...cache.ReadOption) ([]cache.Item, error) {
	return nil, f.err
}

func (f *failing) MultiPut(context.Context, []cache.Op, ...cache.TxOption) ([]cache.Result, error) {
	return f.results, f.err
}

func (f *failing) RangeScan(context.Context, cache.Range, ...cache.ReadOption) iter.Seq2[cache.Item, error] {
	return func(yield func(cache.Item, error) bool) { yield(cache.Item{}, f.err) }
}

func (f *failing) Outcome(context.Context, cache.RequestID) (cache.Outcome, cache.Version, error) {
	return 0, 0, f.err
}

func TestEverySentinelHasItsStatus(t *testing.T) {
	store := &failing{}
	a := newAPI(t, func(s *server) { s.store = store })
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{cache.ErrNotFound, 404, "not_found"},
		{cache.ErrVersionMismatch, 412, "version_mismatch"},
		{cache.ErrConflict, 409, "conflict"},
		{cache.ErrRequestReused, 422, "request_reused"},
		{cache.ErrUnauthenticated, 401, "unauthenticated"},
		{cache.ErrPermission, 403, "permission_denied"},
		{cache.ErrUnavailable, 503, "unavailable"},
		{cache.ErrIndeterminate, 504, "indeterminate"},
		{cache.ErrOverloaded, 503, "overloaded"},
		{cache.ErrQuota, 429, "quota_exceeded"},
		{cache.ErrNoSpace, 507, "no_space"},
		{cache.ErrTooLarge, 413, "too_large"},
		{cache.ErrCorrupt, 500, "corrupt"},
		{cache.ErrInvalid, 400, "invalid"},
		{cache.ErrClosed, 503, "closed"},
		{cache.ErrAuditUnavailable, 503, "audit_unavailable"},
		{cache.ErrInUse, 500, "in_use"},
		{context.DeadlineExceeded, 504, "timeout"},
		{context.Canceled, 499, "canceled"},
		{errors.New("anything else"), 500, "internal"},
	} {
		store.err = &cache.Error{Op: "test", Err: fmt.Errorf("wrapped: %w", c.err)}
		for _, r := range []struct{ method, path, body string }{
			{"GET", "/api/kv/p/s", ""},
			{"PUT", "/api/kv/p/s", "v"},
			{"DELETE", "/api/kv/p/s", ""},
			{"GET", "/api/kv/p", ""},
			{"GET", "/api/scan", ""},
			{"POST", "/api/multiget", `{"keys":["p:s"]}`},
			{"POST", "/api/multiput", `{"ops":[{"op":"delete","key":"p:s"}]}`},
			{"GET", "/api/outcome/x", ""},
		} {
			t.Run(c.code+" "+r.method+" "+r.path, func(t *testing.T) {
				got := a.do(r.method, r.path, r.body)
				body := wantError(t, got, c.status, c.code, "")
				if (got.header.Get("Retry-After") != "") != (body.RetryAfterMS > 0) {
					t.Errorf("Retry-After %q with %s", got.header.Get("Retry-After"), got.body)
				}
				write := r.method == "PUT" || r.method == "DELETE" || r.path == "/api/multiput"
				if (body.Outcome != "") != write {
					t.Errorf("outcome %q of %s %s", body.Outcome, r.method, r.path)
				}
			})
		}
	}
}

func TestErrorDetails(t *testing.T) {
	id := cache.NewRequestID()
	store := &failing{err: &cache.Error{
		Op: "put", Key: cache.K("p", "a b"), Outcome: cache.OutcomeUnknown,
		RequestID: id, RetryAfter: 1500 * time.Millisecond, Err: cache.ErrIndeterminate,
	}}
	a := newAPI(t, func(s *server) { s.store = store })
	got := a.do("PUT", "/api/kv/p/a%20b", "v")
	body := wantError(t, got, 504, "indeterminate", "unknown")
	if body.RequestID != id.String() || body.RetryAfterMS != 1500 || body.Key != "p:a%20b" {
		t.Errorf("details %+v", body)
	}
	if got.header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After %q, want 2: rounded up", got.header.Get("Retry-After"))
	}

	store.err = &cache.Error{Op: "put", Outcome: cache.OutcomeApplied, Err: errors.New("/var/lib/secret: bad disk")}
	got = a.do("PUT", "/api/kv/p/s", "v", "Idempotency-Key", id.String())
	body = wantError(t, got, 500, "internal", "applied")
	if body.Message != "internal error" || body.RequestID != id.String() {
		t.Errorf("internals or the wrong id in %s", got.body)
	}

	mismatch := &cache.VersionError{Key: cache.K("p", "s"), Want: 7, Have: 9}
	store.err = &cache.Error{Op: "put", Outcome: cache.OutcomeNotApplied, Err: mismatch}
	got = a.do("PUT", "/api/kv/p/s", "v")
	body = wantError(t, got, 412, "version_mismatch", "not_applied")
	if body.Have == nil || *body.Have != 9 || got.header.Get("ETag") != `"9"` {
		t.Errorf("the version there is: %s, ETag %q", got.body, got.header.Get("ETag"))
	}

	store.results = []cache.Result{{Key: cache.K("p", "s"), Err: mismatch}, {Key: cache.K("p", "t")}}
	got = a.do("POST", "/api/multiput", `{"ops":[{"op":"delete","key":"p:s"}]}`)
	results := decode[errorBody](t, got).Results
	if got.status != 412 || len(results) != 2 || results[0].Error.Code != "version_mismatch" || results[1].Error != nil {
		t.Errorf("results of a refused batch: %d %s", got.status, got.body)
	}
}

func TestHeavyRequestsAreBounded(t *testing.T) {
	a := newAPI(t, func(s *server) {
		s.heavy = make(chan struct{}, 1)
		s.requestTimeout = 20 * time.Millisecond
	})
	a.server.heavy <- struct{}{}
	for _, r := range []struct{ method, path string }{{"GET", "/api/scan"}, {"POST", "/api/multiget"}, {"POST", "/api/multiput"}} {
		got := a.do(r.method, r.path, "")
		wantError(t, got, http.StatusServiceUnavailable, "overloaded", "")
		if got.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After %q", got.header.Get("Retry-After"))
		}
	}
	<-a.server.heavy
	a.want(200, a.do("GET", "/api/scan", ""))
}

func TestWhatIsLogged(t *testing.T) {
	var log strings.Builder
	store := &failing{}
	a := newAPI(t, func(s *server) { s.store, s.log = store, slog.New(slog.NewTextHandler(&log, nil)) })
	for _, c := range []struct {
		err  error
		want string
	}{
		{cache.ErrCorrupt, "level=ERROR"},
		{errors.New("a secret path"), "a secret path"},
		{cache.ErrIndeterminate, "level=WARN"},
		{cache.ErrOverloaded, ""},
		{cache.ErrNotFound, ""},
	} {
		log.Reset()
		store.err = c.err
		a.do("PUT", "/api/kv/p/line%0Abreak", "v")
		if got := log.String(); !strings.Contains(got, c.want) || (c.want == "") != (got == "") || strings.Count(got, "\n") > 1 {
			t.Errorf("%v: logged %q", c.err, got)
		}
	}
}
