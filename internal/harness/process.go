package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/security"
)

// processEnv tells a process of the test binary which node it is.
const processEnv = "HARNESS_NODE"

// processConfig is what such a process is told.
type processConfig struct {
	Node, Addr  string
	Peers       []string
	Expect      int
	Shards      int
	Replication int
	Grace       time.Duration
	Fast        float64
	Dir         string
	Control     string             // the socket where it takes calls
	Certs       security.CertFiles // zero = plaintext on loopback
}

// ProcessesConfig says what a cluster of processes is like.
type ProcessesConfig struct {
	Nodes, Shards int
	Grace         time.Duration // until a dead node is replaced; 0 = 1 min
	Fast          float64       // 0 = the intervals of production
	// place may say where a node runs: its address, and the command that the process
	// is the rest of.
	place func(i int) (cfg processConfig, within []string)
}

// Processes is a cluster of real processes and real disks, by default on loopback,
// that found it together.
type Processes struct {
	t     testing.TB
	cfg   ProcessesConfig
	nodes []*process
}

type process struct {
	cfg    processConfig
	within []string   // the command that it is started by; nil = none
	mu     sync.Mutex // protects the rest
	cmd    *exec.Cmd
	rpc    *rpc.Client
}

// NewProcesses starts a cluster, which ends with the test. The test binary must
// have a test TestNodeProcess that calls RunProcess.
func NewProcesses(t testing.TB, nodes, shards int) *Processes {
	t.Helper()
	return StartProcesses(t, ProcessesConfig{Nodes: nodes, Shards: shards})
}

// StartProcesses is NewProcesses with more to choose.
func StartProcesses(t testing.TB, cfg ProcessesConfig) *Processes {
	t.Helper()
	if cfg.Grace == 0 {
		cfg.Grace = time.Minute
	}
	c := &Processes{t: t, cfg: cfg}
	_ = t.TempDir() // the first of a test has all of them removed, which must come after the processes
	t.Cleanup(func() {
		for i := range c.nodes {
			c.Kill(i)
		}
	})
	for range cfg.Nodes {
		c.add()
	}
	for _, p := range c.nodes {
		p.cfg.Peers, p.cfg.Expect = c.addresses(), cfg.Nodes
	}
	for i := range c.nodes {
		c.Start(i)
	}
	return c
}

// Add starts one more node, which joins the others, and returns its number. It must
// not be called along with other methods.
func (c *Processes) Add() int {
	c.t.Helper()
	peers := c.addresses()
	c.add()
	i := len(c.nodes) - 1
	c.nodes[i].cfg.Peers = peers
	c.Start(i)
	return i
}

// add adds a node that does not run.
func (c *Processes) add() {
	c.t.Helper()
	i := len(c.nodes)
	p := &process{}
	if c.cfg.place != nil {
		p.cfg, p.within = c.cfg.place(i)
	} else {
		p.cfg.Addr = freeAddress(c.t)
	}
	// The path of a socket must be short, and that of a test is not.
	sockets, err := os.MkdirTemp("", "node")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	p.cfg.Node, p.cfg.Dir, p.cfg.Control = fmt.Sprint("node-", i), c.t.TempDir(), filepath.Join(sockets, "control")
	p.cfg.Shards, p.cfg.Replication, p.cfg.Grace, p.cfg.Fast = c.cfg.Shards, 3, c.cfg.Grace, c.cfg.Fast
	c.nodes = append(c.nodes, p)
}

func (c *Processes) addresses() (addrs []string) {
	for _, p := range c.nodes {
		addrs = append(addrs, p.cfg.Addr)
	}
	return addrs
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Start starts a node that is down.
func (c *Processes) Start(i int) {
	c.t.Helper()
	p := c.nodes[i]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return
	}
	told, err := json.Marshal(p.cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	_ = os.Remove(p.cfg.Control) // of an earlier process
	words := append(append([]string{}, p.within...), os.Args[0], "-test.run=^TestNodeProcess$", "-test.timeout=1h")
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = append(os.Environ(), processEnv+"="+string(told))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	p.cmd = cmd
}

// Stop closes a node in good order, and then ends its process.
func (c *Processes) Stop(ctx context.Context, i int) {
	c.t.Helper()
	if err := c.nodes[i].call(ctx, "Control.Close", &Call{}, &Answer{}); err != nil {
		c.t.Errorf("node %d: close: %v", i, err)
	}
	c.Kill(i)
}

// Kill ends a process the hard way.
func (c *Processes) Kill(i int) {
	p := c.nodes[i]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed
	p.cmd = nil
	p.hangUp()
}

// Freeze stops a process until Thaw.
func (c *Processes) Freeze(i int) { c.signal(i, syscall.SIGSTOP) }

// Thaw lets a process go on.
func (c *Processes) Thaw(i int) { c.signal(i, syscall.SIGCONT) }

func (c *Processes) signal(i int, s syscall.Signal) {
	p := c.nodes[i]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

func (p *process) runs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil
}

// Ready waits until every node that was started answers for every shard.
func (c *Processes) Ready(ctx context.Context) error {
	for i, p := range c.nodes {
		for p.runs() && p.call(ctx, "Control.Ready", &Call{Timeout: time.Second}, &Answer{}) != nil {
			select {
			case <-ctx.Done():
				return fmt.Errorf("node %d: %w", i, context.Cause(ctx))
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// Client returns a client that talks to one node.
func (c *Processes) Client(i int) Client { return processClient{c.nodes[i%len(c.nodes)]} }

// errLost says that a process did not answer.
type errLost struct{ cause error }

func (e *errLost) Error() string { return "no answer: " + e.cause.Error() }

func (p *process) connection() (*rpc.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rpc == nil {
		conn, err := net.DialTimeout("unix", p.cfg.Control, time.Second)
		if err != nil {
			return nil, err
		}
		p.rpc = rpc.NewClient(conn)
	}
	return p.rpc, nil
}

// hangUp drops the connection. REQUIRES: p.mu is held.
func (p *process) hangUp() {
	if p.rpc != nil {
		_ = p.rpc.Close()
		p.rpc = nil
	}
}

// call returns an *errLost if nobody knows whether the call was served.
func (p *process) call(ctx context.Context, method string, arg, reply any) error {
	conn, err := p.connection()
	if err != nil {
		time.Sleep(5 * time.Millisecond) // it is down: do not spin
		return err
	}
	pending := conn.Go(method, arg, reply, make(chan *rpc.Call, 1))
	select {
	case <-pending.Done:
		err = pending.Error
	case <-ctx.Done():
		return &errLost{context.Cause(ctx)}
	}
	if err == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rpc == conn {
		p.hangUp()
	}
	return &errLost{err}
}

type processClient struct{ *process }

// Get implements Client.
func (c processClient) Get(ctx context.Context, key base.Key) ([]byte, base.Version, error) {
	a, err := c.do(ctx, "Control.Get", base.Write{Key: key})
	if err != nil || a.Version == 0 {
		return nil, 0, err
	}
	return a.Value, a.Version, nil
}

// Put implements Client.
func (c processClient) Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	a, err := c.do(ctx, "Control.Put", base.Write{Key: key, Value: value, Cond: cond})
	return a.Version, err
}

// Delete implements Client.
func (c processClient) Delete(ctx context.Context, key base.Key, cond base.Cond) (base.Version, error) {
	a, err := c.do(ctx, "Control.Put", base.Write{Kind: base.WriteDelete, Key: key, Cond: cond})
	return a.Version, err
}

func (c processClient) do(ctx context.Context, method string, w base.Write) (*Answer, error) {
	call := &Call{Write: w, Timeout: time.Minute}
	if deadline, ok := ctx.Deadline(); ok {
		call.Timeout = time.Until(deadline)
	}
	a := new(Answer)
	err := c.call(ctx, method, call, a)
	var lost *errLost
	switch {
	case errors.As(err, &lost):
		return new(Answer), &base.Error{Op: "call", Shard: -1, Err: fmt.Errorf("%w: %w", base.ErrIndeterminate, err)}
	case err != nil:
		return new(Answer), &base.Error{Op: "call", Shard: -1, Outcome: base.OutcomeNotApplied, Err: fmt.Errorf("%w: %w", base.ErrUnavailable, err)}
	case a.Mismatch:
		err = &base.VersionError{Key: w.Key, Want: w.Cond.Want(), Have: a.Found}
		return new(Answer), &base.Error{Op: "call", Shard: -1, Outcome: base.OutcomeNotApplied, Err: err}
	case a.Failed:
		return new(Answer), &base.Error{Op: "call", Shard: -1, Outcome: a.Outcome, Err: fmt.Errorf("%w: %s", base.ErrUnavailable, a.Text)}
	}
	return a, nil
}
