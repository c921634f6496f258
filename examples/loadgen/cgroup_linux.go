package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// quotas is a control group with one group for each node in it, which all have
// the same part of a CPU. Nil holds nobody.
type quotas struct {
	dir   string
	share float64
	per   time.Duration
	v2    bool

	mu   sync.Mutex // protects made
	made []string   // in the order in which they were made; dir first
}

// newQuotas makes the group: with cgroup v2 if that works, else with v1. It
// tries its own group and those above, as those can be made by whoever may, and
// not everywhere.
func newQuotas(share float64, period time.Duration) (*quotas, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var faults []error
	for _, at := range groupPlaces(string(mounts), string(own)) {
		q := &quotas{dir: filepath.Join(at.dir, fmt.Sprintf("loadgen-%d", os.Getpid())), share: share, per: period, v2: at.v2}
		err := q.mkdir(q.dir)
		if err == nil {
			err = q.probe()
		}
		if err == nil {
			return q, nil
		}
		faults = append(faults, err)
		_ = q.close()
	}
	if len(faults) == 0 {
		faults = append(faults, errors.New("no cgroup file system with CPU quotas is mounted"))
	}
	return nil, errors.Join(faults...)
}

// groupPlace is a directory in which groups may be made.
type groupPlace struct {
	dir string
	v2  bool
}

// groupPlaces returns the places to try, in this order, from what
// /proc/self/mountinfo and /proc/self/cgroup say (proc(5), cgroups(7)).
func groupPlaces(mounts, own string) (places []groupPlace) {
	v1Dir, v2Dir := "", ""
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(line, " - ")
		at, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(at) < 5 || len(kind) < 3 {
			continue
		}
		switch {
		case kind[0] == "cgroup2":
			v2Dir = at[4]
		case kind[0] == "cgroup" && slices.Contains(strings.Split(kind[2], ","), "cpu"):
			v1Dir = at[4]
		}
	}
	v1Own, v2Own := "/", "/"
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		if parts[1] == "" {
			v2Own = parts[2]
		} else if slices.Contains(strings.Split(parts[1], ","), "cpu") {
			v1Own = parts[2]
		}
	}
	add := func(mount, own string, v2 bool) {
		if mount == "" {
			return
		}
		for dir := filepath.Clean(own); ; dir = filepath.Dir(dir) {
			places = append(places, groupPlace{filepath.Join(mount, dir), v2})
			if dir == "/" || dir == "." {
				return
			}
		}
	}
	add(v2Dir, v2Own, true)
	add(v1Dir, v1Own, false)
	return places
}

func (q *quotas) mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.made = append(q.made, dir)
	return nil
}

// probe makes and removes a group to see whether quotas work here.
func (q *quotas) probe() error {
	if q.v2 { // the groups inside ours are to have quotas; refused where ours cannot
		if err := q.write(q.dir, "cgroup.subtree_control", "+cpu"); err != nil {
			return err
		}
	}
	if _, err := q.group("probe"); err != nil {
		return err
	}
	return q.release()
}

// group makes the group of a node.
func (q *quotas) group(name string) (string, error) {
	dir := filepath.Join(q.dir, name)
	if err := q.mkdir(dir); err != nil {
		return "", err
	}
	period := q.per.Microseconds()
	quota := int64(q.share * float64(period))
	if q.v2 {
		return dir, q.write(dir, "cpu.max", fmt.Sprintf("%d %d", quota, period))
	}
	if err := q.write(dir, "cpu.cfs_period_us", strconv.FormatInt(period, 10)); err != nil {
		return dir, err
	}
	return dir, q.write(dir, "cpu.cfs_quota_us", strconv.FormatInt(quota, 10))
}

func (q *quotas) write(dir, name, text string) error {
	// No O_CREATE: in a group without the controller the file does not exist.
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// hold puts a process, with all its threads, into a group of its own.
func (q *quotas) hold(name string, pid int) error {
	dir, err := q.group(name)
	if err != nil {
		return err
	}
	return q.write(dir, "cgroup.procs", strconv.Itoa(pid))
}

// periods returns how many periods a node has had so far, none if it is not held.
func (q *quotas) periods(name string) periods {
	if q == nil {
		return periods{}
	}
	text, err := os.ReadFile(filepath.Join(q.dir, name, "cpu.stat"))
	if err != nil {
		return periods{}
	}
	got := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			got[key] = n
		}
	}
	return periods{got["nr_periods"], got["nr_throttled"]}
}

// release removes the groups of all nodes, whose processes have ended.
func (q *quotas) release() error {
	if q == nil {
		return nil
	}
	return q.remove(1)
}

// close removes everything.
func (q *quotas) close() error { return q.remove(0) }

// removeTimeout is for processes that have ended and are still counted.
const removeTimeout = 5 * time.Second

func (q *quotas) remove(keep int) (err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	deadline := time.Now().Add(removeTimeout)
	for len(q.made) > keep {
		dir := q.made[len(q.made)-1]
		failed := os.Remove(dir)
		if failed != nil && !errors.Is(failed, fs.ErrNotExist) {
			if time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			err = errors.Join(err, failed)
		}
		q.made = q.made[:len(q.made)-1]
	}
	return err
}
