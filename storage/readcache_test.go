package storage

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestReadCacheFollowsWrites(t *testing.T) {
	s := openMem(t)
	key := base.K("k", "")
	for v := base.Version(1); v < 50; v += 2 {
		mustPut(t, s, 0, key, v, fmt.Sprint("value", v))
		for range 4 {
			wantGet(t, s, 0, key, v, fmt.Sprint("value", v))
		}
		if v%10 == 1 {
			mustWrite(t, s, func(b *Batch) { b.Delete(0, key) })
			wantGet(t, s, 0, key, 0, "")
		}
	}
	if st := s.Stats(); st.ReadCacheHits < 100 {
		t.Fatalf("%+v", st)
	}
	// One batch that writes a key several times.
	mustWrite(t, s, func(b *Batch) {
		b.Put(0, key, Record{Version: 100, Value: []byte("first")})
		b.Delete(0, key)
		b.Put(0, key, Record{Version: 101, ExpiresAt: 7, Value: []byte("last")})
	})
	for range 4 {
		rec, err := s.Space(0).Get(key)
		if err != nil || rec.Version != 101 || rec.ExpiresAt != 7 || string(rec.Value) != "last" {
			t.Fatalf("%+v, %v", rec, err)
		}
	}
}

func TestReadCacheGivesCopies(t *testing.T) {
	s := openMem(t)
	key, value := base.K("k", ""), []byte("value")
	mustWrite(t, s, func(b *Batch) { b.Put(0, key, Record{Version: 1, Value: value}) })
	clear(value)
	for range 5 {
		rec, err := s.Space(0).Get(key)
		if err != nil || string(rec.Value) != "value" {
			t.Fatalf("%q, %v", rec.Value, err)
		}
		clear(rec.Value)
	}
	mustPut(t, s, 0, base.K("empty", ""), 2, "")
	for range 5 {
		if rec, err := s.Space(0).Get(base.K("empty", "")); err != nil || rec.Value == nil {
			t.Fatalf("%+v, %v", rec, err)
		}
	}
}

func TestReadCacheOff(t *testing.T) {
	cfg := memConfig(vfs.NewMem())
	cfg.ReadCacheBytes = -1
	s := mustOpen(t, cfg)
	key := base.K("k", "")
	mustPut(t, s, 0, key, 1, "one")
	for range 5 {
		wantGet(t, s, 0, key, 1, "one")
	}
	mustPut(t, s, 0, key, 2, "two")
	wantGet(t, s, 0, key, 2, "two")
	if err := s.DropShard(0); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.ReadCacheHits+st.ReadCacheItems+st.ReadCacheMisses != 0 {
		t.Fatalf("%+v", st)
	}
}

func TestReadCacheIsBounded(t *testing.T) {
	s := openMem(t)
	for i := range 3000 {
		mustWrite(t, s, func(b *Batch) { b.Put(0, testKey(i), Record{Version: 1, Value: make([]byte, 1000)}) })
		for range 3 {
			if _, err := s.Space(0).Get(testKey(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.reads.entries.CleanUp()
	st := s.Stats()
	if limit := s.cfg.ReadCacheBytes; st.ReadCacheBytes > limit || st.ReadCacheBytes < limit/2 {
		t.Fatalf("%d bytes, the limit is %d", st.ReadCacheBytes, limit)
	}
	// What would push out much else is not cached.
	mustWrite(t, s, func(b *Batch) { b.Put(1, base.K("large", ""), Record{Version: 1, Value: make([]byte, 100_000)}) })
	before := s.Stats().ReadCacheHits
	for range 5 {
		if _, err := s.Space(1).Get(base.K("large", "")); err != nil {
			t.Fatal(err)
		}
	}
	if hits := s.Stats().ReadCacheHits - before; hits != 0 {
		t.Fatalf("%d hits", hits)
	}
}

// cacheRace drives the races of readers and writers step by step.
type cacheRace struct {
	*readCache
	t *testing.T
}

func raceKey() base.Key { return base.K("k", "") }

func touchedRace(v base.Version) []touch {
	return []touch{{key: raceKey(), head: Head{Version: v}}}
}

// miss reads a key that is not cached and may be inserted.
func (c *cacheRace) miss() ticket {
	c.get(0, raceKey()) // the doorkeeper
	e, ticket := c.get(0, raceKey())
	if e != nil || !ticket.ok {
		c.t.Fatal("no miss that may insert")
	}
	return ticket
}

// is checks which version is cached, 0 for none.
func (c *cacheRace) is(want base.Version) {
	c.t.Helper()
	e, _ := c.get(0, raceKey())
	if (e == nil) != (want == 0) || (e != nil && e.head.Version != want) {
		c.t.Fatalf("cached %+v, want version %d", e, want)
	}
}

func runRaces(t *testing.T, races map[string]func(*cacheRace)) {
	for name, race := range races {
		t.Run(name, func(t *testing.T) {
			c := newReadCache(1<<20, slog.New(slog.DiscardHandler))
			defer c.close()
			race(&cacheRace{readCache: c, t: t})
		})
	}
}

func TestReadCacheIgnoresLateReaders(t *testing.T) {
	runRaces(t, map[string]func(*cacheRace){
		"a write begins and ends between read and offer": func(c *cacheRace) {
			ticket, w := c.miss(), touchedRace(2)
			c.begin(w)
			c.end(w, nil, true)
			c.offer(ticket, 0, raceKey(), Record{Version: 1})
			c.is(0)
		},
		"a write is pending at the offer": func(c *cacheRace) {
			ticket, w := c.miss(), touchedRace(2)
			c.begin(w)
			c.offer(ticket, 0, raceKey(), Record{Version: 1})
			c.is(0)
			c.end(w, nil, true)
			c.is(0)
		},
		"a write is pending at the read": func(c *cacheRace) {
			c.offer(c.miss(), 0, raceKey(), Record{Version: 1})
			c.is(1)
			w := touchedRace(2)
			c.begin(w)
			c.is(0)
			c.end(w, nil, true)
			c.is(2)
		},
	})
}

func TestReadCacheWithManyWriters(t *testing.T) {
	runRaces(t, map[string]func(*cacheRace){
		"two writes overlap": func(c *cacheRace) {
			c.offer(c.miss(), 0, raceKey(), Record{Version: 1})
			w2, w3 := touchedRace(2), touchedRace(3)
			c.begin(w2)
			c.begin(w3)
			c.end(w3, nil, true)
			c.is(0)
			c.end(w2, nil, true)
			c.is(0)
		},
		"a write ends inside another": func(c *cacheRace) {
			w2, w3 := touchedRace(2), touchedRace(3)
			c.begin(w2)
			c.begin(w3)
			c.end(w2, nil, true)
			c.end(w3, nil, true)
			c.is(0)
		},
		"a write fails": func(c *cacheRace) {
			c.offer(c.miss(), 0, raceKey(), Record{Version: 1})
			w := touchedRace(2)
			c.begin(w)
			c.end(w, nil, false)
			c.is(0)
		},
		"everything is replaced": func(c *cacheRace) {
			c.offer(c.miss(), 0, raceKey(), Record{Version: 1})
			ticket := ticket{hash: c.hash(0, raceKey()), seq: c.stripe(c.hash(0, raceKey())).seq.Load(), ok: true}
			c.beginAll()
			c.is(0)
			c.endAll()
			c.is(0)
			c.offer(ticket, 0, raceKey(), Record{Version: 1})
			c.is(0)
		},
	})
}

// TestNoReaderGoesBack: while several writers write the same few keys, a
// reader that mixes Get, Head, snapshots and scans never sees a version older
// than one that was already seen by anybody.
func TestNoReaderGoesBack(t *testing.T) {
	s := openMem(t)
	seed := testkit.Seed(t)
	var seen newest
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { churnVersions(t, s, stop, &seen, seed) })
	reads := make([]int, 4)
	for i := range reads {
		wg.Go(func() { reads[i] = watchVersions(t, s, stop, &seen, seed+uint64(i)+1) })
	}
	duration := 2 * time.Second
	if testing.Short() {
		duration /= 4
	}
	time.AfterFunc(duration, func() { close(stop) })
	wg.Wait()
	st := s.Stats()
	t.Logf("reads %v, cache hits %d, misses %d", reads, st.ReadCacheHits, st.ReadCacheMisses)
	if st.ReadCacheHits < 1000 {
		t.Error("the cache was hardly used")
	}
}

// churnVersions writes all keys again and again, some in one batch, and
// deletes nothing, so that versions only rise.
func churnVersions(t *testing.T, s *Store, stop chan struct{}, seen *newest, seed uint64) {
	r := testkit.NewRand(seed)
	for v := uint64(1); ; v++ {
		select {
		case <-stop:
			return
		default:
		}
		n := 1 + r.IntN(3)
		var written []int
		err := write(s, func(b *Batch) {
			for range n {
				k := r.IntN(len(seen.version))
				b.Put(0, testKey(k), Record{Version: base.Version(v), Value: binary.BigEndian.AppendUint64(nil, v)})
				written = append(written, k)
			}
		})
		if err != nil {
			t.Error(err)
			return
		}
		for _, k := range written {
			seen.ratchet(k, v)
		}
		for until := seen.reads.Load() + r.Int64N(50); seen.reads.Load() < until; {
			runtime.Gosched() // the readers warm the cache up
			select {
			case <-stop:
				return
			default:
			}
		}
	}
}

// newest are the newest versions that any finished call has shown.
type newest struct {
	version [8]atomic.Uint64 // by key
	reads   atomic.Int64     // how many there were
}

func (n *newest) ratchet(k int, v uint64) {
	a := &n.version[k]
	for old := a.Load(); old < v && !a.CompareAndSwap(old, v); old = a.Load() {
	}
}

// watchVersions reads in every way there is and returns how often it did.
func watchVersions(t *testing.T, s *Store, stop chan struct{}, seen *newest, seed uint64) (n int) {
	r := testkit.NewRand(seed)
	for ; ; n++ {
		select {
		case <-stop:
			return n
		default:
		}
		k := r.IntN(len(seen.version))
		floor := seen.version[k].Load()
		v, err := readVersion(s, testKey(k), r.IntN(20))
		if err != nil || v < floor {
			t.Errorf("key %d is at version %d, %v; version %d was seen before", k, v, err, floor)
			return n
		}
		seen.ratchet(k, v)
		seen.reads.Add(1)
	}
}

func readVersion(s *Store, key base.Key, how int) (uint64, error) {
	switch how {
	case 0:
		sn, err := s.NewSnapshot()
		if err != nil {
			return 0, err
		}
		defer func() { _ = sn.Close() }()
		sc := sn.Scan()
		defer func() { _ = sc.Close() }()
		items, _, err := sc.Page(nil, PageRequest{Range: base.Range{Start: key}, MaxItems: 1})
		if err != nil || len(items) == 0 || items[0].Key != key {
			return 0, err
		}
		return uint64(items[0].Version), nil
	case 1:
		head, err := s.Space(0).Head(key)
		return uint64(head.Version), err
	}
	rec, err := s.Space(0).Get(key)
	if err == nil && rec.Exists() && binary.BigEndian.Uint64(rec.Value) != uint64(rec.Version) {
		return 0, fmt.Errorf("version %d has the value of another one", rec.Version)
	}
	return uint64(rec.Version), err
}

func TestCachedGetAllocatesOnce(t *testing.T) {
	s := openMem(t)
	key := base.K("primary", "secondary")
	mustPut(t, s, 0, key, 1, string(make([]byte, 256)))
	sp := s.Space(0)
	get := func() {
		if rec, err := sp.Get(key); err != nil || len(rec.Value) != 256 {
			t.Fatal(rec, err)
		}
	}
	for range 10 {
		get()
	}
	if n := testing.AllocsPerRun(1000, get); n > 1 {
		t.Errorf("a cached Get allocates %v times", n)
	}
}
