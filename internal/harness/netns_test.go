package harness

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/security"
)

var netTime = flag.Duration("nettime", 6*time.Second, "how long the linearizability test in network namespaces lasts")

// netPrefix begins the names of network namespaces. The id of the process that made
// them follows, so that those of one that was killed can be told.
const netPrefix = "cachetest-"

// fabric is a network namespace for each of some nodes, which are joined by a bridge
// in one more. Nothing of it is visible outside of them.
type fabric struct {
	t     testing.TB
	nodes int
	down  map[int]func() // what undoes the fault of a node
}

// newFabric makes namespaces, or skips the test where that is not possible.
func newFabric(t *testing.T, nodes int) *fabric {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if out, err := exec.Command("ip", "netns", "list").CombinedOutput(); err != nil {
		t.Skipf("no network namespaces here: %v: %s", err, out)
	}
	sweepFabrics()
	f := &fabric{t: t, nodes: nodes, down: map[int]func(){}}
	t.Cleanup(func() {
		for i := range nodes + 1 {
			_ = exec.Command("ip", "netns", "del", f.name(i)).Run()
		}
	})
	for i := range nodes + 1 {
		if out, err := exec.Command("ip", "netns", "add", f.name(i)).CombinedOutput(); err != nil {
			t.Skipf("no network namespaces here: %v: %s", err, out)
		}
	}
	bridge := f.name(nodes)
	f.ip("-n", bridge, "link", "add", "bridge0", "type", "bridge")
	f.ip("-n", bridge, "link", "set", "bridge0", "up")
	for i := range nodes {
		f.ip("-n", bridge, "link", "add", f.port(i), "type", "veth", "peer", "name", "eth0", "netns", f.name(i))
		f.ip("-n", bridge, "link", "set", f.port(i), "master", "bridge0", "up")
		f.ip("-n", f.name(i), "addr", "add", f.address(i)+"/24", "dev", "eth0")
		f.ip("-n", f.name(i), "link", "set", "eth0", "up")
		f.ip("-n", f.name(i), "link", "set", "lo", "up")
	}
	return f
}

// sweepFabrics deletes the namespaces of processes that are gone.
func sweepFabrics() {
	out, _ := exec.Command("ip", "netns", "list").Output()
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest, ours := strings.CutPrefix(name, netPrefix)
		number, _, _ := strings.Cut(rest, "-")
		if pid, err := strconv.Atoi(number); ours && err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = exec.Command("ip", "netns", "del", name).Run()
		}
	}
}

func (f *fabric) name(i int) string    { return fmt.Sprintf("%s%d-%d", netPrefix, os.Getpid(), i) }
func (f *fabric) port(i int) string    { return fmt.Sprint("port", i) }
func (f *fabric) address(i int) string { return fmt.Sprint("10.77.0.", i+1) }

// ip runs the command of that name.
func (f *fabric) ip(args ...string) {
	f.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		f.t.Errorf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// cut takes a node off the network: its own interface goes down, or the port of the
// bridge, which it does not notice. The function that it returns undoes that.
func (f *fabric) cut(i int, own bool) (heal func()) {
	where, link := f.name(f.nodes), f.port(i)
	if own {
		where, link = f.name(i), "eth0"
	}
	f.ip("-n", where, "link", "set", link, "down")
	return func() { f.ip("-n", where, "link", "set", link, "up") }
}

// oneWay loses what a node sends to another, and nothing else: it goes to a hardware
// address that nobody has.
func (f *fabric) oneWay(from, to int) (heal func()) {
	f.ip("-n", f.name(from), "neigh", "replace", f.address(to), "lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", "eth0")
	return func() { f.ip("-n", f.name(from), "neigh", "del", f.address(to), "dev", "eth0") }
}

// start starts processes in the namespaces, which show one another certificates.
func (f *fabric) start(shards int) *Processes {
	f.t.Helper()
	ca, err := security.NewDevCA(f.t.TempDir(), "harness")
	if err != nil {
		f.t.Fatal(err)
	}
	return StartProcesses(f.t, ProcessesConfig{Nodes: f.nodes, Shards: shards, place: func(i int) (processConfig, []string) {
		certs, err := ca.Issue(fmt.Sprint("node-", i), f.address(i))
		if err != nil {
			f.t.Fatal(err)
		}
		return processConfig{Addr: f.address(i) + ":7000", Certs: certs}, []string{"ip", "netns", "exec", f.name(i)}
	}})
}

// attack does bad things to processes and to their network until the context ends,
// and leaves all whole.
func (f *fabric) attack(ctx context.Context, c *Processes, rng *rand.Rand) map[string]int {
	done := map[string]int{}
	pause := func(bound time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(bound/2 + time.Duration(rng.Int64N(int64(bound)))):
		}
	}
	faults := []fault{
		{"interface down", func() func() { return f.cut(rng.IntN(f.nodes), true) }},
		{"port down", func() func() { return f.cut(rng.IntN(f.nodes), false) }},
		{"one-way loss", func() func() { i := rng.IntN(f.nodes); return f.oneWay(i, (i+1+rng.IntN(f.nodes-1))%f.nodes) }},
		{"frozen", func() func() { i := rng.IntN(f.nodes); c.Freeze(i); return func() { c.Thaw(i) } }},
		{"killed", func() func() { i := rng.IntN(f.nodes); c.Kill(i); return func() { c.Start(i) } }},
	}
	for _, i := range rng.Perm(len(faults)) { // each at least once, if there is time
		if ctx.Err() != nil {
			break
		}
		done[faults[i].name]++
		heal := faults[i].hit()
		pause(700 * time.Millisecond)
		heal()
		pause(300 * time.Millisecond)
	}
	for ctx.Err() == nil {
		i := rng.IntN(len(faults))
		done[faults[i].name]++
		heal := faults[i].hit()
		pause(time.Second)
		heal()
		pause(500 * time.Millisecond)
	}
	return done
}

// TestNamespaces lets clients race on keys of three processes in network namespaces,
// with TLS, while interfaces go down, packets are lost in one direction, and
// processes are frozen and killed. Then one node is alone: it refuses what it cannot
// do in time, serves what may be stale, and finds the others again by itself.
func TestNamespaces(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	f := newFabric(t, 3)
	rng := testkit.Rand(t)
	c := f.start(5)
	ctx := testkit.Context(t)
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	rec := NewRecorder(2_000_000)
	w := Workload{Clients: 24, Keys: Keys(200), Duration: *netTime, AtLeast: leastProcessOperations, Timeout: time.Second, Rand: testkit.Fork(rng)}
	var faults map[string]int
	attack, end := context.WithCancel(ctx)
	var attacker sync.WaitGroup
	r := testkit.Fork(rng)
	attacker.Go(func() { faults = f.attack(attack, c, r) })
	w.Run(ctx, rec, c.Client)
	end()
	attacker.Wait()
	if err := errors.Join(c.Ready(ctx), w.ReadFinally(ctx, rec, c.Client(0))); err != nil {
		t.Fatal(err)
	}
	h := rec.History()
	t.Logf("%v in %v; %v", h.Stats(), h.Span(), faults)
	mustBeExplained(t, h)
	if h.Stats().OK < leastProcessOperations || len(faults) < 2 {
		t.Errorf("too little happened: %v, %v", h.Stats(), faults)
	}
	f.alone(ctx, c, rng.IntN(3))
}

// alone cuts one node off.
func (f *fabric) alone(ctx context.Context, c *Processes, i int) {
	t, other := f.t, (i+1)%f.nodes
	keys := acknowledged(ctx, t, c.Client(other), "before", 20)
	mustFind(ctx, t, c.Client(i), keys) // and it knows that it has them
	heal := f.cut(i, true)
	const deadline = time.Second
	ask := func(method string, call Call) (a Answer) {
		t.Helper()
		call.Timeout = deadline
		began := time.Now()
		if err := c.nodes[i].call(ctx, method, &call, &a); err != nil {
			t.Errorf("%s: %v", method, err)
		}
		if took := time.Since(began); took > deadline+deadlineSlack {
			t.Errorf("%s: answered after %v", method, took)
		}
		return a
	}
	stale := base.ReadOptions{Stale: true, MaxStale: time.Hour}
	for _, key := range keys {
		if a := ask("Control.Get", Call{Write: base.Write{Key: key}, Read: stale}); a.Failed || string(a.Value) != "before" {
			t.Errorf("stale read of %v on a node that is alone: %q, %s", key, a.Value, a.Text)
		}
	}
	refused := func(method string, call Call) {
		for range 20 { // a write may be of unknown outcome as long as the node takes itself for the leader
			switch a := ask(method, call); {
			case !a.Failed:
				t.Errorf("%s was served by a node that is alone: %+v", method, a)
			case a.Unavailable:
				return
			case !a.Indeterminate:
				t.Errorf("%s: %s", method, a.Text)
				return
			}
		}
		t.Errorf("%s is not refused", method)
	}
	var callers sync.WaitGroup
	for _, key := range keys {
		callers.Go(func() {
			refused("Control.Get", Call{Write: base.Write{Key: key}})
			refused("Control.Get", Call{Write: base.Write{Key: key}, Read: base.ReadOptions{Stale: true, MaxStale: time.Nanosecond}})
			refused("Control.Put", Call{Write: base.Write{Key: key, Value: []byte("alone")}})
		})
	}
	callers.Wait()
	newer := acknowledged(ctx, t, c.Client(other), "meanwhile", 20)
	heal()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	mustFind(ctx, t, c.Client(i), newer)
}
