package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/distributedcache/cache/internal/testkit"
)

func TestBadFlags(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"--mix fly=1", `no operation "fly"`},
		{"--mix get=-1", "not negative"},
		{"--mix get=NaN", "not negative"},
		{"--mix get=x", "not negative"},
		{"--mix get=0,put=0", "add up to 0"},
		{"--mix get,get", "twice"},
		{"--mix ,", "no operation"},
		{"--clients 0", "--clients is 0"},
		{"--clients -3", "--clients is -3"},
		{"--nodes 0", "--nodes is 0"},
		{"--nodes 3", "solo is one node"},
		{"--topology moon", `one of ["solo"`},
		{"--callers none", "--callers"},
		{"--dist normal", "--dist"},
		{"--theta -1", "--theta"},
		{"--hot-keys 0", "--hot-keys"},
		{"--hot-ops 2", "--hot-ops"},
		{"--keys 0", "--keys is 0"},
		{"--keys 99 --mix scan", "at least 100"},
		{"--value-bytes -1", "--value-bytes"},
		{"--accounts 1", "--accounts"},
		{"--rate -1", "--rate"},
		{"--rate NaN", "--rate"},
		{"--arrivals late", "--arrivals"},
		{"--consistency eventual", "--consistency"},
		{"--durability never", "--durability"},
		{"--durability relaxed --topology inprocess", "for solo"},
		{"scale --durability relaxed", "for solo"},
		{"--shards 0", "--shards"},
		{"--rf 0", "--rf"},
		{"--for 0s", "--for"},
		{"--warmup -1s", "--warmup"},
		{"--timeout 0s", "--timeout"},
		{"--repeat 0", "--repeat"},
		{"--idle -1s", "--idle"},
		{"--no-such-flag", "no-such-flag"},
		{"x --for 1s", `no command "x"`},
		{"--for 1s x", `unexpected arguments ["x"]`},
		{"--clients 0 --keys 0", "--keys is 0"}, // all faults at once
		{"compare one", "two files"},
		{"plot", "one result file"},
		{"scale --nodes 0", "no number of nodes"},
		{"scale --nodes 1,x", "no number of nodes"},
		{"scale --cpu 1000", "at most"},
		{"scale --cpu 0", "--cpu is 0"},
		{"scale --cpu 0.001", "longer --cpu-period"},
		{"scale --cpu-period 2h", "--cpu-period"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(strings.Fields(test.args), &stdout, &stderr); code != exitUsage || !strings.Contains(stderr.String(), test.want) {
			t.Errorf("%s: exit code %d, want %d and %q: %s", test.args, code, exitUsage, test.want, stderr.String())
		}
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"scale", "--help"}, {"compare", "--help"}, {"plot", "--help"}} {
		var stdout, stderr bytes.Buffer
		if code := run(args, &stdout, &stderr); code != exitFine || stderr.Len() == 0 {
			t.Errorf("%v: exit code %d, %s", args, code, stderr.String())
		}
	}
}

func TestDefaults(t *testing.T) {
	for _, test := range []struct {
		args           string
		nodes, clients int
	}{
		{"", 1, defaultClients},
		{"--topology processes", 3, defaultClients},
		{"--topology inprocess --nodes 5 --rate 10", 5, defaultOpenClients},
		{"--rate 10 --clients 7", 1, 7},
	} {
		c, err := parseRun(strings.Fields(test.args), io.Discard)
		if err != nil || c.Nodes != test.nodes || c.Work.Clients != test.clients {
			t.Errorf("%q: %d nodes, %d clients: %v", test.args, c.Nodes, c.Work.Clients, err)
		}
	}
}

func TestMix(t *testing.T) {
	var m mix
	if err := m.Set(" get=1, put=0.5,cas=0 ,transfer"); err != nil {
		t.Fatal(err)
	}
	if m.String() != "get=1,put=0.5,transfer=1" {
		t.Errorf("it is %q", m.String())
	}
	text, err := json.Marshal(m)
	var back mix
	if err != nil || json.Unmarshal(text, &back) != nil || back != m {
		t.Errorf("%s came back as %v: %v", text, back, err)
	}
	r := testkit.Rand(t)
	counts := map[operation]int{}
	const draws = 100_000
	for range draws {
		counts[m.pick(r.Float64())]++
	}
	for o, want := range map[operation]float64{opGet: 0.4, opPut: 0.2, opTransfer: 0.4} {
		if got := float64(counts[o]) / draws; !near(got, want, draws) {
			t.Errorf("%s: %v, want %v", o, got, want)
		}
	}
	if len(counts) != 3 {
		t.Errorf("what weighs nothing was done: %v", counts)
	}
	if m.pick(0) != opGet || m.pick(1) != opTransfer { // 1 by rounding only
		t.Error("the ends")
	}
}

// Flags may come before and after what is no flag.
func TestParseFlagsAnywhere(t *testing.T) {
	c, err := parseScale(strings.Fields("--nodes 3,1,3 --keys 10 --rate 5 --accounts 4"), io.Discard)
	if err != nil || c.steps.String() != "1 3" {
		t.Fatalf("%v: %v", c.steps, err)
	}
	if step := c.forNodes(3); step.Work.Keys != 30 || step.Work.Rate != 15 || step.Work.Accounts != 12 || step.Nodes != 3 {
		t.Errorf("the work is not the same for each node: %+v", step.Work)
	}
	var stderr bytes.Buffer
	if code := run([]string{"plot", "testdata/result.json", "--out", t.TempDir() + "/x.svg"}, io.Discard, &stderr); code != exitFine {
		t.Error(stderr.String())
	}
}
