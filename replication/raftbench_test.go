package replication

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/config"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/mux"
	"github.com/distributedcache/cache/replication/internal/rafthost"
	"github.com/distributedcache/cache/storage"
)

var (
	raftBench     = flag.Bool("raftbench", false, "measure three processes with raft, beside the log store and the transport that come with dragonboat")
	raftBenchFor  = flag.Duration("raftbenchfor", 3*time.Second, "with -raftbench: how long each measurement lasts")
	raftBenchOnly = flag.String("raftbenchonly", "", "with -raftbench: a regular expression of measurements, such as ours/30/put")
)

// nodeEnv is how a process of the test binary knows that it is a node.
const nodeEnv = "RAFTBENCH_NODE"

// benchNode is what such a process is told.
type benchNode struct {
	Peers   []Peer
	Self    int
	Dir     string
	Shards  int
	BuiltIn bool
}

// benchOrder is what a node is to do next, on one line of its input.
type benchOrder struct {
	Get     bool
	Workers int
	For     time.Duration
}

// benchReport is what it answers.
type benchReport struct {
	Ops     int64
	CPU     time.Duration
	Micros  []int64 // of some operations
	RSS     int64
	Problem string
}

// TestRaftBench prints a table: three processes on this machine and one disk,
// three replicas, values of 256 B, clients in the process that leads the shard.
//
//	go test ./replication -run '^TestRaftBench$' -v -timeout 30m -raftbench
func TestRaftBench(t *testing.T) {
	if !*raftBench {
		t.Skip("run with -raftbench")
	}
	only := regexp.MustCompile(*raftBenchOnly)
	fmt.Printf("\n%-24s %10s %9s %9s %12s %8s\n", "measurement", "op/s", "p50 ms", "p99 ms", "CPU us/op", "RSS MB")
	for _, shards := range []int{1, 15, 30, 60} {
		for _, side := range []string{"builtin", "ours"} {
			names := map[string]benchOrder{}
			for _, inFlight := range []int{1, 64, 256} {
				names[fmt.Sprintf("%s/%d/put/%d", side, shards, inFlight)] = benchOrder{Workers: inFlight, For: *raftBenchFor}
			}
			names[fmt.Sprintf("%s/%d/idle", side, shards)] = benchOrder{For: *raftBenchFor}
			names[fmt.Sprintf("%s/%d/get/256", side, shards)] = benchOrder{Get: true, Workers: 256, For: *raftBenchFor}
			for name := range names {
				if !only.MatchString(name) {
					delete(names, name)
				}
			}
			if len(names) > 0 {
				runRaftBench(t, side == "builtin", shards, names)
			}
		}
	}
}

func runRaftBench(t *testing.T, builtIn bool, shards int, orders map[string]benchOrder) {
	var peers []Peer
	for i := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, Peer{Replica: uint64(i + 1), Node: fmt.Sprint("node-", i), Address: l.Addr().String()})
		_ = l.Close()
	}
	var nodes []*benchProcess
	for i := range peers {
		nodes = append(nodes, startBenchProcess(t, benchNode{peers, i, t.TempDir(), shards, builtIn}))
	}
	names := make([]string, 0, len(orders))
	for name := range orders {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return len(a) - len(b) })
	for _, name := range names {
		order := orders[name]
		shares := []int{(order.Workers + 2) / 3, (order.Workers + 1) / 3, order.Workers / 3}
		reports := make([]benchReport, len(nodes))
		var group sync.WaitGroup
		for i, n := range nodes {
			mine := order
			mine.Workers = shares[i]
			group.Go(func() { reports[i] = n.run(mine) })
		}
		group.Wait()
		printRaftBench(t, name, order, reports)
	}
	for _, n := range nodes {
		n.stop()
	}
}

func printRaftBench(t *testing.T, name string, order benchOrder, reports []benchReport) {
	var total benchReport
	for _, r := range reports {
		if r.Problem != "" {
			t.Errorf("%s: %s", name, r.Problem)
		}
		total.Ops += r.Ops
		total.CPU += r.CPU
		total.RSS = max(total.RSS, r.RSS)
		total.Micros = append(total.Micros, r.Micros...)
	}
	slices.Sort(total.Micros)
	at := func(q float64) float64 {
		if len(total.Micros) == 0 {
			return 0
		}
		return float64(total.Micros[int(q*float64(len(total.Micros)-1))]) / 1000
	}
	if order.Workers == 0 {
		perNode := total.CPU.Seconds() / order.For.Seconds() / float64(len(reports))
		fmt.Printf("%-24s %5.1f %% of a core and node, RSS %d MB\n", name, 100*perNode, total.RSS>>20)
		return
	}
	fmt.Printf("%-24s %10.0f %9.2f %9.2f %12.1f %8d\n", name, float64(total.Ops)/order.For.Seconds(), at(0.5), at(0.99),
		float64(total.CPU.Microseconds())/float64(max(total.Ops, 1)), total.RSS>>20)
}

// benchProcess is a node as its parent sees it.
type benchProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startBenchProcess(t *testing.T, n benchNode) *benchProcess {
	t.Helper()
	told, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^TestRaftBenchNode$", "-test.timeout=30m"}
	if n.Self == 0 && os.Getenv("RAFTBENCH_PROFILE") != "" {
		args = append(args, "-test.cpuprofile="+os.Getenv("RAFTBENCH_PROFILE"))
	}
	p := &benchProcess{cmd: exec.Command(os.Args[0], args...)}
	p.cmd.Env = append(os.Environ(), nodeEnv+"="+string(told))
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	p.out.Buffer(nil, 16<<20)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// run gives an order and returns the report.
func (p *benchProcess) run(order benchOrder) (r benchReport) {
	if err := json.NewEncoder(p.in).Encode(order); err != nil {
		r.Problem = err.Error()
		return r
	}
	if !p.out.Scan() {
		r.Problem = "the node is gone"
		return r
	}
	if err := json.Unmarshal(p.out.Bytes(), &r); err != nil {
		r.Problem = p.out.Text()
	}
	return r
}

func (p *benchProcess) stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

// TestRaftBenchNode is a node of TestRaftBench, in a process of its own.
func TestRaftBenchNode(t *testing.T) {
	told := os.Getenv(nodeEnv)
	if told == "" {
		t.Skip("TestRaftBench starts it")
	}
	var n benchNode
	if err := json.Unmarshal([]byte(told), &n); err != nil {
		t.Fatal(err)
	}
	h, stop := n.open(t)
	defer stop()
	led := n.spread(h)
	orders := json.NewDecoder(os.Stdin)
	for {
		var order benchOrder
		if orders.Decode(&order) != nil {
			return
		}
		report, err := json.Marshal(n.measure(h, led(), order))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println(string(report))
	}
}

func (n benchNode) open(t *testing.T) (*Host, func()) {
	store, err := storage.Open(storage.Config{Dir: filepath.Join(n.Dir, "data"), Shards: n.Shards, Durability: storage.Volatile})
	if err != nil {
		t.Fatal(err)
	}
	rc := RaftConfig{Dir: filepath.Join(n.Dir, "raft"), Node: n.Peers[n.Self].Node, Peers: n.Peers}
	listen := n.Peers[n.Self].Address
	if n.BuiltIn {
		listen = "127.0.0.1:0"
		rc.tune = func(hc *config.NodeHostConfig) {
			hc.Expert.LogDBFactory, hc.Expert.TransportFactory, hc.Expert.FS = nil, nil, nil
			hc.Expert.LogDB.Shards = 1
			if err := os.MkdirAll(hc.NodeHostDir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	network, err := mux.Listen(mux.Config{Listen: listen, Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	rc.Network = network
	h, err := OpenRaft(Config{
		Store: store, Clock: time.Now, Logger: slog.New(slog.DiscardHandler), MaxInFlight: 10_000,
		RequestRetention: time.Minute, MaxRequests: 1000,
	}, rc)
	if err != nil {
		t.Fatal(err)
	}
	return h, func() {
		h.Close()
		_ = store.Close()
		_ = network.Close()
	}
}

// spread moves the leaders so that each node has as many. What it returns waits
// until that is so and lists the shards of this one.
func (n benchNode) spread(h *Host) func() []base.ShardID {
	l := h.log.(*raftlog)
	return func() (led []base.ShardID) {
		for i := range n.Shards {
			id := base.ShardID(i)
			want := uint64(i%len(n.Peers) + 1)
			for l.groups[i].leader() != want {
				if l.Leads(id) {
					_ = l.raft.RequestLeaderTransfer(rafthost.GroupID(id), want)
				}
				time.Sleep(20 * time.Millisecond)
			}
			if l.Leads(id) {
				led = append(led, id)
			}
		}
		return led
	}
}

func (n benchNode) measure(h *Host, led []base.ShardID, order benchOrder) (report benchReport) {
	if len(led) == 0 { // with one shard, one node does it all
		time.Sleep(order.For)
		return report
	}
	keys := n.keys(h, led)
	workers := order.Workers
	if n.Shards == 1 {
		workers *= 3
	}
	before := processCPU()
	var ops atomic.Int64
	var mu sync.Mutex
	var group sync.WaitGroup
	deadline := time.Now().Add(order.For)
	for range workers {
		group.Go(func() {
			micros, count, err := n.work(h, keys, order.Get, deadline)
			ops.Add(count)
			mu.Lock()
			defer mu.Unlock()
			report.Micros = append(report.Micros, micros...)
			if err != nil {
				report.Problem = err.Error()
			}
		})
	}
	group.Wait()
	time.Sleep(time.Until(deadline))
	report.Ops, report.CPU, report.RSS = ops.Load(), processCPU()-before, processRSS()
	return report
}

// keys returns keys of the shards that this node leads.
func (n benchNode) keys(h *Host, led []base.ShardID) []base.Key {
	var keys []base.Key
	for i := range 60_000 {
		if key := base.K("user/"+strconv.Itoa(i), "profile"); slices.Contains(led, h.shardOf(key)) {
			keys = append(keys, key)
		}
	}
	return keys
}

func (n benchNode) work(h *Host, keys []base.Key, get bool, deadline time.Time) (micros []int64, count int64, err error) {
	ctx := context.Background()
	value := make([]byte, 256)
	for i := range value {
		value[i] = byte(rand.Uint32())
	}
	for start := time.Now(); start.Before(deadline); count++ {
		key := keys[rand.IntN(len(keys))]
		if get {
			_, err = h.Get(ctx, h.shardOf(key), key, base.ReadOptions{})
		} else {
			_, err = h.Write(ctx, &base.Write{Key: key, Value: value}, base.RequestID{})
		}
		if err != nil {
			return micros, count, err
		}
		now := time.Now()
		if count%4 == 0 {
			micros = append(micros, now.Sub(start).Microseconds())
		}
		start = now
	}
	return micros, count, nil
}

func processCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func processRSS() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Maxrss << 10
}
