package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/shard"
)

// mixed is, as the Op of a Traffic, a put after each get.
const mixed Kind = "mixed"

// Traffic is what goroutines inside a node do, one call after the other each, so that
// the way to the node is not measured.
type Traffic struct {
	Op         Kind
	Where      Where
	Keys       int // the first so many of all
	Batch      int // keys of one call, with Get; 0 = a Get of one key
	InFlight   int
	ValueBytes int
}

// Where says by which node the keys of a load are led.
type Where string

// Where keys may be led.
const (
	Anywhere  Where = ""
	Here      Where = "here"
	Elsewhere Where = "elsewhere"
	Beside    Where = "by one other node" // as many shards as Here, if all is balanced
)

// Measured is what came of a load.
type Measured struct {
	Ops, Failed int
	Took        time.Duration
	P50, P99    time.Duration
	Worst       time.Duration
	First       string // error
}

// Rate returns how many calls there were in a second.
func (m Measured) Rate() float64 { return float64(m.Ops) / m.Took.Seconds() }

// String returns the figures in one line.
func (m Measured) String() string {
	s := fmt.Sprintf("%.0f/s, p50 %v, p99 %v, worst %v", m.Rate(),
		m.P50.Round(time.Microsecond), m.P99.Round(time.Microsecond), m.Worst.Round(time.Millisecond))
	if m.Failed > 0 {
		s += fmt.Sprintf(", %d FAILED: %s", m.Failed, m.First)
	}
	return s
}

// loadTimeout is the deadline of each call of a load.
const loadTimeout = 30 * time.Second

// loads has the load that is under way.
type loads struct {
	mu     sync.Mutex // protects the rest
	began  time.Time
	stop   context.CancelFunc // nil if there is none
	done   sync.WaitGroup
	took   []time.Duration
	failed []error
}

// TrafficKey returns the key number i.
func TrafficKey(i int) base.Key { return base.K(fmt.Sprintf("load/%06d", i), "") }

// Begin starts a load.
func (c *Control) Begin(load *Traffic, _ *Measured) error {
	ctx, cancel := context.WithCancel(context.Background())
	keys, err := c.keys(ctx, load)
	l := &c.load
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.stop != nil {
		err = errors.New("there is a load already")
	}
	if err == nil && len(keys) < max(1, load.Batch) {
		err = fmt.Errorf("only %d keys are led %s", len(keys), load.Where)
	}
	if err != nil {
		cancel()
		return err
	}
	l.stop, l.began, l.took, l.failed = cancel, time.Now(), nil, nil
	for w := range load.InFlight {
		l.done.Go(func() { l.work(ctx, c.n, load, keys, w) })
	}
	return nil
}

// keys returns the keys of a load.
func (c *Control) keys(ctx context.Context, load *Traffic) (keys []base.Key, err error) {
	nodes, err := c.n.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	shards, err := c.n.Shards(ctx)
	if err != nil {
		return nil, err
	}
	self, other := "", ""
	for _, n := range nodes {
		if n.Self {
			self = n.ID
		} else {
			other = n.ID
		}
	}
	for i := range load.Keys {
		key := TrafficKey(i)
		leader := shards[shard.Of(key.Primary, len(shards))].Leader
		if map[Where]bool{Anywhere: true, Here: leader == self, Elsewhere: leader != self, Beside: leader == other}[load.Where] {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

func (l *loads) work(ctx context.Context, n *node.Node, load *Traffic, keys []base.Key, worker int) {
	var took []time.Duration
	var failed []error
	value := make([]byte, load.ValueBytes)
	for i := worker * 7919; ctx.Err() == nil; i += max(1, load.Batch) {
		call, cancel := context.WithTimeout(context.Background(), loadTimeout)
		began := time.Now()
		err := one(call, n, load, keys, i, value)
		took = append(took, time.Since(began))
		cancel()
		if err != nil {
			failed = append(failed, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took, l.failed = append(l.took, took...), append(l.failed, failed...)
}

// one makes one call.
func one(ctx context.Context, n *node.Node, load *Traffic, keys []base.Key, i int, value []byte) error {
	switch {
	case load.Op == Put, load.Op == mixed && i%2 == 1:
		_, err := n.Write(ctx, base.Write{Key: keys[i%len(keys)], Value: value}, base.RequestID{})
		return err
	case load.Batch > 0:
		batch := make([]base.Key, 0, load.Batch)
		for j := range load.Batch {
			batch = append(batch, keys[(i+j)%len(keys)])
		}
		_, err := n.MultiGet(ctx, batch, base.ReadOptions{})
		return err
	default:
		_, err := n.Get(ctx, keys[i%len(keys)], base.ReadOptions{})
		return err
	}
}

// End stops the load and says what came of it.
func (c *Control) End(_ *Traffic, m *Measured) error {
	l := &c.load
	l.mu.Lock()
	stop := l.stop
	l.stop = nil
	l.mu.Unlock()
	if stop == nil {
		return errors.New("there is no load")
	}
	stop()
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	m.Ops, m.Failed, m.Took = len(l.took), len(l.failed), time.Since(l.began)
	if m.Failed > 0 {
		m.First = l.failed[0].Error()
	}
	slices.Sort(l.took)
	if n := len(l.took); n > 0 {
		m.P50, m.P99, m.Worst = l.took[n/2], l.took[n*99/100], l.took[n-1]
	}
	return nil
}

// begin starts a load on a node.
func (c *Processes) begin(ctx context.Context, i int, load Traffic) error {
	return c.nodes[i].call(ctx, "Control.Begin", &load, &Measured{})
}

// end ends it.
func (c *Processes) end(ctx context.Context, i int) (m Measured, err error) {
	err = c.nodes[i].call(ctx, "Control.End", &Traffic{}, &m)
	return m, err
}

// CPUTime returns how much time the processors have spent on this process.
func CPUTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
