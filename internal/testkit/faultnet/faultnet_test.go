package faultnet_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/testkit/faultnet"
	"github.com/distributedcache/cache/internal/wire"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

const kindStream = faultnet.KindMessages + 1

// newNet returns a network that ends with the test.
func newNet(t *testing.T) *faultnet.Net {
	t.Helper()
	testkit.CheckNoLeaks(t)
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	return n
}

// sink collects the numbers of the frames that a node receives.
type sink struct {
	mu   sync.Mutex
	got  []uint32
	ends int
}

func (s *sink) handle(c net.Conn) {
	fr := wire.NewFrameReader(bufio.NewReader(c), 1<<20)
	for {
		_, payload, err := fr.Next()
		s.mu.Lock()
		if err != nil {
			s.ends++
			s.mu.Unlock()
			return
		}
		s.got = append(s.got, binary.BigEndian.Uint32(payload))
		s.mu.Unlock()
	}
}

func (s *sink) numbers() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// serve lets the node collect frames of both kinds.
func serve(t *testing.T, e *faultnet.Endpoint) *sink {
	t.Helper()
	s := &sink{}
	for _, kind := range []byte{faultnet.KindMessages, kindStream} {
		stop, err := e.Serve(kind, s.handle)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
	}
	return s
}

func dial(t *testing.T, from *faultnet.Endpoint, to string, kind byte) net.Conn {
	t.Helper()
	c, err := from.Dial(testkit.Context(t), to, kind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// send writes frames numbered from..to-1 and stops at an error.
func send(c net.Conn, from, to uint32) error {
	for i := from; i < to; i++ {
		frame := wire.AppendUint32(wire.BeginFrame(nil), i)
		if err := wire.FinishFrame(frame, 9); err != nil {
			return err
		}
		if _, err := c.Write(frame); err != nil {
			return err
		}
	}
	return nil
}

func mustSend(t *testing.T, c net.Conn, from, to uint32) {
	t.Helper()
	if err := send(c, from, to); err != nil {
		t.Fatal(err)
	}
}

func span(from, to uint32) (s []uint32) {
	for i := from; i < to; i++ {
		s = append(s, i)
	}
	return s
}

func awaitNumbers(t *testing.T, s *sink, want []uint32) {
	t.Helper()
	testkit.Eventually(t, time.Minute, "frames", func() bool { return len(s.numbers()) >= len(want) })
	if got := s.numbers(); !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestSoundByDefault(t *testing.T) {
	n := newNet(t)
	s := serve(t, n.Node("b"))
	c := dial(t, n.Node("a"), "b", faultnet.KindMessages)
	if c.LocalAddr().String() != "a" || c.RemoteAddr().String() != "b" || c.RemoteAddr().Network() == "" {
		t.Errorf("%v to %v", c.LocalAddr(), c.RemoteAddr())
	}
	mustSend(t, c, 0, 500)
	c.Close()
	awaitNumbers(t, s, span(0, 500))
	testkit.Eventually(t, time.Minute, "the end", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.ends == 1 })
	if st := n.Stats(); st.Frames != 500 || st.Delivered != 500 || st.FramesOfKind[faultnet.KindMessages] != 500 || st.Dials != 1 {
		t.Errorf("%+v", st)
	}
	if _, err := c.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
}

func TestFaultsOfMessages(t *testing.T) {
	const frames = 2000
	for name, c := range map[string]struct {
		f     faultnet.Faults
		check func(st faultnet.Stats, got []uint32) bool
	}{
		"drop": {faultnet.Faults{Drop: 0.3}, func(st faultnet.Stats, got []uint32) bool {
			return st.Dropped > 400 && st.Dropped < 800 && len(got) == frames-int(st.Dropped) && slices.IsSorted(got)
		}},
		"delay": {faultnet.Faults{Delay: 0.1, MaxDelay: 5 * time.Millisecond}, func(st faultnet.Stats, got []uint32) bool {
			return st.Delayed > 100 && slices.Equal(got, span(0, frames))
		}},
		"duplicate": {faultnet.Faults{Duplicate: 0.2, MaxDelay: time.Millisecond}, func(st faultnet.Stats, got []uint32) bool {
			return st.Duplicated > 200 && len(got) == frames+int(st.Duplicated)
		}},
		"reorder": {faultnet.Faults{Reorder: 0.2, MaxDelay: time.Millisecond}, func(st faultnet.Stats, got []uint32) bool {
			sorted := slices.Sorted(slices.Values(got))
			return st.Reordered > 200 && !slices.IsSorted(got) && slices.Equal(sorted, span(0, frames))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNet(t)
			s := serve(t, n.Node("b"))
			n.SetFaults(c.f)
			conn := dial(t, n.Node("a"), "b", faultnet.KindMessages)
			mustSend(t, conn, 0, frames)
			conn.Close()
			testkit.Eventually(t, time.Minute, "the end", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.ends == 1 })
			if st, got := n.Stats(), s.numbers(); !c.check(st, got) {
				t.Errorf("%d frames, %+v", len(got), st)
			}
		})
	}
}

// TestStreamsStayWhole: the bytes of a snapshot are neither lost nor moved.
func TestStreamsStayWhole(t *testing.T) {
	n := newNet(t)
	s := serve(t, n.Node("b"))
	n.SetFaults(faultnet.Faults{Drop: 1, Duplicate: 1, Reorder: 1, Delay: 0.2, MaxDelay: time.Millisecond})
	mustSend(t, dial(t, n.Node("a"), "b", kindStream), 0, 300)
	awaitNumbers(t, s, span(0, 300))
}

// TestSameSeedSameFate: the n-th frame of a direction meets the same fault.
func TestSameSeedSameFate(t *testing.T) {
	run := func() []uint32 {
		n := faultnet.New(7)
		defer n.Close()
		s := serve(t, n.Node("b"))
		other := serve(t, n.Node("c"))
		n.SetFaults(faultnet.Faults{Drop: 0.5})
		n.SetFaultsOf("a", "c", faultnet.Faults{})
		c := dial(t, n.Node("a"), "c", faultnet.KindMessages)
		mustSend(t, c, 0, 50)
		c = dial(t, n.Node("a"), "b", faultnet.KindMessages)
		mustSend(t, c, 0, 200)
		c.Close()
		testkit.Eventually(t, time.Minute, "the end", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.ends == 1 })
		awaitNumbers(t, other, span(0, 50))
		return s.numbers()
	}
	if a, b := run(), run(); !slices.Equal(a, b) || len(a) < 50 || len(a) > 150 {
		t.Errorf("%v\n%v", a, b)
	}
}

func TestPartitions(t *testing.T) {
	n := newNet(t)
	nodes := []string{"a", "b", "c", "d"}
	for _, a := range nodes {
		serve(t, n.Node(a))
	}
	// reach lists who can open a connection to whom.
	reach := func() (pairs []string) {
		for _, a := range nodes {
			for _, b := range nodes {
				if a >= b {
					continue
				}
				c, err := n.Node(a).Dial(testkit.Context(t), b, faultnet.KindMessages)
				if err == nil {
					c.Close()
					pairs = append(pairs, a+b)
				} else if !errors.Is(err, faultnet.ErrRefused) {
					t.Fatal(err)
				}
			}
		}
		return pairs
	}
	all := []string{"ab", "ac", "ad", "bc", "bd", "cd"}
	for _, c := range []struct {
		name string
		do   func()
		want []string
	}{
		{"sound", func() {}, all},
		{"groups", func() { n.Partition([]string{"a", "c"}, []string{"b"}) }, []string{"ac"}},
		{"rest", func() { n.Partition([]string{"a", "c"}) }, []string{"ac", "bd"}},
		{"isolate", func() { n.Isolate("d") }, []string{"ab", "ac", "bc"}},
		{"one way", func() { n.OneWay("b", "a") }, []string{"ac", "ad", "bc", "bd", "cd"}},
		{"ring", func() { n.Ring(nodes...) }, []string{"ab", "ad", "bc", "cd"}},
		{"refuse", func() { n.RefuseDials("d") }, []string{"ab", "ac", "bc"}},
	} {
		n.Heal()
		c.do()
		if got := reach(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	n.Heal()
	if got := reach(); !slices.Equal(got, all) {
		t.Errorf("healed: %v", got)
	}
}

// TestOpenConnectionsInPartition: messages are swallowed, streams halt.
func TestOpenConnectionsInPartition(t *testing.T) {
	n := newNet(t)
	s := serve(t, n.Node("b"))
	messages, stream := dial(t, n.Node("a"), "b", faultnet.KindMessages), dial(t, n.Node("a"), "b", kindStream)
	n.OneWay("a", "b")
	mustSend(t, messages, 0, 10)
	testkit.Eventually(t, time.Minute, "blocked frames", func() bool { return n.Stats().Blocked == 10 })
	mustSend(t, stream, 100, 110)
	n.Heal()
	awaitNumbers(t, s, span(100, 110))
	mustSend(t, messages, 10, 12)
	awaitNumbers(t, s, append(span(100, 110), 10, 11))
}

func TestCut(t *testing.T) {
	n := newNet(t)
	serve(t, n.Node("b"))
	serve(t, n.Node("c"))
	b, c := dial(t, n.Node("a"), "b", kindStream), dial(t, n.Node("a"), "c", kindStream)
	n.Cut("b", "a")
	if _, err := b.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read: %v", err)
	}
	if err := send(b, 0, 1); err == nil {
		t.Error("a cut connection takes bytes")
	}
	mustSend(t, c, 0, 1)
	n.CutAll()
	if err := send(c, 0, 1); err == nil {
		t.Error("a cut connection takes bytes")
	}
	n.SetFaults(faultnet.Faults{Cut: 1})
	b = dial(t, n.Node("a"), "b", faultnet.KindMessages)
	testkit.Eventually(t, time.Minute, "cut", func() bool { return send(b, 0, 1) != nil })
}

// TestBackPressure: a connection that nobody reads takes a bounded number of
// bytes, and its deadlines hold; cutting it in a partition ends it.
func TestBackPressure(t *testing.T) {
	n := newNet(t)
	release := make(chan struct{})
	if _, err := n.Node("b").Serve(faultnet.KindMessages, func(net.Conn) { <-release }); err != nil {
		t.Fatal(err)
	}
	defer close(release)
	c := dial(t, n.Node("a"), "b", faultnet.KindMessages)
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	sent, err := c.Write(make([]byte, 10<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) || sent > 2<<20 || sent < 256<<10 {
		t.Errorf("%d bytes, %v", sent, err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v is no timeout", err)
	}
}

func TestRawBytesPass(t *testing.T) {
	n := newNet(t)
	got := make(chan []byte, 1)
	if _, err := n.Node("b").Serve(faultnet.KindMessages, func(c net.Conn) {
		b, _ := io.ReadAll(c)
		got <- b
	}); err != nil {
		t.Fatal(err)
	}
	n.SetFaults(faultnet.Faults{Drop: 1})
	c := dial(t, n.Node("a"), "b", faultnet.KindMessages)
	want := bytes.Repeat([]byte("no frame at all "), 1000)
	if _, err := c.Write(want); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if b := <-got; !bytes.Equal(b, want) {
		t.Errorf("%d bytes, want %d", len(b), len(want))
	}
}

func TestEndpoints(t *testing.T) {
	n := newNet(t)
	a, b := n.Node("a"), n.Node("b")
	if _, err := a.Dial(testkit.Context(t), "b", kindStream); !errors.Is(err, faultnet.ErrRefused) {
		t.Errorf("kind that is not served: %v", err)
	}
	s := serve(t, b)
	if _, err := b.Serve(kindStream, s.handle); err == nil {
		t.Error("a kind is served twice")
	}
	c := dial(t, a, "b", kindStream)
	b.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives its node")
	}
	if _, err := b.Serve(kindStream, s.handle); !errors.Is(err, net.ErrClosed) {
		t.Errorf("serve on a closed node: %v", err)
	}
	if _, err := a.Dial(testkit.Context(t), "b", kindStream); !errors.Is(err, faultnet.ErrRefused) {
		t.Errorf("closed node: %v", err)
	}
	again := serve(t, n.Node("b"))
	mustSend(t, dial(t, a, "b", kindStream), 0, 3)
	awaitNumbers(t, again, span(0, 3))
}
