package main

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/distributedcache/cache"
)

// pages reads all pages of a scan and returns the keys and how many pages.
func (a *api) pages(path string, query url.Values) (keys []string, pages int) {
	a.t.Helper()
	for {
		page := decode[pageJSON](a.t, a.want(200, a.do("GET", path+"?"+query.Encode(), "")))
		pages++
		for _, item := range page.Items {
			keys = append(keys, item.Key)
		}
		if page.NextCursor == "" {
			return keys, pages
		}
		query.Set("cursor", page.NextCursor)
	}
}

// fill stores primaries p0..p3 with secondaries s00..s24 and returns the keys
// in order.
func (a *api) fill() (keys []string) {
	a.t.Helper()
	for p := range 4 {
		for s := range 25 {
			key := cache.K(fmt.Sprintf("p%d", p), fmt.Sprintf("s%02d", s))
			a.put(key, "value of "+key.String())
			keys = append(keys, key.String())
		}
	}
	return keys
}

func TestScanPages(t *testing.T) {
	a := newAPI(t, nil)
	all := a.fill()
	backwards := slices.Clone(all)
	slices.Reverse(backwards)
	for _, c := range []struct {
		path, query string
		want        []string
		pages       int
	}{
		{"/api/scan", "", all, 1},
		{"/api/scan", "limit=7", all, 15},
		{"/api/scan", "limit=50", all, 2}, // no empty page at the end
		{"/api/scan", "limit=7&reverse=true", backwards, 15},
		{"/api/scan", "limit=7&reverse&keys_only", backwards, 15},
		{"/api/scan", "start=p1:s05&end=p2:&limit=9", all[30:50], 3},
		{"/api/scan", "start=&end=", all, 1},
		{"/api/scan", "start=p3:s20", all[95:], 1},
		{"/api/scan", "prefix=p2&limit=10", all[50:75], 3},
		{"/api/scan", "start=p9:&end=p1:", nil, 1},
		{"/api/kv/p1", "limit=10", all[25:50], 3},
		{"/api/kv/p1", "prefix=s0", all[25:35], 1},
		{"/api/kv/p1", "from=s03&to=s06", all[28:31], 1},
		{"/api/kv/p1", "from=s20&reverse=true&limit=2", []string{"p1:s24", "p1:s23", "p1:s22", "p1:s21", "p1:s20"}, 3},
		{"/api/kv/none", "", nil, 1},
	} {
		query, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		keys, pages := a.pages(c.path, query)
		if !slices.Equal(keys, c.want) || pages != c.pages {
			t.Errorf("%s?%s: %d keys on %d pages, want %d on %d: %v", c.path, c.query, len(keys), pages, len(c.want), c.pages, keys)
		}
	}
}

func TestScanItems(t *testing.T) {
	a := newAPI(t, nil)
	version := a.put(cache.K("p", "a/b c"), "text")
	a.put(cache.K("p", "bin"), "\xff\x00")
	items := decode[pageJSON](t, a.do("GET", "/api/kv/p", "")).Items
	if len(items) != 2 || items[0].Key != "p:a/b%20c" || items[0].Version != version || *items[0].Value != "text" || items[0].Encoding != "" {
		t.Fatalf("items %+v", items)
	}
	if *items[1].Value != "/wA=" || items[1].Encoding != "base64" {
		t.Errorf("binary value %+v", items[1])
	}
	items = decode[pageJSON](t, a.do("GET", "/api/kv/p?encoding=base64", "")).Items
	if *items[0].Value != "dGV4dA==" || items[0].Encoding != "base64" {
		t.Errorf("base64 on demand: %+v", items[0])
	}
	items = decode[pageJSON](t, a.do("GET", "/api/kv/p?keys_only=true", "")).Items
	if items[0].Value != nil || items[0].Version != version {
		t.Errorf("keys only: %+v", items[0])
	}
}

func TestScanPageIsBoundedInBytes(t *testing.T) {
	a := newAPI(t, nil)
	value := strings.Repeat("v", maxValueBytes*2/5)
	for i := range 5 {
		a.put(cache.K("p", fmt.Sprint(i)), value)
	}
	a.put(cache.K("p", "5"), strings.Repeat("v", maxValueBytes))
	keys, pages := a.pages("/api/kv/p", url.Values{})
	if len(keys) != 6 || pages != 4 { // 2, 2, 1, 1
		t.Errorf("%d keys on %d pages", len(keys), pages)
	}
}

func TestBadScans(t *testing.T) {
	a := newAPI(t, nil)
	for _, q := range []string{
		"limit=0", "limit=1001", "limit=-1", "limit=x", "limit=", "reverse=yes", "keys_only=1", "start=nocolon", "end=p%3A%25zz",
		"cursor=garbage", "prefix=p&start=p:", "encoding=hex", "unknown=1", "consistency=maybe", "end=%3As", "from=a",
	} {
		wantError(t, a.do("GET", "/api/scan?"+q, ""), 400, "invalid", "")
	}
	for _, q := range []string{"prefix=a&from=b", "start=p:", "limit=0"} {
		wantError(t, a.do("GET", "/api/kv/p?"+q, ""), 400, "invalid", "")
	}
}
