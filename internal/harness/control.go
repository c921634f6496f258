package harness

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/security"
	"github.com/distributedcache/cache/storage"
)

// Call is a request to a node.
type Call struct {
	Write   base.Write // or the key to read
	Read    base.ReadOptions
	Node    string // of which something is asked
	Timeout time.Duration
}

// Answer is what became of it.
type Answer struct {
	HeapBytes int64
	Value     []byte
	Version   base.Version
	Failed    bool
	Outcome   base.Outcome
	Found     base.Version // with Mismatch
	// Mismatch says that a condition did not hold; the other two, which error it is.
	Mismatch, Unavailable, Indeterminate bool

	Text   string
	Nodes  []base.NodeInfo
	Shards []base.ShardInfo
	Moves  int // that are left
}

// Control is what a process serves.
type Control struct {
	n    *node.Node
	load loads
}

func (call *Call) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), call.Timeout)
}

// Ready waits for all shards.
func (c *Control) Ready(call *Call, _ *Answer) error {
	ctx, cancel := call.context()
	defer cancel()
	return c.n.Ready(ctx)
}

// Get reads a key.
func (c *Control) Get(call *Call, a *Answer) error {
	ctx, cancel := call.context()
	defer cancel()
	it, err := c.n.Get(ctx, call.Write.Key, call.Read)
	if !errors.Is(err, base.ErrNotFound) {
		a.fill(err)
	}
	a.Value, a.Version = it.Value, it.Version
	return nil
}

// Put writes or deletes a key.
func (c *Control) Put(call *Call, a *Answer) error {
	ctx, cancel := call.context()
	defer cancel()
	version, err := c.n.Write(ctx, call.Write, base.RequestID{})
	a.fill(err)
	a.Version = version
	return nil
}

// Describe returns the nodes and the shards as this one sees them, and what is to be
// moved.
func (c *Control) Describe(call *Call, a *Answer) (err error) {
	ctx, cancel := call.context()
	defer cancel()
	if a.Nodes, err = c.n.Nodes(ctx); err != nil {
		return err
	}
	if a.Shards, err = c.n.Shards(ctx); err != nil {
		return err
	}
	plan, err := c.n.Rebalance(ctx)
	a.Moves = len(plan.Moves)
	return err
}

// Drain has a node give away all it has.
func (c *Control) Drain(call *Call, _ *Answer) error {
	ctx, cancel := call.context()
	defer cancel()
	return c.n.Drain(ctx, call.Node, func(base.Progress) {})
}

// Remove takes a node out of the cluster.
func (c *Control) Remove(call *Call, _ *Answer) error {
	ctx, cancel := call.context()
	defer cancel()
	return c.n.Remove(ctx, call.Node)
}

// Close closes the node.
func (c *Control) Close(*Call, *Answer) error { return c.n.Close() }

// Heap returns how much of the heap is in use, after a collection.
func (c *Control) Heap(_ *Call, a *Answer) error {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	a.HeapBytes = int64(stats.HeapAlloc)
	return nil
}

func (a *Answer) fill(err error) {
	if err == nil {
		return
	}
	a.Failed, a.Text = true, err.Error()
	a.Unavailable, a.Indeterminate = errors.Is(err, base.ErrUnavailable), errors.Is(err, base.ErrIndeterminate)
	var e *base.Error
	if errors.As(err, &e) {
		a.Outcome = e.Outcome
	}
	var mismatch *base.VersionError
	if errors.As(err, &mismatch) {
		a.Mismatch, a.Found = true, mismatch.Have
	}
}

// RunProcess is the life of a process. It returns at once in any other.
func RunProcess(t *testing.T) {
	told := os.Getenv(processEnv)
	if told == "" {
		t.Skip("the tests of clusters start it")
	}
	var cfg processConfig
	if err := json.Unmarshal([]byte(told), &cfg); err != nil {
		t.Fatal(err)
	}
	member := &node.ClusterConfig{
		Addr: cfg.Addr, Advertise: cfg.Addr, Peers: cfg.Peers, Name: "harness", Expect: cfg.Expect, Replication: cfg.Replication,
		Insecure: cfg.Certs.CertFile == "", DeadNodeGrace: cfg.Grace, MaxClockOffset: 500 * time.Millisecond, Fast: cfg.Fast,
		SnapshotEntries: 5000, KeepEntries: 500,
	}
	if !member.Insecure {
		var err error
		files := security.TLS{CertFile: cfg.Certs.CertFile, KeyFile: cfg.Certs.KeyFile, CAFile: cfg.Certs.CAFile}
		if member.TLS, err = files.Credentials(); err != nil {
			t.Fatal(err)
		}
	}
	n, err := node.Open(testkit.Context(t), node.Config{
		Dir: filepath.Join(cfg.Dir, "data"), NodeID: cfg.Node, Shards: cfg.Shards, Limits: base.DefaultLimits(),
		Logger:  slog.New(slog.NewTextHandler(logTo(), nil)),
		Storage: storage.Config{DiskReserveBytes: -1, MemTableBytes: 4 << 20},
		Cluster: member,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer()
	if err := server.Register(&Control{n: n}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", cfg.Control)
	if err != nil {
		t.Fatal(err)
	}
	server.Accept(l) // until the process is killed
}

// logTo is where a process logs to.
func logTo() io.Writer {
	if os.Getenv(logEnv) != "" {
		return os.Stderr
	}
	return io.Discard
}

// logEnv set to anything has the processes log to standard error.
const logEnv = "HARNESS_LOG"
