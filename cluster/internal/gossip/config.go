package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/distributedcache/cache/internal/base"
)

// Kind is the kind of the connections of gossip.
const Kind byte = 4

// Network opens and accepts the connections between nodes. The kind says what
// a connection is for; it is Kind here.
type Network interface {
	// Dial opens a connection to the node at addr. It gives up when ctx is
	// done, which does not affect a connection that is open.
	Dial(ctx context.Context, addr string, kind byte) (net.Conn, error)
	// Serve hands every connection of the kind that a peer opens to handle,
	// each on a goroutine of its own, and closes it when handle returns.
	// stop closes these connections and returns after all handlers did.
	Serve(kind byte, handle func(net.Conn)) (stop func(), err error)
}

// Limits of what a configuration may hold.
const (
	// MaxNodeIDBytes is what a data directory allows, too.
	MaxNodeIDBytes = 128
	// MaxClusterIDBytes leaves room in each packet, which carries the id.
	MaxClusterIDBytes = 64
	// MaxAddressBytes fits a DNS name (253 bytes) and a port.
	MaxAddressBytes = 260
)

// Config is what Start needs to know.
type Config struct {
	Network Network

	NodeID    string
	BootEpoch uint64 // rises with each start of the node
	Advertise string // where peers reach the node; as Network.Dial takes it
	ClusterID string // clusters of different ids never see one another

	// ProtocolMin and ProtocolMax are the versions of the protocol between
	// nodes that this one speaks. Nodes whose ranges do not meet refuse one
	// another.
	ProtocolMin, ProtocolMax uint16

	// Meta is what the node tells about itself until SetMeta changes it.
	Meta Meta

	// Seeds returns the addresses at which others may be found. It is asked
	// before each attempt to join and must not block; nil is none.
	Seeds func() []string

	// OnLeaders is called with hints that came from others, from one
	// goroutine; the slice is its own. While it runs, newer hints about a
	// shard replace older ones. Close waits for it. nil ignores the hints.
	OnLeaders func([]LeaderHint)

	Logger *slog.Logger // nil discards
	Clock  base.Clock   // nil is the system clock

	// Fast divides all intervals, for tests; 0 is 1.
	Fast float64
}

// validate reports what is wrong with the configuration.
func (c *Config) validate() error {
	switch {
	case c.Network == nil:
		return fmt.Errorf("%w: gossip needs a network", base.ErrInvalid)
	case c.NodeID == "" || len(c.NodeID) > MaxNodeIDBytes:
		return fmt.Errorf("%w: node id of %d bytes, 1 to %d are allowed", base.ErrInvalid, len(c.NodeID), MaxNodeIDBytes)
	case c.ClusterID == "" || len(c.ClusterID) > MaxClusterIDBytes:
		return fmt.Errorf("%w: cluster id of %d bytes, 1 to %d are allowed", base.ErrInvalid, len(c.ClusterID), MaxClusterIDBytes)
	case !validAddress(c.Advertise):
		return fmt.Errorf("%w: %q cannot be advertised", base.ErrInvalid, c.Advertise)
	case c.ProtocolMin > c.ProtocolMax:
		return fmt.Errorf("%w: protocol range [%d, %d]", base.ErrInvalid, c.ProtocolMin, c.ProtocolMax)
	case c.Fast < 0:
		return fmt.Errorf("%w: Fast is %v", base.ErrInvalid, c.Fast)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Seeds == nil {
		c.Seeds = func() []string { return nil }
	}
	if c.Fast == 0 {
		c.Fast = 1
	}
	return c
}

// timing has all intervals, divided by Config.Fast.
type timing struct {
	probe, probeTimeout, gossip, pushPull time.Duration
	gossipToTheDead, deadNodeReclaim      time.Duration
	refresh                               time.Duration // between looks at memberlist's state
	rejoin                                time.Duration // between attempts to find others
	retryFirst, retryMost                 time.Duration // between attempts while alone
	meta                                  time.Duration // between two changes of our own Meta
}

func newTiming(fast float64) timing {
	of := func(d time.Duration) time.Duration { return max(time.Millisecond, time.Duration(float64(d)/fast)) }
	return timing{
		probe: of(time.Second), probeTimeout: of(500 * time.Millisecond),
		gossip: of(200 * time.Millisecond), pushPull: of(15 * time.Second),
		gossipToTheDead: of(60 * time.Second), deadNodeReclaim: of(30 * time.Second),
		refresh: of(500 * time.Millisecond),
		rejoin:  of(30 * time.Second), retryFirst: of(200 * time.Millisecond), retryMost: of(5 * time.Second),
		meta: of(250 * time.Millisecond),
	}
}

// packetBytes is how much memberlist puts into one packet. There is no MTU to
// respect; more would let one lost packet take more with it.
const packetBytes = 8 << 10

// streamTimeout bounds an exchange of states with one peer.
const streamTimeout = 5 * time.Second

// memberlistConfig returns the configuration of memberlist. A keyring would go
// in here.
func (g *Gossip) memberlistConfig() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = g.name
	c.Label = g.cfg.ClusterID
	c.Transport = g.transport
	c.BindPort, c.AdvertisePort = placeholderPort, placeholderPort // never bound
	c.TCPTimeout = streamTimeout
	c.ProbeInterval, c.ProbeTimeout = g.timing.probe, g.timing.probeTimeout
	c.SuspicionMult = 5
	c.GossipInterval = g.timing.gossip
	c.PushPullInterval = g.timing.pushPull
	c.GossipToTheDeadTime = g.timing.gossipToTheDead
	c.DeadNodeReclaimTime = g.timing.deadNodeReclaim
	c.EnableCompression = false
	c.HandoffQueueDepth = 4096
	c.UDPBufferSize = packetBytes
	c.RequireNodeNames = false
	c.LogOutput = g.log
	d := &delegate{g}
	c.Delegate, c.Events, c.Merge, c.Alive, c.Ping = d, d, d, d, d
	return c
}

// validAddress reports whether an address can be part of a name. What it means
// is the business of the Network.
func validAddress(addr string) bool {
	if addr == "" || len(addr) > MaxAddressBytes || strings.ContainsAny(addr, "/@") {
		return false
	}
	return strings.IndexFunc(addr, func(r rune) bool { return r <= ' ' || r == 0x7f }) < 0
}
