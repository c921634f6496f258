package catalog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// start is the time of the tests.
var start = time.Date(2024, 5, 6, 7, 8, 9, 1000, time.UTC)

func dir(n int) string     { return fmt.Sprintf("%032x", n) }
func name(n int) string    { return fmt.Sprintf("node-%d", n) }
func address(n int) string { return fmt.Sprintf("host-%d:7000", n) }

func node(n int) NodeRecord {
	return NodeRecord{ID: name(n), Directory: dir(n), Addr: address(n), Zone: "z", State: Active, Joined: start, Changed: start}
}

func settings(shards int) Settings {
	return Settings{ClusterID: dir(0xc1), Name: "test", Shards: shards, Replication: 3, Format: 1, Founded: start}
}

// fakeKV is the catalog shard: conditional, atomic writes with rising versions.
// With faults it says that it does not know what became of a write, applies it
// or not, or applies it later, before something else.
type fakeKV struct {
	mu      sync.Mutex
	model   *testkit.Model
	version base.Version
	late    [][]base.Write
	faults  *rand.Rand // nil = none
	states  []*State   // each that was, in order
	lost    int        // writes whose outcome was not told
}

func newFakeKV(faults *rand.Rand) *fakeKV {
	return &fakeKV{model: testkit.NewModel(), version: 1000, faults: faults, states: []*State{{}}}
}

func (f *fakeKV) ReadCatalog(context.Context) ([]base.Item, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.chance(10) {
		f.flush()
	}
	return f.model.Scan(start, base.All(), base.ReadOptions{}), nil
}

func (f *fakeKV) WriteCatalog(_ context.Context, writes []base.Write) ([]base.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := base.DefaultLimits().CheckWrites(writes); err != nil && len(writes) < 1000 {
		return nil, err
	}
	switch {
	case f.chance(10):
		f.late = append(f.late, writes)
		f.lost++
		return nil, fmt.Errorf("%w: the answer was lost", base.ErrIndeterminate)
	case f.chance(10):
		_, _ = f.apply(writes)
		f.lost++
		return nil, fmt.Errorf("%w: the answer was lost", base.ErrIndeterminate)
	case f.chance(10):
		f.flush()
	}
	return f.apply(writes)
}

func (f *fakeKV) chance(percent int) bool { return f.faults != nil && f.faults.IntN(100) < percent }

func (f *fakeKV) flush() {
	for _, writes := range f.late {
		_, _ = f.apply(writes)
	}
	f.late = nil
}

func (f *fakeKV) apply(writes []base.Write) ([]base.Result, error) {
	f.version += 1 + base.Version(len(f.states)%3)
	results, ok := f.model.Apply(testkit.Commit{Stamp: start, Version: f.version}, writes...)
	if !ok {
		for _, r := range results {
			if r.Err != nil {
				return nil, r.Err
			}
		}
	}
	s, err := Build(f.model.Scan(start, base.All(), base.ReadOptions{}))
	if err != nil {
		panic(fmt.Sprintf("a transition led to a state that is none: %v", err))
	}
	f.states = append(f.states, s)
	return results, nil
}

// verify checks the invariants over the whole history.
func (f *fakeKV) verify(t *testing.T) {
	t.Helper()
	used := map[string]Replica{}
	for i := 1; i < len(f.states); i++ {
		if faults := Check(f.states[i-1], f.states[i]); len(faults) > 0 {
			t.Fatalf("change %d: %s", i, strings.Join(faults, "; "))
		}
		for _, shard := range f.states[i].Shards() {
			for _, r := range shard.Replicas {
				key := fmt.Sprint(shard.Shard, r.ID)
				if before, ok := used[key]; ok && before != r {
					t.Fatalf("change %d: replica %d of shard %d is %v and was %v", i, r.ID, shard.Shard, r, before)
				}
				used[key] = r
			}
		}
	}
}

// founded returns a State with the given nodes and shards, the replicas spread.
func founded(t testing.TB, nodes, shards int) (*State, *fakeKV) {
	t.Helper()
	kv := newFakeKV(nil)
	s, err := (&Editor{KV: kv}).Edit(context.Background(), func(s *State) ([]base.Write, error) {
		return foundingOf(s, nodes, shards)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, kv
}

func foundingOf(s *State, nodes, shards int) ([]base.Write, error) {
	records := make([]NodeRecord, nodes)
	for i := range records {
		records[i] = node(i)
	}
	placement := map[base.ShardID][]string{}
	for i := range shards + 1 {
		shard := base.ShardID(i)
		if i == shards {
			shard = CatalogShard
		}
		for k := range min(3, nodes) {
			placement[shard] = append(placement[shard], name((i+k)%nodes))
		}
	}
	return s.Found(settings(shards), records, placement)
}

// must applies a transition.
func must(t testing.TB, kv *fakeKV, fn func(*State) ([]base.Write, error)) *State {
	t.Helper()
	s, err := (&Editor{KV: kv}).Edit(context.Background(), fn)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
