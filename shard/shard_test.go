package shard_test

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/shard"
)

// TestOfGolden reads testdata/golden.txt: a quoted primary, a shard count and
// the shard. The lines may be added to, never changed: data directories depend
// on them.
func TestOfGolden(t *testing.T) {
	f, err := os.Open("testdata/golden.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := 0
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := sc.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		primary, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		var shards int
		var want base.ShardID
		if _, err := fmt.Sscan(line[len(quoted):], &shards, &want); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if got := shard.Of(primary, shards); got != want {
			t.Errorf("Of(%q, %d) = %d, want %d", primary, shards, got, want)
		}
		lines++
	}
	if lines < 20 {
		t.Fatalf("only %d golden vectors", lines)
	}
}

func TestOfSpreads(t *testing.T) {
	const shards, perShard = 30, 1000
	r := testkit.Rand(t)
	for name, primary := range map[string]func(i int) string{
		"numbered": func(i int) string { return "user:" + strconv.Itoa(i) },
		"random":   func(int) string { return string(testkit.Bytes(r, 12)) },
	} {
		var counts [shards]int
		for i := range shards * perShard {
			counts[shard.Of(primary(i), shards)]++
		}
		for s, n := range counts {
			// Ten standard deviations of about 31.
			if n < perShard-310 || n > perShard+310 {
				t.Errorf("%s: shard %d has %d of %d primaries", name, s, n, shards*perShard)
			}
		}
	}
}

func TestOfRefusesCounts(t *testing.T) {
	for _, shards := range []int{-1, 0, base.MaxShards + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d shards accepted", shards)
				}
			}()
			shard.Of("p", shards)
		}()
	}
}

func BenchmarkOf(b *testing.B) {
	for _, n := range []int{8, 32, 256} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			primary := strings.Repeat("x", n)
			b.ReportAllocs()
			for b.Loop() {
				shard.Of(primary, 30)
			}
		})
	}
}
