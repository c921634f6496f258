package gossip

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/distributedcache/cache/internal/testkit"
)

// tcpNet is a Network over TCP: the first byte of a connection is its kind.
type tcpNet struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func newTCPNet(t *testing.T) *tcpNet {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &tcpNet{listener: l, conns: map[net.Conn]struct{}{}}
	t.Cleanup(func() { l.Close() })
	return n
}

func (n *tcpNet) addr() string { return n.listener.Addr().String() }

func (n *tcpNet) Dial(ctx context.Context, addr string, kind byte) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte{kind}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func (n *tcpNet) Serve(kind byte, handle func(net.Conn)) (func(), error) {
	n.wg.Go(func() {
		for {
			conn, err := n.listener.Accept()
			if err != nil {
				return
			}
			n.mu.Lock()
			n.conns[conn] = struct{}{}
			n.mu.Unlock()
			n.wg.Go(func() {
				var first [1]byte
				if _, err := io.ReadFull(conn, first[:]); err == nil && first[0] == kind {
					handle(conn)
				}
				conn.Close()
				n.mu.Lock()
				defer n.mu.Unlock()
				delete(n.conns, conn)
			})
		}
	})
	return func() {
		n.listener.Close()
		n.mu.Lock()
		for c := range n.conns {
			c.Close()
		}
		n.mu.Unlock()
		n.wg.Wait()
	}, nil
}

// TestTCP: the same over real connections, by a DNS name too.
func TestTCP(t *testing.T) {
	testkit.CheckNoLeaks(t)
	var list []*Gossip
	var seed string
	for i := range 3 {
		n := newTCPNet(t)
		cfg := Config{
			Network: n, NodeID: nodeID(i), BootEpoch: 1, Advertise: n.addr(), ClusterID: "tcp", Fast: fast,
			Logger: newTestLogger(t, nodeID(i)), Seeds: func() []string { return []string{seed} },
		}
		if i == 0 {
			_, port, _ := net.SplitHostPort(n.addr())
			cfg.Advertise = net.JoinHostPort("localhost", port)
			seed = cfg.Advertise
		}
		g, err := Start(testkit.Context(t), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		list = append(list, g)
	}
	testkit.Eventually(t, patience, "all to see all", func() bool { return whole(list) })
	list[2].BroadcastLeaders(sampleHints())
	testkit.Eventually(t, patience, "clocks to be known", func() bool { return len(list[1].Offsets()) == 2 })
	if err := list[1].Leave(testkit.Context(t)); err != nil {
		t.Error(err)
	}
	testkit.Eventually(t, patience, "the others to know", func() bool {
		return inState(list[0], nodeID(1), Left) && inState(list[2], nodeID(1), Left)
	})
	if err := errors.Join(list[1].Close(), list[2].Close()); err != nil {
		t.Error(err)
	}
	testkit.Eventually(t, patience, "the death to be noticed", func() bool { return inState(list[0], nodeID(2), Dead) })
	if !inState(list[0], nodeID(1), Left) {
		t.Errorf("%+v", list[0].Members())
	}
}
