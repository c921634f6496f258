package harness

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// faulty is a client that gets some operations wrong.
type faulty struct {
	Client
	// mu guards the rest.
	mu    sync.Mutex
	rng   *rand.Rand
	saw   map[base.Key][2]sight // the last two states of a key
	early map[base.Key]sight    // puts that are not decided yet
	late  sync.WaitGroup
}

// sight is what a read returns.
type sight struct {
	value   []byte
	version base.Version
}

func newFaulty(c Client, rng *rand.Rand) *faulty {
	return &faulty{Client: c, rng: rng, saw: map[base.Key][2]sight{}, early: map[base.Key]sight{}}
}

// one reports true once in n times.
func (f *faulty) one(in int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rng.IntN(in) == 0
}

func now() base.Version { return base.VersionAt(time.Now()) }

// pause lets the other clients get on.
func pause() { time.Sleep(300 * time.Microsecond) }

func refused() error {
	return &base.Error{Outcome: base.OutcomeNotApplied, Err: base.ErrUnavailable}
}

// staleReads returns what a key held before, now and then.
type staleReads struct{ *faulty }

// Put implements Client.
func (f staleReads) Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	v, err := f.Client.Put(ctx, key, value, cond)
	if err == nil {
		f.mu.Lock()
		f.saw[key] = [2]sight{f.saw[key][1], {value, v}}
		f.mu.Unlock()
	}
	return v, err
}

// Get implements Client.
func (f staleReads) Get(ctx context.Context, key base.Key) ([]byte, base.Version, error) {
	f.mu.Lock()
	old := f.saw[key][0]
	f.mu.Unlock()
	if old.version != 0 && f.one(50) {
		return old.value, old.version, nil
	}
	return f.Client.Get(ctx, key)
}

// lostWrites acknowledges a put without making it.
type lostWrites struct{ *faulty }

// Put implements Client.
func (f lostWrites) Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	if cond.Kind == base.CondNone && f.one(100) {
		return now(), nil
	}
	return f.Client.Put(ctx, key, value, cond)
}

// appliedTwice repeats a put whose answer was slow.
type appliedTwice struct{ *faulty }

// Put implements Client.
func (f appliedTwice) Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	v, err := f.Client.Put(ctx, key, value, cond)
	if err == nil && cond.Kind == base.CondNone && f.one(20) {
		pause()
		return f.Client.Put(ctx, key, value, cond)
	}
	return v, err
}

// falseRefusals says of a put that it was not applied, and it was.
type falseRefusals struct{ *faulty }

// Put implements Client.
func (f falseRefusals) Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	v, err := f.Client.Put(ctx, key, value, cond)
	if err == nil && f.one(100) {
		return 0, refused()
	}
	return v, err
}

// earlyReads shows puts before they are decided.
type earlyReads struct{ *faulty }

// Put implements Client.
func (f earlyReads) Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	if !f.one(50) {
		return f.Client.Put(ctx, key, value, cond)
	}
	f.mu.Lock()
	f.early[key] = sight{value, now()}
	f.mu.Unlock()
	pause()
	f.mu.Lock()
	delete(f.early, key)
	f.mu.Unlock()
	return 0, refused()
}

// Get implements Client.
func (f earlyReads) Get(ctx context.Context, key base.Key) ([]byte, base.Version, error) {
	f.mu.Lock()
	early := f.early[key]
	f.mu.Unlock()
	if early.version != 0 {
		return early.value, early.version, nil
	}
	return f.Client.Get(ctx, key)
}

// ignoredConditions forgets the condition of a put.
type ignoredConditions struct{ *faulty }

// Put implements Client.
func (f ignoredConditions) Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	if f.one(20) {
		cond = base.Cond{}
	}
	return f.Client.Put(ctx, key, value, cond)
}

// lostDeletes acknowledges a delete without making it.
type lostDeletes struct{ *faulty }

// Delete implements Client.
func (f lostDeletes) Delete(ctx context.Context, key base.Key, cond base.Cond) (base.Version, error) {
	if _, v, err := f.Client.Get(ctx, key); err == nil && v != 0 && cond.Holds(v) && f.one(20) {
		return v, nil
	}
	return f.Client.Delete(ctx, key, cond)
}

// TestCheckersFindFaults lets clients go wrong in ways that caches do.
func TestCheckersFindFaults(t *testing.T) {
	for _, c := range []struct {
		name string
		bug  func(*faulty) Client
		rule string // that the cheap checker finds broken; "" = it need not
	}{
		{"stale reads", func(f *faulty) Client { return staleReads{f} }, RuleMonotonic},
		{"lost writes", func(f *faulty) Client { return lostWrites{f} }, RuleMonotonic},
		{"applied twice", func(f *faulty) Client { return appliedTwice{f} }, RuleOnce},
		{"false refusals", func(f *faulty) Client { return falseRefusals{f} }, RuleOrigin},
		{"early reads", func(f *faulty) Client { return earlyReads{f} }, RuleOrigin},
		{"ignored conditions", func(f *faulty) Client { return ignoredConditions{f} }, ""},
		{"lost deletes", func(f *faulty) Client { return lostDeletes{f} }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := testkit.Rand(t)
			w := Workload{Clients: 8, Keys: Keys(20), Ops: 5_000, Rand: rng}
			h := record(t, w, c.bug(newFaulty(openSolo(t), testkit.Fork(rng))))
			dir := t.TempDir()
			wantLinearError(t, CheckLinear(h, LinearConfig{Dir: dir}))
			for _, name := range []string{"history.jsonl", "linearizability.html"} {
				if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
					t.Errorf("%s was not written: %v", name, err)
				}
			}
			err := CheckSessions(h)
			if broken := rulesOf(err); c.rule != "" && !broken[c.rule] {
				t.Errorf("the rule %q is not broken, but %v", c.rule, broken)
			}
		})
	}
}

func wantLinearError(t *testing.T, err error) {
	t.Helper()
	var fault *LinearError
	if !errors.As(err, &fault) {
		t.Fatalf("error %v, want a *LinearError", err)
	}
	if fault.Key.IsZero() || fault.Op == nil {
		t.Errorf("the error does not say where: %+v", fault)
	}
	t.Log(fault)
}

// rulesOf returns the rules that joined errors name.
func rulesOf(err error) map[string]bool {
	rules := map[string]bool{}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			var fault *SessionError
			if errors.As(e, &fault) {
				rules[fault.Rule] = true
			}
		}
	}
	return rules
}

// unsure is a client that now and then does not learn what became of a write:
// it is made, or not, or made when nobody waits for it any more. That is no
// fault.
type unsure struct{ *faulty }

// Put implements Client.
func (f unsure) Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	return f.write(func() (base.Version, error) { return f.Client.Put(ctx, key, value, cond) })
}

// Delete implements Client.
func (f unsure) Delete(ctx context.Context, key base.Key, cond base.Cond) (base.Version, error) {
	return f.write(func() (base.Version, error) { return f.Client.Delete(ctx, key, cond) })
}

func (f unsure) write(do func() (base.Version, error)) (base.Version, error) {
	f.mu.Lock()
	draw, delay := f.rng.IntN(100), time.Duration(f.rng.IntN(20))*time.Millisecond
	f.mu.Unlock()
	switch draw {
	case 0:
		return 0, refused()
	case 1:
	case 2:
		_, _ = do()
	case 3:
		f.late.Go(func() {
			time.Sleep(delay)
			_, _ = do()
		})
	default:
		return do()
	}
	return 0, &base.Error{Outcome: base.OutcomeUnknown, Err: base.ErrIndeterminate}
}

func TestUnknownOutcomesAreNoFaults(t *testing.T) {
	rng := testkit.Rand(t)
	w := Workload{Clients: 16, Keys: Keys(300), Ops: 150_000, Rand: rng, Timeout: time.Hour}
	if testing.Short() {
		w.Ops = 20_000
	}
	c := unsure{newFaulty(openSolo(t), testkit.Fork(rng))}
	rec := NewRecorder(w.Ops + len(w.Keys))
	ctx := testkit.Context(t)
	// The late writes have contexts that outlive the calls.
	w.Run(ctx, rec, always(detached{c}))
	c.late.Wait()
	if err := w.ReadFinally(ctx, rec, c); err != nil {
		t.Fatal(err)
	}
	h := rec.History()
	if s := h.Stats(); s.Unknown < s.Ops/100 {
		t.Errorf("only %d outcomes are unknown", s.Unknown)
	}
	mustPass(t, h)
}

// detached gives operations contexts that do not end.
type detached struct{ Client }

// Put implements Client.
func (d detached) Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	return d.Client.Put(context.WithoutCancel(ctx), key, value, cond)
}

// Delete implements Client.
func (d detached) Delete(ctx context.Context, key base.Key, cond base.Cond) (base.Version, error) {
	return d.Client.Delete(context.WithoutCancel(ctx), key, cond)
}
