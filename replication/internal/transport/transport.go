package transport

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/mux"
)

// Name is the name of the transport in dragonboat.
const Name = "cache-transport"

// The kinds of connections that the transport opens.
const (
	KindMessages = mux.KindMessages
	KindSnapshot = mux.KindSnapshot
)

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

// Defaults of Config.
const (
	DefaultMaxFrameBytes = 16 << 20
	DefaultWriteTimeout  = 5 * time.Second
	DefaultIdleTimeout   = 3 * time.Minute
)

// Config is what a Transport needs to know.
type Config struct {
	Network Network
	Logger  *slog.Logger // nil discards

	// MaxFrameBytes limits the frames sent and accepted; 0 is
	// DefaultMaxFrameBytes. It must be the same on all nodes and hold an
	// entry of the longest command and a chunk, whose data are 2 MiB.
	MaxFrameBytes int

	// SnapshotBytesPerSecond caps what all outgoing snapshots take together;
	// 0 is no cap.
	SnapshotBytesPerSecond int64

	// WriteTimeout is how long a peer may take to accept a batch or a piece
	// of a chunk before it counts as gone; 0 is DefaultWriteTimeout.
	WriteTimeout time.Duration

	// IdleTimeout is how long an accepted connection may stay without a
	// whole frame; 0 is DefaultIdleTimeout. It must exceed the minute after
	// which dragonboat closes an unused connection: a batch sent on one that
	// the peer has closed is lost unnoticed.
	IdleTimeout time.Duration

	// OwnProposals has a node propose only what it leads: raft would forward other
	// proposals to the leader, and these are dropped, as if the network had lost
	// them.
	OwnProposals bool

	// Saved returns the last entry of a replica of this node that is durable; nil if
	// it is not known. A leader without other voters commits before it has saved, and
	// learners must not be ahead of it: what they show would be lost with it.
	Saved func(group, replica uint64) uint64

	// Mute reports whether nothing may be sent any more: a fenced node must
	// not be heard. It runs for each write; nil is never.
	Mute func() bool
}

func (c Config) withDefaults() Config {
	c.MaxFrameBytes = cmp.Or(c.MaxFrameBytes, DefaultMaxFrameBytes)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, DefaultWriteTimeout)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, DefaultIdleTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Mute == nil {
		c.Mute = func() bool { return false }
	}
	return c
}

// maxSnapshots is how many snapshots are sent at once. More would only slow
// down one another and the messages beside them.
const maxSnapshots = 2

// dialTimeout bounds the opening of a connection. While one is opened the
// messages for the peer wait in its queue.
const dialTimeout = 5 * time.Second

// keepBufferBytes is the longest buffer that is pooled. Longer batches are
// rare: a replica that catches up with large commands.
const keepBufferBytes = 4 << 20

// Errors of the sending side.
var (
	// ErrMuted is returned for everything that a muted node is to send.
	ErrMuted = errors.New("node is muted")
	// ErrTooManySnapshots is returned for the snapshot over the limit.
	// Dragonboat tries again later, but takes it for a failure of the peer:
	// for up to 1.5 s it sends no messages to it either, unless it did so
	// less than ten seconds before. So whoever adds replicas should not add
	// more at once than there may be snapshots.
	ErrTooManySnapshots = errors.New("too many snapshots are being sent")
)

// Transport carries the raft traffic of one node. It is safe for concurrent
// use.
type Transport struct {
	cfg       Config
	limiter   *limiter
	snapshots chan struct{} // one slot for each outgoing stream
	buffers   sync.Pool     // of *[]byte, for outgoing batches
	complaint complaint
	stats     counters
	told      [maxGroups]atomic.Uint64 // by group: the newest commit index that a peer was sent
}

// maxGroups bounds the numbers of raft groups, which begin with 1: all shards and the
// catalog.
const maxGroups = base.MaxShards + 2

// Told returns the newest index that the leader of a group has told peers to be
// committed from this node. Nobody else shows what is later, in the term of this
// leader.
func (t *Transport) Told(group uint64) uint64 {
	if group >= maxGroups {
		return 0
	}
	return t.told[group].Load()
}

// tell notes what a batch tells of commit indexes, and keeps back what is not durable
// here. It is called before the batch is sent; one goroutine for each peer does.
func (t *Transport) tell(messages []raftpb.Message) {
	for i := range messages {
		m := &messages[i]
		if (m.Type != raftpb.Replicate && m.Type != raftpb.Heartbeat) || m.ShardID >= maxGroups {
			continue
		}
		told := &t.told[m.ShardID]
		old := told.Load()
		if m.Commit > old && t.cfg.Saved != nil {
			m.Commit = min(m.Commit, t.cfg.Saved(m.ShardID, m.From))
		}
		for m.Commit > old && !told.CompareAndSwap(old, m.Commit) {
			old = told.Load()
		}
	}
}

// New returns a Transport. It does nothing before a NodeHost that was given
// its Factory starts.
func New(cfg Config) *Transport {
	t := &Transport{cfg: cfg.withDefaults(), snapshots: make(chan struct{}, maxSnapshots)}
	t.limiter = newLimiter(t.cfg.SnapshotBytesPerSecond)
	t.buffers.New = func() any { return new([]byte) }
	return t
}

// Factory returns what goes into config.ExpertConfig.TransportFactory.
func (t *Transport) Factory() config.TransportFactory { return factory{t} }

type factory struct{ t *Transport }

// Create implements config.TransportFactory.
func (f factory) Create(nh config.NodeHostConfig, messages raftio.MessageHandler, chunks raftio.ChunkHandler) raftio.ITransport {
	return &host{
		Transport: f.t, deployment: nh.GetDeploymentID(), messages: messages, chunks: chunks,
		repeater: newRepeater(messages),
	}
}

// maxAddressBytes is the longest address; a DNS name has at most 253 bytes.
const maxAddressBytes = 300

// Validate implements config.TransportFactory. What an address looks like is
// the business of the Network.
func (f factory) Validate(addr string) bool { return addr != "" && len(addr) <= maxAddressBytes }

// Stats counts what a Transport has done since New.
type Stats struct {
	FramesIn, FramesOut   uint64
	BytesIn, BytesOut     uint64 // of whole frames
	BatchesIn, BatchesOut uint64 // of messages; a split one counts once
	ChunksIn, ChunksOut   uint64 // of snapshots
	Dropped               uint64 // messages that were not sent or not handed on
	Faults                uint64 // connections closed for what came over them
	Snapshots             int    // being sent now
	SnapshotsRefused      uint64 // because too many were being sent
}

// counters are the live values of Stats.
type counters struct {
	framesIn, framesOut, bytesIn, bytesOut, batchesIn, batchesOut atomic.Uint64
	chunksIn, chunksOut, dropped, faults, snapshotsRefused        atomic.Uint64
}

// Stats returns the counters.
func (t *Transport) Stats() Stats {
	c := &t.stats
	return Stats{
		FramesIn: c.framesIn.Load(), FramesOut: c.framesOut.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(),
		BatchesIn: c.batchesIn.Load(), BatchesOut: c.batchesOut.Load(),
		ChunksIn: c.chunksIn.Load(), ChunksOut: c.chunksOut.Load(),
		Dropped: c.dropped.Load(), Faults: c.faults.Load(),
		Snapshots: len(t.snapshots), SnapshotsRefused: c.snapshotsRefused.Load(),
	}
}

// complain logs a fault of a peer, or counts it if one was logged a short
// while ago: a peer must not be able to fill the log.
func (t *Transport) complain(message string, conn net.Conn, err error) {
	if unsaid, ok := t.complaint.due(time.Now()); ok {
		t.cfg.Logger.Warn(message, "peer", conn.RemoteAddr().String(), "error", err, "unsaid", unsaid)
	}
}

// complaintEvery is how often a fault of peers is logged at most.
const complaintEvery = 10 * time.Second

// complaint decides which faults are logged.
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
