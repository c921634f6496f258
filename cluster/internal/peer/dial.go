package peer

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// The windows of flow control. Fixed ones spare the pings with which gRPC
// estimates the bandwidth. The one for calls is what may be on its way, or in
// the buffers of a socket, in front of a short answer; 512 KiB fill a gigabit
// at 4 ms. 4 MiB do at 30 ms.
const (
	callsWindow  = 512 << 10
	streamWindow = 4 << 20
	connWindow   = 8 << 20
)

// ioBufferBytes is the read and the write buffer of a connection: a batch of
// the usual size is one system call.
const ioBufferBytes = 64 << 10

// clientConn is one connection under gRPC. It is dialled once; gRPC's own
// reconnecting has nothing to dial.
type clientConn struct {
	conn net.Conn
	grpc *grpc.ClientConn
	down atomic.Bool // gRPC has closed conn
	once sync.Once
}

// dial opens a connection. gRPC has not greeted the peer yet.
func dial(ctx context.Context, cfg *Config, addr string, window int32) (*clientConn, error) {
	conn, err := cfg.Network.Dial(ctx, addr, Kind)
	if err != nil {
		return nil, err
	}
	c := &clientConn{conn: conn}
	var used atomic.Bool
	c.grpc, err = grpc.NewClient("passthrough:///peer",
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errUsed
			}
			return &watchedConn{Conn: conn, down: func() { c.down.Store(true) }}, nil
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the Network encrypts
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithDisableHealthCheck(),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: cfg.DialTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: cfg.DeadAfter}),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(ioBufferBytes),
		grpc.WithWriteBufferSize(ioBufferBytes),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})),
	)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

// keepaliveTime is the shortest time that gRPC allows a client. It only
// matters to the second connection; the first has its heartbeat.
const keepaliveTime = 10 * time.Second

// cut closes the connection under gRPC, which cannot block.
func (c *clientConn) cut() { _ = c.conn.Close() }

// close closes the connection and what gRPC has running for it.
func (c *clientConn) close() {
	c.cut()
	c.once.Do(func() { _ = c.grpc.Close() })
}

// watchedConn tells when it is closed.
type watchedConn struct {
	net.Conn
	down func()
	once sync.Once
}

// Close implements net.Conn.
func (c *watchedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.down)
	return err
}

// openLink connects to the remote and waits for its hello.
func openLink(r *remote) (*link, error) {
	p := r.pool
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.DialTimeout)
	defer cancel()
	main, err := dial(ctx, &p.cfg, r.addr, callsWindow)
	if err != nil {
		return nil, err
	}
	l := &link{
		remote: r, pool: p, cfg: &p.cfg, main: main,
		bulkLock: make(chan struct{}, 1),
		out:      newOutbox(&p.buffers), calls: map[uint64]*call{},
	}
	l.ctx, l.cancel = context.WithCancel(p.ctx)
	stop := context.AfterFunc(ctx, func() { main.cut(); l.cancel() })
	err = l.greet()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		l.abort()
		return nil, fmt.Errorf("%w: %w", errHello, err)
	}
	l.born = time.Now()
	l.heard.Store(l.born.UnixNano())
	return l, nil
}

// greet opens the stream of calls and takes in the hello.
func (l *link) greet() (err error) {
	desc := grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	l.stream, err = l.main.grpc.NewStream(l.ctx, &desc, callsMethod, grpc.MaxCallRecvMsgSize(maxBatchBytes))
	if err != nil {
		return err
	}
	var in incoming
	defer in.release()
	if err := l.stream.RecvMsg(&in); err != nil {
		return err
	}
	greeted := false
	err = eachFrame(in.bytes(), func(f frame) error {
		if f.kind == frameSide && greeted {
			l.token = f.id
			return nil
		}
		if f.kind != frameHello || f.id == 0 || f.size == 0 {
			return errHello
		}
		greeted = true
		l.maxMessage = int(min(f.id, uint64(l.cfg.MaxMessageBytes)))
		l.maxInFlight = int(min(f.size, uint64(l.cfg.MaxInFlight)))
		return nil
	})
	if err == nil && !greeted {
		err = errHello
	}
	return err
}

// start begins to serve calls. The caller is a goroutine of the pool, so the
// pool still waits.
func (l *link) start() {
	l.pool.wg.Go(l.send)
	l.pool.wg.Go(l.receive)
	l.pool.wg.Go(l.keep)
}

// abort closes a link that has not been started.
func (l *link) abort() {
	l.cancel()
	l.main.close()
}
