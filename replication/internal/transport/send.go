package transport

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/wire"
)

// The kinds of frames.
const (
	frameBatch byte = 1
	frameChunk byte = 2
	frameEnd   byte = 3 // no payload: all chunks are sent, all were handled
)

// sender is the sending side of a connection. One goroutine uses it at a
// time.
type sender struct {
	t       *Transport
	conn    net.Conn
	release func() bool // unties the connection from the context
}

// write sends one frame with one call to the connection.
func (s *sender) write(frame []byte) error {
	if err := s.writePiece(frame); err != nil {
		return err
	}
	s.t.stats.framesOut.Add(1)
	s.t.stats.bytesOut.Add(uint64(len(frame)))
	return nil
}

func (s *sender) writePiece(p []byte) error {
	if s.t.cfg.Mute() {
		return ErrMuted
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(s.t.cfg.WriteTimeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(p)
	return err
}

func (s *sender) close() {
	s.release()
	s.conn.Close()
}

// messageConn sends batches of messages to one peer.
type messageConn struct {
	*sender
	writer batchWriter
}

// Close implements raftio.IConnection.
func (c *messageConn) Close() { c.close() }

// SendMessageBatch implements raftio.IConnection. Nothing of the batch is
// kept. After an error dragonboat closes the connection.
func (c *messageConn) SendMessageBatch(batch raftpb.MessageBatch) error {
	if c.t.cfg.OwnProposals {
		kept := withoutProposals(batch.Requests)
		c.t.stats.dropped.Add(uint64(len(batch.Requests) - len(kept)))
		batch.Requests = kept
	}
	c.t.tell(batch.Requests)
	buf := c.t.buffers.Get().(*[]byte)
	kept, dropped, err := c.writer.write((*buf)[:0], batch)
	if cap(kept) <= keepBufferBytes {
		*buf = kept
		c.t.buffers.Put(buf)
	}
	if err != nil {
		c.t.stats.dropped.Add(uint64(len(batch.Requests)))
		return err
	}
	c.t.stats.batchesOut.Add(1)
	if dropped > 0 {
		c.t.stats.dropped.Add(uint64(dropped))
		c.t.complain("raft messages could not be sent", c.conn, fmt.Errorf("%d messages do not fit into a frame", dropped))
	}
	return nil
}

// withoutProposals leaves out what a node that does not lead forwards to the one
// that does. It does not change messages.
func withoutProposals(messages []raftpb.Message) []raftpb.Message {
	forwarded := func(m raftpb.Message) bool { return m.Type == raftpb.Propose }
	if !slices.ContainsFunc(messages, forwarded) {
		return messages
	}
	return slices.DeleteFunc(slices.Clone(messages), forwarded)
}

// pieceBytes is how much of a chunk is written at once: little enough to
// spread a slow stream evenly and to be written within the write timeout.
const pieceBytes = 256 << 10

// endTimeout is how long the sender of a snapshot waits for its peer to handle
// the last chunks, which ends with an fsync.
const endTimeout = 10 * time.Second

// snapshotConn sends one snapshot to one peer.
type snapshotConn struct {
	*sender
	done   <-chan struct{}
	buf    []byte
	failed bool
}

// SendChunk implements raftio.ISnapshotConnection. Nothing of the chunk is
// kept. It waits for its share of the bandwidth.
func (c *snapshotConn) SendChunk(chunk raftpb.Chunk) error {
	err := c.send(chunk)
	c.failed = c.failed || err != nil
	return err
}

func (c *snapshotConn) send(chunk raftpb.Chunk) error {
	c.buf = appendChunk(wire.BeginFrame(c.buf[:0]), &chunk)
	frame := c.buf
	if len(frame) > c.t.cfg.MaxFrameBytes {
		return &wire.FrameSizeError{Bytes: uint64(len(frame)), Limit: c.t.cfg.MaxFrameBytes}
	}
	if err := wire.FinishFrame(frame, frameChunk); err != nil {
		return err
	}
	for rest := frame; len(rest) > 0; {
		n := min(len(rest), pieceBytes)
		if !c.t.limiter.wait(c.done, n) {
			return net.ErrClosed
		}
		if err := c.writePiece(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	c.t.stats.framesOut.Add(1)
	c.t.stats.bytesOut.Add(uint64(len(frame)))
	c.t.stats.chunksOut.Add(1)
	return nil
}

// Close implements raftio.ISnapshotConnection. It waits until the peer has
// handled what was sent: closing before that may discard the end of it.
func (c *snapshotConn) Close() {
	if !c.failed {
		if err := c.end(); err != nil {
			c.t.complain("raft snapshot was not acknowledged", c.conn, err)
		}
	}
	c.close()
	<-c.t.snapshots
}

var errNoEnd = errors.New("peer answered with something else")

func (c *snapshotConn) end() error {
	frame := wire.BeginFrame(c.buf[:0])
	if err := wire.FinishFrame(frame, frameEnd); err != nil {
		return err
	}
	if err := c.write(frame); err != nil {
		return err
	}
	if err := c.conn.SetReadDeadline(time.Now().Add(endTimeout)); err != nil {
		return err
	}
	kind, _, err := wire.NewFrameReader(bufio.NewReader(c.conn), wire.FrameHeaderBytes).Next()
	if err == nil && kind != frameEnd {
		err = errNoEnd
	}
	return err
}
