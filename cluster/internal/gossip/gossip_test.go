package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/testkit/faultnet"
	"github.com/distributedcache/cache/internal/wire"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// patience is far above what anything here takes on a busy machine.
const patience = 90 * time.Second

// fast makes a probe take 100 ms, and memberlist forget the dead after 6 s.
const fast = 10

// testLog is a logger that ends with the test.
type testLog struct {
	t    *testing.T
	mu   sync.Mutex
	done bool
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		l.t.Logf("%s", p)
	}
	return len(p), nil
}

func newTestLogger(t *testing.T, node string) *slog.Logger {
	w := &testLog{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.done = true
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", node)
}

// world is some nodes on a faulty network.
type world struct {
	t    *testing.T
	net  *faultnet.Net
	rand *rand.Rand
	mu   sync.Mutex
	next map[string]uint64 // boot epochs
}

func newWorld(t *testing.T) *world {
	r := testkit.Rand(t)
	w := &world{t: t, net: faultnet.New(r.Uint64()), rand: r, next: map[string]uint64{}}
	t.Cleanup(w.net.Close)
	return w
}

// config returns what a node is started with.
func (w *world) config(id, addr string, seeds ...string) Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next[id]++
	return Config{
		Network: w.net.Node(addr), NodeID: id, BootEpoch: w.next[id], Advertise: addr, ClusterID: "cluster-1",
		ProtocolMin: 1, ProtocolMax: 1, Seeds: func() []string { return seeds }, Fast: fast, Logger: newTestLogger(w.t, id),
	}
}

// open starts a node that the test need not close.
func (w *world) open(cfg Config) *Gossip {
	w.t.Helper()
	g, err := Start(testkit.Context(w.t), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := g.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return g
}

// nodes starts n nodes that each know one of the others.
func (w *world) nodes(n int) (list []*Gossip) {
	for i := range n {
		list = append(list, w.open(w.config(nodeID(i), nodeAddr(i), nodeAddr(w.rand.IntN(max(1, i))))))
	}
	return list
}

func nodeID(i int) string   { return fmt.Sprint("node-", i) }
func nodeAddr(i int) string { return fmt.Sprint("address-", i) }

func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	testkit.Eventually(w.t, patience, what, cond)
}

// sees reports whether g knows exactly n members in the state.
func sees(g *Gossip, n int, state State) bool {
	count := 0
	for _, m := range g.Members() {
		if m.State == state {
			count++
		}
	}
	return count == n
}

// member returns what g knows of a node.
func member(g *Gossip, id string) (Member, bool) {
	list := g.Members()
	i := slices.IndexFunc(list, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return list[i], true
}

func inState(g *Gossip, id string, state State) bool {
	m, ok := member(g, id)
	return ok && m.State == state
}

// whole reports whether all of the nodes see all of them alive.
func whole(list []*Gossip) bool {
	return !slices.ContainsFunc(list, func(g *Gossip) bool { return !sees(g, len(list), Alive) })
}

func TestJoin(t *testing.T) {
	for n := 1; n <= 7; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newWorld(t)
			list := w.nodes(n)
			w.eventually("all to see all", func() bool { return whole(list) })
			for _, m := range list[0].Members() {
				if m.Epoch != 1 || m.Addr == "" || m.Since.IsZero() || m.ProtocolMax != 1 {
					t.Errorf("%+v", m)
				}
			}
			select {
			case <-list[0].Changed():
			default:
				t.Error("no change was told")
			}
		})
	}
}

// TestSeedComesLater: who is alone keeps trying, and asks for seeds anew.
func TestSeedComesLater(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	seeds := []string{"nobody", nodeAddr(0), "not an address"} // itself, too
	cfg := w.config(nodeID(0), nodeAddr(0))
	cfg.Seeds = func() []string {
		mu.Lock()
		defer mu.Unlock()
		return seeds
	}
	a, b := w.open(cfg), w.open(w.config(nodeID(1), nodeAddr(1)))
	mu.Lock()
	seeds = []string{nodeAddr(1)}
	mu.Unlock()
	w.eventually("both to see both", func() bool { return whole([]*Gossip{a, b}) })
}

func TestMetaSpreads(t *testing.T) {
	w := newWorld(t)
	list := w.nodes(4)
	w.eventually("all to see all", func() bool { return whole(list) })
	for i := range 20 {
		list[1].SetMeta(func(m *Meta) {
			m.CatalogEpoch, m.CatalogMember, m.Draining, m.Load, m.Leaders = uint64(i), true, i%2 == 1, uint16(1000*i), 7
		})
	}
	want := Meta{CatalogEpoch: 19, CatalogMember: true, Draining: true, Load: 19000, Leaders: 7}
	w.eventually("the last change everywhere", func() bool {
		return !slices.ContainsFunc(list, func(g *Gossip) bool {
			m, _ := member(g, nodeID(1))
			return m.Meta != want
		})
	})
}

// TestDeathAndReturn: a node dies without a word, and another start of it, at
// another address, takes its place.
func TestDeathAndReturn(t *testing.T) {
	w := newWorld(t)
	list := w.nodes(4)
	w.eventually("all to see all", func() bool { return whole(list) })
	if err := list[3].Close(); err != nil {
		t.Fatal(err)
	}
	w.eventually("the death to be noticed", func() bool {
		return !slices.ContainsFunc(list[:3], func(g *Gossip) bool { return !inState(g, nodeID(3), Dead) })
	})
	m, _ := member(list[0], nodeID(3))
	if m.Since.IsZero() || m.Epoch != 1 || m.Addr != nodeAddr(3) {
		t.Errorf("%+v", m)
	}
	again := w.open(w.config(nodeID(3), "elsewhere", nodeAddr(0)))
	list[3] = again
	w.eventually("the node to be back", func() bool {
		m, _ := member(list[1], nodeID(3))
		return whole(list) && m.Epoch == 2 && m.Addr == "elsewhere"
	})
}

// TestSuspicion: a node that is cut off is suspected before it is dead, by the
// others and by itself, and alive again when it is not.
func TestSuspicion(t *testing.T) {
	w := newWorld(t)
	list := w.nodes(3)
	w.eventually("all to see all", func() bool { return whole(list) })
	w.net.Isolate(nodeAddr(2))
	w.eventually("a suspicion", func() bool { return inState(list[0], nodeID(2), Suspect) || inState(list[1], nodeID(2), Suspect) })
	w.eventually("the death", func() bool { return inState(list[0], nodeID(2), Dead) && inState(list[1], nodeID(2), Dead) })
	w.eventually("the others to be dead for the lonely", func() bool { return sees(list[2], 2, Dead) })
	w.net.Heal()
	w.eventually("all to see all", func() bool { return whole(list) })
}

func TestLeave(t *testing.T) {
	w := newWorld(t)
	list := w.nodes(4)
	w.eventually("all to see all", func() bool { return whole(list) })
	if err := list[2].Leave(testkit.Context(t)); err != nil {
		t.Fatal(err)
	}
	others := []*Gossip{list[0], list[1], list[3]}
	w.eventually("all to know", func() bool {
		return !slices.ContainsFunc(others, func(g *Gossip) bool { return !inState(g, nodeID(2), Left) })
	})
	if err := list[2].Close(); err != nil {
		t.Fatal(err)
	}
	if err := list[2].Leave(testkit.Context(t)); err == nil {
		t.Error("left after the end")
	}
	// It stays left when memberlist has forgotten it.
	w.eventually("memberlist to forget", func() bool {
		list[0].refreshing.Lock()
		defer list[0].refreshing.Unlock()
		for _, rec := range list[0].refreshing.roster.records {
			if rec.ID == nodeID(2) && rec.gone {
				return true
			}
		}
		return false
	})
	if !inState(list[0], nodeID(2), Left) {
		t.Errorf("%+v", list[0].Members())
	}
	list[2] = w.open(w.config(nodeID(2), nodeAddr(2), nodeAddr(1)))
	w.eventually("it to be back", func() bool { return whole(list) })
}

func TestLeaveAlone(t *testing.T) {
	w := newWorld(t)
	pair := w.nodes(2)
	w.eventually("both to see both", func() bool { return whole(pair) })
	if err := pair[0].Leave(testkit.Context(t)); err != nil {
		t.Error(err)
	}
	w.eventually("the other to know", func() bool { return inState(pair[1], nodeID(0), Left) })
	if err := pair[1].Leave(testkit.Context(t)); err != nil {
		t.Error(err)
	}
}

// TestLeaveGivesUp: nobody can be told.
func TestLeaveGivesUp(t *testing.T) {
	w := newWorld(t)
	pair := w.nodes(2)
	w.eventually("both to see both", func() bool { return whole(pair) })
	w.net.Isolate(nodeAddr(0))
	ctx, cancel := context.WithTimeout(testkit.Context(t), 300*time.Millisecond)
	defer cancel()
	if err := pair[0].Leave(ctx); err == nil && !inState(pair[0], nodeID(1), Dead) {
		t.Error("nobody can know")
	}
}

// TestSplitHeals: each half has forgotten the other when they are together
// again.
func TestSplitHeals(t *testing.T) {
	w := newWorld(t)
	list := w.nodes(4)
	w.eventually("all to see all", func() bool { return whole(list) })
	w.net.Partition([]string{nodeAddr(0), nodeAddr(1)}, []string{nodeAddr(2), nodeAddr(3)})
	for _, g := range list {
		w.eventually("the other half to be forgotten", func() bool { return sees(g, 2, Dead) && forgotten(g) == 2 })
	}
	w.net.Heal()
	w.eventually("all to see all", func() bool { return whole(list) })
}

// forgotten counts the members that memberlist knows nothing of any more.
func forgotten(g *Gossip) (n int) {
	g.refreshing.Lock()
	defer g.refreshing.Unlock()
	for _, rec := range g.refreshing.roster.records {
		if rec.gone {
			n++
		}
	}
	return n
}

// TestMassRestart: all nodes crash at once and come back at the same addresses.
func TestMassRestart(t *testing.T) {
	w := newWorld(t)
	list := w.nodes(5)
	w.eventually("all to see all", func() bool { return whole(list) })
	for range 2 {
		for _, g := range list {
			if err := g.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for i := range list {
			list[i] = w.open(w.config(nodeID(i), nodeAddr(i), nodeAddr((i+1)%len(list))))
		}
		w.eventually("all to see all", func() bool { return whole(list) })
	}
	for _, m := range list[0].Members() {
		if m.Epoch != 3 {
			t.Errorf("%+v", m)
		}
	}
}

// TestOtherClusters never merge, even when they know each other's addresses,
// and when a node comes up at an address of the other.
func TestOtherClusters(t *testing.T) {
	w := newWorld(t)
	var halves [2][]*Gossip
	all := []string{nodeAddr(0), nodeAddr(1), nodeAddr(2), nodeAddr(3)}
	for i := range 4 {
		cfg := w.config(nodeID(i), nodeAddr(i), all...)
		cfg.ClusterID = fmt.Sprint("cluster-", i%2)
		halves[i%2] = append(halves[i%2], w.open(cfg))
	}
	refused := func() bool {
		return !slices.ContainsFunc(slices.Concat(halves[0], halves[1]), func(g *Gossip) bool {
			s := g.Stats()
			return s.Refused == 0 || !errors.Is(s.LastRefused, ErrOtherCluster)
		})
	}
	w.eventually("each to find its own and refuse others", func() bool { return whole(halves[0]) && whole(halves[1]) && refused() })
	for _, g := range slices.Concat(halves[0], halves[1]) {
		if len(g.Members()) != 2 {
			t.Errorf("%+v", g.Members())
		}
	}
	// One of the first cluster takes over the address of one of the second.
	if err := errors.Join(halves[0][1].Close(), halves[1][1].Close()); err != nil {
		t.Fatal(err)
	}
	cfg := w.config(nodeID(2), nodeAddr(3), all...)
	cfg.ClusterID = "cluster-0"
	halves[0][1] = w.open(cfg)
	w.eventually("it to join its own", func() bool { return whole(halves[0]) && inState(halves[1][0], nodeID(3), Dead) })
	if _, ok := member(halves[1][0], nodeID(2)); ok {
		t.Error("the clusters have merged")
	}
}

// TestOtherProtocol: whoever speaks another protocol is kept out, by both
// sides, also when it is heard of through a third.
func TestOtherProtocol(t *testing.T) {
	w := newWorld(t)
	versions := [][2]uint16{{1, 1}, {1, 2}, {2, 3}}
	var list []*Gossip
	for i, v := range versions {
		cfg := w.config(nodeID(i), nodeAddr(i), nodeAddr(0), nodeAddr(1), nodeAddr(2))
		cfg.ProtocolMin, cfg.ProtocolMax = v[0], v[1]
		list = append(list, w.open(cfg))
	}
	w.eventually("all to see those they understand", func() bool {
		return sees(list[0], 2, Alive) && sees(list[1], 3, Alive) && sees(list[2], 2, Alive)
	})
	for _, g := range []*Gossip{list[0], list[2]} {
		w.eventually("a refusal", func() bool {
			var refused *RefusedError
			err := g.Stats().LastRefused
			return errors.Is(err, ErrOtherProtocol) && errors.As(err, &refused)
		})
	}
	if _, ok := member(list[0], nodeID(2)); ok {
		t.Error("a node of another protocol was let in")
	}
}

func TestLeaderHints(t *testing.T) {
	w := newWorld(t)
	const n = 5
	var mu sync.Mutex
	got := make([]map[base.ShardID]LeaderHint, n)
	var list []*Gossip
	for i := range n {
		got[i] = map[base.ShardID]LeaderHint{}
		cfg := w.config(nodeID(i), nodeAddr(i), nodeAddr(0))
		cfg.OnLeaders = func(hints []LeaderHint) {
			mu.Lock()
			defer mu.Unlock()
			for _, h := range hints {
				if h.Term <= got[i][h.Shard].Term {
					t.Errorf("%+v after %+v", h, got[i][h.Shard])
				}
				got[i][h.Shard] = h
			}
		}
		if i < n-1 {
			list = append(list, w.open(cfg))
			continue
		}
		w.eventually("all to see all", func() bool { return whole(list) })
		for from, g := range list {
			var hints []LeaderHint
			for s := from; s <= base.MaxShards; s += len(list) {
				hints = append(hints, LeaderHint{Shard: base.ShardID(s), Node: nodeID(from), Term: 5})
			}
			g.BroadcastLeaders(hints)
		}
		list[0].BroadcastLeaders([]LeaderHint{{Shard: 3, Node: nodeID(0), Term: 6}})
		list[1].BroadcastLeaders([]LeaderHint{{Shard: 3, Node: nodeID(1), Term: 4}}) // late
		list = append(list, w.open(cfg))                                             // hears of it all when it joins
	}
	w.eventually("all hints everywhere", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for i := range n {
			for s := range base.ShardID(base.MaxShards + 1) {
				own := i < n-1 && int(s)%(n-1) == i || i == 0 && s == 3 // told by the node itself
				if h := got[i][s]; h.Term < 5 && !own {
					return false
				}
			}
			if i > 0 && got[i][3] != (LeaderHint{Shard: 3, Node: nodeID(0), Term: 6}) {
				return false
			}
		}
		return true
	})
}

// TestClockOffsets: each node has another idea of the time.
func TestClockOffsets(t *testing.T) {
	w := newWorld(t)
	skews := []time.Duration{0, 3 * time.Second, -2 * time.Hour}
	var list []*Gossip
	for i, skew := range skews {
		cfg := w.config(nodeID(i), nodeAddr(i), nodeAddr(0))
		cfg.Clock = func() time.Time { return time.Now().Add(skew) }
		list = append(list, w.open(cfg))
	}
	w.eventually("all to know all clocks", func() bool {
		for i, g := range list {
			offsets := g.Offsets()
			for j := range list {
				o, ok := offsets[nodeID(j)]
				if i == j {
					continue
				}
				// The machine may be busy between an answer and its reading.
				if wrong := (o.Offset - (skews[j] - skews[i])).Abs(); !ok || wrong > o.Uncertainty+200*time.Millisecond || o.At.IsZero() {
					return false
				}
			}
		}
		return true
	})
}

// TestFaults: delays and cut connections do not keep the nodes apart.
func TestFaults(t *testing.T) {
	w := newWorld(t)
	w.net.SetFaults(faultnet.Faults{Delay: 0.05, Cut: 0.02, MaxDelay: 30 * time.Millisecond})
	list := w.nodes(4)
	w.eventually("all to see all, and some faults", func() bool { return w.net.Stats().Cut > 10 && whole(list) })
	w.net.SetFaults(faultnet.Faults{})
	for range 5 {
		w.net.CutAll()
	}
	w.eventually("all to see all", func() bool { return whole(list) })
}

// TestSameIDTwice: of two living starts of a node the later one counts.
func TestSameIDTwice(t *testing.T) {
	w := newWorld(t)
	list := w.nodes(2)
	again := w.open(w.config(nodeID(1), "copy", nodeAddr(0)))
	w.eventually("the later one to count", func() bool {
		for _, g := range []*Gossip{list[0], list[1], again} {
			if m, ok := member(g, nodeID(1)); !ok || m.Epoch != 2 || m.Addr != "copy" || m.State != Alive || len(g.Members()) != 2 {
				return false
			}
		}
		return true
	})
}

// TestGarbage: hostile bytes on the port harm nobody.
func TestGarbage(t *testing.T) {
	w := newWorld(t)
	list := w.nodes(2)
	w.eventually("both to see both", func() bool { return whole(list) })
	stranger := w.net.Node("stranger")
	label := appendLabel(nil, "cluster-1")
	packets := hello{kind: frameHelloPackets, from: "stranger"}.frame()
	streams := hello{kind: frameHelloStream}.frame()
	packet := func(payload string) []byte {
		return slices.Concat(packets, finish(append(append(wire.BeginFrame(nil), label...), payload...), framePacket))
	}
	for _, data := range [][]byte{
		nil, {0}, []byte("GET / HTTP/1.1\r\n\r\n"), testkit.Bytes(w.rand, 5000), packets, streams,
		slices.Concat(packets, packets), slices.Concat(packets, testkit.Bytes(w.rand, 5000)), slices.Concat(streams, testkit.Bytes(w.rand, 5000)),
		packet(""), packet("\x09\x82"), packet("\x0a"), packet("\x07\xff"), packet("\x07\x01\x00\x03\x07\x00\x00"), packet("\x06\x80"),
		packet("\x00" + string(testkit.Bytes(w.rand, 100))), packet("\x04" + string(testkit.Bytes(w.rand, 100))), packet("\x08" + string(testkit.Bytes(w.rand, 100))),
		slices.Concat(streams, label, []byte{msgPushPull, 0x81}, []byte("\xa5Nodes\xce\x00\x10\x00\x00")),
		slices.Concat(streams, label, []byte{msgPushPull, 0x83}, []byte("\xa4Join\xc3\xa5Nodes\xcd\x0f\xff\xacUserStateLen\x00\xdd\xff\xff\xff\xff")),
		slices.Concat(streams, label, []byte{9}, testkit.Bytes(w.rand, 100)),
		slices.Concat(streams, appendLabel(nil, "cluster-2"), []byte{msgPushPull, 0x80}),
	} {
		conn, err := stranger.Dial(testkit.Context(t), nodeAddr(0), Kind)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(data) // the node may have closed it already
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("the faults to be counted", func() bool { s := list[0].Stats(); return s.Faults >= 10 && s.Refused >= 1 })
	third := w.open(w.config(nodeID(2), nodeAddr(2), nodeAddr(0)))
	w.eventually("all to see all", func() bool { return whole(append(list, third)) })
	if len(list[0].Members()) != 3 {
		t.Errorf("%+v", list[0].Members())
	}
}

// TestStartRefuses what cannot work.
func TestStartRefuses(t *testing.T) {
	w := newWorld(t)
	good := w.config("a", "addr")
	for name, change := range map[string]func(*Config){
		"network":    func(c *Config) { c.Network = nil },
		"no id":      func(c *Config) { c.NodeID = "" },
		"long id":    func(c *Config) { c.NodeID = string(make([]byte, MaxNodeIDBytes+1)) },
		"no cluster": func(c *Config) { c.ClusterID = "" },
		"address":    func(c *Config) { c.Advertise = "a/b" },
		"protocol":   func(c *Config) { c.ProtocolMin = 9 },
		"fast":       func(c *Config) { c.Fast = -1 },
	} {
		cfg := good
		change(&cfg)
		if g, err := Start(testkit.Context(t), cfg); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("%s: %v, %v", name, g, err)
		}
	}
	ctx, cancel := context.WithCancel(testkit.Context(t))
	cancel()
	if _, err := Start(ctx, good); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	g := w.open(good)
	if _, err := Start(testkit.Context(t), good); err == nil {
		t.Error("two nodes at one address")
	}
	if err := errors.Join(g.Close(), g.Close()); err != nil {
		t.Error(err)
	}
	g.SetMeta(func(m *Meta) { m.Load++ })
	g.BroadcastLeaders([]LeaderHint{{Shard: 1, Node: "a", Term: 1}})
}

// TestCloseIsComplete: nothing is left, though a probe is under way that
// memberlist would wait for longer than the check for leaks does.
func TestCloseIsComplete(t *testing.T) {
	testkit.CheckNoLeaks(t)
	w := newWorld(t)
	var list []*Gossip
	for i := range 4 {
		cfg := w.config(nodeID(i), nodeAddr(i), nodeAddr(0))
		cfg.Fast = 0.25
		list = append(list, w.open(cfg))
	}
	w.eventually("all to see all", func() bool { return whole(list) })
	w.net.Isolate(nodeAddr(0)) // so that its pings stay without answers
	before := pings(list[0])
	w.eventually("a probe", func() bool { return pings(list[0]) != before })
	for _, g := range list {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
}

// pings counts the pings that a node has sent.
func pings(g *Gossip) int {
	g.transport.mu.Lock()
	defer g.transport.mu.Unlock()
	return g.transport.mu.nextPing
}

// TestMetaAfterLeave: a node that goes on after it has left is forgotten by its own
// memberlist, which would panic if it were told of a change then.
func TestMetaAfterLeave(t *testing.T) {
	w := newWorld(t)
	pair := w.nodes(2)
	w.eventually("both to see both", func() bool { return whole(pair) })
	if err := pair[0].Leave(testkit.Context(t)); err != nil {
		t.Fatal(err)
	}
	w.eventually("it to forget itself", func() bool {
		pair[0].refreshing.Lock()
		defer pair[0].refreshing.Unlock()
		for _, rec := range pair[0].refreshing.roster.records {
			if rec.ID == nodeID(0) && rec.gone {
				return true
			}
		}
		return false
	})
	pair[0].updateNode()
}
