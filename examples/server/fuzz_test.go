package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"testing"

	"github.com/distributedcache/cache"
)

// FuzzKeyFromPath: any path gives a valid key or a typed error, and any key
// that comes out has a path that gives it back.
func FuzzKeyFromPath(f *testing.F) {
	for _, s := range []string{
		"/api/kv/p/s", "/api/kv/p/", "/api/kv//", "/api/kv/%2F/%2f%00%ff", "/api/kv/p/s/t", "/api/kv/%zz/s", "/api/kv/../..", "/x", "",
		"/api/kv/{primary}/{secondary}", "/api/kv/p/+?#",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, escaped string) {
		key, err := keyFromPath(escaped)
		if err != nil {
			if !errors.Is(err, cache.ErrInvalid) && !errors.Is(err, cache.ErrTooLarge) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if err := key.Validate(); err != nil {
			t.Fatalf("key %v: %v", key, err)
		}
		path := pathOfKey(key)
		if again, err := keyFromPath(path); err != nil || again != key {
			t.Fatalf("%q gives %v, its path %q gives %v, %v", escaped, key, path, again, err)
		}
		// The path survives net/http too.
		u, err := url.ParseRequestURI(path)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := keyFromPath(u.EscapedPath()); err != nil || again != key {
			t.Fatalf("%q becomes %q", path, u.EscapedPath())
		}
	})
}

// FuzzDecodeBatch: any body gives operations or a typed error, and what is
// accepted is JSON that means the same to a plain decoder.
func FuzzDecodeBatch(f *testing.F) {
	for _, s := range []string{
		`{"ops":[{"op":"put","key":"p:s","value":"v","ttl":"1s","if_version":1}]}`,
		`{"atomic":false,"ops":[{"op":"delete","key":{"primary":"p","secondary":"s"},"if_present":true},{"op":"check","key":"p:","if_absent":true}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"AP8=","encoding":"base64"}]}`,
		`{"ops":[{"op":"put","key":"p:\ud83d\udd11","value":"\\ud800"}]}`,
		`{"ops":[{"op":"put","op":"delete"}]}`, `[[[[[[[[[[`, `{"ops":null}`, "{\"\xff\":1}", `{"a":1e999}`, `{} {}`,
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, body []byte, encoded bool) {
		before := bytes.Clone(body)
		ops, _, err := decodeBatch(body, encoded)
		if !bytes.Equal(body, before) {
			t.Fatal("the body was changed")
		}
		if err != nil {
			if !errors.Is(err, cache.ErrInvalid) && !errors.Is(err, cache.ErrTooLarge) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		var plain struct{ Ops []map[string]any }
		if err := json.Unmarshal(body, &plain); err != nil || len(plain.Ops) != len(ops) {
			t.Fatalf("accepted %d operations, a plain decoder sees %d: %v", len(ops), len(plain.Ops), err)
		}
	})
}

// FuzzRequestID: every accepted text is an id, and the id's own text is the
// same id.
func FuzzRequestID(f *testing.F) {
	for _, s := range []string{"", "x", "00112233445566778899aabbccddeeff", "123e4567-e89b-12d3-a456-426614174000", `""`, `"a"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := parseRequestID(s)
		if err != nil {
			if !errors.Is(err, cache.ErrInvalid) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if again, err := parseRequestID(id.String()); err != nil || again != id {
			t.Fatalf("%q is %v, which is %v, %v", s, id, again, err)
		}
	})
}
