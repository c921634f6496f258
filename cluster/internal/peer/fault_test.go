package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/testkit/faultnet"
)

// quick is a Config whose times suit tests.
func quick() Config {
	return Config{Heartbeat: 50 * time.Millisecond, DeadAfter: time.Second, MaxBackoff: 200 * time.Millisecond}
}

// reach calls until there is an answer.
func reach(t *testing.T, p *Pool, addr string) {
	t.Helper()
	testkit.Eventually(t, patience, "an answer of "+addr, func() bool {
		_, err := p.Call(testkit.Context(t), addr, 0, nil)
		return err == nil
	})
}

// TestCuts: while connections are cut again and again every call ends, and
// what is answered is right.
func TestCuts(t *testing.T) {
	pr := newPair(t, quick(), funcs{stream: func(ctx context.Context, _ uint8, request []byte, send func([]byte) error) error {
		for range 20 {
			if err := send(request); err != nil {
				return err
			}
		}
		return nil
	}})
	ctx := testkit.Context(t)
	var answered, failed atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	check := func(err error) {
		var unanswered *CallError
		switch {
		case err == nil:
			answered.Add(1)
		case errors.As(err, &unanswered) && errors.Is(err, base.ErrUnavailable):
			failed.Add(1)
			time.Sleep(time.Millisecond) // as a caller would that tries again
		default:
			t.Errorf("%T %v", err, err)
		}
	}
	for i := range 16 {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				request := bytes.Repeat(fmt.Appendf(nil, "%d/%d ", i, n), 1+n%2*20_000)
				if i%4 == 0 {
					check(pr.pool.Stream(ctx, "b", 1, request, func(p []byte) error {
						if !bytes.Equal(p, request) {
							t.Error("wrong piece")
						}
						return nil
					}))
					continue
				}
				reply, err := pr.pool.Call(ctx, "b", 1, request)
				if err == nil && !bytes.Equal(reply[1:], request) {
					t.Error("wrong answer")
				}
				check(err)
			}
		})
	}
	for range 15 {
		was := answered.Load()
		testkit.Eventually(t, patience, "answers", func() bool { return answered.Load() > was+20 })
		pr.net.Cut("a", "b")
	}
	testkit.Eventually(t, patience, "a call that met a cut", func() bool { return failed.Load() > 0 })
	close(stop)
	wg.Wait()
	t.Logf("%d answered, %d failed", answered.Load(), failed.Load())
}

// TestDeadPeer: a peer that falls silent is noticed, by both sides.
func TestDeadPeer(t *testing.T) {
	cancelled := make(chan struct{}, 2)
	entered := make(chan struct{}, 2)
	wait := func(ctx context.Context) error {
		entered <- struct{}{}
		<-ctx.Done()
		cancelled <- struct{}{}
		return ctx.Err()
	}
	pr := newPair(t, quick(), funcs{
		serve: func(ctx context.Context, m uint8, _ []byte) ([]byte, error) {
			if m == 0 {
				return nil, nil
			}
			return nil, wait(ctx)
		},
		stream: func(ctx context.Context, _ uint8, _ []byte, _ func([]byte) error) error { return wait(ctx) },
	})
	ctx := testkit.Context(t)
	results := make(chan error, 2)
	var wg sync.WaitGroup
	wg.Go(func() { _, err := pr.pool.Call(ctx, "b", 1, nil); results <- err })
	wg.Go(func() { results <- pr.pool.Stream(ctx, "b", 1, nil, func([]byte) error { return nil }) })
	<-entered
	<-entered
	pr.net.Isolate("b")
	for range 2 {
		var gone *CallError
		if err := <-results; !errors.As(err, &gone) || !gone.Sent || !errors.Is(err, errDead) {
			t.Errorf("%v", err)
		}
	}
	<-cancelled
	<-cancelled
	wg.Wait()
	var unsent *CallError
	if _, err := pr.pool.Call(ctx, "b", 0, nil); !errors.As(err, &unsent) || unsent.Sent {
		t.Error(err)
	}
	pr.net.Heal()
	reach(t, pr.pool, "b")
}

// countingNet counts the dials of a node.
type countingNet struct {
	Network
	dials atomic.Int64
	conns sync.Map
}

func (n *countingNet) Dial(ctx context.Context, addr string, kind byte) (net.Conn, error) {
	n.dials.Add(1)
	c, err := n.Network.Dial(ctx, addr, kind)
	if err == nil {
		w := &watchedConn{Conn: c}
		w.down = func() { n.conns.Delete(w) }
		n.conns.Store(w, true)
		return w, nil
	}
	return nil, err
}

func (n *countingNet) open() (count int) {
	n.conns.Range(func(any, any) bool { count++; return true })
	return count
}

// TestUnreachable: a node that is not there costs few dials, however many
// calls there are, and is found once it is there.
func TestUnreachable(t *testing.T) {
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	cfg := quick()
	cfg.MaxBackoff = time.Hour
	counting := &countingNet{Network: n.Node("a")}
	cfg.Network = counting
	p := startPool(t, cfg)
	ctx := testkit.Context(t)
	fail := func() {
		var unsent *CallError
		if _, err := p.Call(ctx, "b", 0, nil); !errors.As(err, &unsent) || unsent.Sent || !errors.Is(err, faultnet.ErrRefused) {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, patience, "some attempts", func() bool { fail(); return counting.dials.Load() >= 3 })
	p.mu.RLock()
	r := p.remotes["b"]
	p.mu.RUnlock()
	r.mu.Lock()
	r.retryAt = time.Now().Add(time.Hour)
	r.mu.Unlock()
	was := counting.dials.Load()
	for range 1000 {
		fail()
	}
	if now := counting.dials.Load(); now != was {
		t.Errorf("%d dials in a pause", now-was)
	}
	onB := quick()
	onB.Network = n.Node("b")
	startServer(t, onB, funcs{})
	fail()
	p.Forget("b")
	if _, err := p.Call(ctx, "b", 0, nil); err != nil {
		t.Error(err)
	}
}

func TestBackoffGrows(t *testing.T) {
	p := NewPool(Config{MaxBackoff: time.Second})
	defer p.Close()
	r := &remote{pool: p}
	for i := range 100 {
		before := time.Now()
		r.failedLocked(errDead)
		least := min(time.Second, firstBackoff<<min(i, 10)) / 2
		if pause := r.retryAt.Sub(before); pause < least || pause > time.Second+time.Since(before)+time.Millisecond {
			t.Fatalf("pause %d is %v", i, pause)
		}
	}
}

func TestServerRestart(t *testing.T) {
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	onA, onB := quick(), quick()
	onA.Network, onB.Network = n.Node("a"), n.Node("b")
	p := startPool(t, onA)
	for range 4 {
		entered := make(chan struct{})
		s, err := NewServer(onB, funcs{serve: func(ctx context.Context, m uint8, _ []byte) ([]byte, error) {
			if m == 1 {
				close(entered)
				<-ctx.Done()
			}
			return nil, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		reach(t, p, "b")
		waiting := make(chan error, 1)
		go func() { _, err := p.Call(testkit.Context(t), "b", 1, nil); waiting <- err }()
		<-entered
		s.Close()
		s.Close()
		var gone *CallError
		if err := <-waiting; err != nil && (!errors.As(err, &gone) || !gone.Sent) {
			t.Error(err)
		}
	}
}

// TestPoolClose: closing answers those who wait.
func TestPoolClose(t *testing.T) {
	testkit.CheckNoLeaks(t)
	entered := make(chan struct{}, 20)
	pr := newPair(t, quick(), funcs{
		serve: func(ctx context.Context, _ uint8, _ []byte) ([]byte, error) {
			entered <- struct{}{}
			<-ctx.Done()
			return nil, nil
		},
		stream: func(ctx context.Context, _ uint8, _ []byte, _ func([]byte) error) error {
			entered <- struct{}{}
			<-ctx.Done()
			return nil
		},
	})
	results := make(chan error, 20)
	for range 10 {
		go func() { _, err := pr.pool.Call(testkit.Context(t), "b", 1, nil); results <- err }()
		go func() { results <- pr.pool.Stream(testkit.Context(t), "b", 1, nil, func([]byte) error { return nil }) }()
	}
	for range 20 {
		<-entered
	}
	pr.pool.Close()
	for range 20 {
		if err := <-results; !errors.Is(err, base.ErrClosed) {
			t.Error(err)
		}
	}
	if _, err := pr.pool.Call(context.Background(), "b", 1, nil); err != base.ErrClosed {
		t.Error(err)
	}
	pr.pool.Forget("b")
	pr.pool.Close()
}

// TestChangeOver: old connections give way to new ones without a failed call.
func TestChangeOver(t *testing.T) {
	cfg := quick()
	cfg.MaxConnAge, cfg.Heartbeat, cfg.DeadAfter = 600*time.Millisecond, 20*time.Millisecond, patience
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	counting := &countingNet{Network: n.Node("a")}
	onB := cfg
	onB.Network, cfg.Network = n.Node("b"), counting
	startServer(t, onB, funcs{serve: func(ctx context.Context, _ uint8, _ []byte) ([]byte, error) { return nil, ctx.Err() }})
	p := startPool(t, cfg)
	ctx := testkit.Context(t)
	testkit.Eventually(t, patience, "changes", func() bool {
		for range 50 {
			if _, err := p.Call(ctx, "b", 0, nil); err != nil {
				t.Fatal(err)
			}
		}
		return counting.dials.Load() >= 4
	})
	testkit.Eventually(t, patience, "the old ones to close", func() bool { return counting.open() <= 2 })
}

func TestIdle(t *testing.T) {
	cfg := quick()
	cfg.IdleTimeout, cfg.Heartbeat = 100*time.Millisecond, 20*time.Millisecond
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	counting := &countingNet{Network: n.Node("a")}
	onB := cfg
	onB.Network, cfg.Network = n.Node("b"), counting
	startServer(t, onB, funcs{})
	p := startPool(t, cfg)
	for range 3 {
		if _, err := p.Call(testkit.Context(t), "b", 0, nil); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, patience, "an idle connection to close", func() bool { return counting.open() == 0 })
	}
}

func TestMaxPeers(t *testing.T) {
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	cfg := quick()
	cfg.MaxPeers = 3
	onA := cfg
	onA.Network = n.Node("a")
	p := startPool(t, onA)
	ctx := testkit.Context(t)
	for _, addr := range []string{"b", "c", "d", "e"} {
		onIt := cfg
		onIt.Network = n.Node(addr)
		startServer(t, onIt, funcs{})
		if _, err := p.Call(ctx, addr, 0, nil); (addr == "e") != errors.Is(err, base.ErrOverloaded) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	p.Forget("c")
	if _, err := p.Call(ctx, "e", 0, nil); err != nil {
		t.Error(err)
	}
	if _, err := p.Call(ctx, "nobody", 0, nil); !errors.Is(err, base.ErrOverloaded) {
		t.Error(err)
	}
	p.Forget("b")
	p.Forget("d")
	for i := range 20 { // addresses that nobody answers at are no burden
		_, err := p.Call(ctx, fmt.Sprint("nobody", i), 0, nil)
		if err == nil {
			t.Fatal("nobody answered")
		}
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if len(p.remotes) > 3 {
		t.Errorf("%d addresses", len(p.remotes))
	}
}

// raw opens a stream of calls below the pool.
func raw(t *testing.T, pr *pair) (stream grpc.ClientStream, end func()) {
	t.Helper()
	cfg := pr.pool.cfg
	c, err := dial(testkit.Context(t), &cfg, "b", callsWindow)
	if err != nil {
		t.Fatal(err)
	}
	desc := grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err = c.grpc.NewStream(testkit.Context(t), &desc, callsMethod)
	if err != nil {
		t.Fatal(err)
	}
	return stream, c.close
}

// TestHostileClient: malformed messages end their stream and nothing else.
func TestHostileClient(t *testing.T) {
	pr := newPair(t, quick(), funcs{})
	long := appendLong([]byte{messageVersion}, 1, 1, 0, 2*pieceBytes)
	for name, message := range map[string][]byte{
		"empty":             {},
		"version":           {99},
		"garbage":           bytes.Repeat([]byte{0xff}, 1000),
		"wrong side":        appendNumbered([]byte{messageVersion}, frameReply, 1, nil),
		"id twice":          appendRequest(appendRequest([]byte{messageVersion}, 1, 1, 0, nil), 1, 1, 0, nil),
		"promised too much": appendLong([]byte{messageVersion}, 1, 1, 0, DefaultMaxMessageBytes+1),
		"promised little":   appendLong([]byte{messageVersion}, 1, 1, 0, 5),
		"empty piece":       appendNumbered(bytes.Clone(long), framePiece, 1, nil),
		"too many pieces":   appendNumbered(appendNumbered(appendNumbered(bytes.Clone(long), framePiece, 1, make([]byte, pieceBytes)), framePiece, 1, make([]byte, pieceBytes-1)), framePiece, 1, []byte("xx")),
		"too long":          append([]byte{messageVersion}, make([]byte, maxBatchBytes)...),
	} {
		stream, end := raw(t, pr)
		if err := stream.SendMsg(&mem.BufferSlice{mem.SliceBuffer(message)}); err != nil {
			t.Fatal(err)
		}
		var in incoming
		var err error
		for err == nil {
			err = stream.RecvMsg(&in)
		}
		in.release()
		end()
		if pr.net == nil || err == nil {
			t.Errorf("%s: %v", name, err)
		}
		reach(t, pr.pool, "b")
	}
	// Side streams of no session, and bytes that are no HTTP/2 at all.
	for _, hello := range [][]byte{{}, {messageVersion}, {messageVersion, 1, 2, 3, 4, 5, 6, 7, 8}, make([]byte, 1<<20)} {
		cfg := pr.pool.cfg
		c, err := dial(testkit.Context(t), &cfg, "b", streamWindow)
		if err != nil {
			t.Fatal(err)
		}
		for _, method := range []string{sideMethod, streamMethod, "/" + serviceName + "/Other"} {
			stream, err := c.grpc.NewStream(testkit.Context(t), &grpc.StreamDesc{ServerStreams: true}, method)
			if err == nil {
				_ = stream.SendMsg(&mem.BufferSlice{mem.SliceBuffer(hello)})
				_ = stream.CloseSend()
				var in incoming
				for err == nil {
					err = stream.RecvMsg(&in)
				}
				in.release()
			}
		}
		c.close()
	}
	conn, err := pr.pool.cfg.Network.Dial(testkit.Context(t), "b", Kind)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 100))
	for err == nil {
		_, err = conn.Read(make([]byte, 4096))
	}
	_ = conn.Close()
	reach(t, pr.pool, "b")
}

// TestPromisesCostNothing: requests that never become complete are refused
// from some number of bytes on, and end with their stream.
func TestPromisesCostNothing(t *testing.T) {
	cfg := quick()
	cfg.MaxMessageBytes = 1 << 20
	pr := newPair(t, cfg, funcs{})
	stream, end := raw(t, pr)
	defer end()
	message := []byte{messageVersion}
	const promises = 20
	for id := uint64(1); id <= promises; id++ {
		message = appendLong(message, id, 1, 0, 1<<20)
	}
	if err := stream.SendMsg(&mem.BufferSlice{mem.SliceBuffer(message)}); err != nil {
		t.Fatal(err)
	}
	refused := 0
	var in incoming
	defer in.release()
	for refused < promises-maxHeldMessages {
		if err := stream.RecvMsg(&in); err != nil {
			t.Fatal(err)
		}
		err := eachFrame(in.bytes(), func(f frame) error {
			if f.kind == frameFailure && errors.Is(remoteFailure(f.body), base.ErrOverloaded) {
				refused++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// hostileServer answers the stream of calls with the given messages.
func hostileServer(t *testing.T, network Network, messages ...[]byte) {
	t.Helper()
	l := newListener(100)
	s := grpc.NewServer(grpc.ForceServerCodecV2(codec{}), grpc.WaitForHandlers(true))
	s.RegisterService(&grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{{
		StreamName: "Calls", ServerStreams: true, ClientStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			for _, m := range messages {
				if err := stream.SendMsg(&mem.BufferSlice{mem.SliceBuffer(m)}); err != nil {
					return err
				}
			}
			<-stream.Context().Done()
			return nil
		},
	}}}, nil)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	stop, err := network.Serve(Kind, l.handle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(); stop(); wg.Wait() })
}

func TestHostileServer(t *testing.T) {
	hello := appendHello([]byte{messageVersion}, 1<<20, 10)
	v := []byte{messageVersion}
	for name, messages := range map[string][][]byte{
		"no hello":          {appendMark(bytes.Clone(v), framePong, 1)},
		"hello of nothing":  {appendHello(bytes.Clone(v), 0, 0)},
		"garbage":           {bytes.Repeat([]byte{0xff}, 1000)},
		"too long":          {hello, make([]byte, 2*maxBatchBytes)},
		"garbage later":     {hello, {1, 99}},
		"wrong side":        {hello, appendRequest(bytes.Clone(v), 1, 1, 0, nil)},
		"promised too much": {hello, appendLongReply(bytes.Clone(v), 1, 1<<40)},
	} {
		t.Run(name, func(t *testing.T) {
			n := faultnet.New(testkit.Seed(t))
			t.Cleanup(n.Close)
			hostileServer(t, n.Node("b"), messages...)
			cfg := quick()
			cfg.Network = n.Node("a")
			p := startPool(t, cfg)
			var unanswered *CallError
			if _, err := p.Call(testkit.Context(t), "b", 1, nil); !errors.As(err, &unanswered) {
				t.Error(err)
			}
		})
	}
}

// TestSilentServer: a peer that accepts and says nothing is given up.
func TestSilentServer(t *testing.T) {
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	release := make(chan struct{})
	stop, err := n.Node("b").Serve(Kind, func(net.Conn) { <-release })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	defer close(release)
	cfg := quick()
	cfg.Network, cfg.DialTimeout = n.Node("a"), 200*time.Millisecond
	p := startPool(t, cfg)
	var unsent *CallError
	if _, err := p.Call(testkit.Context(t), "b", 1, nil); !errors.As(err, &unsent) || unsent.Sent {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := p.Call(ctx, "b", 1, nil); !errors.As(err, &unsent) || unsent.Sent {
		t.Error(err)
	}
}

// TestManyAddresses: callers of more addresses than there may be, at once,
// with evictions and connections in progress, all come back.
func TestManyAddresses(t *testing.T) {
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	cfg := quick()
	cfg.MaxPeers, cfg.MaxBackoff, cfg.Network = 4, time.Microsecond, n.Node("a")
	p := startPool(t, cfg)
	onB := quick()
	onB.Network = n.Node("b")
	startServer(t, onB, funcs{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 300 {
				addr := fmt.Sprint("nobody", (i*7+j)%12)
				if j%10 == 0 {
					addr = "b"
				}
				_, err := p.Call(testkit.Context(t), addr, 0, nil)
				if err != nil && !errors.Is(err, base.ErrUnavailable) && !errors.Is(err, base.ErrOverloaded) {
					t.Error(err)
				}
				if j%50 == 49 {
					p.Forget("b")
				}
			}
		})
	}
	wg.Wait()
}
