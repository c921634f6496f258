package catalog

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/distributedcache/cache/internal/base"
)

// refused wants an error of the kind that says why.
func refused(t *testing.T, err, kind error, why string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), why) {
		t.Errorf("got %v, want %v that says %q", err, kind, why)
	}
}

// nothing wants a transition that has nothing to do.
func nothing(t *testing.T, writes []base.Write, err error) {
	t.Helper()
	if err != nil || len(writes) != 0 {
		t.Errorf("got %d writes, %v, want none", len(writes), err)
	}
}

func joining(n int) Joining {
	return Joining{ID: name(n), Directory: dir(n), Addr: address(n), Zone: "z"}
}

func TestEveryBatchIsConditionalOnTheEpoch(t *testing.T) {
	s, _ := founded(t, 3, 2)
	batches := map[string][]base.Write{}
	batches["join"], _ = s.Join(joining(9), start)
	batches["drain"], _ = s.Drain(name(0), start)
	batches["remove"], _ = s.Remove(name(0), Removal{Dead: true, Now: start})
	batches["forget"], _ = s.ForgetReplica(0, 1)
	batches["found"], _ = foundingOf(&State{}, 3, 2)
	for what, writes := range batches {
		last := writes[len(writes)-1]
		want := s.Epoch()
		if what == "found" {
			want = 0
		}
		if last.Key != epochKey() || last.Kind != base.WritePut || last.Cond != (base.Cond{Kind: base.CondVersion, Version: want}) {
			t.Errorf("%s ends with %+v", what, last)
		}
		for _, w := range writes {
			if w.Cond.Kind != base.CondVersion {
				t.Errorf("%s writes %v without a condition", what, w.Key)
			}
		}
	}
}

func TestFound(t *testing.T) {
	s, _ := founded(t, 3, 2)
	writes, err := foundingOf(s, 3, 2)
	nothing(t, writes, err)
	if got := s.Catalog(); len(got) != 3 || got[0].ID != 1 || got[2].ID != 3 {
		t.Errorf("the catalog is on %v", got)
	}
	other := settings(2)
	other.ClusterID = dir(0xc2)
	_, err = s.Found(other, nil, nil)
	refused(t, err, base.ErrInvalid, "belongs to cluster")
	empty := &State{}
	place := func(p map[base.ShardID][]string, nodes ...NodeRecord) error {
		_, err := empty.Found(settings(2), nodes, p)
		return err
	}
	a := []string{name(0)}
	refused(t, place(nil, node(0)), base.ErrInvalid, "catalog")
	refused(t, place(map[base.ShardID][]string{CatalogShard: a, 2: a}, node(0)), base.ErrInvalid, "no shard 2")
	refused(t, place(map[base.ShardID][]string{CatalogShard: {name(1)}}, node(0)), base.ErrInvalid, "not an active node")
	refused(t, place(map[base.ShardID][]string{CatalogShard: {name(0), name(0)}}, node(0)), base.ErrInvalid, "one node")
	refused(t, place(map[base.ShardID][]string{CatalogShard: a}, node(0), node(0)), base.ErrInvalid, "ids")
	thief := node(1)
	thief.Directory = dir(0)
	refused(t, place(map[base.ShardID][]string{CatalogShard: a}, node(0), thief), base.ErrInvalid, "contradict")
	for what, err := range map[string]error{"join": second(empty.Join(joining(0), start)), "settings": second(empty.UpdateSettings(settings(2)))} {
		if !errors.Is(err, base.ErrUnavailable) {
			t.Errorf("%s before the founding: %v", what, err)
		}
	}
}

func second(_ []base.Write, err error) error { return err }

func TestSetFounders(t *testing.T) {
	kv := newFakeKV(nil)
	must(t, kv, func(s *State) ([]base.Write, error) {
		return s.Found(settings(2), []NodeRecord{node(0), node(1)}, map[base.ShardID][]string{CatalogShard: {name(0)}})
	})
	place := func(s *State) ([]base.Write, error) { return s.SetFounders(1, []string{name(1), name(0)}) }
	s := must(t, kv, place)
	if r, _ := s.Shard(1); r.Next != 3 || len(r.Founders) != 2 || r.Founders[0].Node != name(1) {
		t.Errorf("placed %+v", r)
	}
	writes, err := place(s)
	nothing(t, writes, err)
	refused(t, second(s.SetFounders(1, []string{name(0)})), base.ErrInvalid, "already")
	refused(t, second(s.SetFounders(7, nil)), base.ErrNotFound, "no shard 7")
	refused(t, second(s.SetFounders(0, []string{name(5)})), base.ErrInvalid, "not an active node")
	_, _, err = s.AllocateReplica(0, name(0))
	refused(t, err, base.ErrInvalid, "has to be founded")
	kv.verify(t)
}

func TestJoin(t *testing.T) {
	s, kv := founded(t, 3, 2)
	join := func(j Joining) error { _, err := s.Join(j, start); return err }
	writes, err := s.Join(joining(0), start.AddDate(1, 0, 0))
	nothing(t, writes, err)

	twin := joining(0)
	twin.Directory, twin.OldAlive = dir(77), true
	refused(t, join(twin), base.ErrInvalid, "running at")
	copied := joining(9)
	copied.Directory = dir(0)
	refused(t, join(copied), base.ErrInvalid, "copy of a directory")
	bad := joining(9)
	bad.Addr = ""
	refused(t, join(bad), base.ErrInvalid, "address")
	bad = joining(9)
	bad.Directory = "x"
	refused(t, join(bad), base.ErrInvalid, "hexadecimal")

	twin.OldAlive = false // its disk was wiped
	s = must(t, kv, func(s *State) ([]base.Write, error) { return s.Join(twin, start) })
	for _, placed := range s.ReplicasOf(name(0)) {
		if !s.Lost(placed.Replica) {
			t.Errorf("%v is not lost", placed)
		}
	}
	refused(t, join(joining(0)), base.ErrInvalid, "another data directory since")
	moved := twin
	moved.Addr = "elsewhere:1"
	s = must(t, kv, func(s *State) ([]base.Write, error) { return s.Join(moved, start) })
	if n, _ := s.Node(name(0)); n.Addr != "elsewhere:1" || n.Directory != dir(77) || len(n.Past) != 1 {
		t.Errorf("record %+v", n)
	}
	refused(t, second(s.SetAddress(name(0), dir(0), "x:1")), base.ErrInvalid, "another data directory")
	refused(t, second(s.SetAddress("who", dir(0), "x:1")), base.ErrNotFound, "no node")
	s = must(t, kv, func(s *State) ([]base.Write, error) { return s.SetAddress(name(0), dir(77), "x:1") })
	writes, err = s.SetAddress(name(0), dir(77), "x:1")
	nothing(t, writes, err)
	kv.verify(t)
}

func TestLeaving(t *testing.T) {
	s, kv := founded(t, 4, 4)
	refused(t, second(s.Remove(name(0), Removal{})), base.ErrInvalid, "drain it first")
	down := func(ids ...string) func(string) bool {
		return func(id string) bool { return !strings.Contains(strings.Join(ids, " "), id) }
	}
	refused(t, second(s.Remove(name(0), Removal{Dead: true, Alive: down(name(0), name(1))})), base.ErrInvalid, "1 of 3 replicas left and needs 2")
	refused(t, second(s.Drain("who", start)), base.ErrNotFound, "no node")

	s = must(t, kv, func(s *State) ([]base.Write, error) { return s.Drain(name(0), start) })
	writes, err := s.Drain(name(0), start)
	nothing(t, writes, err)
	_, _, err = s.AllocateReplica(0, name(0))
	if r, _ := s.Shard(0); err != nil && r.Replicas[0].Node != name(0) {
		t.Errorf("a draining node: %v", err)
	}
	_, _, err = s.AllocateReplica(1, name(0))
	refused(t, err, base.ErrInvalid, "draining")
	must(t, kv, func(s *State) ([]base.Write, error) { return s.Undrain(name(0), start) })

	dead := Removal{Dead: true, Alive: down(name(0)), Now: start}
	s = must(t, kv, func(s *State) ([]base.Write, error) { return s.Remove(name(0), dead) })
	writes, err = s.Remove(name(0), dead)
	nothing(t, writes, err)
	refused(t, second(s.Drain(name(0), start)), base.ErrInvalid, "was removed")
	refused(t, second(s.Join(joining(0), start)), base.ErrInvalid, "was removed")
	refused(t, second(s.Remove(name(1), Removal{Dead: true, Alive: down(name(0), name(1))})), base.ErrInvalid, "left and needs")
	back := joining(0)
	back.Directory = dir(50)
	s = must(t, kv, func(s *State) ([]base.Write, error) { return s.Join(back, start) })
	if n, _ := s.Node(name(0)); n.State != Active || len(s.Members()) != 4 {
		t.Errorf("came back as %+v", n)
	}
	kv.verify(t)

	alone, _ := founded(t, 1, 1)
	refused(t, second(alone.Drain(name(0), start)), base.ErrInvalid, "last active")
	refused(t, second(alone.Remove(name(0), Removal{Dead: true})), base.ErrInvalid, "no active node")
}

func TestReplicas(t *testing.T) {
	_, kv := founded(t, 4, 4)
	var id uint64
	allocate := func(node string) func(s *State) ([]base.Write, error) {
		return func(s *State) (writes []base.Write, err error) { writes, id, err = s.AllocateReplica(0, node); return }
	}
	must(t, kv, allocate(name(3)))
	if id != 4 {
		t.Errorf("the fourth replica got id %d", id)
	}
	s := must(t, kv, allocate(name(3)))
	if r, _ := s.Shard(0); id != 4 || len(r.Replicas) != 4 {
		t.Errorf("a second one on the node: %d, %+v", id, r)
	}
	forget := func(s *State) ([]base.Write, error) { return s.ForgetReplica(0, 4) }
	s = must(t, kv, forget)
	writes, err := forget(s)
	nothing(t, writes, err)
	s = must(t, kv, allocate(name(3)))
	if id != 5 {
		t.Errorf("id %d after 4 was forgotten", id)
	}
	refused(t, second(s.ForgetReplica(0, 6)), base.ErrInvalid, "never had")
	refused(t, second(s.ForgetReplica(9, 1)), base.ErrNotFound, "no shard")
	wiped := joining(3)
	wiped.Directory = dir(99)
	s = must(t, kv, func(s *State) ([]base.Write, error) { return s.Join(wiped, start) })
	_, _, err = s.AllocateReplica(0, name(3))
	refused(t, err, base.ErrInvalid, "lost replica 5")
	for _, gone := range []uint64{5, 1, 2} {
		s = must(t, kv, func(s *State) ([]base.Write, error) { return s.ForgetReplica(0, gone) })
	}
	refused(t, second(s.ForgetReplica(0, 3)), base.ErrInvalid, "last one")
	kv.verify(t)
}

func TestUpdateSettings(t *testing.T) {
	s, kv := founded(t, 3, 2)
	writes, err := s.UpdateSettings(s.Settings())
	nothing(t, writes, err)
	for what, change := range map[string]func(*Settings){
		"never change": func(x *Settings) { x.Shards++ },
		"replication":  func(x *Settings) { x.Replication = 99 },
	} {
		next := s.Settings()
		change(&next)
		refused(t, second(s.UpdateSettings(next)), base.ErrInvalid, what)
	}
	raise := func(replication int, format uint32) func(s *State) ([]base.Write, error) {
		return func(s *State) ([]base.Write, error) {
			next := s.Settings()
			next.Replication, next.Format = replication, format
			return s.UpdateSettings(next)
		}
	}
	s = must(t, kv, raise(5, 2))
	refused(t, second(raise(5, 1)(s)), base.ErrInvalid, "cannot go back")
	kv.verify(t)
}

// TestRemovedNodesAreBounded removes more nodes than are remembered.
func TestRemovedNodesAreBounded(t *testing.T) {
	s, _ := founded(t, 2, 1)
	var items []base.Item
	items = append(items, s.items...)
	for i := range MaxRemoved {
		n := node(100 + i)
		n.State, n.Changed = Removed, start.AddDate(0, 0, MaxRemoved-i)
		items = append(items, base.Item{Key: nodeKey(n.ID), Value: encodeNode(&n), Version: 1})
	}
	extra := node(7)
	items = append(items, base.Item{Key: nodeKey(extra.ID), Value: encodeNode(&extra), Version: 1})
	s, err := Build(items)
	if err != nil {
		t.Fatal(err)
	}
	writes, err := s.Remove(extra.ID, Removal{Now: start})
	if err != nil {
		t.Fatal(err)
	}
	next, err := s.foresee(writes)
	if err != nil {
		t.Fatal(err)
	}
	oldest := fmt.Sprintf("node-%d", 100+MaxRemoved-1)
	if _, known := next.Node(oldest); known {
		t.Error("the oldest is still remembered")
	}
	if faults := Check(s, next); len(faults) > 0 {
		t.Error(faults)
	}
}
