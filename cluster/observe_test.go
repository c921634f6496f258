package cluster

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/cluster/internal/catalog"
	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/shard"
)

// A node is gone after the grace only, and only silence that was seen counts.
func TestSilences(t *testing.T) {
	const grace, steady = 60 * time.Second, 10 * time.Second
	for _, test := range []struct {
		name  string
		looks string // one a second: s silent, h heard, P a pause of an hour
		gone  bool
		doubt bool
	}{
		{"always heard", strings.Repeat("h", 100), false, false},
		{"silent for less", strings.Repeat("s", 60), false, false},
		{"silent for as long", strings.Repeat("s", 62), true, false},
		{"twice for less", strings.Repeat("s", 50) + strings.Repeat("h", 15) + strings.Repeat("s", 50), false, false},
		{"now and then", strings.Repeat("sssssh", 14), false, true},
		{"now and then, and silent now", strings.Repeat("sssssh", 14) + "s", true, false},
		{"back", strings.Repeat("s", 70) + "hh", false, true},
		{"back for good", strings.Repeat("s", 70) + strings.Repeat("h", 20), false, false},
		{"nobody looked", "s" + "P" + "s", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s silences
			now := time.Now()
			for _, look := range test.looks {
				now = now.Add(time.Second)
				if look == 'P' {
					now = now.Add(time.Hour)
					continue
				}
				s.note([]string{"a", "b"}, func(node string) bool { return node == "a" && look == 's' }, now, steady)
			}
			if gone, doubt := s.longer("a", grace), s.doubtful("a", grace); gone != test.gone || doubt != test.doubt {
				t.Errorf("gone %v, doubtful %v", gone, doubt)
			}
			if s.longer("b", 0) || s.doubtful("b", 0) {
				t.Error("the other one is silent too")
			}
		})
	}
}

// state returns a catalog of three nodes with one shard on all of them.
func threeNodes(t *testing.T) *catalog.State {
	t.Helper()
	s, err := catalog.Build(nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.UnixMicro(1_700_000_000_000_000)
	var nodes []catalog.NodeRecord
	for i := range 3 {
		nodes = append(nodes, catalog.NodeRecord{
			ID: fmt.Sprint("n", i), Directory: fmt.Sprintf("%032x", i+1), Addr: fmt.Sprintf("a%d:1", i), State: catalog.Active, Joined: now, Changed: now,
		})
	}
	all := []string{"n0", "n1", "n2"}
	writes, err := s.Found(catalog.Settings{ClusterID: strings.Repeat("a", 32), Shards: 1, Replication: 3, Format: 1, Founded: now},
		nodes, map[base.ShardID][]string{0: all, base.CatalogShard: all})
	if err != nil {
		t.Fatal(err)
	}
	return applied(t, s, writes)
}

func applied(t *testing.T, s *catalog.State, writes []base.Write) *catalog.State {
	t.Helper()
	var items []base.Item
	for _, w := range writes {
		if w.Kind == base.WritePut {
			items = append(items, base.Item{Key: w.Key, Value: w.Value, Version: s.Epoch() + 1})
		}
	}
	next, err := catalog.Build(items)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestObservedGroup(t *testing.T) {
	state := threeNodes(t)
	on := func(node string, replica uint64) replication.Member {
		return replication.Member{Replica: replica, Node: node}
	}
	voters := []replication.Member{on("n0", 1), on("n1", 2)}
	status := func(replica, leader, term, applied uint64) replication.ReplicaStatus {
		return replication.ReplicaStatus{Replica: replica, Leader: leader, Term: term, Applied: applied}
	}
	leads := func(replica, term uint64) replication.ReplicaStatus {
		s := status(replica, replica, term, 5000)
		s.Voters, s.Learners, s.ConfigChange = voters, []replication.Member{on("n2", 3)}, 77
		return s
	}
	plain := []shard.Replica{{ID: 1, Node: "n0"}, {ID: 2, Node: "n1"}, {ID: 3, Node: "n2"}}
	with := func(change func(r []shard.Replica) []shard.Replica) []shard.Replica {
		r := slices.Clone(plain)
		for i := range r {
			r[i].Member, r[i].Voter = true, i < 2
		}
		return change(r)
	}
	same := func(r []shard.Replica) []shard.Replica { return r }
	for _, test := range []struct {
		name    string
		answers map[string][]replication.ReplicaStatus
		leader  string
		want    []shard.Replica
	}{
		{"nobody answers", nil, "", plain},
		{"nobody leads", map[string][]replication.ReplicaStatus{"n0": {status(1, 2, 4, 10)}}, "", plain},
		{"the later term leads", map[string][]replication.ReplicaStatus{"n0": {leads(1, 3)}, "n1": {leads(2, 4)}}, "n1", with(same)},
		{"a learner that is far behind", map[string][]replication.ReplicaStatus{"n0": {leads(1, 3)}, "n2": {status(3, 1, 3, 3000)}}, "n0", with(same)},
		{"a learner of an earlier term", map[string][]replication.ReplicaStatus{"n0": {leads(1, 3)}, "n2": {status(3, 1, 2, 5000)}}, "n0", with(same)},
		{"another replica there", map[string][]replication.ReplicaStatus{"n0": {leads(1, 3)}, "n2": {status(9, 1, 3, 5000)}}, "n0", with(same)},
		{"a learner that has caught up", map[string][]replication.ReplicaStatus{"n0": {leads(1, 3)}, "n2": {status(3, 1, 3, 4990)}}, "n0",
			with(func(r []shard.Replica) []shard.Replica { r[2].CaughtUp = true; return r })},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := &observation{state: state, answers: test.answers}
			g := o.groups()[0]
			if g.Leader != test.leader || !reflect.DeepEqual(g.Replicas, test.want) {
				t.Errorf("leader %q, replicas %+v", g.Leader, g.Replicas)
			}
			if test.leader != "" && g.ConfigChange != 77 {
				t.Errorf("config change %d", g.ConfigChange)
			}
		})
	}
	t.Run("what raft has and the catalog has not, and the other way round", func(t *testing.T) {
		s := leads(1, 3)
		s.Voters, s.Learners, s.Removed = []replication.Member{on("n0", 1), on("n9", 9)}, nil, []uint64{2, 5}
		o := &observation{state: state, answers: map[string][]replication.ReplicaStatus{"n0": {s}}}
		want := []shard.Replica{
			{ID: 1, Node: "n0", Member: true, Voter: true}, {ID: 2, Node: "n1", Removed: true}, {ID: 3, Node: "n2"},
			{ID: 9, Node: "n9", Member: true, Voter: true, Orphan: true},
		}
		if got := o.groups()[0].Replicas; !reflect.DeepEqual(got, want) {
			t.Errorf("replicas %+v", got)
		}
	})
}

func TestWanted(t *testing.T) {
	for _, test := range []struct{ factor, nodes, want int }{
		{3, 0, 0}, {3, 1, 1}, {3, 2, 2}, {3, 3, 3}, {3, 9, 3}, {5, 4, 3}, {5, 5, 5}, {1, 5, 1}, {2, 5, 2},
	} {
		if got := wanted(test.factor, test.nodes); got != test.want {
			t.Errorf("factor %d, %d nodes: %d, want %d", test.factor, test.nodes, got, test.want)
		}
	}
}
