package arch

import (
	"go/token"
	"strings"
	"testing"
)

// source parses a file that a rule is tried on.
func source(t *testing.T, name, src string) []*file {
	t.Helper()
	f, err := parse(token.NewFileSet(), name, []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return []*file{f}
}

// TestRulesFindFaults shows that each rule can fail: a check that cannot is
// worth nothing.
func TestRulesFindFaults(t *testing.T) {
	const m = `"github.com/distributedcache/cache`
	for _, c := range []struct{ rule, file, src, want string }{
		{"table", "newpkg/a.go", `package newpkg`, "not in the table"},
		{"table", "storage/internal/util/a.go", `package util`, "not in the table"},
		{"imports", "storage/a.go", `package storage; import _ ` + m + `/replication"`, "higher layers"},
		{"imports", "storage/a.go", `package storage; import _ ` + m + `"`, "higher layers"},
		{"imports", "shard/a.go", `package shard; import _ ` + m + `/metrics"`, "higher layers"},
		{"imports", "storage/a.go", `package storage; import _ ` + m + `/shard"`, "told the shard"},
		{"imports", "cluster/a.go", `package cluster; import _ ` + m + `/storage"`, "through replication"},
		{"imports", "cluster/a.go", `package cluster; import _ ` + m + `/replication/internal/fsm"`, "belongs to replication"},
		{"imports", "storage/a.go", `package storage; import _ ` + m + `/internal/testkit"`, "only tests"},
		{"imports", "examples/bank/a.go", `package main; import _ ` + m + `/internal/base"`, "a user can write"},
		{"owners", "internal/node/a.go", `package node; import _ "github.com/cockroachdb/pebble/v2/vfs"`, "belongs to"},
		{"owners", "storage/a.go", `package storage; import _ "github.com/nobody/knows"`, "a decision"},
		{"owners", "cluster/a.go", `package cluster; import _ "github.com/lni/dragonboat/v4"`, "belongs to"},
		{"owners", "storage/a.go", `package storage; import _ "github.com/prometheus/client_golang/prometheus"`, "belongs to"},
		{"owners", "a.go", `package cache; import p "github.com/prometheus/client_golang/prometheus"; type X struct { C p.Collector }`, "not Collector"},
		{"globals", "shard/a.go", `package shard; func init() {}`, "init function"},
		{"globals", "shard/a.go", `package shard; var table = map[int]int{}`, "variable table"},
		{"globals", "shard/a.go", `package shard; import "errors"; var notNamed = errors.New("x")`, "variable notNamed"},
		{"globals", "examples/bank/a.go", `package main; var x int`, "variable x"},
		{"banned", "shard/a.go", `package shard; import "os"; func f() { os.Exit(1) }`, "os.Exit"},
		{"banned", "shard/a.go", `package shard; import l "log"; func f() { l.Fatal() }`, "log.Fatal"},
		{"banned", "shard/a.go", `package shard; func f() { println("x") }`, "println"},
		{"banned", "shard/a.go", `package shard; import "fmt"; func f() { fmt.Println() }`, "fmt.Println"},
		{"banned", "shard/a.go", `package shard; import "os"; var w = os.Stderr`, "os.Stderr"},
		{"banned", "shard/a.go", `package shard; import "runtime"; func f() { runtime.GOMAXPROCS(4) }`, "GOMAXPROCS"},
		{"statemachines", "replication/internal/kvfsm/a.go", `package kvfsm; import _ "github.com/lni/dragonboat/v4"`, "state machine"},
		{"docs", "shard/a.go", `package shard; func F() {}`, "F has no doc"},
		{"docs", "shard/a.go", `package shard; type T struct{}`, "T has no doc"},
		{"docs", "shard/a.go", `package shard; const C = 1`, "C has no doc"},
		{"docs", "shard/a.go", "package shard\n// T is.\ntype T[K any] struct{}\nfunc (T[K]) M() {}", "M has no doc"},
		{"docs", "shard/a.go", `package shard`, "no package comment"},
	} {
		faults := strings.Join(rules[c.rule](source(t, c.file, c.src)), "\n")
		if !strings.Contains(faults, c.want) {
			t.Errorf("%s on %s %q: %q, want %q in it", c.rule, c.file, c.src, faults, c.want)
		}
	}
}

// TestRulesAllow shows that the rules let pass what they should.
func TestRulesAllow(t *testing.T) {
	const m = `"github.com/distributedcache/cache`
	for _, c := range []struct{ rule, file, src string }{
		{"imports", "internal/node/a.go", `package node; import (_ ` + m + `/storage"; _ ` + m + `/metrics")`},
		{"imports", "replication/a.go", `package replication; import _ ` + m + `/replication/internal/kvfsm"`},
		{"imports", "replication/internal/kvfsm/a.go", `package kvfsm; import _ ` + m + `/storage"`},
		{"imports", "examples/bank/a.go", `package main; import _ ` + m + `"`},
		{"imports", "storage/a_test.go", `package storage; import _ ` + m + `/internal/testkit"`},
		{"imports", "internal/harness/a.go", `package harness; import (_ ` + m + `/internal/testkit"; _ ` + m + `")`},
		{"owners", "internal/node/a_test.go", `package node; import _ "github.com/cockroachdb/pebble/v2"`},
		{"owners", "replication/internal/logstore/a.go", `package logstore; import _ "github.com/cockroachdb/pebble/v2"`},
		{"owners", "a.go", `package cache; import p "github.com/prometheus/client_golang/prometheus"; type X struct { R p.Registerer }`},
		{"owners", "shard/a.go", `package shard; import _ "net/http"`},
		{"globals", "shard/a.go", `package shard; import "errors"; var ErrX = errors.New("x"); var _ error = ErrX`},
		{"globals", "a.go", `package cache; import "github.com/distributedcache/cache/internal/base"; var ErrX = base.ErrX`},
		{"globals", "shard/a.go", `package shard; import "regexp"; var word = regexp.MustCompile("x")`},
		{"globals", "examples/server/a.go", "package main\n\n//go:embed x.html\nvar page []byte"},
		{"globals", "shard/a_test.go", `package shard; var x int`},
		{"banned", "examples/bank/a.go", `package main; import "os"; func main() { os.Exit(1) }`},
		{"banned", "shard/a.go", `package shard; type l struct{}; func (l) Fatal() {}; func f(log l) { log.Fatal() }`},
		{"banned", "shard/a.go", `package shard; import "runtime"; func f() int { return runtime.GOMAXPROCS(0) }`},
		{"docs", "shard/a.go", "// Package shard is.\npackage shard\ntype t int\nfunc (t) Len() int { return 0 }"},
	} {
		if faults := rules[c.rule](source(t, c.file, c.src)); len(faults) > 0 {
			t.Errorf("%s on %s %q: %q", c.rule, c.file, c.src, faults)
		}
	}
}

func TestSizeRatchet(t *testing.T) {
	f := thing{"func", "a.go:F"}
	for _, c := range []struct {
		name       string
		size, list int // list 0: not listed; size 0: gone
		want       string
		next       int
	}{
		{"within", 70, 0, "", 0},
		{"over", 71, 0, "at most 70", 0},
		{"listed", 90, 90, "", 90},
		{"grew", 91, 90, "may only shrink", 90},
		{"shrank", 80, 90, "-update", 80},
		{"within now", 60, 90, "-update", 0},
		{"gone", 0, 90, "-update", 0},
	} {
		got, ratchet := map[thing]int{}, map[thing]int{}
		if c.size > 0 {
			got[f] = c.size
		}
		if c.list > 0 {
			ratchet[f] = c.list
		}
		faults, next := checkSizes(got, ratchet)
		text := strings.Join(faults, "\n")
		if (c.want == "") != (text == "") || !strings.Contains(text, c.want) || next[f] != c.next {
			t.Errorf("%s: faults %q, next %d; want %q and %d", c.name, text, next[f], c.want, c.next)
		}
	}
	long := "package p\n\ntype T struct{}\n\nfunc (t *T) Long() {\n" + strings.Repeat("\tprintln()\n", 69) + "}\n"
	got := sizes(source(t, "shard/a.go", long))
	if got[thing{"func", "shard/a.go:T.Long"}] != 71 || got[thing{"file", "shard/a.go"}] != 75 || got[thing{"package", "shard"}] != 75 {
		t.Errorf("sizes %v", got)
	}
}

func TestGoModRules(t *testing.T) {
	for mod, bad := range map[string]bool{
		"module m\n\ngo 1.26\n": false,
		"replace a => b\n":      true,
		"require (\n\tgithub.com/cockroachdb/pebble v1.1.0\n)\n":                  true,
		"require (\n\tgithub.com/cockroachdb/pebble v0.0.0-2022 // indirect\n)\n": false,
		"require github.com/cockroachdb/pebble/v2 v2.1.7\n":                       false,
	} {
		if got := len(checkGoMod(mod)) > 0; got != bad {
			t.Errorf("%q: faulty %v, want %v", mod, got, bad)
		}
	}
}
