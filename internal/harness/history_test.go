package harness

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestRecorder(t *testing.T) {
	rec := NewRecorder(100)
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for {
				id, ok := rec.Begin(Op{Client: client, Kind: Get, Keys: []base.Key{testKey}})
				if !ok {
					return
				}
				if id%10 != 0 { // the others never return
					rec.End(id, OK, Output{Version: base.Version(id)})
				}
			}
		})
	}
	clients.Wait()
	h := rec.History()
	if s := h.Stats(); s.Ops != 100 || s.OK != 90 || s.Unknown != 10 {
		t.Errorf("%v, want 100 with 10 unknown", s)
	}
	for i, op := range h {
		if i > 0 && op.Call < h[i-1].Call {
			t.Errorf("%d was called before its predecessor", i)
		}
		if op.Return < op.Call || (op.Return == Forever) != (op.Outcome == Unknown) {
			t.Errorf("%d: %+v", i, op)
		}
	}
	path := filepath.Join(t.TempDir(), "history.jsonl")
	if err := h.Dump(path); err != nil {
		t.Fatal(err)
	}
	if back, err := Load(path); err != nil || !reflect.DeepEqual(back, h) {
		t.Errorf("what was loaded differs: %v", err)
	}
}

func TestFingerprint(t *testing.T) {
	long := strings.Repeat("x", 1000)
	a, b := Fingerprint([]byte(long+"a")), Fingerprint([]byte(long+"b"))
	if a == b || len(a) > 2*maxValueBytes {
		t.Errorf("%q and %q", a, b)
	}
	if got := Fingerprint([]byte("short")); got != "short" {
		t.Errorf("%q", got)
	}
}

// scripted is a client that always answers the same.
type scripted struct{ err error }

// Get implements Client.
func (s scripted) Get(context.Context, base.Key) ([]byte, base.Version, error) { return nil, 0, s.err }

// Put implements Client.
func (s scripted) Put(context.Context, base.Key, []byte, base.Cond) (base.Version, error) {
	return 7, s.err
}

// Delete implements Client.
func (s scripted) Delete(context.Context, base.Key, base.Cond) (base.Version, error) {
	return 7, s.err
}

func TestErrorsAreClassified(t *testing.T) {
	mismatch := &base.VersionError{Key: testKey, Have: 9}
	for _, c := range []struct {
		kind Kind
		err  error
		want Outcome
		out  Output
	}{
		{Put, nil, OK, Output{Version: 7}},
		{Delete, nil, OK, Output{Version: 7}},
		{Get, base.ErrNotFound, OK, Output{}},
		{Get, base.ErrUnavailable, Failed, Output{Err: "unavailable"}},
		{Put, mismatch, Failed, Output{Refused: true, Version: 9, Err: mismatch.Error()}},
		{Put, base.ErrUnavailable, Unknown, Output{Err: "unavailable"}},
		{Delete, errors.New("x"), Unknown, Output{Err: "x"}},
	} {
		outcome, out := call(t.Context(), scripted{c.err}, &Op{Kind: c.kind, Keys: []base.Key{testKey}}, nil)
		if outcome != c.want || out != c.out {
			t.Errorf("%s with %v: %s %+v, want %s %+v", c.kind, c.err, outcome, out, c.want, c.out)
		}
	}
	for outcome, want := range map[base.Outcome]Outcome{
		base.OutcomeNotApplied: Failed, base.OutcomeUnknown: Unknown, base.OutcomeApplied: Unknown,
	} {
		if got := classify(Put, &base.Error{Outcome: outcome, Err: base.ErrUnavailable}); got != want {
			t.Errorf("%v is %s, want %s", outcome, got, want)
		}
	}
}

func TestWorkloadEnds(t *testing.T) {
	w := Workload{Clients: 3, Keys: Keys(10), Rand: testkit.Rand(t)}
	count := func(w Workload, ctx context.Context) int {
		rec := NewRecorder(1000)
		w.Run(ctx, rec, always(scripted{}))
		return len(rec.History())
	}
	byOps, byTime := w, w
	byOps.Ops, byTime.Duration = 100, time.Nanosecond
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if n := count(byOps, t.Context()); n != 100 {
		t.Errorf("%d operations, want 100", n)
	}
	if n := count(byTime, t.Context()); n > 10 {
		t.Errorf("%d operations in no time", n)
	}
	if n := count(w, ended); n != 0 {
		t.Errorf("%d operations after the end", n)
	}
	if n := count(w, t.Context()); n != 1000 {
		t.Errorf("%d operations, want as many as the history takes", n)
	}
}

func TestWorkloadIsSeeded(t *testing.T) {
	run := func(seed uint64) (asked []string) {
		w := Workload{Clients: 1, Keys: Keys(50), Ops: 500, Rand: testkit.NewRand(seed), Skew: 1 + float64(seed%2)}
		rec := NewRecorder(w.Ops)
		w.Run(t.Context(), rec, always(scripted{}))
		for _, op := range rec.History() {
			asked = append(asked, op.String())
		}
		return asked
	}
	seed := rand.Uint64()
	if !reflect.DeepEqual(run(seed), run(seed)) {
		t.Errorf("seed %d gives two workloads", seed)
	}
	if reflect.DeepEqual(run(seed), run(seed+2)) {
		t.Errorf("two seeds give one workload")
	}
}
