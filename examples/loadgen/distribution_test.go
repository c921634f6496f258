package main

import (
	"math"
	"slices"
	"testing"

	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/shard"
)

// near allows six standard deviations of a frequency: a true one fails in one of
// hundreds of millions of runs.
func near(got, want float64, draws int) bool {
	return math.Abs(got-want) <= 6*math.Sqrt(want*(1-want)/float64(draws))
}

// Every rank comes as often as the law says, for exponents around the difficult
// one of 1 and for few and many ranks.
func TestZipf(t *testing.T) {
	r := testkit.Rand(t)
	const draws = 50_000
	for _, theta := range []float64{0, 0.5, 0.99, 1, 1.000001, 1.5, 5} {
		for _, n := range []int{1, 2, 10, 1000} {
			z := newZipf(n, theta)
			counts := make([]int, n)
			for range draws {
				counts[z.choose(r)]++
			}
			total := 0.0
			for k := range n {
				total += math.Pow(float64(k+1), -theta)
			}
			for k, count := range counts {
				want := math.Pow(float64(k+1), -theta) / total
				if got := float64(count) / draws; !near(got, want, draws) && math.Abs(got-want)*draws > 3 {
					t.Errorf("theta %v, rank %d of %d: %v, want %v", theta, k, n, got, want)
				}
			}
		}
	}
}

func TestUniformAndHotSet(t *testing.T) {
	r := testkit.Rand(t)
	const draws, n = 200_000, 50
	counts := make([]int, n)
	for range draws {
		counts[uniform(n).choose(r)]++
	}
	for i, count := range counts {
		if !near(float64(count)/draws, 1.0/n, draws) {
			t.Errorf("%d came %d times of %d", i, count, draws)
		}
	}
	for _, test := range []struct {
		hot    int
		chance float64
	}{{5, 0.9}, {1, 0}, {50, 0.5}, {49, 1}} {
		h := hotSet{n: n, hot: test.hot, chance: test.chance}
		hot := 0
		clear(counts)
		for range draws {
			i := h.choose(r)
			counts[i]++
			if i < test.hot {
				hot++
			}
		}
		want := test.chance
		if test.hot == n {
			want = 1
		}
		if !near(float64(hot)/draws, want, draws) {
			t.Errorf("%+v: %d of %d were hot", h, hot, draws)
		}
		if want < 1 && slices.Min(counts[test.hot:]) == 0 {
			t.Errorf("%+v: some that are not hot never came", h)
		}
	}
}

// A scatter is a permutation, so that it changes who is hot and not how hot.
func TestScatter(t *testing.T) {
	for n := 1; n < 500; n++ {
		s := newScatter(n)
		seen := make([]bool, n)
		for i := range n {
			to := s.place(i)
			if to < 0 || to >= n || seen[to] {
				t.Fatalf("%d of %d goes to %d", i, n, to)
			}
			seen[to] = true
		}
	}
	if s := newScatter(maxKeys); s.place(maxKeys-1) < 0 || s.place(maxKeys-1) >= maxKeys {
		t.Error("it overflows")
	}
}

func TestChoosersOfFlags(t *testing.T) {
	r := testkit.Rand(t)
	for _, dist := range []string{distUniform, distZipf, distHotSet} {
		for _, n := range []int{1, 7} {
			c := newChooser(&workload{Distribution: dist, Theta: 0.99, HotKeys: 0.01, HotOps: 0.9}, n)
			for range 1000 {
				if i := c.choose(r); i < 0 || i >= n {
					t.Fatalf("%s chose %d of %d", dist, i, n)
				}
			}
		}
	}
}

// The generator knows the shards of keys, which the cache does not tell.
func TestShardOf(t *testing.T) {
	for i := range 1000 {
		primary := accountOf(i).Primary
		if got, want := shardOf(primary, 30), int(shard.Of(primary, 30)); got != want {
			t.Fatalf("%s is on %d, not %d", primary, want, got)
		}
	}
}

func TestKeysAreOrdered(t *testing.T) {
	if keyOf(12).String() != "key/000000012:" || rowOf(3, 7).Secondary != "007" || accountOf(123456).Primary != "account/123456" {
		t.Error(keyOf(12), rowOf(3, 7), accountOf(123456))
	}
	if !keysFrom(9).Contains(keyOf(10)) || keysFrom(9).Contains(keyOf(8)) || keysFrom(9).Contains(rowOf(0, 0)) || !rowsFrom(1, 5).Contains(rowOf(1, 127)) {
		t.Error("ranges")
	}
}

// What is prepared is what its name says.
func TestPrepare(t *testing.T) {
	seed := testkit.Seed(t)
	for _, dist := range []string{distUniform, distZipf, distHotSet} {
		w := &workload{Keys: 100, Accounts: 40, ValueBytes: 10, Distribution: dist, Theta: 5, HotKeys: 0.01, HotOps: 1}
		c := newClient(newTarget(nil, w, 30), seed, 1)
		for range 100 {
			c.prepare(opMultiPut)
			if len(c.opSet) != batchSize {
				t.Fatalf("%s: a batch of %d", dist, len(c.opSet))
			}
			seen := map[string]bool{}
			for _, key := range c.keySet {
				seen[key.Primary] = true
			}
			if len(seen) != batchSize {
				t.Fatalf("%s: a batch has only %d primaries", dist, len(seen))
			}
			c.prepare(opMultiGetPrimary)
			if len(c.keySet) != batchSize || c.keySet[0].Primary != c.keySet[batchSize-1].Primary {
				t.Fatalf("%s: a batch inside one primary: %v", dist, c.keySet)
			}
			c.prepare(opTransfer)
			if c.amount < 1 || shardOf(c.key.Primary, 30) == shardOf(c.other.Primary, 30) {
				t.Fatalf("%s: %d from %v to %v", dist, c.amount, c.key, c.other)
			}
		}
	}
	w := &workload{Keys: 100, Accounts: 2, Distribution: distUniform}
	c := newClient(newTarget(nil, w, 1), seed, 1)
	if c.prepare(opTransfer); c.key == c.other {
		t.Error("on one shard money goes to where it was")
	}
	if a, b := newClient(newTarget(nil, w, 1), seed, 1), newClient(newTarget(nil, w, 1), seed, 2); a.random.Uint64() == b.random.Uint64() {
		t.Error("two clients do the same")
	}
}
