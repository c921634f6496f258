package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// Client is a cache as one client sees it. A key that is absent has version 0;
// base.ErrNotFound says the same. A write that failed says in a *base.Error
// whether it was applied; any other error leaves that open.
type Client interface {
	Get(ctx context.Context, key base.Key) (value []byte, version base.Version, err error)
	Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error)
	Delete(ctx context.Context, key base.Key, cond base.Cond) (base.Version, error)
}

// Mix has the weight of each kind of operation. Replace is a put on the version
// that the client has seen last, Remove such a delete.
type Mix struct{ Get, Put, Create, Replace, Delete, Remove int }

// DefaultMix is used for the zero Mix.
func DefaultMix() Mix { return Mix{Get: 45, Put: 20, Create: 5, Replace: 20, Delete: 5, Remove: 5} }

// Workload says what clients do. It ends after Ops operations or Duration,
// whichever is first, or when its context or the recording ends.
type Workload struct {
	Clients  int
	Keys     []base.Key
	Ops      int           // 0 = no limit
	Duration time.Duration // 0 = no limit
	// AtLeast is how many operations must have succeeded before Duration ends
	// the workload, so that a slow machine takes longer instead of showing less.
	// It ends all the same after patience times Duration.
	AtLeast    int
	Timeout    time.Duration // of each operation; 0 = 10 s
	Mix        Mix
	ValueBytes int // values are padded to this size
	// Skew prefers the first keys: 1 = all alike, and the more above it the
	// more uneven; 0 = 1.1.
	Skew float64
	Rand *rand.Rand
}

// Keys returns n keys that are spread over shards, a few for each primary.
func Keys(n int) []base.Key {
	keys := make([]base.Key, n)
	for i := range keys {
		keys[i] = base.K(fmt.Sprintf("p%03d", i/3), fmt.Sprintf("s%03d", i))
	}
	return keys
}

// Run runs the workload. connect gives each client its own view.
func (w Workload) Run(ctx context.Context, rec *Recorder, connect func(client int) Client) {
	if w.Mix == (Mix{}) {
		w.Mix = DefaultMix()
	}
	if w.Timeout == 0 {
		w.Timeout = 10 * time.Second
	}
	if w.Skew == 0 {
		w.Skew = 1.1
	}
	var left atomic.Int64
	left.Store(int64(w.Ops))
	started := time.Now()
	var succeeded atomic.Int64
	more := func() bool {
		over := w.Ops > 0 && left.Add(-1) < 0 || enough(started, w.Duration, succeeded.Load() >= int64(w.AtLeast))
		return !over && ctx.Err() == nil
	}
	var clients sync.WaitGroup
	for i := range w.Clients {
		d := &driver{
			w: &w, id: i, client: connect(i), rec: rec,
			succeeded: &succeeded, rng: testkit.Fork(w.Rand), seen: make([]base.Version, len(w.Keys)),
		}
		if w.Skew > 1 {
			d.zipf = rand.NewZipf(d.rng, w.Skew, float64(len(w.Keys))/20+1, uint64(len(w.Keys)-1))
		}
		clients.Go(func() {
			for more() && d.one(ctx) {
			}
		})
	}
	clients.Wait()
}

// patience is how many times its length a round may take to show enough.
const patience = 6

// enough reports whether a round of some length is over: it has taken as long and
// has shown what it must, or there is no hope that it will. 0 = it never is.
func enough(started time.Time, length time.Duration, shown bool) bool {
	took := time.Since(started)
	return length > 0 && took > length && (shown || took > patience*length)
}

// driver is one client at work.
type driver struct {
	w      *Workload
	id     int
	client Client
	rec    *Recorder
	// succeeded counts for all clients.
	succeeded *atomic.Int64
	rng       *rand.Rand
	zipf      *rand.Zipf
	seen      []base.Version // last seen of each key
	writes    int
}

// one makes one operation; false if the history is full.
func (d *driver) one(ctx context.Context) bool {
	i := 0
	if d.zipf != nil {
		i = int(d.zipf.Uint64())
	} else {
		i = d.rng.IntN(len(d.w.Keys))
	}
	op := Op{Client: d.id, Keys: d.w.Keys[i : i+1 : i+1]}
	op.Kind, op.Input.Cond = d.w.Mix.pick(d.rng, d.seen[i])
	var value []byte
	if op.Kind == Put {
		d.writes++
		value = fmt.Appendf(nil, "%d-%d", d.id, d.writes)
		for len(value) < d.w.ValueBytes {
			value = append(value, '.')
		}
		op.Input.Value = Fingerprint(value)
	}
	id, ok := d.rec.Begin(op)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, d.w.Timeout)
	defer cancel()
	outcome, output := call(ctx, d.client, &op, value)
	d.rec.End(id, outcome, output)
	if outcome == OK {
		d.succeeded.Add(1)
	}
	if outcome == OK || output.Refused {
		d.seen[i] = output.Version
		if op.Kind == Delete && outcome == OK {
			d.seen[i] = 0
		}
	}
	return true
}

// pick draws an operation. seen is the version to condition it on.
func (m Mix) pick(rng *rand.Rand, seen base.Version) (Kind, base.Cond) {
	n := rng.IntN(m.Get + m.Put + m.Create + m.Replace + m.Delete + m.Remove)
	for _, c := range []struct {
		weight int
		kind   Kind
		cond   base.Cond
	}{
		{m.Get, Get, base.Cond{}}, {m.Put, Put, base.Cond{}}, {m.Create, Put, base.Cond{Kind: base.CondVersion}},
		{m.Replace, Put, base.Cond{Kind: base.CondVersion, Version: seen}}, {m.Delete, Delete, base.Cond{}},
		{m.Remove, Delete, base.Cond{Kind: base.CondVersion, Version: seen}},
	} {
		if n -= c.weight; n < 0 {
			return c.kind, c.cond
		}
	}
	return Get, base.Cond{}
}

// call makes the operation and sorts its result.
func call(ctx context.Context, c Client, op *Op, value []byte) (Outcome, Output) {
	var output Output
	var err error
	switch key := op.Keys[0]; op.Kind {
	case Get:
		var got []byte
		got, output.Version, err = c.Get(ctx, key)
		if errors.Is(err, base.ErrNotFound) {
			return OK, Output{}
		}
		output.Value = Fingerprint(got)
	case Put:
		output.Version, err = c.Put(ctx, key, value, op.Input.Cond)
	case Delete:
		output.Version, err = c.Delete(ctx, key, op.Input.Cond)
	}
	if err == nil {
		return OK, output
	}
	output = Output{Err: err.Error()}
	outcome := classify(op.Kind, err)
	if mismatch := (*base.VersionError)(nil); outcome == Failed && errors.As(err, &mismatch) {
		output.Refused, output.Version = true, mismatch.Have
	}
	return outcome, output
}

// classify says what is known of an operation that returned an error. One that
// was applied but did not say how counts as unknown, which is weaker.
func classify(kind Kind, err error) Outcome {
	var e *base.Error
	var mismatch *base.VersionError
	switch {
	case kind == Get:
		return Failed // and has no effect anyway
	case errors.As(err, &e) && e.Outcome == base.OutcomeNotApplied:
		return Failed
	case e == nil && errors.As(err, &mismatch):
		return Failed
	default:
		return Unknown
	}
}

// FinalClient makes the reads that come after everything else.
const FinalClient = -1

// ReadFinally reads every key once more, after the last other operation. The
// first error ends it, since a history without these reads proves less.
func (w Workload) ReadFinally(ctx context.Context, rec *Recorder, c Client) error {
	for i := range w.Keys {
		op := Op{Client: FinalClient, Kind: Get, Keys: w.Keys[i : i+1 : i+1]}
		id, ok := rec.Begin(op)
		if !ok {
			return errors.New("no room for the final reads in the history")
		}
		outcome, output := call(ctx, c, &op, nil)
		rec.End(id, outcome, output)
		if outcome != OK {
			return fmt.Errorf("final read of %v: %s", op.Keys[0], output.Err)
		}
	}
	return nil
}
