package testkit_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

func TestRandRepeatsItsSeed(t *testing.T) {
	a, b := testkit.NewRand(7), testkit.NewRand(7)
	for range 100 {
		if x, y := a.Uint64(), b.Uint64(); x != y {
			t.Fatalf("%d != %d from one seed", x, y)
		}
	}
	if testkit.Fork(a).Uint64() != testkit.Fork(b).Uint64() {
		t.Fatal("forks of equal sources differ")
	}
	if testkit.Rand(t) == nil {
		t.Fatal("no source")
	}
}

func TestEventually(t *testing.T) {
	calls := 0
	testkit.Eventually(t, time.Minute, "three calls", func() bool { calls++; return calls == 3 })
	if calls != 3 {
		t.Fatalf("%d calls, want 3", calls)
	}
	if _, ok := testkit.Context(t).Deadline(); !ok {
		t.Fatal("context without a deadline")
	}
}

func TestClock(t *testing.T) {
	c := testkit.NewClock(time.Time{})
	start := c.Now()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { c.Advance(time.Second); c.Now() })
	}
	wg.Wait()
	if got := c.Now().Sub(start); got != 10*time.Second {
		t.Fatalf("moved by %v, want 10s", got)
	}
	c.Set(start)
	if !c.Now().Equal(start) {
		t.Fatal("Set did not move the clock back")
	}
}

func TestModelConditions(t *testing.T) {
	m := testkit.NewModel()
	now := testkit.NewClock(time.Time{}).Now()
	if c := testkit.SoloCommit(base.VersionAt(now)); !c.Stamp.Equal(now) {
		t.Fatalf("stamp %v, want %v", c.Stamp, now)
	}
	at := func(v base.Version) testkit.Commit { return testkit.Commit{Stamp: now, Version: v} }
	k, other := base.K("p", "a"), base.K("p", "b")
	absent := base.Cond{Kind: base.CondVersion}

	if _, ok := m.Apply(at(1), base.Write{Key: k, Value: []byte("1"), Cond: absent}); !ok {
		t.Fatal("put of an absent key refused")
	}
	results, ok := m.Apply(at(2),
		base.Write{Key: other, Value: []byte("x")},
		base.Write{Key: k, Value: []byte("2"), Cond: absent})
	if ok || results[1].Err == nil || m.Get(now, other).Exists() {
		t.Fatalf("half of a refused command was applied: %+v", results)
	}
	results, ok = m.Apply(at(3),
		base.Write{Key: k, Kind: base.WriteDelete, Cond: base.Cond{Kind: base.CondVersion, Version: 1}},
		base.Write{Key: other, Kind: base.WriteCheck, Cond: absent})
	if !ok || results[0].Version != 1 || results[1].Version != 0 || m.Get(now, k).Exists() {
		t.Fatalf("a delete under its condition: %+v", results)
	}
	each := m.ApplyEach(func(i int) testkit.Commit { return at(base.Version(4 + i)) },
		base.Write{Key: k, Cond: base.Cond{Kind: base.CondPresent}},
		base.Write{Key: other, Value: []byte("y")})
	if each[0].Err == nil || each[1].Err != nil || m.Get(now, other).Version != 5 {
		t.Fatalf("independent writes: %+v", each)
	}
}

func TestModelExpiryAndScan(t *testing.T) {
	m := testkit.NewModel()
	now := testkit.NewClock(time.Time{}).Now()
	for i, s := range []string{"a", "b", "c", "d"} {
		ttl := time.Duration(0)
		if s == "b" {
			ttl = time.Second
		}
		m.Apply(testkit.Commit{Stamp: now, Version: base.Version(i + 1)},
			base.Write{Key: base.K("p", s), Value: []byte(s), TTL: ttl})
	}
	names := func(at time.Time, ro base.ReadOptions) (s string) {
		for _, item := range m.Scan(at, base.Primary("p"), ro) {
			s += item.Key.Secondary
		}
		return s
	}
	late := now.Add(time.Second)
	for _, c := range []struct {
		at   time.Time
		ro   base.ReadOptions
		want string
	}{
		{now, base.ReadOptions{}, "abcd"},
		{late, base.ReadOptions{}, "acd"},
		{late, base.ReadOptions{Reverse: true}, "dca"},
		{now, base.ReadOptions{Limit: 2}, "ab"},
		{now, base.ReadOptions{After: base.K("p", "b")}, "cd"},
		{now, base.ReadOptions{After: base.K("p", "c"), Reverse: true}, "ba"},
		{now, base.ReadOptions{Cursor: base.EncodeCursor(base.K("p", "c"))}, "d"},
		{now, base.ReadOptions{Cursor: "nonsense"}, ""},
	} {
		if got := names(c.at, c.ro); got != c.want {
			t.Errorf("%+v: %q, want %q", c.ro, got, c.want)
		}
	}
	if m.Len(now) != 4 || m.Len(late) != 3 || len(m.Keys()) != 4 {
		t.Error("expired items are not counted as they should be")
	}
}

func TestDiffItems(t *testing.T) {
	a := base.Item{Key: base.K("p", "s"), Value: []byte("v"), Version: 1}
	b := a
	b.Version = 2
	long := a
	long.Value = testkit.Bytes(rand.New(rand.NewPCG(1, 1)), 100)
	if d := testkit.DiffItems([]base.Item{a}, []base.Item{a}); d != "" {
		t.Error(d)
	}
	for _, other := range [][]base.Item{{b}, {long}, {}, {a, b}} {
		if testkit.DiffItems([]base.Item{a}, other) == "" {
			t.Errorf("no difference from %v", other)
		}
	}
}

func TestKeyIsValid(t *testing.T) {
	r := testkit.Rand(t)
	for range 10_000 {
		if err := testkit.Key(r).Validate(); err != nil {
			t.Fatal(err)
		}
	}
}
