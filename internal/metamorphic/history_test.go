package metamorphic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
)

// system is a form of the cache under test: one node or more.
type system struct {
	*node.Node // that is asked next
	nodes      []*node.Node
	reopen     func() []*node.Node
	// clockOf names what the versions of a key rise with.
	clockOf func(base.Key) any
}

func (s *system) close(t testing.TB) {
	for _, n := range s.nodes {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	s.nodes = nil
}

// history drives a system and the model side by side. Time stands still but
// for explicit steps, which keep a distance to every expiry, so that it never
// matters by which microsecond a key is judged.
type history struct {
	t     *testing.T
	rng   *rand.Rand
	clock *testkit.Clock
	sys   *system
	model *testkit.Model
	pool  []base.Key           // keys that operations draw from
	last  map[any]base.Version // of each clock
	step  int
	ran   map[string]int
}

const poolKeys = 40

func newHistory(t *testing.T, rng *rand.Rand, clock *testkit.Clock, sys *system) *history {
	h := &history{t: t, rng: rng, clock: clock, sys: sys, model: testkit.NewModel(), last: map[any]base.Version{}, ran: map[string]int{}}
	primaries := []string{"a", "a\x00", "ab", "b", "\xff", "acct:1", "acct:2", "z"}
	for len(h.pool) < poolKeys {
		key := testkit.Key(rng)
		if rng.IntN(4) > 0 {
			key.Primary = primaries[rng.IntN(len(primaries))]
		}
		h.pool = append(h.pool, key)
	}
	return h
}

func (h *history) run(steps int) {
	ops := []struct {
		name   string
		weight int
		run    func(context.Context)
	}{
		{"get", 20, h.get}, {"multiget", 5, h.multiGet}, {"scan", 12, h.scan}, {"put", 25, h.write},
		{"batch", 10, h.batch}, {"each", 3, h.each}, {"update", 8, h.update}, {"view", 4, h.view},
		{"request", 5, h.request}, {"advance", 3, h.advance}, {"reopen", 1, h.reopen},
	}
	total := 0
	for _, op := range ops {
		total += op.weight
	}
	ctx := testkit.Context(h.t)
	for h.step = 0; h.step < steps && !h.t.Failed(); h.step++ {
		pick := h.rng.IntN(total)
		for _, op := range ops {
			if pick -= op.weight; pick < 0 {
				h.sys.Node = h.sys.nodes[h.rng.IntN(len(h.sys.nodes))]
				h.ran[op.name]++
				op.run(ctx)
				break
			}
		}
	}
	h.t.Logf("%d steps: %v", h.step, h.ran)
}

func (h *history) fail(format string, args ...any) {
	h.t.Helper()
	h.t.Errorf("step %d: %s", h.step, fmt.Sprintf(format, args...))
}

func (h *history) now() time.Time { return h.clock.Now() }

func (h *history) key() base.Key { return h.pool[h.rng.IntN(len(h.pool))] }

func (h *history) get(ctx context.Context) {
	key := h.key()
	got, err := h.sys.Get(ctx, key, base.ReadOptions{Stale: h.rng.IntN(4) == 0})
	want := h.model.Get(h.now(), key)
	if err != nil && !errors.Is(err, base.ErrNotFound) {
		h.fail("get %v: %v", key, err)
	}
	if (err != nil) == want.Exists() {
		h.fail("get %v: %v, model has version %d", key, err, want.Version)
	}
	if d := testkit.DiffItem(got, want); d != "" {
		h.fail("get: %s", d)
	}
}

func (h *history) keys() []base.Key {
	keys := make([]base.Key, h.rng.IntN(8))
	for i := range keys {
		keys[i] = h.key()
	}
	return keys
}

func (h *history) multiGet(ctx context.Context) {
	keys := h.keys()
	got, err := h.sys.MultiGet(ctx, keys, base.ReadOptions{})
	if err != nil {
		h.fail("multiget: %v", err)
	}
	if d := testkit.DiffItems(got, h.model.MultiGet(h.now(), keys)); d != "" {
		h.fail("multiget: %s", d)
	}
}

// rangeAndOptions draws what to scan and how.
func (h *history) rangeAndOptions() (base.Range, base.ReadOptions) {
	a, b := h.key(), h.key()
	r := []base.Range{
		base.All(), base.Primary(a.Primary), base.PrimaryPrefix(a.Primary[:1]), {Start: a, End: b}, {Start: a},
		base.Primary(a.Primary).Prefix(a.Secondary), base.Primary(a.Primary).Between(a.Secondary, b.Secondary),
	}[h.rng.IntN(7)]
	ro := base.ReadOptions{Reverse: h.rng.IntN(2) == 0, KeysOnly: h.rng.IntN(4) == 0}
	if h.rng.IntN(2) == 0 {
		ro.Limit = 1 + h.rng.IntN(10)
	}
	switch h.rng.IntN(4) {
	case 0:
		ro.After = h.key()
	case 1:
		ro.Cursor = base.EncodeCursor(h.key())
	}
	return r, ro
}

func (h *history) scan(ctx context.Context) {
	r, ro := h.rangeAndOptions()
	var got []base.Item
	for item, err := range h.sys.RangeScan(ctx, r, ro) {
		if err != nil {
			h.fail("scan %v %+v: %v", r, ro, err)
			return
		}
		got = append(got, item)
	}
	if d := testkit.DiffItems(got, h.model.Scan(h.now(), r, ro)); d != "" {
		h.fail("scan %v %+v: %s", r, ro, d)
	}
}

// draw returns a random write of the key. Conditions ask for what is there
// about half of the time.
func (h *history) draw(key base.Key) base.Write {
	w := base.Write{Key: key}
	switch h.rng.IntN(5) {
	case 0:
		w.Kind = base.WriteDelete
	default:
		w.Value = testkit.Bytes(h.rng, h.rng.IntN(100))
		if h.rng.IntN(5) == 0 {
			w.TTL = time.Duration(1+h.rng.IntN(20))*time.Second + 500*time.Millisecond
		}
	}
	switch h.rng.IntN(6) {
	case 0:
		w.Cond = base.Cond{Kind: base.CondPresent}
	case 1:
		w.Cond = base.Cond{Kind: base.CondVersion, Version: h.model.Get(h.now(), key).Version}
	case 2:
		w.Cond = base.Cond{Kind: base.CondVersion, Version: base.Version(h.rng.IntN(2))}
	}
	return w
}

// commit returns how the model is to apply what the system gave this version.
func (h *history) commit(v base.Version) testkit.Commit {
	return testkit.Commit{Stamp: v.Time(), Now: h.now(), Version: v}
}

// newVersion checks that the versions of each clock rise.
func (h *history) newVersion(v base.Version, writes ...base.Write) {
	next := maps.Clone(h.last)
	for i := range writes {
		clock := h.sys.clockOf(writes[i].Key)
		if last := h.last[clock]; v <= last {
			h.fail("%v: version %d after %d", writes[i].Key, v, last)
		}
		next[clock] = v
	}
	h.last = next
}

// untold is a version for the model that the system does not tell and that is of
// no consequence.
func (h *history) untold() base.Version {
	newest := base.Version(0)
	for _, v := range h.last {
		newest = max(newest, v)
	}
	return newest + 1
}

// compareRefusal checks that an error is the failure of the condition that the
// model expects.
func (h *history) compareRefusal(err error, want []base.Result) {
	var mismatch *base.VersionError
	if !errors.As(err, &mismatch) {
		h.fail("refused with %v, want a version mismatch", err)
		return
	}
	for _, r := range want {
		var expected *base.VersionError
		if errors.As(r.Err, &expected) {
			if *expected != *mismatch {
				h.fail("mismatch %v, want %v", mismatch, expected)
			}
			return
		}
	}
	h.fail("refused with %v, the model applies it", err)
}

func (h *history) write(ctx context.Context) {
	w := h.draw(h.key())
	got, err := h.sys.Write(ctx, w, base.RequestID{})
	version := got
	if w.Kind == base.WriteDelete {
		version = h.untold()
	}
	want, applied := h.model.Apply(h.commit(version), w)
	switch {
	case err != nil:
		h.compareRefusal(err, want)
	case !applied:
		h.fail("%+v applied, the model refuses: %v", w, want[0].Err)
	case w.Kind == base.WriteDelete && got != want[0].Version:
		h.fail("delete %v removed version %d, want %d", w.Key, got, want[0].Version)
	case w.Kind == base.WritePut:
		h.newVersion(got, w)
	}
}

// drawBatch returns writes of different keys and checks of some others.
func (h *history) drawBatch() []base.Write {
	var writes []base.Write
	used := map[base.Key]bool{}
	for range 1 + h.rng.IntN(8) {
		key := h.key()
		if used[key] {
			continue
		}
		used[key] = true
		w := h.draw(key)
		if h.rng.IntN(6) == 0 {
			have := h.model.Get(h.now(), key).Version
			w = base.Write{Kind: base.WriteCheck, Key: key, Cond: base.Cond{Kind: base.CondVersion, Version: have}}
		}
		writes = append(writes, w)
	}
	return writes
}

func (h *history) batch(ctx context.Context) { h.multiWrite(ctx, h.drawBatch(), base.RequestID{}) }

// multiWrite applies a batch to both and returns the results of the system.
func (h *history) multiWrite(ctx context.Context, writes []base.Write, id base.RequestID) []base.Result {
	got, err := h.sys.MultiWrite(ctx, writes, base.TxOptions{RequestID: id})
	version := h.untold()
	for i, r := range got {
		if err == nil && writes[i].Kind == base.WritePut {
			version = r.Version
		}
	}
	want, applied := h.model.Apply(h.commit(version), writes...)
	if err != nil {
		h.compareRefusal(err, want)
		return got
	}
	if !applied {
		h.fail("batch applied, the model refuses")
		return got
	}
	put := false
	for i := range want {
		put = put || writes[i].Kind == base.WritePut
		if got[i] != want[i] {
			h.fail("result %d is %+v, want %+v", i, got[i], want[i])
		}
	}
	if put {
		h.newVersion(version, writes...)
	}
	return got
}

// each runs a batch of independent puts.
func (h *history) each(ctx context.Context) {
	var writes []base.Write
	for _, w := range h.drawBatch() {
		if w.Kind == base.WritePut {
			w.Cond = base.Cond{}
			writes = append(writes, w)
		}
	}
	if len(writes) == 0 {
		return
	}
	got, err := h.sys.MultiWrite(ctx, writes, base.TxOptions{Independent: true})
	if err != nil {
		h.fail("independent: %v", err)
		return
	}
	for i, r := range got {
		if r.Err != nil {
			h.fail("independent put %d: %v", i, r.Err)
		}
		if clock := h.sys.clockOf(writes[i].Key); r.Err == nil {
			h.last[clock] = max(h.last[clock], r.Version)
		}
		h.model.Apply(h.commit(r.Version), writes[i])
	}
}

// request repeats a batch with its id, now or after a reopen: the second
// answer is the first, and nothing changes.
func (h *history) request(ctx context.Context) {
	id := base.RequestID{1}
	for i := range id {
		id[i] = byte(h.rng.Uint32())
	}
	writes := h.drawBatch()
	first := h.multiWrite(ctx, writes, id)
	if h.rng.IntN(4) == 0 {
		h.reopen(ctx)
	}
	again, err := h.sys.MultiWrite(ctx, writes, base.TxOptions{RequestID: id})
	refused := err != nil
	if refused && !errors.Is(err, base.ErrVersionMismatch) {
		h.fail("repetition: %v", err)
	}
	for i := range again {
		if again[i].Version != first[i].Version {
			h.fail("repetition: result %d is %+v, was %+v", i, again[i], first[i])
		}
	}
	outcome, _, err := h.sys.Outcome(ctx, id)
	if want := map[bool]base.Outcome{false: base.OutcomeApplied, true: base.OutcomeNotApplied}[refused]; err != nil || outcome != want {
		h.fail("outcome %v, %v; want %v", outcome, err, want)
	}
}

func (h *history) advance(context.Context) {
	// Time steps by whole seconds and keys live for halves.
	h.clock.Advance(time.Duration(1+h.rng.IntN(8)) * time.Second)
}

func (h *history) reopen(context.Context) {
	h.sys.close(h.t)
	h.sys.nodes = h.sys.reopen()
	h.sys.Node = h.sys.nodes[0]
	if len(h.sys.nodes) > 1 {
		// A node that closed when the others were gone already may have left keys
		// held, until the deadline of its transaction.
		h.clock.Advance(8 * time.Second)
	}
}
