package main

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distributedcache/cache"
)

// keyFromPath returns the key of an escaped path /api/kv/{primary}/{secondary}.
// Each part is percent-encoded on its own, so any bytes can be written; an
// empty secondary is a path that ends with the slash.
func keyFromPath(escaped string) (cache.Key, error) {
	rest, ok := strings.CutPrefix(escaped, kvPrefix)
	if !ok {
		return cache.Key{}, invalidf("the path does not start with %s", kvPrefix)
	}
	primary, secondary, found := strings.Cut(rest, "/")
	if !found || strings.Contains(secondary, "/") {
		return cache.Key{}, invalidf("want %s; a slash inside a part is written %%2F", keyPattern)
	}
	var key cache.Key
	var err error
	if key.Primary, err = url.PathUnescape(primary); err != nil {
		return cache.Key{}, invalidf("primary: %v", err)
	}
	if key.Secondary, err = url.PathUnescape(secondary); err != nil {
		return cache.Key{}, invalidf("secondary: %v", err)
	}
	return key, key.Validate()
}

// primaryFromPath returns the primary of an escaped path /api/kv/{primary}.
func primaryFromPath(escaped string) (string, error) {
	primary, err := url.PathUnescape(strings.TrimPrefix(escaped, kvPrefix))
	if err != nil {
		return "", invalidf("primary: %v", err)
	}
	return primary, cache.K(primary, "").Validate()
}

// pathOfKey is the inverse of keyFromPath.
func pathOfKey(key cache.Key) string {
	return kvPrefix + url.PathEscape(key.Primary) + "/" + url.PathEscape(key.Secondary)
}

// query holds the parameters of a request.
type query struct{ values url.Values }

// parseQuery refuses parameters that are unknown to the route or given twice:
// a ?tll=30s that is ignored would store a value for ever.
func parseQuery(r *http.Request, allowed ...string) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return query{}, invalidf("query: %v", err)
	}
	for name, given := range values {
		if !slices.Contains(allowed, name) {
			return query{}, invalidf("unknown parameter %q; this route takes %s", name, listOrNone(allowed))
		}
		if len(given) > 1 {
			return query{}, invalidf("parameter %s is given %d times", name, len(given))
		}
	}
	return query{values}, nil
}

func listOrNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func (q query) has(name string) bool   { return q.values.Has(name) }
func (q query) get(name string) string { return q.values.Get(name) }

// duration returns the parameter, or otherwise if it is absent.
func (q query) duration(name string, otherwise time.Duration) (time.Duration, error) {
	if !q.has(name) {
		return otherwise, nil
	}
	return parseDuration(name, q.get(name))
}

func parseDuration(name, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, invalidf("%s=%q: want a positive duration such as 500ms, 30s or 24h", name, s)
	}
	return d, nil
}

// number returns the parameter, which lies in 1..most, or otherwise if it is
// absent.
func (q query) number(name string, otherwise, most int) (int, error) {
	if !q.has(name) {
		return otherwise, nil
	}
	n, err := strconv.Atoi(q.get(name))
	if err != nil || n < 1 || n > most {
		return 0, invalidf("%s=%q: want a number from 1 to %d", name, q.get(name), most)
	}
	return n, nil
}

// flag returns a parameter that is true, false or absent, which is false. A
// name without a value is true.
func (q query) flag(name string) (bool, error) {
	switch v := q.get(name); {
	case !q.has(name), v == "false":
		return false, nil
	case v == "", v == "true":
		return true, nil
	default:
		return false, invalidf("%s=%q: want true or false", name, v)
	}
}

// base64 reports whether ?encoding=base64 is given.
func (q query) base64() (bool, error) {
	if !q.has("encoding") {
		return false, nil
	}
	return isBase64(q.get("encoding"))
}

func isBase64(encoding string) (bool, error) {
	if encoding != "base64" {
		return false, invalidf("encoding=%q: the only encoding is base64", encoding)
	}
	return true, nil
}

// defaultStaleness is what ?consistency=stale means without max_staleness.
const defaultStaleness = 5 * time.Second

// consistency returns the read options of ?consistency= and ?max_staleness=.
func (q query) consistency() ([]cache.ReadOption, error) {
	switch c := q.get("consistency"); {
	case c == "stale":
		limit, err := q.duration("max_staleness", defaultStaleness)
		return []cache.ReadOption{cache.Stale(limit)}, err
	case q.has("max_staleness"):
		return nil, invalidf("max_staleness needs consistency=stale")
	case !q.has("consistency"), c == "linearizable":
		return nil, nil
	default:
		return nil, invalidf("consistency=%q: want linearizable or stale", c)
	}
}

// etag returns the entity tag of a version.
func etag(v cache.Version) string { return `"` + strconv.FormatUint(uint64(v), 10) + `"` }

// parseETag reads a version, with or without the quotes.
func parseETag(header, s string) (cache.Version, error) {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, invalidf("%s: %q is no version; want one number such as %s", header, s, etag(1))
	}
	return cache.Version(v), nil
}

// conditions returns the write options of the headers If-Match and
// If-None-Match.
func conditions(r *http.Request) ([]cache.WriteOption, error) {
	match, noneMatch := r.Header.Values("If-Match"), r.Header.Values("If-None-Match")
	switch {
	case len(match)+len(noneMatch) > 1:
		return nil, invalidf("want at most one of If-Match and If-None-Match")
	case len(noneMatch) == 1:
		if noneMatch[0] != "*" {
			return nil, invalidf("If-None-Match of a write takes * only")
		}
		return []cache.WriteOption{cache.IfAbsent()}, nil
	case len(match) == 0:
		return nil, nil
	case match[0] == "*":
		return []cache.WriteOption{cache.IfPresent()}, nil
	}
	v, err := parseETag("If-Match", match[0])
	return []cache.WriteOption{cache.IfVersion(v)}, err
}

// maxRequestIDBytes bounds an Idempotency-Key, whatever its form.
const maxRequestIDBytes = 255

// requestID returns the id that the header Idempotency-Key names, if any.
func requestID(r *http.Request) (id cache.RequestID, given bool, err error) {
	values := r.Header.Values("Idempotency-Key")
	switch len(values) {
	case 0:
		return id, false, nil
	case 1:
		id, err = parseRequestID(values[0])
		return id, err == nil, err
	default:
		return id, false, invalidf("Idempotency-Key is given %d times", len(values))
	}
}

// parseRequestID reads 32 hexadecimal digits or a UUID as the 16 bytes that
// they are. Any other string stands for the first 16 bytes of its SHA-256.
// Double quotes around it do not count.
func parseRequestID(s string) (cache.RequestID, error) {
	var id cache.RequestID
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	if s == "" || len(s) > maxRequestIDBytes {
		return id, invalidf("Idempotency-Key of %d bytes; want 1 to %d", len(s), maxRequestIDBytes)
	}
	digits := s
	if len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' {
		digits = s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	}
	if raw, err := hex.DecodeString(digits); err == nil && len(raw) == len(id) {
		copy(id[:], raw)
	} else {
		sum := sha256.Sum256([]byte(s))
		copy(id[:], sum[:])
	}
	if id.IsZero() {
		return id, invalidf("Idempotency-Key must not be all zeros")
	}
	return id, nil
}
