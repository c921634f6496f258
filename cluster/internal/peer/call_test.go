package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

const patience = time.Minute

// TestCallSizes: bodies of every length class come and go whole.
func TestCallSizes(t *testing.T) {
	n := newTCPNet(t)
	startServer(t, Config{Network: n}, funcs{})
	p := startPool(t, Config{Network: n})
	ctx := testkit.Context(t)
	for _, size := range []int{0, 1, 4096, pieceBytes - 1, pieceBytes, pieceBytes + 1, 1<<20 + 3, DefaultMaxMessageBytes - 1} {
		request := make([]byte, size)
		for i := range request {
			request[i] = byte(i * 7)
		}
		reply, err := p.Call(ctx, n.addr(), 42, request)
		if err != nil || len(reply) != size+1 || reply[0] != 42 || !bytes.Equal(reply[1:], request) {
			t.Fatalf("%d bytes: %d bytes, %v", size, len(reply), err)
		}
	}
	if _, err := p.Call(ctx, n.addr(), 1, make([]byte, DefaultMaxMessageBytes)); !errors.Is(err, base.ErrTooLarge) {
		t.Errorf("answer over the limit: %v", err)
	}
	if _, err := p.Call(ctx, n.addr(), 1, make([]byte, DefaultMaxMessageBytes+1)); !errors.Is(err, base.ErrTooLarge) {
		t.Errorf("request over the limit: %v", err)
	}
}

// TestCallsAtOnce: many callers, short and long bodies mixed, each gets its
// own answer, over a network that delays.
func TestCallsAtOnce(t *testing.T) {
	pr := newPair(t, Config{}, funcs{})
	r := testkit.Rand(t)
	ctx := testkit.Context(t)
	var wg sync.WaitGroup
	for i := range 64 {
		rr := testkit.Fork(r)
		wg.Go(func() {
			for j := range 40 {
				size := rr.IntN(2000)
				if rr.IntN(20) == 0 {
					size = rr.IntN(5 * pieceBytes)
				}
				request := append(fmt.Appendf(nil, "%d/%d", i, j), make([]byte, size)...)
				reply, err := pr.pool.Call(ctx, "b", uint8(i), request)
				if err != nil || reply[0] != uint8(i) || !bytes.Equal(reply[1:], request) {
					t.Errorf("call %d/%d: %v", i, j, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

type notLeader struct{ node string }

func (e *notLeader) Error() string                { return "not the leader" }
func (e *notLeader) Is(target error) bool         { return target == base.ErrUnavailable }
func (e *notLeader) WireDetails() (uint8, []byte) { return 3, []byte(e.node) }

func TestErrorsTravel(t *testing.T) {
	fail := map[uint8]error{
		1: base.ErrNotFound,
		2: &base.Error{Op: "put", Key: base.K("p", "s"), Shard: 5, Node: "n", Outcome: base.OutcomeNotApplied, Err: &base.VersionError{Key: base.K("p", "s"), Want: 1, Have: 2}},
		3: fmt.Errorf("host: %w", &notLeader{"n7"}),
		4: errors.New("no sentinel"),
	}
	h := funcs{
		serve:  func(_ context.Context, m uint8, _ []byte) ([]byte, error) { return nil, fail[m] },
		stream: func(_ context.Context, m uint8, _ []byte, _ func([]byte) error) error { return fail[m] },
	}
	pr := newPair(t, Config{}, h)
	ctx := testkit.Context(t)
	for _, ask := range []func(m uint8) error{
		func(m uint8) error { _, err := pr.pool.Call(ctx, "b", m, nil); return err },
		func(m uint8) error { return pr.pool.Stream(ctx, "b", m, nil, func([]byte) error { return nil }) },
	} {
		if err := ask(1); err != base.ErrNotFound {
			t.Errorf("%v", err)
		}
		var e *base.Error
		var v *base.VersionError
		if err := ask(2); !errors.As(err, &e) || e.Shard != 5 || e.Outcome != base.OutcomeNotApplied || !errors.As(err, &v) || v.Have != 2 || !errors.Is(err, base.ErrVersionMismatch) {
			t.Errorf("%v", err)
		}
		var remote *RemoteError
		if err := ask(3); !errors.As(err, &remote) || remote.Kind != 3 || string(remote.Details) != "n7" || !errors.Is(err, base.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		var unanswered *CallError
		if err := ask(4); !errors.Is(err, base.ErrUnavailable) || errors.As(err, &unanswered) || !strings.Contains(err.Error(), "no sentinel") {
			t.Errorf("%v", err)
		}
	}
}

// lockedBuffer is a log that is written from several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func TestPanics(t *testing.T) {
	var log lockedBuffer
	cfg := Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	pr := newPair(t, cfg, funcs{
		serve:  func(context.Context, uint8, []byte) ([]byte, error) { panic("oh no") },
		stream: func(context.Context, uint8, []byte, func([]byte) error) error { panic("oh no") },
	})
	ctx := testkit.Context(t)
	for range 20 {
		var lost *CallError
		_, err := pr.pool.Call(ctx, "b", 1, nil)
		if !errors.As(err, &lost) || !lost.Sent || !errors.Is(err, base.ErrUnavailable) || !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
		err = pr.pool.Stream(ctx, "b", 1, nil, func([]byte) error { return nil })
		if !errors.As(err, &lost) || !lost.Sent || !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	if n := strings.Count(log.b.String(), "oh no"); n == 0 || n > 3 {
		t.Errorf("%d panics logged", n)
	}
}

// TestCancelTravels: the caller returns although the handler does not, whose
// context ends; a deadline arrives as one.
func TestCancelTravels(t *testing.T) {
	entered, cancelled := make(chan time.Duration, 1), make(chan error, 1)
	release := make(chan struct{})
	wait := func(ctx context.Context) error {
		var left time.Duration
		if d, ok := ctx.Deadline(); ok {
			left = time.Until(d)
		}
		entered <- left
		<-ctx.Done()
		cancelled <- ctx.Err()
		<-release
		return nil
	}
	pr := newPair(t, Config{}, funcs{
		serve:  func(ctx context.Context, _ uint8, _ []byte) ([]byte, error) { return nil, wait(ctx) },
		stream: func(ctx context.Context, _ uint8, _ []byte, _ func([]byte) error) error { return wait(ctx) },
	})
	defer close(release)
	for name, ask := range map[string]func(ctx context.Context, request []byte) error{
		"call": func(ctx context.Context, request []byte) error {
			_, err := pr.pool.Call(ctx, "b", 1, request)
			return err
		},
		"stream": func(ctx context.Context, request []byte) error {
			return pr.pool.Stream(ctx, "b", 1, request, func([]byte) error { return nil })
		},
	} {
		for _, size := range []int{1, 3 * pieceBytes} {
			done := make(chan error, 1)
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			go func() { done <- ask(ctx, make([]byte, size)) }()
			if left := <-entered; left < 50*time.Minute || left > time.Hour {
				t.Errorf("%s: %v are left of an hour", name, left)
			}
			cancel()
			var gone *CallError
			if err := <-done; !errors.As(err, &gone) || !gone.Sent || !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
			if err := <-cancelled; err != context.Canceled {
				t.Errorf("%s: handler saw %v", name, err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := pr.pool.Call(ctx, "b", 1, nil); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, base.ErrUnavailable) {
		t.Error(err)
	}
	<-entered
	<-cancelled
}

// TestGivenUpEarly: what has not been sent is not executed, and Sent says so.
func TestGivenUpEarly(t *testing.T) {
	var served atomic.Int64
	pr := newPair(t, Config{}, funcs{serve: func(context.Context, uint8, []byte) ([]byte, error) { served.Add(1); return nil, nil }})
	ctx := testkit.Context(t)
	if _, err := pr.pool.Call(ctx, "b", 1, nil); err != nil {
		t.Fatal(err)
	}
	l := pr.pool.remotes["b"].current.Load()
	for i := range 200 {
		size := []int{0, 100, 2 * pieceBytes}[i%3]
		l.mu.Lock() // so that the sender cannot come round
		c := pr.pool.newCall()
		l.mu.Unlock()
		before := served.Load()
		id, err := l.enqueue(c, 1, 0, make([]byte, size))
		if err != nil {
			t.Fatal(err)
		}
		sent, ok := l.abandon(id, c)
		if !ok {
			<-c.done
		}
		if _, err := pr.pool.Call(ctx, "b", 1, nil); err != nil { // comes after it
			t.Fatal(err)
		}
		if n := served.Load() - before; ok && !sent && n != 1 {
			t.Fatalf("executed although it was not sent")
		}
	}
	if n := len(l.calls); n != 0 {
		t.Errorf("%d calls are left", n)
	}
}

func TestOverload(t *testing.T) {
	release := make(chan struct{})
	var entered atomic.Int64
	h := funcs{serve: func(ctx context.Context, m uint8, _ []byte) ([]byte, error) {
		if m == 1 {
			entered.Add(1)
			<-release
		}
		return nil, nil
	}}
	for _, c := range []struct {
		name           string
		client, server Config
		accepted       int64
	}{
		{"client", Config{MaxInFlight: 5}, Config{}, 5},
		{"connection", Config{}, Config{MaxInFlight: 5}, 5}, // the hello tells the client
		{"handlers", Config{}, Config{Concurrency: 4}, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			release = make(chan struct{})
			entered.Store(0)
			n := newTCPNet(t)
			c.client.Network, c.server.Network = n, n
			startServer(t, c.server, h)
			p := startPool(t, c.client)
			ctx := testkit.Context(t)
			if _, err := p.Call(ctx, n.addr(), 0, nil); err != nil {
				t.Fatal(err)
			}
			var answered, refused atomic.Int64
			var wg sync.WaitGroup
			for range 30 {
				wg.Go(func() {
					_, err := p.Call(ctx, n.addr(), 1, nil)
					if errors.Is(err, base.ErrOverloaded) {
						refused.Add(1)
					} else if err == nil {
						answered.Add(1)
					} else {
						t.Error(err)
					}
				})
			}
			testkit.Eventually(t, patience, "refusals", func() bool { return refused.Load() == 30-c.accepted })
			close(release)
			wg.Wait()
			if answered.Load() != c.accepted {
				t.Errorf("%d answers", answered.Load())
			}
			if _, err := p.Call(ctx, n.addr(), 0, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBigBesideSmall: while a stream is held back by its reader and long
// answers are on their way, short calls are answered.
func TestBigBesideSmall(t *testing.T) {
	piece := make([]byte, 128<<10)
	pr := newPair(t, Config{}, funcs{
		serve: func(_ context.Context, m uint8, _ []byte) ([]byte, error) {
			if m == 1 {
				return make([]byte, 8<<20), nil
			}
			return []byte("short"), nil
		},
		stream: func(_ context.Context, _ uint8, _ []byte, send func([]byte) error) error {
			for range 400 {
				if err := send(piece); err != nil {
					return err
				}
			}
			return nil
		},
	})
	ctx := testkit.Context(t)
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	var got int
	wg.Go(func() {
		err := pr.pool.Stream(ctx, "b", 1, nil, func(p []byte) error {
			if got += len(p); got == len(p) {
				close(held)
				<-release
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-held
	for range 3 {
		wg.Go(func() {
			if reply, err := pr.pool.Call(ctx, "b", 1, nil); err != nil || len(reply) != 8<<20 {
				t.Error(len(reply), err)
			}
		})
	}
	for range 300 {
		if _, err := pr.pool.Call(ctx, "b", 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, patience, "long answers to go their own way", func() bool {
		if _, err := pr.pool.Call(ctx, "b", 1, nil); err != nil {
			t.Fatal(err)
		}
		pr.server.mu.Lock()
		defer pr.server.mu.Unlock()
		for _, s := range pr.server.sessions {
			s.mu.Lock()
			used := s.side.taken > 0
			s.mu.Unlock()
			return used
		}
		return false
	})
	close(release)
	wg.Wait()
	if got != 400*len(piece) {
		t.Errorf("%d bytes", got)
	}
}

func TestStream(t *testing.T) {
	stopped := make(chan error, 1)
	pr := newPair(t, Config{MaxMessageBytes: 1 << 20, MaxStreams: 2}, funcs{
		stream: func(_ context.Context, m uint8, request []byte, send func([]byte) error) error {
			if m == 9 {
				return send(make([]byte, 1<<20+1))
			}
			piece := slices.Clone(request)
			for i := 0; m == 0 || i < int(m); i++ {
				piece[0] = byte(i)
				if err := send(piece); err != nil {
					stopped <- err
					return err
				}
			}
			return nil
		},
	})
	ctx := testkit.Context(t)
	for _, size := range []int{1, 1000, 1 << 20} {
		next := 0
		err := pr.pool.Stream(ctx, "b", 8, make([]byte, size), func(p []byte) error {
			if len(p) != size || int(p[0]) != next {
				t.Errorf("piece %d of %d bytes, number %d", next, len(p), p[0])
			}
			next++
			return nil
		})
		if err != nil || next != 8 {
			t.Errorf("%d pieces, %v", next, err)
		}
	}
	mine := errors.New("enough")
	if err := pr.pool.Stream(ctx, "b", 0, []byte("x"), func([]byte) error { return mine }); err != mine {
		t.Error(err)
	}
	<-stopped
	if err := pr.pool.Stream(ctx, "b", 9, nil, func([]byte) error { return nil }); !errors.Is(err, base.ErrTooLarge) {
		t.Error(err)
	}
	var inner error
	err := pr.pool.Stream(ctx, "b", 1, []byte("x"), func([]byte) error {
		return pr.pool.Stream(ctx, "b", 1, []byte("x"), func([]byte) error {
			inner = pr.pool.Stream(ctx, "b", 1, []byte("x"), func([]byte) error { return nil })
			return nil
		})
	})
	if err != nil || !errors.Is(inner, base.ErrOverloaded) {
		t.Errorf("%v, third stream: %v", err, inner)
	}
}
