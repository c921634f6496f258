package mux

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// TestGolden: nodes of different versions talk in these bytes.
func TestGolden(t *testing.T) {
	golden, err := os.ReadFile("testdata/greeting_v1.txt")
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range []greeting{
		newGreeting(KindMessages), newGreeting(KindSnapshot), newGreeting(KindRPC), newGreeting(KindGossip),
		newGreeting(answerOK), newGreeting(answerNotServed), newGreeting(answerVersion), newGreeting(answerPlaintext), newGreeting(answerTLS),
	} {
		fields := strings.Fields(strings.Split(string(golden), "\n")[i])
		if got := hex.EncodeToString(g[:]); got != fields[1] {
			t.Errorf("%s is %s, want %s", fields[0], got, fields[1])
		}
	}
}

func TestHello(t *testing.T) {
	for in, want := range map[string]error{
		"dcr\x01\x03":                  nil,
		"dcr\x01\xff":                  nil, // whether it is served is asked later
		"dcr\x02\x03":                  ErrVersion,
		"dcr\x00\x03":                  ErrVersion,
		"":                             io.EOF,
		"dcr\x01":                      io.ErrUnexpectedEOF,
		"GET / HTTP/1.1\r\n\r\n":       ErrNotPeer,
		"DCR\x01\x03":                  ErrNotPeer,
		"\x16\x03\x01\x06\x00\x01":     ErrTLSPeer,
		"\x15\x03\x03\x00\x02\x02\x28": ErrNotPeer,
	} {
		r := strings.NewReader(in)
		kind, err := readHello(iotest.OneByteReader(r))
		if !errors.Is(err, want) || (err == nil && kind != in[4]) {
			t.Errorf("%q: %d, %v; want %v", in, kind, err, want)
		}
		if err == nil && r.Len() != len(in)-helloBytes {
			t.Errorf("%q: %d bytes are left", in, r.Len())
		}
	}
	for answer, want := range map[byte]error{
		answerOK: nil, answerNotServed: ErrNotServed, answerVersion: ErrVersion, answerPlaintext: ErrPlaintextPeer, answerTLS: ErrTLSPeer, 99: ErrVersion,
	} {
		g := newGreeting(answer)
		if err := readAnswer(bytes.NewReader(g[:])); !errors.Is(err, want) {
			t.Errorf("answer %d: %v, want %v", answer, err, want)
		}
	}
	for kind, want := range map[byte]error{0: base.ErrInvalid, KindMessages: nil, KindGossip: nil, maxKind + 1: base.ErrInvalid} {
		if err := checkKind(kind); !errors.Is(err, want) {
			t.Errorf("kind %d: %v", kind, err)
		}
	}
}

// FuzzHello: whatever comes in is either what newGreeting makes, of this
// version, or a fault of a known sort, and never more than a greeting is read.
func FuzzHello(f *testing.F) {
	for _, kind := range []byte{0, KindMessages, KindGossip, 255} {
		g := newGreeting(kind)
		f.Add(g[:])
	}
	for _, seed := range []string{"", "dcr", "dcr\x02\x01", "GET / HTTP/1.1\r\n", "\x16\x03\x01\x06\x00\x01", "SSH-2.0-x\r\n", "\x80\x2e\x01\x00\x02"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		kind, err := readHello(r)
		if read := len(in) - r.Len(); read > helloBytes {
			t.Fatalf("%d bytes were read", read)
		}
		if err == nil {
			if want := newGreeting(kind); !bytes.Equal(in[:helloBytes], want[:]) {
				t.Fatalf("%q is kind %d", in, kind)
			}
		} else if sortOf(err) == sortOther {
			t.Fatalf("%q: %v", in, err)
		}
		if _, ok := answerTo(err); ok && errors.Is(err, ErrNotPeer) {
			t.Fatal("a stranger is answered")
		}
		_ = readAnswer(bytes.NewReader(in))
	})
}

func TestIsLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.8.7:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true,
		"10.0.0.1:1": false, "0.0.0.0:1": false, "[::]:1": false, ":1": false, "[fe80::1%eth0]:1": false, "128.0.0.1:1": false, "localhost:1": false, "": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}

func TestHostOf(t *testing.T) {
	for addr, want := range map[string]string{"a:1": "a", "[::1]:7": "::1", "[fe80::1%eth0]:7": "fe80::1", "nothing": "nothing"} {
		if got := hostOf(addr); got != want {
			t.Errorf("%q: %q", addr, got)
		}
	}
}

// TestComplaints: each sort is logged once in a while, and what was not is
// counted.
func TestComplaints(t *testing.T) {
	var c complaints
	now := time.Unix(1000, 0)
	for i := range 5 {
		if _, ok := c.due(ErrNotPeer, now); ok != (i == 0) {
			t.Errorf("complaint %d: %v", i, ok)
		}
	}
	if _, ok := c.due(ErrUntrusted, now); !ok {
		t.Error("noise hides a peer that is not trusted")
	}
	if unsaid, ok := c.due(ErrNotPeer, now.Add(complaintEvery)); !ok || unsaid != 4 {
		t.Errorf("%d unsaid, %v", unsaid, ok)
	}
}
