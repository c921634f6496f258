package shard_test

import (
	"bufio"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/shard"
)

var update = flag.Bool("update", false, "write testdata/placement.txt anew")

// checkTarget returns what is wrong with the target of one group.
func checkTarget(nodes []shard.Node, g shard.Group, target []string) error {
	list, suspects := usable(nodes)
	byID := map[string]shard.Node{}
	for _, n := range list {
		byID[n.ID] = n
	}
	if !slices.IsSorted(target) || len(slices.Compact(slices.Clone(target))) != len(target) {
		return fmt.Errorf("not a sorted set: %v", target)
	}
	find := func(id string, vote bool) bool {
		return slices.ContainsFunc(g.Replicas, func(r shard.Replica) bool {
			return r.Node == id && !r.Lost && !r.Orphan && !r.Removed && (!vote || r.Member && r.Voter)
		})
	}
	has := func(id string) bool { return find(id, false) }
	kept := 0
	for _, id := range target {
		n, ok := byID[id]
		if !ok || n.State == shard.NodeSuspect && !has(id) {
			return fmt.Errorf("%s may have none", id)
		}
		if n.State == shard.NodeSuspect {
			kept++
		}
	}
	size := min(g.Factor, len(list))
	if size > 0 {
		size -= 1 - size%2
	}
	eligible := 0
	for _, n := range list {
		if n.State == shard.NodeActive || has(n.ID) {
			eligible++
		}
		if n.State == shard.NodeSuspect && find(n.ID, true) && !slices.Contains(target, n.ID) && kept < len(target) {
			return fmt.Errorf("suspect %s loses its replica to %v", n.ID, target)
		}
	}
	if eligible >= size && len(target) != size || len(target) > size || eligible > 0 && len(target) == 0 {
		return fmt.Errorf("%d replicas, want %d", len(target), size)
	}
	if suspects {
		return nil
	}
	return checkSpread(list, target)
}

// checkSpread wants no zone to have two replicas more than another one that
// has a node left.
func checkSpread(nodes []shard.Node, target []string) error {
	in, free := map[string]int{}, map[string]int{}
	for _, n := range nodes {
		if slices.Contains(target, n.ID) {
			in[n.Zone]++
		} else {
			free[n.Zone]++
		}
	}
	for crowded, n := range in {
		for other := range free {
			if n > in[other]+1 {
				return fmt.Errorf("%d replicas in %s, %d in %s: %v", n, crowded, in[other], other, target)
			}
		}
	}
	return nil
}

func TestTargetOfRandomClusters(t *testing.T) {
	r := testkit.Rand(t)
	for i := range 3000 {
		s := shape{nodes: 20, zones: 5, shards: 40, factor: 7, weights: i%2 == 0, states: true}
		if i%50 == 0 {
			s.shards = 256
		}
		nodes := randomNodes(r, s)
		groups := randomGroups(r, s, nodes)
		target := shard.Target(shard.Config{}, nodes, groups)
		for j, g := range groups {
			if err := checkTarget(nodes, g, target[j]); err != nil {
				t.Fatalf("round %d, shard %d: %v\nnodes %v\ngroup %+v", i, g.Shard, err, nodes, g)
			}
		}
		if _, suspects := usable(nodes); !suspects && i%3 == 0 {
			checkBalance(t, nodes, target)
		}
		// Once there, nothing is left to do.
		again := shard.Target(shard.Config{}, nodes, settled(groups, target, nil))
		if _, suspects := usable(nodes); !suspects && !reflect.DeepEqual(again, target) {
			t.Fatalf("round %d: not at rest: %d more moves", i, arrivals(target, again))
		}
		checkOrderIsNothing(t, r, nodes, groups, target)
	}
}

// checkOrderIsNothing shuffles the input.
func checkOrderIsNothing(t *testing.T, r *rand.Rand, nodes []shard.Node, groups []shard.Group, want [][]string) {
	t.Helper()
	nodes, order := slices.Clone(nodes), r.Perm(len(groups))
	r.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	shuffled := make([]shard.Group, len(groups))
	for i, j := range order {
		shuffled[i] = groups[j]
	}
	target := shard.Target(shard.Config{}, nodes, shuffled)
	for i, j := range order {
		if !slices.Equal(target[i], want[j]) {
			t.Fatalf("shard %d: %v or %v, depending on the order", shuffled[i].Shard, target[i], want[j])
		}
	}
	a, b := shard.Leaders(nodes, groups, want), shard.Leaders(nodes, shuffled, target)
	for i, j := range order {
		if a[j] != b[i] {
			t.Fatalf("shard %d: leader %q or %q, depending on the order", shuffled[i].Shard, a[j], b[i])
		}
	}
}

// fairShares is an independent computation of how many replicas each node
// should have: the level of the heaviest per weight is lowered as far as zones
// and the one replica per node and shard allow. It pours the replicas out drop
// by drop.
func fairShares(nodes []shard.Node, target [][]string) map[string]float64 {
	const drops = 12 // per replica
	inZone, zones := map[string]int{}, []string{}
	for _, n := range nodes {
		if inZone[n.Zone] == 0 {
			zones = append(zones, n.Zone)
		}
		inZone[n.Zone]++
	}
	least, most := map[string]float64{}, map[string]float64{}
	total := 0
	for _, set := range target {
		total += len(set)
		got, left := map[string]int{}, len(set)
		for left >= 1 {
			open := 0
			for _, z := range zones {
				if got[z] < inZone[z] {
					open++
				}
			}
			for _, z := range zones {
				if got[z] < inZone[z] {
					most[z]++
					if open <= left {
						least[z]++
					}
					got[z]++
				}
			}
			left -= open
		}
	}
	share, zone := map[string]float64{}, map[string]float64{}
	pour := func(amount float64, may func(n shard.Node) bool) {
		for range int(math.Round(amount * drops)) {
			best := -1
			for i, n := range nodes {
				if share[n.ID]+1.0/drops > float64(len(target))+1e-9 || !may(n) {
					continue
				}
				if best < 0 || share[n.ID]/weight(n) < share[nodes[best].ID]/weight(nodes[best]) {
					best = i
				}
			}
			if best < 0 {
				return
			}
			share[nodes[best].ID] += 1.0 / drops
			zone[nodes[best].Zone] += 1.0 / drops
		}
	}
	for _, z := range zones {
		pour(least[z], func(n shard.Node) bool { return n.Zone == z })
	}
	sum := 0.0
	for _, z := range zones {
		sum += zone[z]
	}
	pour(float64(total)-sum, func(n shard.Node) bool { return zone[n.Zone]+1.0/drops <= most[n.Zone]+1e-9 })
	return share
}

func weight(n shard.Node) float64 {
	if n.Weight == 0 {
		return 1
	}
	return n.Weight
}

// checkBalance wants every node within 1.2x of its share in both directions,
// or one replica off it where that is more.
func checkBalance(t *testing.T, nodes []shard.Node, target [][]string) {
	t.Helper()
	list, _ := usable(nodes)
	share, have := fairShares(list, target), count(target)
	for _, n := range list {
		f, got := share[n.ID], float64(have[n.ID])
		if got > math.Ceil(max(1.2*f, f+1)) || got < math.Floor(min(f/1.2, f-1)) {
			t.Fatalf("%s has %v replicas of %d shards, share %.2f\nall: %v\nshares: %v\n%v", n.ID, got, len(target), f, have, share, nodes)
		}
	}
}

// TestTargetWithinTheMean has no zones and no weights: there the share is
// simply the mean.
func TestTargetWithinTheMean(t *testing.T) {
	r := testkit.Rand(t)
	for range 300 {
		nodes := randomNodes(r, shape{nodes: 20, zones: 1})
		groups := founded(oneOf(r, 256), oneOf(r, 7))
		have := count(shard.Target(shard.Config{}, nodes, groups))
		total := 0
		for _, n := range have {
			total += n
		}
		mean := float64(total) / float64(len(nodes))
		for _, n := range nodes {
			got := float64(have[n.ID])
			if got > max(1.2*mean, mean+1) || got < min(mean/1.2, mean-1) {
				t.Fatalf("%s has %v, mean %.2f: %v", n.ID, got, mean, have)
			}
		}
	}
}

// TestTargetMovesLittle adds and takes away a node. Ideal is what the new one
// should have, or what the old one had.
func TestTargetMovesLittle(t *testing.T) {
	r := testkit.Rand(t)
	var added, ideal, removed, had float64
	for i := range 240 {
		s := shape{nodes: 19, zones: 5, weights: i%2 == 0}
		if i%4 < 2 {
			s.zones = 1
		}
		nodes := randomNodes(r, s)
		groups := founded(oneOf(r, 96), 3)
		if len(nodes) < 4 {
			continue
		}
		before := shard.Target(shard.Config{}, nodes, groups)
		groups = settled(groups, before, nil)
		fresh := shard.Node{ID: "new", Zone: fmt.Sprintf("zone-%d", r.IntN(s.zones)), Weight: nodes[0].Weight}
		grown := append(slices.Clone(nodes), fresh)
		after := shard.Target(shard.Config{}, grown, groups)
		checkBalance(t, grown, after)
		moves, share := float64(arrivals(before, after)), fairShares(grown, after)["new"]
		if moves > 1.5*share+4 && s.zones == 1 || moves > 3*share+10 {
			t.Errorf("added: %v moves, ideal %.1f; %d nodes, %d shards, %d zones", moves, share, len(grown), len(groups), s.zones)
		}
		added, ideal = added+moves, ideal+share

		gone := slices.Clone(nodes)
		gone[0].State = shard.NodeDraining
		after = shard.Target(shard.Config{}, gone, groups)
		checkBalance(t, gone, after)
		moves, own := float64(arrivals(before, after)), float64(count(before)[gone[0].ID])
		if moves > 1.5*own+4 && s.zones == 1 || moves > 3*own+10 {
			t.Errorf("removed: %v moves, ideal %v; %d nodes, %d shards, %d zones", moves, own, len(nodes), len(groups), s.zones)
		}
		removed, had = removed+moves, had+own
	}
	t.Logf("added: %v moves, ideal %.0f; removed: %v moves, ideal %v", added, ideal, removed, had)
	if added > 1.15*ideal || removed > 1.15*had {
		t.Errorf("added: %v moves, ideal %.0f; removed: %v moves, ideal %v", added, ideal, removed, had)
	}
}

// TestTargetStaysWhileMovesAreMade makes some of the moves by half: the new
// replica is there, the old one too. Nearly all of the new ones have to stay,
// and what is left to do has to become less.
func TestTargetStaysWhileMovesAreMade(t *testing.T) {
	r := testkit.Rand(t)
	made, undone := 0, 0
	for i := range 500 {
		nodes := randomNodes(r, shape{nodes: 12, zones: 4, weights: i%2 == 0})
		groups := founded(oneOf(r, 64), oneOf(r, 5))
		groups = settled(groups, shard.Target(shard.Config{}, nodes, groups), nil)
		for range oneOf(r, 3) {
			nodes = append(nodes, shard.Node{ID: fmt.Sprintf("new-%d", len(nodes)), Zone: fmt.Sprintf("zone-%d", r.IntN(5))})
		}
		if r.IntN(2) == 0 {
			nodes[0].State = shard.NodeDraining
		}
		before := make([][]string, len(groups))
		target := shard.Target(shard.Config{}, nodes, groups)
		half := slices.Clone(groups)
		for j := range groups {
			for _, replica := range groups[j].Replicas {
				before[j] = append(before[j], replica.Node)
			}
			half[j].Replicas = slices.Clone(groups[j].Replicas)
			for _, node := range target[j] {
				if !slices.Contains(before[j], node) && r.IntN(2) == 0 {
					half[j].Replicas = append(half[j].Replicas, shard.Replica{ID: 200 + uint64(len(half[j].Replicas)), Node: node})
				}
			}
		}
		after := shard.Target(shard.Config{}, nodes, half)
		for j := range groups {
			for _, replica := range half[j].Replicas {
				if replica.ID < 200 {
					continue
				}
				if made++; !slices.Contains(after[j], replica.Node) {
					undone++
				}
			}
		}
	}
	t.Logf("%d made, %d undone", made, undone)
	if undone > made/50 {
		t.Errorf("%d made, %d undone", made, undone)
	}
}

func TestTargetKeepsMinCopies(t *testing.T) {
	nodes := []shard.Node{{ID: "a"}, {ID: "b"}, {ID: "c", State: shard.NodeGone}}
	groups := settled(founded(30, 3), slices.Repeat([][]string{{"a", "b", "c"}}, 30), nil)
	for _, c := range []struct{ min, factor, want int }{{0, 3, 1}, {1, 3, 1}, {2, 3, 2}, {3, 3, 2}, {2, 1, 1}} {
		for i := range groups {
			groups[i].Factor = c.factor
		}
		for i, target := range shard.Target(shard.Config{MinCopies: c.min}, nodes, groups) {
			if len(target) != c.want {
				t.Fatalf("MinCopies %d, factor %d, shard %d: %v", c.min, c.factor, i, target)
			}
		}
	}
}

// What has not arrived yet on a node that is suspect holds up only what can wait.
func TestTargetWaitsForNobody(t *testing.T) {
	for _, c := range []struct{ name, replicas, states, want string }{
		{"draining, and another place", "A1 B2 C3 D4~", "C=draining D=suspect F=gone G=gone", "A B E"},
		{"draining, and the id was given only", "A1 B2 C3 D4.", "C=draining D=suspect F=gone G=gone", "A B E"},
		{"draining, and no other place", "A1 B2 C3 D4~", "C=draining D=suspect E=gone F=gone G=gone", "A B D"},
		{"a voter stays", "A1 B2 C3 D4", "C=draining D=suspect", "A B D"},
		{"of two, one can be elsewhere", "A1 B2 C3 D4~ E5~", "B=gone C=gone D=suspect E=suspect G=gone", "A D F"},
	} {
		nodes, g := parse(t, c.replicas, c.states)
		if got := strings.Join(shard.Target(shard.Config{}, nodes, []shard.Group{g})[0], " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	nodes, g := parse(t, "A1 B2 C3 D4~", "D=suspect")
	if got := shard.Target(shard.Config{}, nodes, []shard.Group{g})[0]; !slices.Contains(got, "D") {
		t.Errorf("nobody waits, and it is given up: %v", got)
	}
}

func TestTargetOfNothing(t *testing.T) {
	if got := shard.Target(shard.Config{}, nil, founded(2, 3)); len(got) != 2 || len(got[0])+len(got[1]) > 0 {
		t.Errorf("no nodes: %v", got)
	}
	if got := shard.Target(shard.Config{}, []shard.Node{{ID: "a", Weight: math.NaN()}, {ID: "b", Weight: math.Inf(1)}}, founded(2, 3)); len(got[0]) != 1 {
		t.Errorf("strange weights: %v", got)
	}
	if got := shard.Target(shard.Config{}, []shard.Node{{ID: "a"}}, nil); len(got) != 0 {
		t.Errorf("no groups: %v", got)
	}
}

// TestTargetGolden guards against a change by accident: no disk depends on
// where replicas go, but a change moves the data of every cluster.
func TestTargetGolden(t *testing.T) {
	const name = "testdata/placement.txt"
	var b strings.Builder
	fmt.Fprintln(&b, "# Where replicas go in some new clusters, and after some changes. Written by go test ./shard -run TestTargetGolden -update.")
	line := func(title string, target [][]string) {
		fmt.Fprintf(&b, "\n%s\n", title)
		for i, nodes := range target {
			fmt.Fprintf(&b, "%d: %s\n", i, strings.Join(nodes, " "))
		}
	}
	nodes := []shard.Node{{ID: "a", Zone: "1"}, {ID: "b", Zone: "1"}, {ID: "c", Zone: "2"}, {ID: "d", Zone: "2"}, {ID: "e", Zone: "3"}}
	target := shard.Target(shard.Config{}, nodes, founded(12, 3))
	line("five nodes in three zones, factor 3", target)
	groups := settled(founded(12, 3), target, nil)
	line("and a sixth in the third zone", shard.Target(shard.Config{}, append(slices.Clone(nodes), shard.Node{ID: "f", Zone: "3"}), groups))
	nodes[0].State = shard.NodeGone
	line("and without the first", shard.Target(shard.Config{}, nodes, groups))
	line("weights 1, 2 and 3, factor 1", shard.Target(shard.Config{},
		[]shard.Node{{ID: "a"}, {ID: "b", Weight: 2}, {ID: "c", Weight: 3}}, founded(12, 1)))
	catalog := append(founded(4, 3), shard.Group{Shard: base.MaxShards, Factor: 5})
	line("six nodes, factor 3, and the catalog with 5", shard.Target(shard.Config{},
		[]shard.Node{{ID: "a"}, {ID: "b"}, {ID: "c"}, {ID: "d"}, {ID: "e"}, {ID: "f"}}, catalog))
	if *update {
		if err := os.WriteFile(name, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	wantLines := bufio.NewScanner(strings.NewReader(string(want)))
	for n := 1; wantLines.Scan(); n++ {
		got, rest, _ := strings.Cut(b.String(), "\n")
		b.Reset()
		b.WriteString(rest)
		if got != wantLines.Text() {
			t.Fatalf("%s:%d: got %q, want %q", name, n, got, wantLines.Text())
		}
	}
	if b.Len() > 0 {
		t.Fatalf("more than in %s: %q", name, b.String())
	}
}

// TestTargetFollowsWeights: rendezvous hashing alone follows them on average,
// the bound makes it certain.
func TestTargetFollowsWeights(t *testing.T) {
	nodes := []shard.Node{{ID: "a"}, {ID: "b"}, {ID: "c", Weight: 2}, {ID: "d", Weight: 4}}
	have := count(shard.Target(shard.Config{}, nodes, founded(160, 1)))
	if want := map[string]int{"a": 20, "b": 20, "c": 40, "d": 80}; !maps.Equal(have, want) {
		t.Errorf("got %v, want %v", have, want)
	}
}

func BenchmarkTarget(b *testing.B) {
	for _, n := range []int{30, 256, 1024} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			nodes := randomNodes(testkit.NewRand(1), shape{nodes: 1, zones: 1})
			for i := range 19 {
				nodes = append(nodes, shard.Node{ID: fmt.Sprintf("more-%d", i)})
			}
			groups := settled(founded(n, 3), shard.Target(shard.Config{}, nodes[1:], founded(n, 3)), nil)
			b.ReportAllocs()
			for b.Loop() {
				shard.Target(shard.Config{}, nodes, groups)
			}
		})
	}
}
