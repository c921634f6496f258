package peer

import (
	"context"
	"crypto/rand"
	"encoding/binary"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/distributedcache/cache/internal/wire"
)

// Long answers to calls would fill the buffers of the connection in front of
// the short ones. So a client that has got one opens a side stream, on the
// connection that streams of pieces use, over which the server sends the
// further ones. It is of the same messages as the stream of calls. If it
// breaks the link ends, as nobody knows which answers were lost.

// newToken returns a random name for a session, which nobody can guess.
func newToken() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand documents it
	return binary.BigEndian.Uint64(b[:])
}

// receiveSide opens the side stream and reads from it until the link ends. If
// it cannot be opened the answers keep coming the other way, and the next long
// one is a reason to try again.
func (l *link) receiveSide() {
	stream, err := l.openSide()
	if err != nil {
		l.mu.Lock()
		l.sided = false
		l.mu.Unlock()
		return
	}
	var in incoming
	defer in.release()
	for err == nil {
		if err = stream.RecvMsg(&in); err == nil {
			err = eachFrame(in.bytes(), l.handle)
		}
	}
	l.fail(err)
}

func (l *link) openSide() (grpc.ClientStream, error) {
	ctx, cancel := context.WithTimeout(l.ctx, l.cfg.DialTimeout)
	defer cancel()
	conn, err := l.bulkConn(ctx)
	if err != nil {
		return nil, err
	}
	desc := grpc.StreamDesc{ServerStreams: true}
	stream, err := conn.NewStream(l.ctx, &desc, sideMethod, grpc.MaxCallRecvMsgSize(maxBatchBytes))
	if err != nil {
		return nil, err
	}
	hello := wire.AppendUint64([]byte{messageVersion}, l.token)
	if err := stream.SendMsg(&mem.BufferSlice{mem.SliceBuffer(hello)}); err != nil {
		return nil, err
	}
	return stream, stream.CloseSend()
}

// register makes a session known to side streams.
func (s *Server) register(session *session) {
	s.mu.Lock()
	s.sessions[session.token] = session
	s.mu.Unlock()
}

func (s *Server) unregister(session *session) {
	s.mu.Lock()
	delete(s.sessions, session.token)
	s.mu.Unlock()
}

// serveSide is the gRPC handler of a side stream.
func (s *Server) serveSide(_ any, stream grpc.ServerStream) error {
	var in incoming
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	r := wire.NewReader(in.bytes())
	version, token := r.Byte(), r.Uint64()
	err := r.Close()
	in.release()
	s.mu.Lock()
	session := s.sessions[token]
	s.mu.Unlock()
	if err != nil || version != messageVersion || session == nil {
		return status.Error(codes.InvalidArgument, "no such session")
	}
	session.mu.Lock()
	taken := session.sided
	session.sided = true
	session.mu.Unlock()
	if taken {
		return status.Error(codes.InvalidArgument, "session has a side stream")
	}
	session.send(stream, &session.side)
	return nil
}
