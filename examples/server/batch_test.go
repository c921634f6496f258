package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/distributedcache/cache"
)

func TestMultiGet(t *testing.T) {
	a := newAPI(t, nil)
	v := a.put(cache.K("p", "s"), "text")
	a.put(cache.K("p", "empty"), "")
	a.put(cache.K("p:q", "b"), "\xff")
	got := a.want(200, a.do("POST", "/api/multiget",
		`{"keys":["p:s","p:none",{"primary":"p:q","secondary":"b"},"p:empty","p:s"]}`))
	items := decode[itemsJSON](t, got).Items
	if len(items) != 5 {
		t.Fatalf("items %s", got.body)
	}
	if items[0].Version != v || *items[0].Value != "text" || items[4].Version != v {
		t.Errorf("first and last %+v %+v", items[0], items[4])
	}
	if items[1].Version != 0 || items[1].Value != nil || items[1].Key != "p:none" {
		t.Errorf("missing key %+v", items[1])
	}
	if items[2].Key != "p%3Aq:b" || *items[2].Value != "/w==" || items[2].Encoding != "base64" {
		t.Errorf("binary value %+v", items[2])
	}
	if items[3].Version == 0 || items[3].Value == nil || *items[3].Value != "" {
		t.Errorf("empty value %+v", items[3])
	}
	a.want(200, a.do("POST", "/api/multiget?encoding=base64&consistency=stale&max_staleness=1s", `{"keys":["p:s"]}`))
}

func TestMultiGetIsBounded(t *testing.T) {
	a := newAPI(t, nil)
	a.put(cache.K("p", "big"), strings.Repeat("v", maxValueBytes))
	keys := func(n int) string { return `{"keys":[` + strings.Repeat(`"p:big",`, n-1) + `"p:big"]}` }
	a.want(200, a.do("POST", "/api/multiget", keys(8)))
	wantError(t, a.do("POST", "/api/multiget", keys(9)), 413, "too_large", "")
	wantError(t, a.do("POST", "/api/multiget", keys(1001)), 413, "too_large", "")
	wantError(t, a.do("POST", "/api/multiget", strings.Repeat(" ", maxJSONBytes)+"{}"), 413, "too_large", "")
	wantError(t, a.do("POST", "/api/multiget", `{"keys":[]}`), 400, "invalid", "")
	wantError(t, a.do("POST", "/api/multiget", `{"keys":[":s"]}`), 400, "invalid", "")
	wantError(t, a.do("POST", "/api/multiget", `{"keys":["`+strings.Repeat("p", 1025)+`:"]}`), 413, "too_large", "")
}

func TestMultiPut(t *testing.T) {
	a := newAPI(t, nil)
	got := a.want(200, a.do("POST", "/api/multiput", `{"ops":[
		{"op":"put","key":"a:1","value":"one","if_absent":true},
		{"op":"put","key":"b:1","value":"AP8=","encoding":"base64","ttl":"1h"},
		{"op":"check","key":"c:1","if_version":0},
		{"op":"delete","key":"d:1"}]}`))
	results := decode[batchJSON](t, got).Results
	if len(results) != 4 || results[0].Version == 0 || results[0].Key != "a:1" || results[1].Version == 0 || results[3].Version != 0 {
		t.Fatalf("results %s", got.body)
	}
	if got := a.do("GET", "/api/kv/b/1", ""); string(got.body) != "\x00\xff" || got.header.Get("X-Expires-At") == "" {
		t.Errorf("b:1 is %q %v", got.body, got.header)
	}
	va := results[0].Version

	// All or none.
	batch := fmt.Sprintf(`{"atomic":true,"ops":[
		{"op":"put","key":"a:1","value":"two","if_version":%d},
		{"op":"delete","key":"b:1","if_version":%d}]}`, va, va+12345)
	wantError(t, a.do("POST", "/api/multiput", batch), 412, "version_mismatch", "not_applied")
	if got := a.do("GET", "/api/kv/a/1", ""); string(got.body) != "one" {
		t.Errorf("a:1 is %q after a batch that was not applied", got.body)
	}
	// Each on its own.
	batch = strings.Replace(batch, "true", "false", 1)
	results = decode[batchJSON](t, a.want(200, a.do("POST", "/api/multiput", batch))).Results
	if results[0].Error != nil || results[1].Error == nil || results[1].Error.Code != "version_mismatch" || results[1].Error.Outcome != "not_applied" {
		t.Errorf("independent results %+v", results)
	}
	if got := a.do("GET", "/api/kv/a/1", ""); string(got.body) != "two" {
		t.Errorf("a:1 is %q", got.body)
	}
	a.want(200, a.do("POST", "/api/multiput?encoding=base64", `{"ops":[{"op":"put","key":"a:1","value":"dGhyZWU=","if_present":true}]}`))
	if got := a.do("GET", "/api/kv/a/1", ""); string(got.body) != "three" {
		t.Errorf("a:1 is %q", got.body)
	}
}

func TestMultiPutIsIdempotent(t *testing.T) {
	a := newAPI(t, nil)
	const batch = `{"ops":[{"op":"put","key":"p:1","value":"v","if_absent":true},{"op":"put","key":"q:1","value":"v","if_absent":true}]}`
	first := a.want(200, a.do("POST", "/api/multiput", batch, "Idempotency-Key", "once"))
	again := a.want(200, a.do("POST", "/api/multiput", batch, "Idempotency-Key", "once"))
	if string(first.body) != string(again.body) {
		t.Errorf("repeated: %s, first: %s", again.body, first.body)
	}
	other := strings.Replace(batch, `"value":"v"`, `"value":"w"`, 1)
	wantError(t, a.do("POST", "/api/multiput", other, "Idempotency-Key", "once"), 422, "request_reused", "not_applied")
}

func TestBadBatches(t *testing.T) {
	a := newAPI(t, nil)
	for _, body := range []string{
		``, `null`, `[]`, `"x"`, `{`, `{}`, `{"ops":[]}`, `{"ops":null}`, `{"ops":{}}`, `{"ops":[]} x`, `{"ops":[{"op":"put"}]}{}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v"}],"extra":1}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v","tll":"1s"}]}`,
		`{"OPS":[{"op":"put","key":"p:s","value":"v"}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v","Value":"w"}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v","value":"w"}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v"}],"ops":[{"op":"delete","key":"p:s"}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":null}]}`,
		`{"ops":[{"op":"put","key":"p:s"}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":1}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"!","encoding":"base64"}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v","encoding":"utf8"}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v","ttl":"0s"}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v","ttl":"soon"}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v","if_version":-1}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v","if_version":1.5}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v","if_version":18446744073709551616}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"v","if_version":1,"if_present":true}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"\ud800"}]}`,
		`{"ops":[{"op":"put","key":"p:s","value":"\udc00\ud800"}]}`,
		"{\"ops\":[{\"op\":\"put\",\"key\":\"p:s\",\"value\":\"\xff\"}]}",
		`{"ops":[{"op":"delete","key":"p:s","value":"v"}]}`,
		`{"ops":[{"op":"delete","key":"p:s","ttl":"1s"}]}`,
		`{"ops":[{"op":"check","key":"p:s"}]}`,
		`{"ops":[{"op":"check","key":"p:s","if_present":true}]}`,
		`{"ops":[{"op":"check","key":"p:s","if_version":1,"if_absent":true}]}`,
		`{"ops":[{"op":"incr","key":"p:s"}]}`, `{"ops":[{"op":"PUT","key":"p:s","value":"v"}]}`, `{"ops":[{"key":"p:s","value":"v"}]}`,
		`{"ops":[{"op":"delete"}]}`, `{"ops":[{"op":"delete","key":""}]}`, `{"ops":[{"op":"delete","key":"nocolon"}]}`,
		`{"ops":[{"op":"delete","key":":s"}]}`, `{"ops":[{"op":"delete","key":"p:%zz"}]}`, `{"ops":[{"op":"delete","key":7}]}`,
		`{"ops":[{"op":"delete","key":{"primary":"p","sec":"s"}}]}`, `{"ops":[{"op":"delete","key":["p","s"]}]}`,
		`{"ops":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
	} {
		got := a.do("POST", "/api/multiput", body)
		wantError(t, got, 400, "invalid", "not_applied")
	}
	ops := func(n int) string {
		return `{"ops":[` + strings.Repeat(`{"op":"delete","key":"p:s"},`, n-1) + `{"op":"delete","key":"p:s"}]}`
	}
	wantError(t, a.do("POST", "/api/multiput", ops(maxBatchOps+1)), 413, "too_large", "not_applied")
	value, err := json.Marshal(strings.Repeat("v", maxValueBytes+1))
	if err != nil {
		t.Fatal(err)
	}
	big := `{"ops":[{"op":"put","key":"p:s","value":` + string(value) + `}]}`
	wantError(t, a.do("POST", "/api/multiput", big), 413, "too_large", "not_applied")
	wantError(t, a.do("POST", "/api/multiput", strings.Repeat(" ", maxJSONBytes+1)), 413, "too_large", "not_applied")
	wantError(t, a.do("POST", "/api/multiput?x=1", ops(1)), 400, "invalid", "not_applied")
	if items := decode[pageJSON](t, a.do("GET", "/api/scan", "")).Items; len(items) != 0 {
		t.Errorf("a refused batch was applied: %v", items)
	}
}

func TestUnicodeInBatches(t *testing.T) {
	a := newAPI(t, nil)
	a.want(200, a.do("POST", "/api/multiput", `{"ops":[{"op":"put","key":"键:ключ","value":"\ud83d\udd11 \\ud800 \"é\u0000"}]}`))
	if got := a.do("GET", pathOfKey(cache.K("键", "ключ")), ""); string(got.body) != "🔑 \\ud800 \"é\x00" {
		t.Errorf("value %q", got.body)
	}
}
