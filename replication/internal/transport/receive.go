package transport

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/distributedcache/cache/internal/wire"
)

// readBufferBytes holds a few dozen batches of a busy peer, so that they cost
// one system call together.
const readBufferBytes = 64 << 10

// errRejected says that dragonboat wants no more of a snapshot.
var errRejected = errors.New("chunk was rejected")

// serveMessages hands on the batches that come over one connection.
func (h *host) serveMessages(conn net.Conn) {
	h.serve(conn, func(kind byte, payload []byte) error {
		if kind != frameBatch {
			return fmt.Errorf("%w: frame of kind %d", wire.ErrMalformed, kind)
		}
		batch, err := decodeBatch(payload)
		if err != nil {
			return err
		}
		h.stats.batchesIn.Add(1)
		if batch.DeploymentId != h.deployment {
			h.stats.dropped.Add(uint64(len(batch.Requests)))
			h.complain("raft messages of another deployment", conn, fmt.Errorf("deployment %d", batch.DeploymentId))
			return nil
		}
		h.messages(batch)
		h.repeater.seen(batch)
		return nil
	})
}

// serveSnapshot hands on the chunks that come over one connection.
func (h *host) serveSnapshot(conn net.Conn) {
	h.serve(conn, func(kind byte, payload []byte) error {
		switch kind {
		case frameChunk:
			chunk, err := decodeChunk(payload)
			if err != nil {
				return err
			}
			h.stats.chunksIn.Add(1)
			if chunk.DeploymentId != h.deployment || !h.chunks(chunk) {
				return errRejected
			}
			return nil
		case frameEnd:
			return (&sender{t: h.Transport, conn: conn}).answerEnd()
		default:
			return fmt.Errorf("%w: frame of kind %d", wire.ErrMalformed, kind)
		}
	})
}

// answerEnd tells the sender of a snapshot that all was handled.
func (s *sender) answerEnd() error {
	frame := wire.BeginFrame(nil)
	if err := wire.FinishFrame(frame, frameEnd); err != nil {
		return err
	}
	return s.write(frame)
}

// serve reads frames until the connection ends, handle fails or the bytes are
// malformed. A panic counts as a fault of the peer: dragonboat panics for what
// it does not expect, such as a chunk for a replica that is gone.
func (h *host) serve(conn net.Conn, handle func(kind byte, payload []byte) error) {
	defer func() {
		if p := recover(); p != nil {
			h.fault(conn, fmt.Errorf("panic: %v", p))
		}
	}()
	frames := wire.NewFrameReader(bufio.NewReaderSize(conn, readBufferBytes), h.cfg.MaxFrameBytes)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(h.cfg.IdleTimeout)); err != nil {
			return
		}
		kind, payload, err := frames.Next()
		if err == nil {
			h.stats.framesIn.Add(1)
			h.stats.bytesIn.Add(uint64(wire.FrameHeaderBytes + len(payload)))
			err = handle(kind, payload)
		}
		switch {
		case err == nil:
		case errors.Is(err, wire.ErrMalformed):
			h.fault(conn, err)
			return
		case errors.Is(err, errRejected):
			h.complain("raft snapshot rejected", conn, err)
			return
		default: // the connection is gone
			return
		}
	}
}

// fault counts and logs what a peer did wrong.
func (h *host) fault(conn net.Conn, err error) {
	h.stats.faults.Add(1)
	h.complain("raft connection closed for what came over it", conn, err)
}
