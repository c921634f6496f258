package peer

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"time"
)

// Kind is the kind of the connections between nodes that carry requests.
const Kind byte = 3

// Network opens and accepts the connections between nodes. The kind says what
// a connection is for.
type Network interface {
	// Dial opens a connection to the node at addr. It gives up when ctx is
	// done, which does not affect a connection that is open.
	Dial(ctx context.Context, addr string, kind byte) (net.Conn, error)
	// Serve hands every connection of the kind that a peer opens to handle,
	// each on a goroutine of its own, and closes it when handle returns.
	// stop closes these connections and returns after all handlers did.
	Serve(kind byte, handle func(net.Conn)) (stop func(), err error)
}

// Handler answers the requests of other nodes. It is called from several
// goroutines at once. What a method number means is its business.
type Handler interface {
	// Serve answers one request. ctx carries the caller's deadline and ends
	// when the caller gives up or is gone, and at the latest when Serve
	// returns. The request is valid until then. The answer belongs to the
	// server from then on.
	Serve(ctx context.Context, method uint8, request []byte) ([]byte, error)
	// Stream answers in pieces. send copies the piece, and blocks while the
	// caller is slower; once it fails it fails for ever. A piece has at most
	// MaxMessageBytes; 64 to 256 KiB are a good size. The rest is as with
	// Serve.
	Stream(ctx context.Context, method uint8, request []byte, send func(piece []byte) error) error
}

// Defaults of Config.
const (
	// DefaultMaxMessageBytes holds the largest command and the largest page
	// of a scan with room to spare.
	DefaultMaxMessageBytes = 16 << 20
	// DefaultMaxInFlight is several times what saturates a node.
	DefaultMaxInFlight = 1024
	// DefaultConcurrency lets two peers use up their in-flight limit at once.
	// Handlers mostly wait, for the raft log or for other nodes.
	DefaultConcurrency = 2048
	// DefaultMaxStreams bounds long answers; each may hold a snapshot of the
	// store open.
	DefaultMaxStreams = 64
	// DefaultMaxConns bounds the connections that a server accepts: two for
	// each peer, twice that during a change-over.
	DefaultMaxConns = 1024
	// DefaultMaxPeers bounds the addresses that a pool remembers.
	DefaultMaxPeers = 1024

	DefaultDialTimeout = 3 * time.Second
	DefaultHeartbeat   = 750 * time.Millisecond
	DefaultDeadAfter   = 2500 * time.Millisecond
	DefaultIdleTimeout = 5 * time.Minute
	DefaultMaxConnAge  = time.Hour
	DefaultMaxBackoff  = 2 * time.Second
)

// Config is what a Pool and a Server need to know. It should be the same on
// all nodes. Zero values stand for the defaults.
type Config struct {
	Network Network
	Logger  *slog.Logger // nil discards

	// MaxMessageBytes limits a request, an answer and a piece of a stream.
	MaxMessageBytes int
	// MaxInFlight limits the calls that wait for an answer of one peer, and
	// on the serving side those that one connection has running.
	MaxInFlight int
	// Concurrency limits the handlers that a server runs at once for calls.
	// Up to as many requests again wait for one.
	Concurrency int
	// MaxStreams limits the streams that a pool has open to one peer, and
	// those that a server answers at once for one connection; it answers four
	// times as many in all.
	MaxStreams int
	// MaxConns limits the connections that a server accepts.
	MaxConns int
	// MaxPeers limits the addresses that a pool remembers.
	MaxPeers int

	// DialTimeout bounds the opening of a connection, handshakes included.
	DialTimeout time.Duration
	// Heartbeat is how often a connection is checked.
	Heartbeat time.Duration
	// DeadAfter is how long a peer may be silent before it counts as gone.
	// Below three heartbeats, a pause of the process is taken for a death.
	DeadAfter time.Duration
	// IdleTimeout is how long a connection without calls stays open.
	IdleTimeout time.Duration
	// MaxConnAge is how long a connection is used, so that new certificates
	// take effect; then the next one takes over, and what is under way may
	// take another tenth of that, a minute at most, before it is cut off.
	MaxConnAge time.Duration
	// MaxBackoff bounds the pause after a failure to connect, in which all
	// calls fail at once.
	MaxBackoff time.Duration

	oneConn bool // streams share the connection of the calls; for comparison
}

// maxMessageLimit keeps the limit of messages far below what HTTP/2 and gRPC
// can express.
const maxMessageLimit = 256 << 20

func (c Config) withDefaults() Config {
	c.MaxMessageBytes = min(cmp.Or(c.MaxMessageBytes, DefaultMaxMessageBytes), maxMessageLimit)
	c.MaxInFlight = cmp.Or(c.MaxInFlight, DefaultMaxInFlight)
	c.Concurrency = cmp.Or(c.Concurrency, DefaultConcurrency)
	c.MaxStreams = cmp.Or(c.MaxStreams, DefaultMaxStreams)
	c.MaxConns = cmp.Or(c.MaxConns, DefaultMaxConns)
	c.MaxPeers = cmp.Or(c.MaxPeers, DefaultMaxPeers)
	c.DialTimeout = cmp.Or(c.DialTimeout, DefaultDialTimeout)
	c.Heartbeat = cmp.Or(c.Heartbeat, DefaultHeartbeat)
	c.DeadAfter = cmp.Or(c.DeadAfter, DefaultDeadAfter)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, DefaultIdleTimeout)
	c.MaxConnAge = cmp.Or(c.MaxConnAge, DefaultMaxConnAge)
	c.MaxBackoff = cmp.Or(c.MaxBackoff, DefaultMaxBackoff)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// drainTimeout is how long a connection that another has taken over from may
// go on for what is under way.
func (c Config) drainTimeout() time.Duration { return min(c.MaxConnAge/10, time.Minute) }

// complaintEvery is how often a fault is logged at most.
const complaintEvery = 10 * time.Second

// complaint decides which faults are logged: a peer must not be able to fill
// the log.
type complaint struct {
	next   atomic.Int64 // Unix nanoseconds
	unsaid atomic.Uint64
}

// due reports whether to log now, and how many faults were passed over.
func (c *complaint) due(now time.Time) (unsaid uint64, ok bool) {
	next := c.next.Load()
	if now.UnixNano() < next || !c.next.CompareAndSwap(next, now.Add(complaintEvery).UnixNano()) {
		c.unsaid.Add(1)
		return 0, false
	}
	return c.unsaid.Swap(0), true
}
