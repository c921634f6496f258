package transport

import (
	"context"
	"net"

	"github.com/lni/dragonboat/v4/raftio"
)

// host is the transport of one NodeHost, from its opening to its close.
type host struct {
	*Transport
	deployment uint64
	messages   raftio.MessageHandler
	chunks     raftio.ChunkHandler
	repeater   *repeater
	stops      []func()
}

// Name implements raftio.ITransport.
func (h *host) Name() string { return Name }

// Start implements raftio.ITransport: from now on connections are served.
func (h *host) Start() error {
	for _, s := range []struct {
		kind   byte
		handle func(net.Conn)
	}{{KindMessages, h.serveMessages}, {KindSnapshot, h.serveSnapshot}} {
		stop, err := h.cfg.Network.Serve(s.kind, s.handle)
		if err != nil {
			return err // dragonboat calls Close
		}
		h.stops = append(h.stops, stop)
	}
	return nil
}

// Close implements raftio.ITransport. The connections that were opened are
// closed by dragonboat before.
func (h *host) Close() error {
	for _, stop := range h.stops {
		stop()
	}
	h.stops = nil
	h.repeater.close()
	return nil
}

// GetConnection implements raftio.ITransport.
func (h *host) GetConnection(ctx context.Context, target string) (raftio.IConnection, error) {
	out, err := h.dial(ctx, target, KindMessages)
	if err != nil {
		return nil, err
	}
	c := &messageConn{sender: out}
	c.writer = batchWriter{limit: h.cfg.MaxFrameBytes, send: out.write}
	return c, nil
}

// GetSnapshotConnection implements raftio.ITransport.
func (h *host) GetSnapshotConnection(ctx context.Context, target string) (raftio.ISnapshotConnection, error) {
	select {
	case h.snapshots <- struct{}{}:
	default:
		h.stats.snapshotsRefused.Add(1)
		return nil, ErrTooManySnapshots
	}
	out, err := h.dial(ctx, target, KindSnapshot)
	if err != nil {
		<-h.snapshots
		return nil, err
	}
	return &snapshotConn{sender: out, done: ctx.Done()}, nil
}

// dial opens a connection that is closed at the latest when ctx is done.
// Dragonboat cancels ctx when it closes and waits for its senders only then.
func (h *host) dial(ctx context.Context, target string, kind byte) (*sender, error) {
	if h.cfg.Mute() {
		return nil, ErrMuted
	}
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := h.cfg.Network.Dial(dialing, target, kind)
	if err != nil {
		return nil, err
	}
	out := &sender{t: h.Transport, conn: conn}
	out.release = context.AfterFunc(ctx, func() { conn.Close() })
	return out, nil
}
