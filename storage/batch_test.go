package storage

import (
	"fmt"
	"slices"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestBatchReadsItsOwnWrites(t *testing.T) {
	s := openMem(t)
	a, c := base.K("a", "1"), base.K("c", "")
	mustPut(t, s, 0, a, 1, "old")
	mustWrite(t, s, func(b *Batch) { b.Set(0, KindMeta, []byte("m"), []byte("old")) })

	b := s.NewBatch()
	defer b.Release()
	head := func(key base.Key, want base.Version) {
		t.Helper()
		if got, err := b.Head(0, key); err != nil || got.Version != want {
			t.Fatalf("head of %v is %+v, %v; want %d", key, got, err, want)
		}
	}
	value := func(want string) {
		t.Helper()
		if got, found, err := b.Value(0, KindMeta, []byte("m")); err != nil || found != (want != "") || string(got) != want {
			t.Fatalf("value is %q, %v, %v; want %q", got, found, err, want)
		}
	}
	head(a, 1)
	value("old")
	b.Put(0, a, Record{Version: 2, ExpiresAt: 7, Value: []byte("new")})
	head(a, 2)
	head(c, 0)
	b.Put(0, c, Record{Version: 3})
	b.Delete(0, a)
	b.Set(0, KindMeta, []byte("m"), []byte("new"))
	head(a, 0)
	head(c, 3)
	value("new")
	b.Unset(0, KindMeta, []byte("m"))
	value("")
	b.Put(0, a, Record{Version: 4})
	head(a, 4)
	if got, _ := b.Head(1, a); got.Exists() {
		t.Fatal("another shard sees the write")
	}
	if got, _ := s.Space(0).Head(a); got.Version != 1 {
		t.Fatal("visible before Apply")
	}
	if err := b.Apply(); err != nil {
		t.Fatal(err)
	}
	wantGet(t, s, 0, a, 4, "")
	wantErr(t, "second Apply", b.Apply(), base.ErrInvalid)
	if err := b.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestBatchAgainstModel: random writes and lookups, compared with a map.
func TestBatchAgainstModel(t *testing.T) {
	s := openMem(t)
	r := testkit.Rand(t)
	model := map[string]base.Version{} // shard and key -> version
	for round := range 60 {
		b := s.NewBatch()
		staged := map[string]base.Version{}
		for i := range r.IntN(120) {
			shard, key := base.ShardID(r.IntN(2)), testKey(r.IntN(40))
			id := fmt.Sprint(shard, key)
			switch v := base.Version(round*1000 + i + 1); r.IntN(4) {
			case 0:
				b.Delete(shard, key)
				staged[id] = 0
			case 1:
				want, own := staged[id]
				if !own {
					want = model[id]
				}
				if head, err := b.Head(shard, key); err != nil || head.Version != want {
					t.Fatalf("%s is %d, %v; want %d", id, head.Version, err, want)
				}
			default:
				b.Put(shard, key, Record{Version: v, ExpiresAt: r.Uint64N(2), Value: testkit.Bytes(r, r.IntN(50))})
				staged[id] = v
			}
		}
		if r.IntN(4) > 0 {
			if err := b.Apply(); err != nil {
				t.Fatal(err)
			}
			for id, v := range staged {
				model[id] = v
			}
		}
		b.Release()
	}
}

func TestBatchSizes(t *testing.T) {
	s := openMem(t)
	b := s.NewBatch()
	if !b.Empty() || b.Count() != 0 || b.Apply() != nil || b.Wait() != nil {
		t.Fatal("an empty batch is not empty")
	}
	b.Put(0, base.K("a", ""), Record{Version: 1, ExpiresAt: 2})
	if b.Empty() || b.Count() != 2 || b.Bytes() < 40 {
		t.Fatalf("%d entries, %d bytes", b.Count(), b.Bytes())
	}
	b.Release()
	if b = s.NewBatch(); !b.Empty() {
		t.Fatal("a reused batch is not empty")
	}
	b.Release()
}

// TestLargeBatch: the engine takes batches larger than half a memtable on
// another path.
func TestLargeBatch(t *testing.T) {
	s := openMem(t)
	key, big := base.K("big", ""), make([]byte, 3<<20)
	mustPut(t, s, 0, key, 1, "small")
	for range 3 {
		wantGet(t, s, 0, key, 1, "small") // cached now
	}
	mustWrite(t, s, func(b *Batch) { b.Put(0, key, Record{Version: 2, Value: big}) })
	wantGet(t, s, 0, key, 2, string(big))
}

func TestPutAllocatesNothing(t *testing.T) {
	s := openMem(t)
	b := s.NewBatch()
	defer b.Release()
	key, rec := base.K("primary", "secondary"), Record{Version: 1, Value: make([]byte, 256)}
	b.b.Reset()
	for range 1000 {
		b.Put(0, key, rec)
	}
	b.b.Reset()
	b.touched = b.touched[:0]
	if n := testing.AllocsPerRun(900, func() { b.Put(0, key, rec) }); n != 0 {
		t.Errorf("Put allocates %v times", n)
	}
}

func TestSpaces(t *testing.T) {
	s := openMem(t)
	var want []string
	mustWrite(t, s, func(b *Batch) {
		for i := range 600 {
			k := fmt.Sprintf("%04d", i)
			b.Set(1, KindRequest, []byte(k), []byte("v"+k))
			want = append(want, k)
		}
		b.Set(1, KindTxn, []byte("other space"), nil)
		b.Set(2, KindRequest, []byte("other shard"), nil)
		b.Set(NodeShard, KindMeta, []byte("node"), []byte("own"))
	})
	collect := func(from string, limit int) (keys []string) {
		for kv, err := range s.Space(1).Values(KindRequest, []byte(from), limit) {
			if err != nil || string(kv.Value) != "v"+string(kv.Key) {
				t.Fatalf("%q = %q, %v", kv.Key, kv.Value, err)
			}
			keys = append(keys, string(kv.Key))
		}
		return keys
	}
	for _, c := range []struct {
		from  string
		limit int
		i, j  int
	}{{"", 0, 0, 600}, {"", 10, 0, 10}, {"0300", 0, 300, 600}, {"0300", 256, 300, 556}, {"0300a", 1, 301, 302}, {"z", 0, 600, 600}} {
		if got := collect(c.from, c.limit); !slices.Equal(got, want[c.i:c.j]) {
			t.Errorf("from %q, limit %d: %d entries, want %d", c.from, c.limit, len(got), c.j-c.i)
		}
	}
	if kv, found, err := s.Space(1).Last(KindRequest); err != nil || !found || string(kv.Key) != "0599" {
		t.Errorf("last is %q, %v, %v", kv.Key, found, err)
	}
	if _, found, err := s.Space(3).Last(KindRequest); err != nil || found {
		t.Errorf("last of an empty space: %v, %v", found, err)
	}
	if v, found, err := s.Space(NodeShard).Value(KindMeta, []byte("node")); err != nil || !found || string(v) != "own" {
		t.Errorf("node value %q, %v, %v", v, found, err)
	}
	// The loop may write to what it reads, and sees the state of its start.
	n := 0
	for kv := range s.Space(1).Values(KindRequest, nil, 0) {
		mustWrite(t, s, func(b *Batch) { b.Unset(1, KindRequest, kv.Key) })
		n++
	}
	if n != 600 || len(collect("", 0)) != 0 {
		t.Errorf("saw %d entries, %d are left", n, len(collect("", 0)))
	}
}

func TestExpiryIndex(t *testing.T) {
	s := openMem(t)
	mustWrite(t, s, func(b *Batch) {
		for i := range 10 {
			b.Put(1, testKey(i), Record{Version: base.Version(i + 1), ExpiresAt: uint64(100 - i)})
		}
		b.Put(1, base.K("stays", ""), Record{Version: 50})
		b.Put(2, base.K("elsewhere", ""), Record{Version: 51, ExpiresAt: 1})
	})
	due, err := s.Space(1).Expired(95, 3)
	if err != nil || len(due) != 3 || due[0].At != 91 || due[2].At != 93 || due[0].Key != testKey(9) || due[0].Version != 10 {
		t.Fatalf("%+v, %v", due, err)
	}
	if all, err := s.Space(1).Expired(^uint64(0), 0); err != nil || len(all) != 10 {
		t.Fatalf("%d entries, %v", len(all), err)
	}
	mustWrite(t, s, func(b *Batch) {
		for _, e := range due {
			b.Delete(1, e.Key)
			b.DropExpiry(1, e)
		}
	})
	if due, err = s.Space(1).Expired(95, 0); err != nil || len(due) != 2 || due[0].At != 94 {
		t.Fatalf("%+v, %v", due, err)
	}
	if due, err = s.Space(3).Expired(95, 0); err != nil || len(due) != 0 {
		t.Fatalf("%+v, %v", due, err)
	}
}
