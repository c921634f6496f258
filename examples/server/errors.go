package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/distributedcache/cache"
)

// errorBody is the JSON of every answer that is not a success.
type errorBody struct {
	Error errorJSON `json:"error"`
	// Results says, for an atomic batch that was refused, what each of its
	// operations met.
	Results []resultJSON `json:"results,omitempty"`
}

// errorJSON describes one failure. Outcome is there for writes only.
type errorJSON struct {
	Code         string  `json:"code"`
	Message      string  `json:"message"`
	Outcome      string  `json:"outcome,omitempty"` // "applied", "not_applied", "unknown"
	RetryAfterMS int64   `json:"retry_after_ms"`    // 0: no advice
	RequestID    string  `json:"request_id"`        // "" if the request had none
	Key          string  `json:"key,omitempty"`
	Have         *uint64 `json:"have,omitempty"` // version_mismatch: the version there is, 0 if absent
}

// kind is how the API answers one sort of error.
type kind struct {
	code   string
	status int
	// retry is the advice where the error itself has none.
	retry time.Duration
	// private errors may name paths or internals: the log gets them, the
	// client gets the name of their sort.
	private bool
}

// statusClientClosed is what nginx made common for "the client went away".
const statusClientClosed = 499

// classify returns how to answer err and the sentinel it matched, if any.
func classify(err error) (kind, error) {
	for _, c := range [...]struct {
		sentinel error
		kind     kind
	}{
		{cache.ErrNotFound, kind{code: "not_found", status: http.StatusNotFound}},
		{cache.ErrVersionMismatch, kind{code: "version_mismatch", status: http.StatusPreconditionFailed}},
		{cache.ErrConflict, kind{code: "conflict", status: http.StatusConflict, retry: 50 * time.Millisecond}},
		{cache.ErrRequestReused, kind{code: "request_reused", status: http.StatusUnprocessableEntity}},
		{cache.ErrUnauthenticated, kind{code: "unauthenticated", status: http.StatusUnauthorized}},
		{cache.ErrPermission, kind{code: "permission_denied", status: http.StatusForbidden}},
		{cache.ErrIndeterminate, kind{code: "indeterminate", status: http.StatusGatewayTimeout}},
		{cache.ErrUnavailable, kind{code: "unavailable", status: http.StatusServiceUnavailable, retry: time.Second}},
		{cache.ErrOverloaded, kind{code: "overloaded", status: http.StatusServiceUnavailable, retry: time.Second}},
		{cache.ErrQuota, kind{code: "quota_exceeded", status: http.StatusTooManyRequests, retry: time.Second}},
		{cache.ErrNoSpace, kind{code: "no_space", status: http.StatusInsufficientStorage, retry: 5 * time.Second}},
		{cache.ErrTooLarge, kind{code: "too_large", status: http.StatusRequestEntityTooLarge}},
		{cache.ErrCorrupt, kind{code: "corrupt", status: http.StatusInternalServerError, private: true}},
		{cache.ErrInvalid, kind{code: "invalid", status: http.StatusBadRequest}},
		{cache.ErrClosed, kind{code: "closed", status: http.StatusServiceUnavailable}},
		{cache.ErrAuditUnavailable, kind{code: "audit_unavailable", status: http.StatusServiceUnavailable}},
		{cache.ErrInUse, kind{code: "in_use", status: http.StatusInternalServerError, private: true}},
		{context.DeadlineExceeded, kind{code: "timeout", status: http.StatusGatewayTimeout}},
		{context.Canceled, kind{code: "canceled", status: statusClientClosed}},
	} {
		if errors.Is(err, c.sentinel) {
			return c.kind, c.sentinel
		}
	}
	return kind{code: "internal", status: http.StatusInternalServerError, private: true}, errors.New("internal error")
}

// httpError is a refusal that only HTTP knows.
type httpError struct {
	status        int
	code, message string
}

func (e *httpError) Error() string { return e.message }

func httpErrorf(status int, code, format string, args ...any) error {
	return &httpError{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// refusedf returns an error of the given sort for a request that was refused
// before it reached the store.
func refusedf(sentinel error, format string, args ...any) error {
	return fmt.Errorf("%w: %s", sentinel, fmt.Sprintf(format, args...))
}

// invalidf is refusedf(cache.ErrInvalid, ...).
func invalidf(format string, args ...any) error { return refusedf(cache.ErrInvalid, format, args...) }

// batchError is the failure of a batch with what each operation met.
type batchError struct {
	cause   error
	results []cache.Result
}

func (e *batchError) Error() string { return e.cause.Error() }
func (e *batchError) Unwrap() error { return e.cause }

// describe returns the JSON of err and its status. write says whether an
// outcome belongs to it.
func describe(err error, write bool) (errorJSON, int) {
	if he, ok := errors.AsType[*httpError](err); ok {
		out := errorJSON{Code: he.code, Message: he.message}
		if write {
			out.Outcome = outcomeName(cache.OutcomeNotApplied)
		}
		return out, he.status
	}
	k, sentinel := classify(err)
	out := errorJSON{Code: k.code, Message: err.Error()}
	if k.private {
		out.Message = sentinel.Error()
	}
	retry := k.retry
	outcome := cache.OutcomeNotApplied // what never reached the store
	if ce, ok := errors.AsType[*cache.Error](err); ok {
		outcome = ce.Outcome
		if ce.RetryAfter > 0 {
			retry = ce.RetryAfter
		}
		if !ce.RequestID.IsZero() {
			out.RequestID = ce.RequestID.String()
		}
		if !ce.Key.IsZero() {
			out.Key = ce.Key.String()
		}
	}
	if ve, ok := errors.AsType[*cache.VersionError](err); ok {
		have := uint64(ve.Have)
		out.Key, out.Have = ve.Key.String(), &have
	}
	if write {
		out.Outcome = outcomeName(outcome)
	}
	out.RetryAfterMS = (retry + time.Millisecond - 1).Milliseconds()
	return out, k.status
}

// writeError answers r with err.
func (s *server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	body := errorBody{}
	var status int
	body.Error, status = describe(err, changesData(r))
	if be, ok := errors.AsType[*batchError](err); ok {
		body.Results = resultsJSON(be.results)
	}
	if body.Error.RequestID == "" {
		if id, given, idErr := requestID(r); idErr == nil && given {
			body.Error.RequestID = id.String()
		}
	}
	if ms := body.Error.RetryAfterMS; ms > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	}
	if have := body.Error.Have; have != nil && *have != 0 {
		w.Header().Set("ETag", etag(cache.Version(*have)))
	}
	s.log.Log(r.Context(), levelOf(r, status), "request failed",
		"method", r.Method, "path", r.URL.EscapedPath(), "status", status, "error", err)
	writeJSON(w, status, body)
}

// levelOf returns how loudly a failure is logged. Refusals can come by the
// thousand, caused by whoever likes to; only what somebody should look into is
// worth a line at the usual level.
func levelOf(r *http.Request, status int) slog.Level {
	switch {
	case status == http.StatusInternalServerError:
		return slog.LevelError
	case status == http.StatusGatewayTimeout && r.Context().Err() == nil:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

// changesData reports whether r is a write of keys, whose errors say what
// became of it.
func changesData(r *http.Request) bool {
	single := r.Method == http.MethodPut || r.Method == http.MethodDelete
	return single && strings.HasPrefix(r.URL.EscapedPath(), kvPrefix) || r.URL.Path == "/api/multiput"
}

func outcomeName(o cache.Outcome) string {
	switch o {
	case cache.OutcomeApplied:
		return "applied"
	case cache.OutcomeNotApplied:
		return "not_applied"
	default:
		return "unknown"
	}
}
