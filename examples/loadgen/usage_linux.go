package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc: USER_HZ is 100 wherever Go runs on Linux.
const tick = 10 * time.Millisecond

// usageOf reads what proc(5) says about a process; nothing if it is gone.
func usageOf(pid int) usage {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return usage{}
	}
	return parseUsage(string(stat), string(status))
}

func parseUsage(stat, status string) (u usage) {
	// The name of the program is in parentheses and may contain any.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const user, system = 11, 12 // fields 14 and 15 of the whole line
	if len(fields) > system {
		u.cpu = ticks(fields[user]) + ticks(fields[system])
	}
	for line := range strings.Lines(status) {
		name, rest, _ := strings.Cut(line, ":")
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "VmRSS":
			u.rss = kib << 10
		case "VmHWM":
			u.peak = kib << 10
		}
	}
	return u
}

func ticks(text string) time.Duration {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(n) * tick
}

// busyCPU returns how long all CPUs of the machine have been busy since it
// started, or were given to other machines.
func busyCPU() time.Duration {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	return parseBusy(string(stat))
}

func parseBusy(stat string) (busy time.Duration) {
	first, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(first) // cpu user nice system idle iowait irq softirq steal guest guest_nice
	for i, field := range fields {
		if i >= 1 && i <= 8 && i != 4 && i != 5 { // guests are in user
			busy += ticks(field)
		}
	}
	return busy
}
