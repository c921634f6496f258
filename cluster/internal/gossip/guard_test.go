package gossip

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/wire"
)

const label = "cluster-1"

func labelled(s string) []byte { return append(appendLabel(nil, label), s...) }

func TestPacketGuard(t *testing.T) {
	for s, parts := range map[string]int{
		"\x00a": 1, "\x08": 1, "\x0c1234\x03a": 1, "\x07\x02\x00\x01\x00\x02\x00\x03a": 2, "\x0c1234\x07\x00": 0, "\x07\x00": 0,
	} {
		if got, err := packetParts(labelled(s), label); err != nil || len(got) != parts {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "\x06", "\x09", "\x0a", "\x0d", "\x0c1234", "\x0c12", "\x07", "\x07\x01\x00", "\x07\x01\x00\x02a", "\x07\x01\x00\x00", "\x07\x01\x00\x01\x07", "\x07\x01\x00\x01\x00a", "\xf4\x01a\x00"} {
		if got, err := packetParts(labelled(s), label); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "\x00", "\xf4", "\xf4\x09cluster-2\x00", "\xf4\x08cluster-\x00"} {
		if _, err := packetParts([]byte(s), label); !errors.Is(err, ErrOtherCluster) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func FuzzPacket(f *testing.F) {
	f.Add([]byte("\x07\x02\x00\x01\x00\x02\x00\x03a"))
	f.Add([]byte("\x00\x82\xa5SeqNo\x07\xa4Node\xa1a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		parts, err := packetParts(labelled(string(data)), label)
		total := 0
		for _, p := range parts {
			total += len(p)
		}
		if total > len(data) || (err != nil && !errors.Is(err, wire.ErrMalformed)) {
			t.Fatalf("%q, %v", parts, err)
		}
		pingSequence(labelled(string(data)), label)
	})
}

func TestStreamGuard(t *testing.T) {
	head := "\x06\x83\xa4Join\xc3\xa5Nodes\x02\xacUserStateLen\xcd\x01\x00"
	for s, want := range map[string]error{
		head: nil, "\x00": nil, "\x08": wire.ErrMalformed, "\x09": wire.ErrMalformed, "\x0a": wire.ErrMalformed, "\x02": wire.ErrMalformed,
		"\x06\x93\x00\x00\xc2": wire.ErrMalformed, "\x06\x81\xa5Nodes\xcd\xff\xff": wire.ErrMalformed, "\x06\x81\xa5Nodes\xff": wire.ErrMalformed,
		"\x06\x81\xacUserStateLen\xce\x7f\xff\xff\xff": wire.ErrMalformed, "\x06\x81\x01\x01": wire.ErrMalformed,
		"\x06\x81\xa5Nodes\xd1\xff\xff": wire.ErrMalformed, "\x06\x81\xa1x" + strings.Repeat("\x91", 20): wire.ErrMalformed,
		"\x06\x81\xa1x\xda\x0f\xff" + strings.Repeat("x", 600): wire.ErrMalformed,
	} {
		if enough, err := streamHead(labelled(s), label, false); !errors.Is(err, want) || enough != (want == nil) {
			t.Errorf("%q: %v, %v", s, enough, err)
		}
	}
	for i := range len(labelled(head)) {
		if enough, err := streamHead(labelled(head)[:i], label, false); enough || err != nil {
			t.Errorf("%d bytes: %v, %v", i, enough, err)
		}
	}
	for s, want := range map[string]error{"\x02": nil, "\x0d": nil, head: nil, "\x00": wire.ErrMalformed, string(labelled(head)): wire.ErrMalformed} {
		if enough, err := streamHead([]byte(s), label, true); !errors.Is(err, want) || enough != (want == nil) {
			t.Errorf("answer %q: %v, %v", s, enough, err)
		}
	}
	for _, s := range []string{"x", "\xf4\x08", "\xf4\x09cluster-2"} {
		if _, err := streamHead([]byte(s), label, false); !errors.Is(err, ErrOtherCluster) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// FuzzStreamHead: what is enough stays enough, and what is refused stays
// refused, whatever follows.
func FuzzStreamHead(f *testing.F) {
	f.Add([]byte("\x06\x83\xa4Join\xc3\xa5Nodes\x02\xacUserStateLen\xcd\x01\x00"), 5)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		if cut < 0 || cut > len(data) {
			return
		}
		enough, err := streamHead(data[:cut], label, true)
		after, errAfter := streamHead(data, label, true)
		if err != nil && !errors.Is(err, wire.ErrMalformed) || enough && err != nil || enough && !after || err != nil && errAfter == nil && cut <= maxStreamHeadBytes {
			t.Fatalf("%v, %v; then %v, %v", enough, err, after, errAfter)
		}
	})
}

// TestStreamReads: memberlist gets all of what a sound stream has, in whatever
// pieces it comes, and nothing of another.
func TestStreamReads(t *testing.T) {
	read := func(data []byte) ([]byte, error) {
		here, there := net.Pipe()
		defer here.Close()
		go func() {
			for len(data) > 0 {
				n, err := there.Write(data[:min(7, len(data))])
				if err != nil {
					return
				}
				data = data[n:]
			}
			there.Close()
		}()
		s := &stream{Conn: here, label: label, closed: make(chan struct{})}
		return io.ReadAll(s)
	}
	good := append(labelled("\x06\x81\xa5Nodes\x02"), bytes.Repeat([]byte("rest"), 3000)...)
	if got, err := read(good); err != nil || !bytes.Equal(got, good) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := read(labelled("\x06\x81\xa5Nodes\xce\xff\xff\xff\xff")); !errors.Is(err, wire.ErrMalformed) || len(got) > 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err := read([]byte("nonsense")); !errors.Is(err, ErrOtherCluster) || len(got) > 0 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// endless is a stream that never ends.
type endless struct {
	net.Conn
	head []byte
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.head)
	e.head = e.head[n:]
	if n == 0 {
		n = len(p)
	}
	return n, nil
}

func TestStreamIsBounded(t *testing.T) {
	s := &stream{Conn: &endless{head: labelled("\x00")}, label: label, closed: make(chan struct{})}
	n, err := io.Copy(io.Discard, s)
	var size *wire.FrameSizeError
	if n > maxStreamBytes || !errors.As(err, &size) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestPingSequence(t *testing.T) {
	for s, want := range map[string]uint32{
		"\x00\x82\xa4Node\xa1a\xa5SeqNo\x07": 7, "\x00\x81\xa5SeqNo\xce\x00\x01\x00\x00": 65536,
		"\x07\x01\x00\x09\x00\x81\xa5SeqNo\xcc\x80": 0, "\x07\x01\x00\x0a\x00\x81\xa5SeqNo\xcc\x80": 128,
		"\x02\x81\xa5SeqNo\x07": 0, "\x00\x80": 0, "\x00\x81\xa5SeqNo\xa1a": 0, "\x00": 0,
	} {
		if got, ok := pingSequence(labelled(s), label); got != want || ok != (want != 0) {
			t.Errorf("%q: %d, %v", s, got, ok)
		}
	}
	u := &unpacker{buf: ack(70000, label)[len(labelled(""))+1:]}
	var number uint64
	u.fields(func(name string, value item) {
		if name == "SeqNo" {
			number = value.n
		}
	})
	if number != 70000 || u.failed() || len(u.buf) > 0 {
		t.Errorf("%d, %+v", number, u)
	}
}

func FuzzUnpacker(f *testing.F) {
	f.Add([]byte("\x83\xa4Join\xc3\xa5Nodes\x02\xa1x\x92\x01\x81\xc0\xd1\x01\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u := &unpacker{buf: data}
		total := 0
		u.fields(func(name string, value item) { total += len(name) + len(value.b) })
		if total > len(data) {
			t.Fatalf("%d of %d bytes", total, len(data))
		}
		l := &listener{heard: append(labelled("\x06"), data...)}
		if _, err := l.sightings(label); err != nil && !errors.Is(err, errState) {
			t.Fatal(err)
		}
	})
}

func TestClocks(t *testing.T) {
	now := time.Unix(1000, 0)
	o := measure(now.Add(3*time.Second), now.Add(50*time.Millisecond), 100*time.Millisecond)
	if o.Offset != 3*time.Second || o.Uncertainty != 50*time.Millisecond {
		t.Errorf("%+v", o)
	}
	at := func(seconds, offset, uncertainty int) Offset {
		return Offset{Offset: time.Duration(offset) * time.Millisecond, Uncertainty: time.Duration(uncertainty) * time.Millisecond, At: now.Add(time.Duration(seconds) * time.Second)}
	}
	for name, c := range map[string]struct {
		older, newer Offset
		keep         bool
	}{
		"more certain":         {at(0, 10, 5), at(1, 12, 3), false},
		"less certain":         {at(0, 10, 5), at(1, 12, 30), true},
		"less certain, later":  {at(0, 10, 5), at(60, 12, 30), false},
		"the clock has jumped": {at(0, 10, 5), at(1, 5000, 30), false},
		"our clock went back":  {at(9, 10, 5), at(1, 12, 30), false},
	} {
		if got := better(c.older, c.newer); (got == c.older) != c.keep {
			t.Errorf("%s: %+v", name, got)
		}
	}
	c := &clocks{now: func() time.Time { return now }, offsets: map[string]Offset{}}
	c.saw("a", time.Millisecond, nil)
	c.saw("a", time.Millisecond, []byte{2, 0, 0, 0, 0, 0, 0, 0, 0})
	if len(c.all()) != 0 {
		t.Error("an answer that says nothing was measured")
	}
	for i := range maxClocks + 5 {
		c.saw(nodeID(i), time.Millisecond, appendClock(nil, now))
	}
	if len(c.all()) != maxClocks {
		t.Errorf("%d clocks", len(c.all()))
	}
	c.keep(func(id string) bool { return id == nodeID(7) })
	if len(c.all()) != 1 {
		t.Errorf("%v", c.all())
	}
}
