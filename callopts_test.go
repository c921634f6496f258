package cache

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

func TestResolveWrite(t *testing.T) {
	id := NewRequestID()
	version := func(v Version) base.Cond { return base.Cond{Kind: base.CondVersion, Version: v} }
	present := base.Cond{Kind: base.CondPresent}
	for _, tc := range []struct {
		name string
		kind base.WriteKind
		opts []WriteOption
		cond base.Cond
		ttl  time.Duration
		bad  bool
	}{
		{name: "none"},
		{name: "version", opts: []WriteOption{IfVersion(7)}, cond: version(7)},
		{name: "absent", opts: []WriteOption{IfAbsent()}, cond: version(0)},
		{name: "absent twice", opts: []WriteOption{IfAbsent(), IfVersion(0)}, cond: version(0)},
		{name: "present", opts: []WriteOption{IfPresent()}, cond: present},
		{name: "present and version", opts: []WriteOption{IfPresent(), IfVersion(7), IfPresent()}, cond: version(7)},
		{name: "two versions", opts: []WriteOption{IfVersion(7), IfVersion(8)}, bad: true},
		{name: "version and absent", opts: []WriteOption{IfVersion(7), IfAbsent()}, bad: true},
		{name: "absent and present", opts: []WriteOption{IfAbsent(), IfPresent()}, bad: true},
		{name: "present and absent", opts: []WriteOption{IfPresent(), IfAbsent()}, bad: true},
		{name: "ttl", opts: []WriteOption{TTL(time.Minute)}, ttl: time.Minute},
		{name: "last ttl wins", opts: []WriteOption{TTL(time.Minute), TTL(time.Hour)}, ttl: time.Hour},
		{name: "tiny ttl", opts: []WriteOption{TTL(1)}, ttl: time.Microsecond},
		{name: "uneven ttl", opts: []WriteOption{TTL(time.Second + 1)}, ttl: time.Second + time.Microsecond},
		{name: "longest ttl", opts: []WriteOption{TTL(maxTTL)}, ttl: maxTTL},
		{name: "no ttl", opts: []WriteOption{TTL(0)}, bad: true},
		{name: "negative ttl", opts: []WriteOption{TTL(-time.Second)}, bad: true},
		{name: "overflowing ttl", opts: []WriteOption{TTL(math.MaxInt64)}, bad: true},
		{name: "ttl of a delete", kind: base.WriteDelete, opts: []WriteOption{TTL(time.Second)}, bad: true},
		{name: "delete", kind: base.WriteDelete, opts: []WriteOption{IfVersion(7)}, cond: version(7)},
		{name: "request id", opts: []WriteOption{WithRequestID(id), WithRequestID(id)}},
		{name: "zero request id", opts: []WriteOption{WithRequestID(RequestID{})}, bad: true},
		{name: "two request ids", opts: []WriteOption{WithRequestID(id), WithRequestID(NewRequestID())}, bad: true},
		{name: "nil", opts: []WriteOption{nil}, bad: true},
		{name: "foreign", opts: []WriteOption{struct{ WriteOption }{IfAbsent()}}, bad: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := base.Write{Kind: tc.kind}
			_, err := resolveWrite(&w, tc.opts)
			if errors.Is(err, ErrInvalid) != tc.bad || (err != nil) != tc.bad {
				t.Fatalf("err = %v, want invalid: %v", err, tc.bad)
			}
			if !tc.bad && (w.Cond != tc.cond || w.TTL != tc.ttl) {
				t.Fatalf("got %+v and ttl %v, want %+v and %v", w.Cond, w.TTL, tc.cond, tc.ttl)
			}
		})
	}
}

func TestResolveRead(t *testing.T) {
	for _, tc := range []struct {
		name string
		opts []ReadOption
		want base.ReadOptions
		get  bool // fits reads of named keys, too
		bad  bool
	}{
		{name: "none", get: true},
		{name: "linearizable", opts: []ReadOption{Linearizable()}, get: true},
		{name: "stale", opts: []ReadOption{Stale(time.Second)}, want: base.ReadOptions{Stale: true, MaxStale: time.Second}, get: true},
		{name: "stale by nothing", opts: []ReadOption{Stale(0)}, want: base.ReadOptions{Stale: true}, get: true},
		{name: "keys only", opts: []ReadOption{KeysOnly()}, want: base.ReadOptions{KeysOnly: true}, get: true},
		{name: "limit", opts: []ReadOption{Limit(3)}, want: base.ReadOptions{Limit: 3}},
		{name: "reverse", opts: []ReadOption{Reverse()}, want: base.ReadOptions{Reverse: true}},
		{name: "after", opts: []ReadOption{After(K("a", "b"))}, want: base.ReadOptions{After: K("a", "b")}},
		{name: "from", opts: []ReadOption{From("x")}, want: base.ReadOptions{Cursor: "x"}},
		{name: "from nowhere after a key", opts: []ReadOption{From(""), After(K("a", "b"))}, want: base.ReadOptions{After: K("a", "b")}},
		{name: "no limit", opts: []ReadOption{Limit(0)}, get: true},
		{name: "negative limit", opts: []ReadOption{Limit(-1)}, bad: true},
		{name: "negative staleness", opts: []ReadOption{Stale(-1)}, bad: true},
		{name: "stale and not", opts: []ReadOption{Stale(1), Linearizable()}, bad: true},
		{name: "from and after", opts: []ReadOption{From("x"), After(K("a", "b"))}, bad: true},
		{name: "nil", opts: []ReadOption{nil}, bad: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := resolveRead(tc.opts)
			if errors.Is(err, ErrInvalid) != tc.bad || (err != nil) != tc.bad {
				t.Fatalf("err = %v, want invalid: %v", err, tc.bad)
			}
			if !tc.bad && got != tc.want {
				t.Fatalf("got %+v, want %+v", got, tc.want)
			}
			if _, err := resolveGet(tc.opts); errors.Is(err, ErrInvalid) == tc.get {
				t.Fatalf("for a get: %v, want valid: %v", err, tc.get)
			}
		})
	}
}

func TestResolveTx(t *testing.T) {
	id := NewRequestID()
	got, err := resolveTx([]TxOption{Independent(), MaxAttempts(4), WithRequestID(id)})
	if want := (base.TxOptions{Independent: true, MaxAttempts: 4, RequestID: id}); err != nil || got != want {
		t.Fatalf("got %+v, %v; want %+v", got, err, want)
	}
	for _, opts := range [][]TxOption{
		{MaxAttempts(-1)}, {nil}, {WithRequestID(RequestID{})}, {WithRequestID(id), WithRequestID(NewRequestID())},
	} {
		if _, err := resolveTx(opts); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: err = %v, want invalid", opts, err)
		}
	}
}

// Options are resolved without an allocation, so that giving one costs a hot
// path nothing.
func TestResolveDoesNotAllocate(t *testing.T) {
	key, id := K("a", "b"), NewRequestID()
	allocs := testing.AllocsPerRun(100, func() {
		w := base.Write{Kind: base.WritePut, Key: key}
		_, err1 := resolveWrite(&w, []WriteOption{IfVersion(7000), TTL(time.Hour), WithRequestID(id)})
		_, err2 := resolveRead([]ReadOption{Stale(time.Second), Limit(1000), After(key)})
		_, err3 := resolveTx([]TxOption{MaxAttempts(1000), Independent()})
		if err1 != nil || err2 != nil || err3 != nil {
			t.Fatal(err1, err2, err3)
		}
	})
	if allocs != 0 {
		t.Fatalf("%v allocations, want none", allocs)
	}
}
