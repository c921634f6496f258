package gossip

import (
	"bytes"
	"context"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/wire"
)

// tap is a Network that remembers what was written to connections.
type tap struct {
	Network

	mu      sync.Mutex
	written []*tapped
}

type tapped struct {
	net.Conn
	mu  sync.Mutex
	buf []byte
}

func (n *tap) Dial(ctx context.Context, addr string, kind byte) (net.Conn, error) {
	conn, err := n.Network.Dial(ctx, addr, kind)
	if err != nil {
		return nil, err
	}
	c := &tapped{Conn: conn}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.written = append(n.written, c)
	return c, nil
}

func (c *tapped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.buf) < 64<<10 {
		c.buf = append(c.buf, p...)
	}
	return c.Conn.Write(p)
}

// connections returns what was written to each.
func (n *tap) connections() (list [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.written {
		c.mu.Lock()
		list = append(list, bytes.Clone(c.buf))
		c.mu.Unlock()
	}
	return list
}

// TestMutatedTraffic: what nodes say to one another, with some bytes changed
// and the checksums made right again, harms nobody.
func TestMutatedTraffic(t *testing.T) {
	w := newWorld(t)
	var list []*Gossip
	var taps []*tap
	for i := range 3 {
		cfg := w.config(nodeID(i), nodeAddr(i), nodeAddr(0))
		taps = append(taps, &tap{Network: cfg.Network})
		cfg.Network = taps[i]
		list = append(list, w.open(cfg))
	}
	w.eventually("all to see all", func() bool { return whole(list) })
	list[1].BroadcastLeaders(sampleHints())
	list[2].SetMeta(func(m *Meta) { m.Load = 7 })
	var said [][]byte
	w.eventually("some traffic", func() bool {
		said = nil
		for _, n := range taps {
			said = append(said, n.connections()...)
		}
		return len(bytes.Join(said, nil)) > 10_000 && len(list[0].Offsets()) == 2
	})
	stranger := w.net.Node("stranger")
	for range 1500 {
		data := bytes.Clone(said[w.rand.IntN(len(said))])
		for range 1 + w.rand.IntN(4) {
			data[w.rand.IntN(len(data))] = byte(w.rand.Uint32())
		}
		conn, err := stranger.Dial(testkit.Context(t), nodeAddr(0), Kind)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(reseal(data)) // the node may have closed it already
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("all to see all", func() bool { return !slices.ContainsFunc(list, func(g *Gossip) bool { return !sees(g, 3, Alive) }) })
}

// reseal makes the checksums of all frames right.
func reseal(data []byte) []byte {
	for rest := data; ; {
		n, err := wire.FrameBytes(rest)
		if err != nil || n > len(rest) {
			return data
		}
		finish(rest[:n:n], rest[1])
		rest = rest[n:]
	}
}

func BenchmarkRefresh(b *testing.B) {
	cfg := Config{Network: idle{}, NodeID: "a", Advertise: "a", ClusterID: "c"}
	g, err := Start(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	b.ReportAllocs()
	for b.Loop() {
		if err := g.refresh(); err != nil {
			b.Fatal(err)
		}
	}
}

// idle is a network with nobody on it.
type idle struct{}

func (idle) Dial(context.Context, string, byte) (net.Conn, error) { return nil, net.ErrClosed }
func (idle) Serve(byte, func(net.Conn)) (stop func(), err error)  { return func() {}, nil }
