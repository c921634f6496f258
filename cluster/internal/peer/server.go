package peer

import (
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/distributedcache/cache/internal/base"
)

// The names of the gRPC service. A service with other messages gets another
// name.
const (
	serviceName  = "cache.peer.v1"
	callsMethod  = "/" + serviceName + "/Calls"
	sideMethod   = "/" + serviceName + "/Side"
	streamMethod = "/" + serviceName + "/Stream"
)

// maxHeaderBytes bounds the headers of a gRPC stream; ours have some hundred
// bytes.
const maxHeaderBytes = 8 << 10

// Server answers the requests of other nodes.
type Server struct {
	cfg       Config
	handler   Handler
	grpc      *grpc.Server
	listener  *listener
	workers   *workers
	streams   chan struct{} // one slot for each stream that is being answered
	stop      func()        // of the network
	buffers   bufferPool
	jobs      sync.Pool // of *job
	complaint complaint
	wg        sync.WaitGroup
	once      sync.Once

	// mu protects what follows.
	mu       sync.Mutex
	sessions map[uint64]*session // by token
}

// NewServer begins to answer requests with handler. The error is that of the
// Network.
func NewServer(cfg Config, handler Handler) (*Server, error) {
	s := &Server{cfg: cfg.withDefaults(), handler: handler, sessions: map[uint64]*session{}}
	s.workers = newWorkers(s.cfg.Concurrency)
	s.streams = make(chan struct{}, 4*s.cfg.MaxStreams)
	s.listener = newListener(s.cfg.MaxConns)
	s.grpc = grpc.NewServer(
		grpc.Creds(insecure.NewCredentials()), // the Network encrypts
		grpc.ForceServerCodecV2(codec{}),
		grpc.ConnectionTimeout(s.cfg.DialTimeout),
		grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(s.cfg.MaxMessageBytes+maxBatchBytes),
		grpc.MaxConcurrentStreams(uint32(s.cfg.MaxStreams)+3), // calls, long answers, and one to refuse politely
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.InitialWindowSize(callsWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(ioBufferBytes),
		grpc.WriteBufferSize(ioBufferBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: max(s.cfg.Heartbeat, time.Second), Timeout: s.cfg.DeadAfter}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
	)
	s.grpc.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			{StreamName: "Calls", Handler: s.serveCalls, ServerStreams: true, ClientStreams: true},
			{StreamName: "Side", Handler: s.serveSide, ServerStreams: true},
			{StreamName: "Stream", Handler: s.serveStream, ServerStreams: true},
		},
	}, s)
	s.wg.Go(func() { _ = s.grpc.Serve(s.listener) }) // ends with the listener, by Close
	stop, err := s.cfg.Network.Serve(Kind, s.listener.handle)
	if err != nil {
		s.stop = func() {}
		s.Close()
		return nil, fmt.Errorf("serve requests of peers: %w", err)
	}
	s.stop = stop
	return s, nil
}

// Close ends all connections, cancels what is running and returns when all
// handlers have.
func (s *Server) Close() {
	s.once.Do(func() {
		s.listener.close()
		s.grpc.Stop()
		s.stop()
		s.wg.Wait()
		s.workers.close()
	})
}

// serveCalls is the gRPC handler of the stream of calls. Once it returns, gRPC
// ends the context of the stream, and with it the sender.
func (s *Server) serveCalls(_ any, stream grpc.ServerStream) error {
	return newSession(s, stream).serve()
}

// serveStream is the gRPC handler of a stream of pieces.
func (s *Server) serveStream(_ any, stream grpc.ServerStream) error {
	var in incoming
	defer in.release()
	if err := stream.RecvMsg(&in); err != nil {
		return err
	}
	message := in.bytes()
	if len(message) < 2 || message[0] != streamVersion || len(message)-2 > s.cfg.MaxMessageBytes {
		return status.Error(codes.InvalidArgument, "malformed request for a stream")
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		return sendEnd(stream, streamFailure, base.AppendError(nil, fmt.Errorf("%w: too many streams", base.ErrOverloaded)))
	}
	send := func(piece []byte) error {
		if len(piece) > s.cfg.MaxMessageBytes {
			return fmt.Errorf("%w: piece of %d bytes, at most %d are allowed", base.ErrTooLarge, len(piece), s.cfg.MaxMessageBytes)
		}
		return stream.SendMsg(&mem.BufferSlice{mem.SliceBuffer{streamPiece}, mem.Copy(piece, mem.DefaultBufferPool())})
	}
	broken, err := s.guard(func() error { return s.handler.Stream(stream.Context(), message[1], message[2:], send) })
	switch {
	case broken != "":
		return sendEnd(stream, streamLost, []byte(broken))
	case err != nil:
		return sendEnd(stream, streamFailure, base.AppendError(nil, err))
	default:
		return nil
	}
}

func sendEnd(stream grpc.ServerStream, kind byte, body []byte) error {
	return stream.SendMsg(&mem.BufferSlice{mem.SliceBuffer{kind}, mem.SliceBuffer(body)})
}

// guard runs a handler. If it panics, broken says so; the process goes on.
func (s *Server) guard(f func() error) (broken string, err error) {
	defer func() {
		if v := recover(); v != nil {
			broken = "panic in a handler"
			s.complain("a handler panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
		}
	}()
	return "", f()
}

// complain logs a fault, or counts it if one was logged a short while ago.
func (s *Server) complain(message string, args ...any) {
	if unsaid, ok := s.complaint.due(time.Now()); ok {
		s.cfg.Logger.Error(message, append(args, "unsaid", unsaid)...)
	}
}

// listener hands the connections of a Network to gRPC.
type listener struct {
	conns chan net.Conn
	slots chan struct{} // one for each open connection
	done  chan struct{}
	once  sync.Once
}

func newListener(limit int) *listener {
	return &listener{conns: make(chan net.Conn), slots: make(chan struct{}, limit), done: make(chan struct{})}
}

// handle stays until the connection is closed, because the Network closes it
// afterwards.
func (l *listener) handle(conn net.Conn) {
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
	default:
		return
	}
	down := make(chan struct{})
	select {
	case l.conns <- &watchedConn{Conn: conn, down: func() { close(down) }}:
		<-down // gRPC closes what it has accepted
	case <-l.done:
	}
}

func (l *listener) close() { l.once.Do(func() { close(l.done) }) }

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.close()
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: "peer", Net: "unix"} }
