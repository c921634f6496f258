package storage

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// pageModel is the oracle of scans: a sorted list of the items of one shard.
type pageModel []base.Item

// page answers a PageRequest in the plainest way.
func (m pageModel) page(req PageRequest) (items []base.Item, more bool) {
	all := slices.Clone(m)
	if req.Reverse {
		slices.Reverse(all)
	}
	size := 0
	for _, it := range all {
		after := req.After.IsZero() || it.Key.Compare(req.After) > 0
		if req.Reverse {
			after = req.After.IsZero() || it.Key.Compare(req.After) < 0
		}
		expired := !it.ExpiresAt.IsZero() && it.ExpiresAt.UnixMicro() <= int64(req.Now)
		if !req.Range.Contains(it.Key) || !after || expired {
			continue
		}
		if (req.MaxItems > 0 && len(items) == req.MaxItems) || (req.MaxBytes > 0 && size >= req.MaxBytes) {
			return items, true
		}
		if req.KeysOnly {
			it.Value = nil
		}
		size += it.Key.Bytes() + len(it.Value)
		items = append(items, it)
	}
	return items, false
}

// fillRandom fills two shards with keys that are close to each other and
// returns what the first one holds.
func fillRandom(t *testing.T, s *Store, n int) pageModel {
	r := testkit.Rand(t)
	model := map[base.Key]base.Item{}
	for i := range n {
		key := testkit.Key(r)
		rec := Record{Version: base.Version(i + 1), Value: testkit.Bytes(r, r.IntN(200))}
		if r.IntN(3) == 0 {
			rec.ExpiresAt = 1 + r.Uint64N(100)
		}
		mustWrite(t, s, func(b *Batch) {
			b.Put(1, key, rec)
			b.Put(2, testkit.Key(r), Record{Version: 1})
		})
		it := base.Item{Key: key, Value: rec.Value, Version: rec.Version}
		if rec.ExpiresAt != 0 {
			it.ExpiresAt = time.UnixMicro(int64(rec.ExpiresAt)).UTC()
		}
		model[key] = it
		if r.IntN(10) == 0 {
			mustWrite(t, s, func(b *Batch) { b.Delete(1, key) })
			delete(model, key)
		}
		if r.IntN(n/3) == 0 {
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	var items pageModel
	for _, it := range model {
		items = append(items, it)
	}
	slices.SortFunc(items, func(a, b base.Item) int { return a.Key.Compare(b.Key) })
	return items
}

func diffPages(got, want []base.Item) string {
	if len(got) != len(want) {
		return fmt.Sprintf("%d items, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		if g.Key != w.Key || g.Version != w.Version || !g.ExpiresAt.Equal(w.ExpiresAt) || string(g.Value) != string(w.Value) {
			return fmt.Sprintf("item %d is %+v, want %+v", i, g, w)
		}
		if (g.Value == nil) != (w.Value == nil) {
			return fmt.Sprintf("item %d has value %v, want %v", i, g.Value, w.Value)
		}
	}
	return ""
}

func TestPageAgainstModel(t *testing.T) {
	s := openMem(t)
	model := fillRandom(t, s, 900)
	sn, err := s.NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sn.Close() }()
	mustWrite(t, s, func(b *Batch) { b.Put(1, base.K("later", ""), Record{Version: 1}) })
	sc := sn.Scan()
	defer func() { _ = sc.Close() }()
	r := testkit.Rand(t)
	bound := func() base.Key {
		k := testkit.Key(r)
		switch r.IntN(5) {
		case 0:
			return base.Key{}
		case 1:
			k.Primary += "\x00"
		case 2:
			return model[r.IntN(len(model))].Key
		case 3:
			k.Secondary = ""
		}
		return k
	}
	for range 3000 {
		req := PageRequest{Shard: 1, Reverse: r.IntN(2) == 0, KeysOnly: r.IntN(4) == 0}
		req.Range = base.Range{Start: bound(), End: bound()}
		if r.IntN(4) == 0 {
			req.Range = base.Primary(model[r.IntN(len(model))].Key.Primary)
		}
		if r.IntN(3) == 0 {
			req.After = bound()
		}
		if r.IntN(2) == 0 {
			req.MaxItems = 1 + r.IntN(50)
		}
		if r.IntN(3) == 0 {
			req.MaxBytes = 1 + r.IntN(3000)
		}
		if r.IntN(2) == 0 {
			req.Now = r.Uint64N(100)
		}
		got, more, err := sc.Page(nil, req)
		want, wantMore := model.page(req)
		if diff := diffPages(got, want); diff != "" || more != wantMore || err != nil {
			t.Fatalf("%+v: %s; more %v, want %v; error %v", req, diff, more, wantMore, err)
		}
	}
}

// TestPagesChain: a scan by pages sees each item once, in order, both ways.
func TestPagesChain(t *testing.T) {
	s := openMem(t)
	model := fillRandom(t, s, 500)
	sn, err := s.NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sn.Close() }()
	sc := sn.Scan()
	defer func() { _ = sc.Close() }()
	for _, reverse := range []bool{false, true} {
		want, _ := model.page(PageRequest{Reverse: reverse})
		var got []base.Item
		req := PageRequest{Shard: 1, Reverse: reverse, MaxItems: 7}
		for more := true; more; {
			if got, more, err = sc.Page(got, req); err != nil {
				t.Fatal(err)
			}
			req.After = got[len(got)-1].Key
		}
		if diff := diffPages(got, want); diff != "" {
			t.Errorf("reverse %v: %s", reverse, diff)
		}
	}
}

// TestPageItemsAreTheCallers: items of a page do not share memory in a way
// that their owner could notice, and large pages are not one allocation.
func TestPageItemsAreTheCallers(t *testing.T) {
	s := openMem(t)
	long := strings.Repeat("k", 3000)
	mustWrite(t, s, func(b *Batch) {
		for i := range 300 {
			b.Put(0, base.K("p", fmt.Sprintf("%s%04d", long, i)), Record{Version: 1, Value: []byte(strings.Repeat(fmt.Sprint(i%10), 1000))})
		}
		b.Put(0, base.K("q", ""), Record{Version: 1})
	})
	sn, err := s.NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sn.Close() }()
	sc := sn.Scan()
	defer func() { _ = sc.Close() }()
	items, _, err := sc.Page(nil, PageRequest{})
	if err != nil || len(items) != 301 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	if _, _, err := sc.Page(nil, PageRequest{Reverse: true}); err != nil {
		t.Fatal(err)
	}
	for i := range items {
		items[i].Value = append(items[i].Value, "clobber"...)
	}
	for i, it := range items[:300] {
		if want := strings.Repeat(fmt.Sprint(i%10), 1000) + "clobber"; string(it.Value) != want || it.Key.Primary != "p" || it.Key.Secondary != fmt.Sprintf("%s%04d", long, i) {
			t.Fatalf("item %d is damaged", i)
		}
	}
	if items[300].Key != base.K("q", "") || len(items[300].Value) != len("clobber") {
		t.Fatalf("the last item is %+v", items[300])
	}
}

func TestSnapshotStandsStill(t *testing.T) {
	s := openMem(t)
	key := base.K("k", "")
	mustPut(t, s, 0, key, 1, "one")
	mustWrite(t, s, func(b *Batch) { b.Set(0, KindMeta, []byte("m"), []byte("one")) })
	sn, err := s.NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, 0, key, 2, "two")
	mustWrite(t, s, func(b *Batch) { b.Unset(0, KindMeta, []byte("m")) })
	if err := s.Compact(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if rec, err := sn.Get(0, key); err != nil || string(rec.Value) != "one" {
		t.Fatalf("%+v, %v", rec, err)
	}
	if head, err := sn.Head(0, key); err != nil || head.Version != 1 {
		t.Fatalf("%+v, %v", head, err)
	}
	if v, found, err := sn.Value(0, KindMeta, []byte("m")); err != nil || !found || string(v) != "one" {
		t.Fatalf("%q, %v, %v", v, found, err)
	}
	if head, err := sn.Head(0, base.K("absent", "")); err != nil || head.Exists() {
		t.Fatalf("%+v, %v", head, err)
	}
	if err := sn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sn.Close(); err != nil {
		t.Fatal("second close:", err)
	}
	wantGet(t, s, 0, key, 2, "two")
}
