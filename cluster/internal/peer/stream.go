package peer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// A stream of pieces has a gRPC stream of its own, on a connection that it
// shares with other such streams only. The client sends one message,
//
//	version, method, request
//
// and the server any number of
//
//	kind, body
//
// the last of which is a failure or lost if it was not all. The deadline
// travels as gRPC does it.
const (
	streamVersion = 1

	streamPiece   byte = 1
	streamFailure byte = 2
	streamLost    byte = 3
)

// openStream counts a stream in.
func (l *link) openStream() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil || l.draining:
		return errMoved
	case l.streams >= l.cfg.MaxStreams:
		return fmt.Errorf("%w: %d streams from %s are open", base.ErrOverloaded, l.streams, l.remote.addr)
	}
	l.streams++
	l.uses++
	return nil
}

func (l *link) closeStream() {
	l.mu.Lock()
	l.streams--
	l.mu.Unlock()
}

// bulkConn returns the connection for streams, which it opens if there is
// none.
func (l *link) bulkConn(ctx context.Context) (*grpc.ClientConn, error) {
	if l.cfg.oneConn {
		return l.main.grpc, nil
	}
	select {
	case l.bulkLock <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-l.bulkLock }()
	if l.bulk != nil && !l.bulk.down.Load() {
		return l.bulk.grpc, nil
	}
	if l.bulk != nil {
		l.bulk.close()
		l.bulk = nil
	}
	dialCtx, cancel := context.WithTimeout(ctx, l.cfg.DialTimeout)
	defer cancel()
	c, err := dial(dialCtx, l.cfg, l.remote.addr, streamWindow)
	if err != nil {
		return nil, err
	}
	l.bulk = c
	return c.grpc, nil
}

// streamed asks for a stream and passes on its pieces.
func (l *link) streamed(ctx context.Context, method uint8, request []byte, yield func([]byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(l.ctx, cancel)
	defer stop()
	sent := false
	failed := func(err error) error {
		if ended := l.ended(); ended != nil {
			err = ended
		} else if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return &CallError{Addr: l.remote.addr, Sent: sent, Err: err}
	}
	conn, err := l.bulkConn(ctx)
	if err != nil {
		return failed(err)
	}
	desc := grpc.StreamDesc{ServerStreams: true}
	stream, err := conn.NewStream(ctx, &desc, streamMethod, grpc.MaxCallRecvMsgSize(l.cfg.MaxMessageBytes+1))
	if err != nil {
		return failed(err)
	}
	// The request is copied, because gRPC may hold on to it after ctx has
	// ended and the caller has it back.
	message := append([]byte{streamVersion, method}, request...)
	sent = true
	if err := stream.SendMsg(&mem.BufferSlice{mem.SliceBuffer(message)}); err != nil && !errors.Is(err, io.EOF) {
		return failed(err)
	}
	if err := stream.CloseSend(); err != nil {
		return failed(err)
	}
	return l.pieces(stream, yield, failed)
}

func (l *link) pieces(stream grpc.ClientStream, yield func([]byte) error, failed func(error) error) error {
	var in incoming
	defer in.release()
	for {
		if err := stream.RecvMsg(&in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return failed(err)
		}
		message := in.bytes()
		if len(message) == 0 {
			return failed(fmt.Errorf("%w: empty message of a stream", wire.ErrMalformed))
		}
		switch body := message[1:]; message[0] {
		case streamPiece:
			if err := yield(body); err != nil {
				return err
			}
		case streamFailure:
			return remoteFailure(body)
		case streamLost:
			return failed(fmt.Errorf("%w: %s", errBroken, body))
		default:
			return failed(fmt.Errorf("%w: kind %d in a stream", wire.ErrMalformed, message[0]))
		}
	}
}
