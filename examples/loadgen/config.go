package main

import (
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/distributedcache/cache"
)

// config is all that the flags of a run say. It is kept in the result.
type config struct {
	Topology    string   `json:"topology"`
	Nodes       int      `json:"nodes"`
	Callers     string   `json:"callers"`
	Shards      int      `json:"shards"`
	Replication int      `json:"replication_factor"`
	Durability  string   `json:"durability"`
	MemTable    int64    `json:"mem_table_bytes"` // 0: the default of the cache
	BlockCache  int64    `json:"block_cache_bytes"`
	ReadCache   int64    `json:"read_cache_bytes"`
	Work        workload `json:"workload"`

	// CPU is the share of each node that scale holds it to, 0 if there is none.
	CPU       float64       `json:"cpu,omitempty"`
	CPUPeriod time.Duration `json:"cpu_period_ns,omitempty"`

	// Idle is for how long the nodes are watched without load first.
	Idle time.Duration `json:"idle_ns,omitempty"`

	dir, json, profile string
	repeat             int
}

// The values of --topology, --callers and --durability.
const (
	topologySolo      = "solo"
	topologyInProcess = "inprocess"
	topologyProcesses = "processes"
	callersFirst      = "first"
	callersAll        = "all"
	synced            = "synced"
	relaxed           = "relaxed"
)

const (
	maxNodes  = 15
	maxRepeat = 100
)

// bind gives fs the flags that plain runs and scale have in common.
func (c *config) bind(fs *flag.FlagSet) {
	w := &c.Work
	fs.IntVar(&c.Shards, "shards", cache.DefaultShards, "`number` of shards")
	fs.IntVar(&c.Replication, "rf", cache.DefaultReplicationFactor, "on how `many` nodes each shard is")
	fs.StringVar(&c.Durability, "durability", synced, "`when` a write is acknowledged: synced or relaxed")
	fs.Int64Var(&c.MemTable, "mem-table-bytes", 0, "`size` of the memory tables of each node; 0: the default of the cache")
	fs.Int64Var(&c.BlockCache, "block-cache-bytes", 0, "`size` of the block cache of each node; 0: the default of the cache")
	fs.Int64Var(&c.ReadCache, "read-cache-bytes", 0, "`size` of the read cache of each node; 0: the default of the cache; below 0: none")
	fs.StringVar(&w.Consistency, "consistency", linearizable, "`how` reads read: linearizable or stale")
	fs.DurationVar(&w.MaxStale, "max-stale", time.Second, "how `far` behind a stale read may be")

	_ = w.Mix.Set("get=80,put=20")
	fs.Var(&w.Mix, "mix", "`what` is done, with weights; operations: get, stale-get, put, cas, multiget, multiget-primary, "+
		"multiput, multiput-primary, scan, scan-primary, transfer, sum")
	fs.IntVar(&w.Keys, "keys", 10_000, "`number` of keys")
	fs.IntVar(&w.ValueBytes, "value-bytes", 256, "`size` of a value, of random bytes")
	fs.StringVar(&w.Distribution, "dist", distUniform, "`which` keys: uniform, zipf or hotset")
	fs.Float64Var(&w.Theta, "theta", 0.99, "`exponent` of zipf")
	fs.Float64Var(&w.HotKeys, "hot-keys", 0.01, "which `part` of the keys is hot, with hotset")
	fs.Float64Var(&w.HotOps, "hot-ops", 0.9, "which `part` of the operations goes to hot keys, with hotset")
	fs.IntVar(&w.Accounts, "accounts", 1000, "`number` of accounts for transfers and sums")

	fs.IntVar(&w.Clients, "clients", defaultClients, fmt.Sprintf("`number` of calls at once from each calling node; with --rate %d by default", defaultOpenClients))
	fs.Float64Var(&w.Rate, "rate", 0, "operations started in a `second` by all nodes together, whether or not earlier ones ended; 0: each client starts one when its last has ended")
	fs.StringVar(&w.Arrivals, "arrivals", arrivalsPoisson, "`how` starts come with --rate: poisson or even")
	fs.DurationVar(&w.WarmUp, "warmup", time.Second, "for how `long` it runs before it measures")
	fs.DurationVar(&w.Duration, "for", 10*time.Second, "for how `long` it measures")
	fs.DurationVar(&w.Timeout, "timeout", 5*time.Second, "the longest `time` of one call; calls get between half of it and all of it")
	fs.Uint64Var(&w.Seed, "seed", 1, "`seed` of all that is random")
	fs.DurationVar(&c.Idle, "idle", c.Idle, "for how `long` to watch before the load what nodes cost without any")
	fs.IntVar(&c.repeat, "repeat", 1, "`times` to do it all, from empty directories")
	fs.StringVar(&c.json, "json", "", "`file` for the result")
}

// check adds what is wrong with c.
func (c *config) check(k *checker) {
	c.Work.check(k)
	k.within("shards", c.Shards, 1, cache.MaxShards)
	k.within("rf", c.Replication, 1, maxNodes)
	k.oneOf("durability", c.Durability, synced, relaxed)
	k.want(c.Durability != relaxed || c.Topology == topologySolo, "--durability relaxed is for solo: a cluster answers a write when a majority has it on disk")
	k.lasts("idle", c.Idle, 0, time.Hour)
	k.within("repeat", c.repeat, 1, maxRepeat)
}

// fitClients is for when --clients was not given.
func (c *config) fitClients(fs *flag.FlagSet) {
	if !flagGiven(fs, "clients") && c.Work.Rate > 0 {
		c.Work.Clients = defaultOpenClients
	}
}

// parseRun parses the flags of a plain run.
func parseRun(args []string, stderr io.Writer) (config, error) {
	var c config
	fs := flag.NewFlagSet("loadgen", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&c.Topology, "topology", topologySolo, "`where` nodes are: solo (one, no cluster), inprocess or processes")
	fs.IntVar(&c.Nodes, "nodes", 0, "`number` of nodes; default: 1 with solo, else 3")
	fs.StringVar(&c.Callers, "callers", callersFirst, "which `nodes` make calls: first or all")
	fs.StringVar(&c.dir, "dir", "", "`directory` to put the data in, in one that is removed in the end; default: where temporary files go")
	fs.StringVar(&c.profile, "cpuprofile", "", "`file` for a CPU profile of the process with node-1, over the measured time; of the last repeat")
	c.bind(fs)
	rest, err := parseFlags(fs, args)
	if err != nil {
		return c, err
	}
	if c.Nodes == 0 && !flagGiven(fs, "nodes") {
		if c.Nodes = 3; c.Topology == topologySolo {
			c.Nodes = 1
		}
	}
	c.fitClients(fs)
	var k checker
	k.want(len(rest) == 0, "unexpected arguments %q", rest)
	k.oneOf("topology", c.Topology, topologySolo, topologyInProcess, topologyProcesses)
	k.oneOf("callers", c.Callers, callersFirst, callersAll)
	k.within("nodes", c.Nodes, 1, maxNodes)
	k.want(c.Topology != topologySolo || c.Nodes == 1, "--nodes is %d; solo is one node, inprocess and processes may be more", c.Nodes)
	c.check(&k)
	return c, k.err()
}

func flagGiven(fs *flag.FlagSet, name string) (given bool) {
	fs.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}
