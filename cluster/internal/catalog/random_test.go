package catalog

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// model is the plainest catalog: it follows one editor.
type model struct {
	state    map[string]NodeState
	dirs     map[string]string
	replicas map[base.ShardID]map[uint64]string
	next     map[base.ShardID]uint64
}

func newModel(s *State) *model {
	m := &model{state: map[string]NodeState{}, dirs: map[string]string{}, replicas: map[base.ShardID]map[uint64]string{}, next: map[base.ShardID]uint64{}}
	for _, n := range s.Nodes() {
		m.state[n.ID], m.dirs[n.ID] = n.State, n.Directory
	}
	for _, r := range s.Shards() {
		m.replicas[r.Shard], m.next[r.Shard] = map[uint64]string{}, r.Next
		for _, x := range r.Replicas {
			m.replicas[r.Shard][x.ID] = x.Node
		}
	}
	return m
}

func (m *model) equal(other *model) bool {
	same := maps.Equal(m.state, other.state) && maps.Equal(m.dirs, other.dirs) && maps.Equal(m.next, other.next)
	for shard, replicas := range m.replicas {
		same = same && maps.Equal(replicas, other.replicas[shard])
	}
	return same
}

const (
	randomNodes  = 6
	randomShards = 4
)

// step is one random transition and what it means to the model.
func step(r *rand.Rand) (func(*State) ([]base.Write, error), func(*model)) {
	id, shard := name(r.IntN(randomNodes)), base.ShardID(r.IntN(randomShards+1))
	if shard == randomShards {
		shard = CatalogShard
	}
	switch r.IntN(7) {
	case 0, 1:
		j := Joining{ID: id, Directory: dir(r.IntN(40)), Addr: "a:1"}
		return func(s *State) ([]base.Write, error) { return s.Join(j, start) },
			func(m *model) {
				if m.state[id] != Draining {
					m.state[id] = Active
				}
				m.dirs[id] = j.Directory
			}
	case 2:
		return func(s *State) ([]base.Write, error) { return s.Drain(id, start) }, func(m *model) { m.state[id] = Draining }
	case 3:
		return func(s *State) ([]base.Write, error) { return s.Undrain(id, start) }, func(m *model) { m.state[id] = Active }
	case 4:
		removal := Removal{Dead: r.IntN(2) == 0, Now: start}
		return func(s *State) ([]base.Write, error) { return s.Remove(id, removal) }, func(m *model) { m.state[id] = Removed }
	case 5:
		return func(s *State) ([]base.Write, error) { w, _, err := s.AllocateReplica(shard, id); return w, err },
			func(m *model) {
				if !slices.Contains(slices.Collect(maps.Values(m.replicas[shard])), id) {
					m.replicas[shard][m.next[shard]] = id
					m.next[shard]++
				}
			}
	default:
		replica := uint64(1 + r.IntN(12))
		return func(s *State) ([]base.Write, error) { return s.ForgetReplica(shard, replica) },
			func(m *model) { delete(m.replicas[shard], replica) }
	}
}

func expected(err error) bool {
	return err == nil || errors.Is(err, base.ErrInvalid) || errors.Is(err, base.ErrNotFound)
}

// TestRandomAgainstModel runs one editor with faults beside the model.
func TestRandomAgainstModel(t *testing.T) {
	r := testkit.Rand(t)
	_, kv := founded(t, 4, randomShards)
	kv.faults = testkit.Fork(r)
	editor := &Editor{KV: kv}
	m := newModel(kv.states[len(kv.states)-1])
	done := 0
	for i := range 1500 {
		transition, apply := step(r)
		s, err := editor.Edit(context.Background(), transition)
		if !expected(err) {
			t.Fatalf("step %d: %v", i, err)
		}
		if err != nil {
			continue
		}
		apply(m)
		done++
		if !m.equal(newModel(s)) {
			t.Fatalf("step %d: the catalog is %+v, the model %+v", i, newModel(s), m)
		}
	}
	if done < 200 || kv.lost < 20 {
		t.Fatalf("only %d changes, %d unknown outcomes", done, kv.lost)
	}
	kv.verify(t)
}

// TestRandomEditors runs several editors at once, with faults.
func TestRandomEditors(t *testing.T) {
	r := testkit.Rand(t)
	_, kv := founded(t, 4, randomShards)
	kv.faults = testkit.Fork(r)
	cache := NewCache(nil)
	var wg sync.WaitGroup
	for range 4 {
		own := testkit.Fork(r)
		wg.Go(func() {
			editor := &Editor{KV: kv, Cache: cache}
			for range 100 {
				transition, _ := step(own)
				if _, err := editor.Edit(context.Background(), transition); !expected(err) {
					t.Errorf("edit: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	kv.verify(t)
	if _, err := (&Editor{KV: kv, Cache: cache}).Edit(context.Background(), func(*State) ([]base.Write, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	if cache.State().Epoch() != kv.states[len(kv.states)-1].Epoch() {
		t.Error("the cache is behind")
	}
}

// TestCheckFinds shows that Check can fail.
func TestCheckFinds(t *testing.T) {
	s, _ := founded(t, 3, 2)
	writes, err := s.ForgetReplica(0, 3)
	if err != nil {
		t.Fatal(err)
	}
	without, err := s.foresee(writes)
	if err != nil {
		t.Fatal(err)
	}
	if len(Check(s, without)) > 0 || len(Check(without, s)) == 0 {
		t.Error("a replica id that was given out twice is not found")
	}
}

// failingKV fails with what the test says.
type failingKV struct {
	KV
	read, write func() error
}

func (f failingKV) ReadCatalog(ctx context.Context) ([]base.Item, error) {
	if err := f.read(); err != nil {
		return nil, err
	}
	return f.KV.ReadCatalog(ctx)
}

func (f failingKV) WriteCatalog(context.Context, []base.Write) ([]base.Result, error) {
	return nil, f.write()
}

func TestEditorErrors(t *testing.T) {
	_, kv := founded(t, 3, 2)
	drain := func(s *State) ([]base.Write, error) { return s.Drain(name(0), start) }
	reads := 0
	ok := func() error { return nil }
	once := func() error {
		if reads++; reads > 1 {
			return base.ErrUnavailable
		}
		return nil
	}
	mismatch := func() error { return &base.VersionError{} }
	unknown := func() error { return base.ErrIndeterminate }
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for what, c := range map[string]struct {
		ctx  context.Context
		kv   failingKV
		want error
	}{
		"read fails":              {context.Background(), failingKV{kv, func() error { return base.ErrUnavailable }, ok}, base.ErrUnavailable},
		"unknown, then no answer": {context.Background(), failingKV{kv, once, unknown}, base.ErrIndeterminate},
		"context ends":            {ended, failingKV{kv, ok, mismatch}, base.ErrUnavailable},
		"unknown, context ends":   {ended, failingKV{kv, ok, unknown}, base.ErrIndeterminate},
		"refused":                 {context.Background(), failingKV{kv, ok, func() error { return base.ErrNoSpace }}, base.ErrNoSpace},
	} {
		if _, err := (&Editor{KV: c.kv}).Edit(c.ctx, drain); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCache(t *testing.T) {
	first, kv := founded(t, 3, 2)
	second := must(t, kv, func(s *State) ([]base.Write, error) { return s.Drain(name(0), start) })
	c := NewCache(nil)
	changed := c.Changed()
	if c.State().Founded() || !c.Update(second) || c.Update(first) || c.Update(second) {
		t.Error("only newer states count")
	}
	select {
	case <-changed:
	default:
		t.Error("the update was not told")
	}
	other := *second
	other.versions = map[base.Key]base.Version{clusterKey(): 1, epochKey(): second.Epoch() + 1}
	other.settings.ClusterID = dir(0xc2)
	if c.Update(&other) {
		t.Error("took the state of another cluster")
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	got := make(chan *State, 1)
	go func() {
		s, _ := c.Wait(ctx, func(s *State) bool { n, _ := s.Node(name(0)); return n.State == Active })
		got <- s
	}()
	c.Update(must(t, kv, func(s *State) ([]base.Write, error) { return s.Undrain(name(0), start) }))
	if s := <-got; s == nil || s.Epoch() != c.State().Epoch() {
		t.Error("Wait missed the update")
	}
	ended, cancel2 := context.WithCancel(context.Background())
	cancel2()
	if _, err := c.Wait(ended, func(*State) bool { return false }); !errors.Is(err, base.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: %v", err)
	}
}
