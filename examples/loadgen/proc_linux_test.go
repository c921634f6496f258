package main

import (
	"os"
	"slices"
	"testing"
	"time"
)

func TestParseUsage(t *testing.T) {
	stat := "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 150 25 0 0 20 0 9 0 1000 123 45 18446744073709551615 1"
	status := "Name:\ta (b) c\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t9\n"
	if got, want := parseUsage(stat, status), (usage{cpu: 1750 * time.Millisecond, rss: 1 << 20, peak: 2 << 20}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, bad := range []string{"", ")", "1 (x) S 1"} {
		if got := parseUsage(bad, "x"); got != (usage{}) {
			t.Errorf("%q: %+v", bad, got)
		}
	}
	if got := parseBusy("cpu  100 10 50 9999 8888 5 6 7 3 0\ncpu0 1 1 1 1\n"); got != 1780*time.Millisecond {
		t.Errorf("busy for %v", got)
	}
	if own := usageOf(os.Getpid()); own.rss == 0 || own.peak < own.rss {
		t.Errorf("this process: %+v", own)
	}
	if busyCPU() == 0 || usageOf(-1) != (usage{}) {
		t.Error("the machine was never busy, or there is a process -1")
	}
}

func TestGroupPlaces(t *testing.T) {
	const (
		v1   = "31 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
		v1no = "34 30 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
		v2   = "25 22 0:22 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
	)
	for _, test := range []struct {
		mounts, own string
		want        []groupPlace
	}{
		{v2, "0::/a.slice/b.scope\n", []groupPlace{{"/sys/fs/cgroup/a.slice/b.scope", true}, {"/sys/fs/cgroup/a.slice", true}, {"/sys/fs/cgroup", true}}},
		{v1 + v1no, "4:memory:/m\n1:cpu,cpuacct:/x\n", []groupPlace{{"/sys/fs/cgroup/cpu,cpuacct/x", false}, {"/sys/fs/cgroup/cpu,cpuacct", false}}},
		{v2 + v1, "0::/\n1:cpu,cpuacct:/\n", []groupPlace{{"/sys/fs/cgroup", true}, {"/sys/fs/cgroup/cpu,cpuacct", false}}},
		{v1no, "4:memory:/m\n", nil},
		{"", "", nil},
		{"what\nis - this\n", "a:b\n", nil},
	} {
		if got := groupPlaces(test.mounts, test.own); !slices.Equal(got, test.want) {
			t.Errorf("%q, %q: %v, want %v", test.mounts, test.own, got, test.want)
		}
	}
}

func TestPeriods(t *testing.T) {
	if got := (periods{30, 15}).since(periods{10, 5}); got != 0.5 {
		t.Error(got)
	}
	if got := (periods{10, 5}).since(periods{10, 5}); got != 0 {
		t.Error(got)
	}
}
