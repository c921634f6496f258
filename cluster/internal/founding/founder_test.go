package founding

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

var (
	errUnreachable = errors.New("unreachable")
	errCrashed     = errors.New("crashed")
)

// network carries calls between the Founders of one process and loses some.
type network struct {
	mu    sync.Mutex
	nodes map[string]*Founder
	r     *rand.Rand // nil = no faults
}

func newNetwork(r *rand.Rand) *network { return &network{nodes: map[string]*Founder{}, r: r} }

func (n *network) call(ctx context.Context, addr string, request []byte) ([]byte, error) {
	n.mu.Lock()
	to := n.nodes[addr]
	fault := 9
	if n.r != nil {
		fault = n.r.IntN(10)
	}
	n.mu.Unlock()
	if to == nil || fault == 0 || ctx.Err() != nil {
		return nil, errUnreachable
	}
	answer, err := to.Answer(request)
	if fault == 1 {
		return nil, errUnreachable
	}
	return bytes.Clone(answer), err
}

func (n *network) attach(addr string, f *Founder) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f == nil {
		delete(n.nodes, addr)
		return
	}
	n.nodes[addr] = f
}

func config(n *network, i, expect int, peers ...string) Config {
	return Config{
		Self: peer(i), Terms: terms(expect), OldestProtocol: 1, NewestProtocol: 1, Peers: peers,
		Save: func([]byte) error { return nil }, Call: n.call, Interval: 2 * time.Millisecond, CallTimeout: time.Minute,
	}
}

func addresses(n int) (list []string) {
	for i := range n {
		list = append(list, address(i))
	}
	return list
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// boot starts a node again and again until it has a result. Each time, it
// crashes at one of its durable steps, before or after that is on the disk.
func boot(ctx context.Context, n *network, cfg Config, r *rand.Rand, crashes int) (Result, error) {
	var disk []byte
	steps := 0
	for life := 0; ; life++ {
		crashAt, before := -1, r.IntN(2) == 0
		if life < crashes {
			crashAt = steps + r.IntN(2)
		}
		cfg.Saved = disk
		cfg.Save = func(data []byte) error {
			step := steps
			steps++
			if step == crashAt && before {
				return errCrashed
			}
			disk = bytes.Clone(data)
			if step == crashAt {
				return errCrashed
			}
			return nil
		}
		f, err := New(cfg)
		if err != nil {
			return Result{}, err
		}
		n.attach(cfg.Self.Addr, f)
		result, err := f.Run(ctx)
		if !errors.Is(err, errCrashed) {
			return result, err
		}
		n.attach(cfg.Self.Addr, nil)
	}
}

// TestFoundTogether starts 3 and 5 fresh nodes in 200 random orders each, with
// lost calls and a crash at the durable steps of some of them.
func TestFoundTogether(t *testing.T) {
	r := testkit.Rand(t)
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	for _, count := range []int{3, 5} {
		for range rounds {
			foundTogether(t, r, count, 0)
			if t.Failed() {
				return
			}
		}
	}
	for range rounds / 10 { // and one too many
		foundTogether(t, r, 3, 1)
	}
}

func foundTogether(t *testing.T, r *rand.Rand, expect, more int) {
	t.Helper()
	ctx := testContext(t)
	n := newNetwork(testkit.Fork(r))
	results := make([]Result, expect+more)
	var wg sync.WaitGroup
	for _, i := range r.Perm(expect + more) {
		own, crashes := testkit.Fork(r), r.IntN(4)
		wg.Go(func() {
			var err error
			results[i], err = boot(ctx, n, config(n, i, expect, addresses(expect+more)...), own, crashes)
			if err != nil {
				t.Errorf("%s: %v", name(i), err)
			}
		})
		if r.IntN(2) == 0 {
			time.Sleep(time.Duration(r.IntN(1000)) * time.Microsecond) // another order, not a condition
		}
	}
	wg.Wait()
	founders, clusters := 0, map[string]bool{}
	for _, result := range results {
		if result.Founded != nil {
			founders++
			clusters[result.Founded.Cluster] = true
		} else if result.Member != nil {
			clusters[result.Member.Cluster] = true
		}
	}
	if founders != expect || len(clusters) != 1 {
		t.Errorf("%d founders of %d, clusters %v", founders, expect, clusters)
	}
}

func TestAlone(t *testing.T) {
	n := newNetwork(nil)
	cfg := config(n, 0, 1)
	cfg.Save = func(data []byte) error { cfg.Saved = bytes.Clone(data); return nil }
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	first, err := f.Run(testContext(t))
	if err != nil || first.Founded == nil || len(first.Founded.Founders) != 1 {
		t.Fatalf("%+v, %v", first, err)
	}
	f, err = New(cfg) // it starts again before anything else happened
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.Run(testContext(t))
	if err != nil || again.Founded == nil || again.Founded.Cluster != first.Founded.Cluster {
		t.Fatalf("after a restart %+v, %v", again, err)
	}
	if err := f.SetMember(Membership{Cluster: dir(99)}); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("member of another cluster: %v", err)
	}
	if err := f.SetMember(Membership{Cluster: first.Founded.Cluster, Name: "test", Shards: 30, Addresses: addresses(1)}); err != nil {
		t.Fatal(err)
	}
	n.attach(address(0), f)
	joiner, err := New(config(n, 1, 0, address(0)))
	if err != nil {
		t.Fatal(err)
	}
	joins, err := joiner.Run(testContext(t))
	if err != nil || joins.Member == nil || joins.Member.Cluster != first.Founded.Cluster || joins.Member.Addresses[0] != address(0) {
		t.Fatalf("%+v, %v", joins, err)
	}
}

func memberAt(t *testing.T, n *network, i int, m Membership) {
	t.Helper()
	f, err := New(config(n, i, 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.SetMember(m); err != nil {
		t.Fatal(err)
	}
	n.attach(address(i), f)
}

// TestRefusals wants the starter to be told what differs.
func TestRefusals(t *testing.T) {
	good := Membership{Cluster: dir(50), Name: "test", Shards: 30, Addresses: addresses(1)}
	for what, c := range map[string]struct {
		why   string
		setup func(n *network)
	}{
		"member with another name": {`cluster "other"`, func(n *network) {
			memberAt(t, n, 0, Membership{Cluster: dir(50), Name: "other", Shards: 30})
		}},
		"member with other shards": {"7 shards", func(n *network) {
			memberAt(t, n, 0, Membership{Cluster: dir(50), Name: "test", Shards: 7})
		}},
		"two clusters": {"two clusters", func(n *network) {
			memberAt(t, n, 0, good)
			other := good
			other.Cluster = dir(51)
			other.Addresses = nil
			memberAt(t, n, 1, other)
		}},
		"all contradict": {"expects 7 nodes", func(n *network) {
			for i := range 2 {
				f, _ := New(config(n, i, 7, address(2)))
				n.attach(address(i), f)
			}
		}},
		"another protocol": {"protocols 5 to 6", func(n *network) {
			for i := range 2 {
				cfg := config(n, i, 3)
				cfg.OldestProtocol, cfg.NewestProtocol = 5, 6
				f, _ := New(cfg)
				n.attach(address(i), f)
			}
		}},
		"the id twice": {"id of its own", func(n *network) {
			for i := range 2 {
				cfg := config(n, i, 3)
				cfg.Self.Node = name(2)
				f, _ := New(cfg)
				n.attach(address(i), f)
			}
		}},
	} {
		n := newNetwork(nil)
		c.setup(n)
		f, err := New(config(n, 2, 3, addresses(3)...))
		if err != nil {
			t.Fatal(err)
		}
		result, err := f.Run(testContext(t))
		// Of two clusters, the one that answers first may win.
		if what == "two clusters" && result.Member != nil {
			continue
		}
		if !errors.Is(err, base.ErrInvalid) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %+v, %v", what, result, err)
		}
	}
}

// TestSaysForWhomItWaits ends a founding that cannot be.
func TestSaysForWhomItWaits(t *testing.T) {
	n := newNetwork(nil)
	ctx, cancel := context.WithCancel(testContext(t))
	asked := make(chan struct{}, 1000)
	cfg := config(n, 0, 2, address(0), address(1))
	cfg.Call = func(ctx context.Context, addr string, request []byte) ([]byte, error) {
		select {
		case asked <- struct{}{}:
		default:
		}
		return nil, errUnreachable
	}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for range 3 { // by the third the first has ended
			<-asked
		}
		cancel()
	}()
	_, err = f.Run(ctx)
	if !errors.Is(err, base.ErrUnavailable) || !errors.Is(err, context.Canceled) ||
		!strings.Contains(err.Error(), address(1)+": unreachable") || !strings.Contains(err.Error(), "1 of 2") {
		t.Errorf("%v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	n := newNetwork(nil)
	held := encodeDurable(ref{name(0), dir(0)}, sampleDurables()["accepted"])
	for what, change := range map[string]func(*Config){
		"directory":       func(c *Config) { c.Self.Directory = "x" },
		"node":            func(c *Config) { c.Self.Node = "" },
		"shards":          func(c *Config) { c.Terms.Shards = 0 },
		"expect":          func(c *Config) { c.Terms.Expect = MaxExpect + 1 },
		"peers":           func(c *Config) { c.Peers = addresses(MaxPeers + 1) },
		"empty peer":      func(c *Config) { c.Peers = []string{""} },
		"protocols":       func(c *Config) { c.NewestProtocol = 0 },
		"of another node": func(c *Config) { c.Saved = encodeDurable(ref{name(3), dir(3)}, durable{}) },
		"other terms":     func(c *Config) { c.Saved, c.Terms.Shards = held, 31 },
	} {
		cfg := config(n, 0, 3)
		change(&cfg)
		if _, err := New(cfg); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	cfg := config(n, 0, 3)
	cfg.Saved = []byte("damaged, and long enough")
	if _, err := New(cfg); !errors.Is(err, base.ErrCorrupt) {
		t.Errorf("damaged: %v", err)
	}
	f, err := New(config(n, 0, 3))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Answer(nil); !errors.Is(err, base.ErrCorrupt) {
		t.Errorf("empty request: %v", err)
	}
	if _, err := f.Answer([]byte{99}); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("request of another version: %v", err)
	}
}
