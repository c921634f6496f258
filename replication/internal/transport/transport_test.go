package transport_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/mux"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/testkit/faultnet"
	"github.com/distributedcache/cache/internal/wire"
	"github.com/distributedcache/cache/replication/internal/transport"
)

// peer is a transport without a NodeHost.
type peer struct {
	*transport.Transport
	raftio.ITransport
	addr    string
	discard bool // what comes in

	mu      sync.Mutex
	batches []raftpb.MessageBatch
	chunks  []raftpb.Chunk
	reject  func(raftpb.Chunk) bool
}

// start runs a peer until the test ends.
func start(t testing.TB, addr string, cfg transport.Config) *peer {
	t.Helper()
	p := &peer{addr: addr, Transport: transport.New(cfg), reject: func(raftpb.Chunk) bool { return false }}
	f := p.Factory()
	if !f.Validate(addr) || f.Validate("") || f.Validate(strings.Repeat("x", 1000)) {
		t.Error("addresses are not validated")
	}
	p.ITransport = f.Create(config.NodeHostConfig{DeploymentID: 5}, p.onBatch, p.onChunk)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *peer) onBatch(b raftpb.MessageBatch) {
	if p.discard {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batches = append(p.batches, b)
	if len(b.Requests) > 0 && b.Requests[0].Hint == 666 {
		panic("dragonboat does not like this")
	}
}

func (p *peer) onChunk(c raftpb.Chunk) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chunks = append(p.chunks, c)
	return !p.reject(c)
}

func (p *peer) received() (batches, chunks int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.batches), len(p.chunks)
}

// pairOver returns two peers of a network of their own.
func pairOver(t *testing.T, change func(*transport.Config)) (a, b *peer, n *faultnet.Net) {
	t.Helper()
	testkit.CheckNoLeaks(t)
	n = faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	cfg := transport.Config{}
	change(&cfg)
	cfg.Network = n.Node("a")
	a = start(t, "a", cfg)
	return a, start(t, "b", transport.Config{Network: n.Node("b")}), n
}

func batchOf(entries ...[]byte) raftpb.MessageBatch {
	m := raftpb.Message{Type: raftpb.Replicate, To: 2, From: 1, ShardID: 3, Term: 4}
	for i, e := range entries {
		m.Entries = append(m.Entries, raftpb.Entry{Index: uint64(i) + 1, Term: 4, Cmd: e})
	}
	return raftpb.MessageBatch{DeploymentId: 5, BinVer: raftio.TransportBinVersion, SourceAddress: nodeID(1), Requests: []raftpb.Message{m}}
}

func connect(t testing.TB, p *peer, target string) raftio.IConnection {
	t.Helper()
	c, err := p.GetConnection(testkit.Context(t), target)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func sendBatch(t testing.TB, c raftio.IConnection, b raftpb.MessageBatch) {
	t.Helper()
	if err := c.SendMessageBatch(b); err != nil {
		t.Fatal(err)
	}
}

func awaitBatches(t testing.TB, p *peer, want int) {
	t.Helper()
	testkit.Eventually(t, time.Minute, "batches", func() bool { n, _ := p.received(); return n >= want })
}

// tcpPeer starts a peer over TCP.
func tcpPeer(t testing.TB, listen string, cfg transport.Config) *peer {
	t.Helper()
	n, err := mux.Listen(mux.Config{Listen: listen, Insecure: true})
	if err != nil {
		t.Skip(err) // no IPv6 here
	}
	t.Cleanup(func() { n.Close() })
	cfg.Network = n
	return start(t, n.Addr(), cfg)
}

func TestBatchesOverTCP(t *testing.T) {
	for name, listen := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0"} {
		t.Run(name, func(t *testing.T) {
			testkit.CheckNoLeaks(t)
			a, b := tcpPeer(t, listen, transport.Config{}), tcpPeer(t, listen, transport.Config{})
			if a.Name() != transport.Name {
				t.Error(a.Name())
			}
			c := connect(t, a, b.addr)
			defer c.Close()
			for i := range 100 {
				sendBatch(t, c, batchOf([]byte("first"), bytes.Repeat([]byte{byte(i)}, 1000*i)))
			}
			awaitBatches(t, b, 100)
			for i, got := range b.batches {
				if e := got.Requests[0].Entries; len(e) != 2 || string(e[0].Cmd) != "first" || !bytes.Equal(e[1].Cmd, bytes.Repeat([]byte{byte(i)}, 1000*i)) {
					t.Fatalf("batch %d: %d entries", i, len(e))
				}
			}
			in, out := b.Stats(), a.Stats()
			if in.BatchesIn != 100 || in.FramesIn != 100 || out.BatchesOut != 100 || out.FramesOut != 100 || out.BytesOut != in.BytesIn || in.Faults+in.Dropped+out.Dropped != 0 {
				t.Errorf("%+v %+v", out, in)
			}
		})
	}
}

// TestDropped: what is of another deployment, or of no use to anybody.
func TestDropped(t *testing.T) {
	a, b, _ := pairOver(t, func(c *transport.Config) { c.MaxFrameBytes = 10000 })
	c := connect(t, a, "b")
	defer c.Close()
	other := batchOf([]byte("x"))
	other.DeploymentId = 6
	sendBatch(t, c, other)
	sendBatch(t, c, batchOf(make([]byte, 20000)))
	sendBatch(t, c, batchOf(make([]byte, 6000), make([]byte, 6000)))
	awaitBatches(t, b, 2)
	if s := b.Stats(); s.Dropped != 1 || s.BatchesIn != 3 {
		t.Errorf("%+v", s)
	}
	if s := a.Stats(); s.Dropped != 1 || s.FramesOut != 3 || s.BatchesOut != 3 {
		t.Errorf("%+v", s)
	}
	if r := b.batches[1].Requests[0]; r.LogIndex != 1 || r.LogTerm != 4 || r.Entries[0].Index != 2 {
		t.Errorf("%+v", r)
	}
}

// TestMute: a fenced node is not heard.
func TestMute(t *testing.T) {
	var mute atomic.Bool
	a, b, _ := pairOver(t, func(c *transport.Config) { c.Mute = mute.Load })
	c := connect(t, a, "b")
	defer c.Close()
	s, err := a.GetSnapshotConnection(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sendBatch(t, c, batchOf([]byte("x")))
	awaitBatches(t, b, 1)
	mute.Store(true)
	if err := c.SendMessageBatch(batchOf([]byte("x"))); !errors.Is(err, transport.ErrMuted) {
		t.Error(err)
	}
	if err := s.SendChunk(chunkOf(0, 10)); !errors.Is(err, transport.ErrMuted) {
		t.Error(err)
	}
	if _, err := a.GetConnection(t.Context(), "b"); !errors.Is(err, transport.ErrMuted) {
		t.Error(err)
	}
	if _, err := a.GetSnapshotConnection(t.Context(), "b"); !errors.Is(err, transport.ErrMuted) {
		t.Error(err)
	}
	if st := a.Stats(); st.FramesOut != 1 || st.Dropped != 1 {
		t.Errorf("%+v", st)
	}
	if st := b.Stats(); st.FramesIn != 1 {
		t.Errorf("%+v", st)
	}
}

// TestHostileBytes: a fault closes the connection it came over, and only that.
func TestHostileBytes(t *testing.T) {
	var log syncBuffer
	testkit.CheckNoLeaks(t)
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	b := start(t, "b", transport.Config{Network: n.Node("b"), Logger: slog.New(slog.NewTextHandler(&log, nil)), MaxFrameBytes: 1 << 20})
	a := start(t, "a", transport.Config{Network: n.Node("a")})
	good := connect(t, a, "b")
	defer good.Close()
	framed := func(kind byte, payload []byte) []byte {
		f := append(wire.BeginFrame(nil), payload...)
		if err := wire.FinishFrame(f, kind); err != nil {
			t.Fatal(err)
		}
		return f
	}
	huge := framed(1, nil)
	binary.BigEndian.PutUint32(huge[4:], 900<<20)
	hostile := [][]byte{
		bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 10),
		huge,
		framed(1, nil),
		framed(9, nil),
		framed(1, []byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}),
		framed(1, bytes.Repeat([]byte{0x0b}, 500<<10)),
		framed(1, []byte{0x0a, 0x00, 0x0a, 0xf5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}),
		framed(2, []byte{1, 0}),
		framed(2, bytes.Repeat([]byte{0xff}, 1000)),
	}
	faults := uint64(0)
	for i, h := range hostile {
		for _, kind := range []byte{transport.KindMessages, transport.KindSnapshot} {
			c, err := n.Node("a").Dial(t.Context(), "b", kind)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write(h)
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("case %d: an answer", i)
			}
			c.Close()
			faults++
		}
	}
	panics := batchOf([]byte("x"))
	panics.Requests[0].Hint = 666
	bad := connect(t, a, "b")
	defer bad.Close()
	sendBatch(t, bad, panics)
	testkit.Eventually(t, time.Minute, "faults", func() bool { return b.Stats().Faults == faults+1 })
	sendBatch(t, good, batchOf([]byte("x")))
	awaitBatches(t, b, 2)
	if lines := strings.Count(log.String(), "\n"); lines != 1 {
		t.Errorf("%d lines in the log:\n%s", lines, log.String())
	}
}

// syncBuffer is a buffer for a logger.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestCutMidFrame: half a frame is no fault, and the next connection works.
func TestCutMidFrame(t *testing.T) {
	a, b, n := pairOver(t, func(*transport.Config) {})
	raw, err := n.Node("a").Dial(t.Context(), "b", transport.KindMessages)
	if err != nil {
		t.Fatal(err)
	}
	f := append(wire.BeginFrame(nil), make([]byte, 1000)...)
	if err := wire.FinishFrame(f, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write(f[:500]); err != nil {
		t.Fatal(err)
	}
	raw.Close()
	c := connect(t, a, "b")
	defer c.Close()
	sendBatch(t, c, batchOf([]byte("x")))
	awaitBatches(t, b, 1)
	n.CutAll()
	testkit.Eventually(t, time.Minute, "an error", func() bool { return c.SendMessageBatch(batchOf([]byte("x"))) != nil })
	again := connect(t, a, "b")
	defer again.Close()
	sendBatch(t, again, batchOf([]byte("x")))
	awaitBatches(t, b, 2)
	if s := b.Stats(); s.Faults != 0 {
		t.Errorf("%+v", s)
	}
}

// TestSlowReader: a peer that does not read holds up the batches for it, no
// longer than the write timeout, and nothing else; cancelling frees them.
func TestSlowReader(t *testing.T) {
	const timeout = 300 * time.Millisecond
	a, b, n := pairOver(t, func(c *transport.Config) { c.WriteTimeout = timeout })
	release := make(chan struct{})
	stop, err := n.Node("slow").Serve(transport.KindMessages, func(net.Conn) { <-release })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	defer close(release)
	slow, fast := connect(t, a, "slow"), connect(t, a, "b")
	defer slow.Close()
	defer fast.Close()
	large := batchOf(make([]byte, 1<<20))
	var took time.Duration
	failed := make(chan error)
	go func() {
		begin := time.Now()
		err := slow.SendMessageBatch(large)
		for err == nil {
			begin = time.Now()
			err = slow.SendMessageBatch(large)
		}
		took = time.Since(begin)
		failed <- err
	}()
	for range 50 {
		sendBatch(t, fast, batchOf([]byte("x")))
	}
	awaitBatches(t, b, 50)
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) || took > time.Minute {
		t.Errorf("%v after %v", err, took)
	}

	ctx, cancel := context.WithCancel(t.Context())
	c, err := a.GetConnection(ctx, "slow")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	testkit.Eventually(t, time.Minute, "the end", func() bool { return c.SendMessageBatch(batchOf([]byte("x"))) != nil })
}

func chunkOf(i, bytes int) raftpb.Chunk {
	return raftpb.Chunk{
		DeploymentId: 5, BinVer: raftio.TransportBinVersion, ShardID: 1, ReplicaID: 2, From: 3, Index: 4, ChunkId: uint64(i),
		Filepath: "x.gbsnap", Data: make([]byte, bytes),
	}
}

// TestSnapshots: two at once, paced together, handled to the end when Close
// returns.
func TestSnapshots(t *testing.T) {
	const rate = 8 << 20
	a, b, _ := pairOver(t, func(c *transport.Config) { c.SnapshotBytesPerSecond = rate })
	var conns []raftio.ISnapshotConnection
	for range 2 {
		c, err := a.GetSnapshotConnection(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if _, err := a.GetSnapshotConnection(t.Context(), "b"); !errors.Is(err, transport.ErrTooManySnapshots) {
		t.Errorf("a third snapshot: %v", err)
	}
	if s := a.Stats(); s.Snapshots != 2 {
		t.Errorf("%+v", s)
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			for i := range 4 {
				if err := c.SendChunk(chunkOf(i, 1<<20)); err != nil {
					t.Error(err)
				}
			}
			c.Close()
		})
	}
	wg.Wait()
	if _, chunks := b.received(); chunks != 8 {
		t.Errorf("%d chunks were handled when Close returned", chunks)
	}
	if took := time.Since(begin); took < 900*time.Millisecond || took > time.Minute {
		t.Errorf("8 MiB at 8 MiB/s took %v", took)
	}
	if s := a.Stats(); s.Snapshots != 0 || s.ChunksOut != 8 {
		t.Errorf("%+v", s)
	}
	if _, err := a.GetSnapshotConnection(t.Context(), "nobody"); !errors.Is(err, faultnet.ErrRefused) {
		t.Error(err)
	}
	if s := a.Stats(); s.Snapshots != 0 {
		t.Errorf("a failed dial keeps its slot: %+v", s)
	}
}

func TestSnapshotRejected(t *testing.T) {
	a, b, _ := pairOver(t, func(*transport.Config) {})
	b.reject = func(c raftpb.Chunk) bool { return c.ChunkId == 1 }
	other := chunkOf(0, 10)
	other.DeploymentId = 6
	for name, send := range map[string]func(c raftio.ISnapshotConnection, i int) error{
		"by dragonboat":    func(c raftio.ISnapshotConnection, i int) error { return c.SendChunk(chunkOf(i, 1<<20)) },
		"other deployment": func(c raftio.ISnapshotConnection, _ int) error { return c.SendChunk(other) },
	} {
		c, err := a.GetSnapshotConnection(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		testkit.Eventually(t, time.Minute, name, func() bool { i++; return send(c, i-1) != nil })
		c.Close()
	}
	c, err := a.GetSnapshotConnection(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var size *wire.FrameSizeError
	if err := c.SendChunk(chunkOf(0, 17<<20)); !errors.As(err, &size) {
		t.Error(err)
	}
	if s := b.Stats(); s.Faults != 0 {
		t.Errorf("%+v", s)
	}
}

// TestSnapshotCancelled: a closing NodeHost does not wait for the bandwidth.
func TestSnapshotCancelled(t *testing.T) {
	a, _, _ := pairOver(t, func(c *transport.Config) { c.SnapshotBytesPerSecond = 1000 })
	ctx, cancel := context.WithCancel(t.Context())
	c, err := a.GetSnapshotConnection(ctx, "b")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, cancel)
	begin := time.Now()
	if err := c.SendChunk(chunkOf(0, 1<<20)); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	c.Close()
	if took := time.Since(begin); took > time.Minute { // it would be a quarter of an hour
		t.Errorf("took %v", took)
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	testkit.CheckNoLeaks(t)
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	start(t, "b", transport.Config{Network: n.Node("b"), IdleTimeout: 50 * time.Millisecond})
	c, err := n.Node("a").Dial(t.Context(), "b", transport.KindMessages)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// TestStartFails: dragonboat closes what did not start.
func TestStartFails(t *testing.T) {
	testkit.CheckNoLeaks(t)
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	if _, err := n.Node("a").Serve(transport.KindSnapshot, func(net.Conn) {}); err != nil {
		t.Fatal(err)
	}
	tr := transport.New(transport.Config{Network: n.Node("a")}).Factory().Create(config.NodeHostConfig{}, nil, nil)
	if err := tr.Start(); err == nil {
		t.Error("started")
	}
	for range 2 {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestDecodedMemory: the largest number of the smallest things costs a known
// multiple of its bytes.
func TestDecodedMemory(t *testing.T) {
	a, b, _ := pairOver(t, func(*transport.Config) {})
	batch := raftpb.MessageBatch{DeploymentId: 5, Requests: make([]raftpb.Message, 4096)}
	for i := range batch.Requests {
		batch.Requests[i] = raftpb.Message{Type: raftpb.Heartbeat, To: 1}
	}
	c := connect(t, a, "b")
	defer c.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sendBatch(t, c, batch)
	awaitBatches(t, b, 1)
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
		t.Errorf("%d bytes were allocated", got)
	}
}

// BenchmarkBatches sends batches over loopback TCP and counts those that
// arrive: both sides of the connection are in the figures.
func BenchmarkBatches(b *testing.B) {
	for _, c := range []struct {
		name           string
		messages, size int
	}{{"heartbeats=16", 16, 0}, {"entries=1x256B", 1, 256}, {"entries=64x256B", 64, 256}, {"entries=16x64KiB", 16, 64 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			from, to := tcpPeer(b, "127.0.0.1:0", transport.Config{}), tcpPeer(b, "127.0.0.1:0", transport.Config{})
			to.discard = true
			batch := batchOf()
			batch.Requests = nil
			for i := range c.messages {
				m := raftpb.Message{Type: raftpb.Heartbeat, To: 2, From: 1, ShardID: uint64(i), Term: 4, Commit: 1 << 20}
				if c.size > 0 {
					m.Type, m.LogIndex = raftpb.Replicate, 1<<20
					m.Entries = []raftpb.Entry{{Index: 1<<20 + 1, Term: 4, Key: 1 << 60, ClientID: 1 << 50, Cmd: make([]byte, c.size)}}
				}
				batch.Requests = append(batch.Requests, m)
			}
			conn := connect(b, from, to.addr)
			defer conn.Close()
			b.ReportAllocs()
			sent := uint64(0)
			for b.Loop() {
				sendBatch(b, conn, batch)
				sent++
				for sent-to.Stats().BatchesIn > 256 { // let it catch up
					runtime.Gosched()
				}
			}
			for to.Stats().BatchesIn < sent {
				runtime.Gosched()
			}
			b.StopTimer()
			b.SetBytes(int64(from.Stats().BytesOut / sent))
			b.ReportMetric(float64(int(sent)*c.messages)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
