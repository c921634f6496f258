package main

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestPutGetDelete(t *testing.T) {
	a := newAPI(t, nil)
	const path = "/api/kv/account%2F1/balance"
	wantError(t, a.do("GET", path, ""), 404, "not_found", "")

	got := a.want(200, a.do("PUT", path, "100"))
	v1 := decode[versionJSON](t, got).Version
	if v1 == 0 || got.header.Get("ETag") != etag(cache.Version(v1)) {
		t.Fatalf("version %d, ETag %s", v1, got.header.Get("ETag"))
	}
	got = a.want(200, a.do("GET", path, ""))
	if string(got.body) != "100" || got.header.Get("ETag") != etag(cache.Version(v1)) || got.header.Get("X-Expires-At") != "" {
		t.Fatalf("got %q %v", got.body, got.header)
	}
	if got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("headers %v", got.header)
	}
	got = a.want(200, a.do("HEAD", path, ""))
	if len(got.body) != 0 || got.header.Get("Content-Length") != "3" {
		t.Errorf("HEAD: %q %v", got.body, got.header)
	}
	a.want(304, a.do("GET", path, "", "If-None-Match", `"1", W/`+etag(cache.Version(v1))))
	a.want(200, a.do("GET", path, "", "If-None-Match", `"1"`))
	a.want(200, a.do("GET", path+"?consistency=stale&max_staleness=1s", ""))
	a.want(200, a.do("GET", path+"?consistency=stale", ""))

	if v := decode[versionJSON](t, a.want(200, a.do("DELETE", path, ""))).Version; v != v1 {
		t.Errorf("removed version %d, want %d", v, v1)
	}
	if v := decode[versionJSON](t, a.want(200, a.do("DELETE", path, ""))).Version; v != 0 {
		t.Errorf("removed version %d of a key that was not there", v)
	}
}

func TestConditions(t *testing.T) {
	a := newAPI(t, nil)
	const path = "/api/kv/p/s"
	wantError(t, a.do("PUT", path, "x", "If-Match", "*"), 412, "version_mismatch", "not_applied")
	a.want(200, a.do("PUT", path, "1", "If-None-Match", "*"))
	got := a.do("PUT", path, "2", "If-None-Match", "*")
	wantError(t, got, 412, "version_mismatch", "not_applied")
	current := got.header.Get("ETag")
	a.want(200, a.do("PUT", path, "2", "If-Match", current))
	wantError(t, a.do("PUT", path, "3", "If-Match", current), 412, "version_mismatch", "not_applied")
	wantError(t, a.do("DELETE", path, "", "If-Match", strings.Trim(current, `"`)), 412, "version_mismatch", "not_applied")
	wantError(t, a.do("PUT", path, "3", "If-Match", "0"), 412, "version_mismatch", "not_applied")
	a.want(200, a.do("PUT", path, "3", "If-Match", "*"))
	a.want(200, a.do("DELETE", path, "", "If-Match", "*"))
	a.want(200, a.do("PUT", path, "4", "If-Match", `"0"`))
	for _, h := range [][]string{
		{"If-Match", "W/\"1\""}, {"If-Match", "one"}, {"If-Match", `"1","2"`}, {"If-Match", "-1"}, {"If-Match", ""},
		{"If-None-Match", `"1"`}, {"If-Match", "1", "If-None-Match", "*"}, {"If-Match", "1", "If-Match", "2"},
	} {
		wantError(t, a.do("PUT", path, "x", h...), 400, "invalid", "not_applied")
	}
	if got := a.do("GET", path, ""); string(got.body) != "4" {
		t.Errorf("value %q: a refused write was applied", got.body)
	}
}

func TestTTL(t *testing.T) {
	a := newAPI(t, nil)
	a.want(200, a.do("PUT", "/api/kv/p/s?ttl=1h", "v"))
	got := a.want(200, a.do("GET", "/api/kv/p/s", ""))
	at, err := time.Parse(time.RFC3339Nano, got.header.Get("X-Expires-At"))
	if left := time.Until(at); err != nil || left < 50*time.Minute || left > time.Hour {
		t.Errorf("expires at %s: %v", got.header.Get("X-Expires-At"), err)
	}
	a.want(200, a.do("PUT", "/api/kv/p/s?ttl=1us", "v"))
	testkit.Eventually(t, 10*time.Second, "the value to expire", func() bool {
		return a.do("GET", "/api/kv/p/s", "").status == 404
	})
}

func TestBase64(t *testing.T) {
	a := newAPI(t, nil)
	value := []byte{0, 0xff, 0xfe, '\n', 0x80}
	encoded := base64.StdEncoding.EncodeToString(value)
	a.want(200, a.do("PUT", "/api/kv/p/s?encoding=base64", encoded+"\n"))
	if got := a.do("GET", "/api/kv/p/s", ""); !bytes.Equal(got.body, value) {
		t.Errorf("raw %q, want %q", got.body, value)
	}
	if got := a.do("GET", "/api/kv/p/s?encoding=base64", ""); string(got.body) != encoded {
		t.Errorf("base64 %q, want %q", got.body, encoded)
	}
	wantError(t, a.do("PUT", "/api/kv/p/s?encoding=base64", "!"), 400, "invalid", "not_applied")
	wantError(t, a.do("PUT", "/api/kv/p/s?encoding=hex", "00"), 400, "invalid", "not_applied")
}

func TestAnyBytesAreKeysAndValues(t *testing.T) {
	a := newAPI(t, nil)
	r := testkit.Rand(t)
	keys := []cache.Key{
		cache.K("p", ""), cache.K(".", "."), cache.K("..", ".."), cache.K("/", "//"), cache.K("a/b", "../c"),
		cache.K("%", "%2F"), cache.K("a b+c", "?x=y#z"), cache.K("\x00", "\xff\xfe"), cache.K(":", "::"),
		cache.K("{primary}", "{secondary}"), cache.K("键", "値🔑"),
		cache.K(strings.Repeat("\xff", 1024), strings.Repeat("/", 3072)),
	}
	for range 200 {
		keys = append(keys, testkit.Key(r))
	}
	want := map[cache.Key][]byte{}
	for _, key := range keys {
		want[key] = testkit.Bytes(r, r.IntN(64))
		a.put(key, string(want[key]))
	}
	for key, value := range want {
		got := a.want(200, a.do("GET", pathOfKey(key), ""))
		if !bytes.Equal(got.body, value) {
			t.Errorf("%s: value %q, want %q", key, got.body, value)
		}
		item, err := a.store.Get(t.Context(), key)
		if err != nil || !bytes.Equal(item.Value, value) {
			t.Errorf("%s is not the key that was stored: %v", key, err)
		}
	}
}

func TestBadPaths(t *testing.T) {
	a := newAPI(t, nil)
	for _, path := range []string{
		"/api/kv//s", "/api/kv//", "/api/kv/p/s/t", "/api/kv/p/s/", "/api/kv/p//", "/api/kv/p/../x",
	} {
		wantError(t, a.do("GET", path, ""), 400, "invalid", "")
		wantError(t, a.do("PUT", path, "v"), 400, "invalid", "not_applied")
	}
	wantError(t, a.do("GET", "/api/kv/", ""), 400, "invalid", "")
	wantError(t, a.do("PUT", "/api/kv/"+strings.Repeat("p", 1025)+"/s", "v"), 413, "too_large", "not_applied")
	wantError(t, a.do("PUT", "/api/kv/p/"+strings.Repeat("s", 3073), "v"), 413, "too_large", "not_applied")
	for _, q := range []string{"?tll=30s", "?ttl=1s&ttl=2s", "?ttl=0s", "?ttl=-1s", "?ttl=30", "?ttl=", "?a=%zz", "?ttl=1s;b=2"} {
		wantError(t, a.do("PUT", "/api/kv/p/s"+q, "v"), 400, "invalid", "not_applied")
	}
	for _, q := range []string{"?consistency=eventual", "?max_staleness=1s", "?consistency=stale&max_staleness=x", "?ttl=1s"} {
		wantError(t, a.do("GET", "/api/kv/p/s"+q, ""), 400, "invalid", "")
	}
	wantError(t, a.do("DELETE", "/api/kv/p/s?ttl=1s", ""), 400, "invalid", "not_applied")
	wantError(t, a.do("DELETE", "/api/kv/p/s", "body"), 400, "invalid", "not_applied")
	if items := decode[pageJSON](t, a.do("GET", "/api/scan", "")).Items; len(items) != 0 {
		t.Errorf("a refused write was applied: %v", items)
	}
}

func TestValueLimits(t *testing.T) {
	a := newAPI(t, nil)
	largest := strings.Repeat("v", maxValueBytes)
	a.put(cache.K("p", "s"), largest)
	if got := a.do("GET", "/api/kv/p/s", ""); len(got.body) != maxValueBytes {
		t.Errorf("%d bytes came back", len(got.body))
	}
	wantError(t, a.do("PUT", "/api/kv/p/s", largest+"v"), 413, "too_large", "not_applied")
	encoded := base64.StdEncoding.EncodeToString([]byte(largest))
	a.want(200, a.do("PUT", "/api/kv/p/s?encoding=base64", encoded))
	wantError(t, a.do("PUT", "/api/kv/p/s?encoding=base64", strings.Repeat("A", 2<<20)), 413, "too_large", "not_applied")
}

func TestIdempotencyKey(t *testing.T) {
	a := newAPI(t, nil)
	for i, id := range []string{
		"00112233445566778899aabbccddeeff", "123e4567-e89b-12d3-a456-426614174000", "order 4711, first try", `"quoted"`,
	} {
		key := cache.K("p", string(rune('a'+i)))
		first := a.put(key, "v", "Idempotency-Key", id)
		if again := a.put(key, "v", "Idempotency-Key", id); again != first {
			t.Errorf("%s: repeated as version %d, first was %d", id, again, first)
		}
		wantError(t, a.do("PUT", pathOfKey(key), "other", "Idempotency-Key", id), 422, "request_reused", "not_applied")
		got := decode[outcomeJSON](t, a.want(200, a.do("GET", outcomePrefix+strings.ReplaceAll(id, " ", "%20"), "")))
		if got.Outcome != "applied" || got.Version != first {
			t.Errorf("outcome of %s: %+v", id, got)
		}
	}
	got := decode[outcomeJSON](t, a.want(200, a.do("GET", outcomePrefix+"never-seen", "")))
	if got.Outcome != "unknown" || got.Version != 0 {
		t.Errorf("outcome of an id never seen: %+v", got)
	}
	// Both spellings are one id.
	first := a.put(cache.K("q", "s"), "v", "Idempotency-Key", "{123E4567}")
	if again := a.put(cache.K("q", "s"), "v", "Idempotency-Key", "{123E4567}"); again != first {
		t.Error("a free text is not one id")
	}
	v := a.put(cache.K("q", "t"), "v", "Idempotency-Key", "ffffffff-ffff-ffff-ffff-fffffffffffe")
	if w := a.put(cache.K("q", "t"), "v", "Idempotency-Key", strings.Repeat("F", 31)+"E"); v != w {
		t.Error("a UUID and its 32 digits are two ids")
	}
	for _, h := range [][]string{
		{"Idempotency-Key", ""}, {"Idempotency-Key", strings.Repeat("x", 256)}, {"Idempotency-Key", strings.Repeat("0", 32)},
		{"Idempotency-Key", "a", "Idempotency-Key", "b"},
	} {
		wantError(t, a.do("PUT", "/api/kv/p/s", "v", h...), 400, "invalid", "not_applied")
	}
}
