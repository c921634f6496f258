package main

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/distributedcache/cache"
)

// expiryHeader tells when a value expires, in RFC 3339.
const expiryHeader = "X-Expires-At"

// getKey answers GET /api/kv/{primary}/{secondary} with the value as the body.
func (s *server) getKey(w http.ResponseWriter, r *http.Request) error {
	key, err := keyFromPath(r.URL.EscapedPath())
	if err != nil {
		return err
	}
	q, err := parseQuery(r, "consistency", "max_staleness", "encoding")
	if err != nil {
		return err
	}
	encoded, err := q.base64()
	if err != nil {
		return err
	}
	opts, err := q.consistency()
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	item, err := s.store.Get(ctx, key, opts...)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("ETag", etag(item.Version))
	if at := expiry(item); at != "" {
		h.Set(expiryHeader, at)
	}
	if sameVersion(r.Header.Get("If-None-Match"), item.Version) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	body := item.Value
	h.Set("Content-Type", "application/octet-stream")
	if encoded {
		h.Set("Content-Type", "text/plain; charset=us-ascii")
		body = base64.StdEncoding.AppendEncode(nil, item.Value)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // an error means that the client went away
	return nil
}

// sameVersion reports whether the If-None-Match of a read names v.
func sameVersion(header string, v cache.Version) bool {
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == "*" || tag == etag(v) {
			return true
		}
	}
	return false
}

// expiry returns when item expires, "" if it does not.
func expiry(item cache.Item) string {
	if item.ExpiresAt.IsZero() {
		return ""
	}
	return item.ExpiresAt.UTC().Format(time.RFC3339Nano)
}

// versionJSON is the answer to a single write.
type versionJSON struct {
	Version uint64 `json:"version"`
}

// putKey answers PUT /api/kv/{primary}/{secondary}; the body is the value.
func (s *server) putKey(w http.ResponseWriter, r *http.Request) error {
	key, err := keyFromPath(r.URL.EscapedPath())
	if err != nil {
		return err
	}
	q, err := parseQuery(r, "ttl", "encoding")
	if err != nil {
		return err
	}
	opts, err := writeOptions(r)
	if err != nil {
		return err
	}
	if q.has("ttl") {
		ttl, err := q.duration("ttl", 0)
		if err != nil {
			return err
		}
		opts = append(opts, cache.TTL(ttl))
	}
	value, err := readValue(w, r, q)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	version, err := s.store.Put(ctx, key, value, opts...)
	if err != nil {
		return err
	}
	w.Header().Set("ETag", etag(version))
	writeJSON(w, http.StatusOK, versionJSON{uint64(version)})
	return nil
}

// readValue reads the value that the body of a put is.
func readValue(w http.ResponseWriter, r *http.Request, q query) ([]byte, error) {
	encoded, err := q.base64()
	if err != nil {
		return nil, err
	}
	if !encoded {
		return readBody(w, r, maxValueBytes)
	}
	// Line breaks may be in it, one for every 64 characters or fewer.
	limit := base64.StdEncoding.EncodedLen(maxValueBytes)
	body, err := readBody(w, r, int64(limit+limit/32))
	if err != nil {
		return nil, err
	}
	return decodeValue(string(body), true)
}

// deleteKey answers DELETE /api/kv/{primary}/{secondary} with the version that
// was removed, 0 if there was none.
func (s *server) deleteKey(w http.ResponseWriter, r *http.Request) error {
	key, err := keyFromPath(r.URL.EscapedPath())
	if err != nil {
		return err
	}
	if _, err := parseQuery(r); err != nil {
		return err
	}
	if err := noBody(r); err != nil {
		return err
	}
	opts, err := writeOptions(r)
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	version, err := s.store.Delete(ctx, key, opts...)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, versionJSON{uint64(version)})
	return nil
}

// writeOptions returns the conditions and the request id of a single write.
func writeOptions(r *http.Request) ([]cache.WriteOption, error) {
	opts, err := conditions(r)
	if err != nil {
		return nil, err
	}
	id, given, err := requestID(r)
	if err != nil {
		return nil, err
	}
	if given {
		opts = append(opts, cache.WithRequestID(id))
	}
	return opts, nil
}

// outcomeJSON is the answer to what became of a write.
type outcomeJSON struct {
	Outcome string `json:"outcome"` // "applied", "not_applied", "unknown"
	Version uint64 `json:"version"`
}

// outcome answers GET /api/outcome/{id}: what became of the write whose
// Idempotency-Key was id.
func (s *server) outcome(w http.ResponseWriter, r *http.Request) error {
	if _, err := parseQuery(r); err != nil {
		return err
	}
	// One level of escapes is all there is, so that the path matches the header.
	id, err := parseRequestID(r.URL.Path[len(outcomePrefix):])
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	outcome, version, err := s.store.Outcome(ctx, id)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, outcomeJSON{outcomeName(outcome), uint64(version)})
	return nil
}
