package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// Where control groups can be made it measures, else it says that it cannot.
// Either way it leaves nothing behind.
func TestScale(t *testing.T) {
	file := filepath.Join(t.TempDir(), "scale.json")
	var stdout, stderr bytes.Buffer
	code := run(strings.Fields("scale --nodes 1,2 --shards 2 --idle 0s --for 500ms --warmup 100ms --clients 2 --keys 100 --json "+file), &stdout, &stderr)
	for _, pattern := range []string{"/sys/fs/cgroup/loadgen-*", "/sys/fs/cgroup/*/loadgen-*", "/sys/fs/cgroup/*/*/loadgen-*", memoryDir + "/loadgen-*"} {
		left, err := filepath.Glob(pattern)
		for _, name := range left {
			if strings.HasSuffix(name, strconv.Itoa(os.Getpid())) || pattern[:4] == "/dev" {
				t.Errorf("it left %s behind: %v", name, err)
			}
		}
	}
	if code == exitFailed && (strings.Contains(stderr.String(), "control groups") || strings.Contains(stderr.String(), "tmpfs")) {
		t.Skip(stderr.String())
	}
	if code != exitFine {
		t.Fatalf("exit code %d: %s\n%s", code, stderr.String(), stdout.String())
	}
	for _, want := range []string{"tmpfs", "is held to", "of linear", "throttled"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, stdout.String())
		}
	}
	r, err := readResult(file)
	if err != nil || !r.Scale || len(r.Runs) != 2 || r.Runs[1].Config.Nodes != 2 || r.Runs[1].Config.CPU <= 0 {
		t.Fatalf("%+v: %v", r, err)
	}
	for i := range r.Runs {
		rep := &r.Runs[i].Repeats[0]
		if rep.All.Count == 0 || len(rep.Processes) != r.Runs[i].Config.Nodes {
			t.Errorf("%d nodes: %d calls, %+v", r.Runs[i].Config.Nodes, rep.All.Count, rep.Processes)
		}
	}
}

// Without a tmpfs there is nothing to measure, and it says what to do.
func TestScaleWantsMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has tmpfs")
	}
	if err := checkMemory("/proc", 1); err == nil || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("/proc is a tmpfs: %v", err)
	}
	if err := checkMemory("/no/such/directory", 1); err == nil {
		t.Error("a directory that is not there")
	}
	if checkMemory(memoryDir, 1) == nil && checkMemory(memoryDir, 1<<62) == nil {
		t.Error("it has more room than there is")
	}
}

func TestLinear(t *testing.T) {
	r := &result{}
	for n, rate := range map[int]float64{1: 100, 3: 270, 10: 800} {
		run := runs{Repeats: []repeat{{All: outcome{PerSecond: rate}}}}
		run.Config.Nodes = n
		r.Runs = append(r.Runs, run)
	}
	for i := range r.Runs {
		s := newScaleRow(&r.Runs[i])
		want := map[int][2]string{1: {"1.000", "-"}, 3: {"0.900", "1.000"}, 10: {"0.800", "0.889"}}[s.nodes]
		if got := [2]string{linear(r, 1, s), linear(r, 3, s)}; got != want {
			t.Errorf("%d nodes: %v, want %v", s.nodes, got, want)
		}
	}
}
