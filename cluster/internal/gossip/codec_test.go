package gossip

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/wire"
)

func sampleAnnouncement() announcement {
	return announcement{
		cluster: clusterHash("cluster-1"), protocolMin: 1, protocolMax: 3, id: "node-1",
		Meta: Meta{CatalogEpoch: 1753000000000000, CatalogMember: true, Draining: true, Load: 512, Leaders: 10},
	}
}

func sampleHints() []LeaderHint {
	return []LeaderHint{
		{Shard: 0, Node: "node-1", Term: 7}, {Shard: 1, Node: "node-2", Term: 300}, {Shard: 2, Node: "node-1", Term: 8},
		{Shard: base.MaxShards, Node: "node-3", Term: math.MaxUint64},
	}
}

// TestGolden: nodes of different versions understand one another.
func TestGolden(t *testing.T) {
	a := sampleAnnouncement()
	for file, got := range map[string][]byte{
		"meta_v1.hex":          a.append(nil),
		"hints_v1.hex":         appendHints(nil, sampleHints()),
		"hello_packets_v1.hex": hello{kind: frameHelloPackets, from: "node-1.example:7000"}.frame(),
		"hello_stream_v1.hex":  hello{kind: frameHelloStream}.frame(),
		"clock_v1.hex":         appendClock(nil, time.UnixMicro(1753000000000001)),
		"name_v1.hex":          []byte(name{id: "node-1", epoch: 42, addr: "node-1.example:7000"}.String() + " " + joinTarget("node-1.example:7000")),
	} {
		file = filepath.Join("testdata", file)
		want, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is missing: %x", file, got)
			continue
		}
		if err != nil || strings.TrimSpace(string(want)) != hex.EncodeToString(got) {
			t.Errorf("%s: %v: %x", file, err, got)
		}
	}
}

func TestMetaFitsAndComesBack(t *testing.T) {
	a := sampleAnnouncement()
	a.id = strings.Repeat("n", MaxNodeIDBytes)
	buf := a.append(nil)
	if len(buf) > maxMetaBytes {
		t.Fatalf("%d bytes", len(buf))
	}
	if got, err := decodeAnnouncement(buf); err != nil || got != a {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "version": append([]byte{9}, buf[1:]...), "cut": buf[:len(buf)-1], "longer": append(bytes.Clone(buf), 0),
		"flags": append(append(bytes.Clone(buf[:21]), 0xff), buf[22:]...),
	} {
		if got, err := decodeAnnouncement(bad); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	a.id = ""
	if _, err := decodeAnnouncement(a.append(nil)); !errors.Is(err, wire.ErrMalformed) {
		t.Error(err)
	}
	a = sampleAnnouncement()
	a.protocolMin = 4
	if _, err := decodeAnnouncement(a.append(nil)); !errors.Is(err, wire.ErrMalformed) {
		t.Error(err)
	}
}

func FuzzMeta(f *testing.F) {
	a := sampleAnnouncement()
	f.Add(a.append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := decodeAnnouncement(data)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if again := a.append(nil); !bytes.Equal(again, data) {
			t.Fatalf("%x became %x", data, again)
		}
	})
}

func TestHintsFitAndComeBack(t *testing.T) {
	var most []LeaderHint
	for i := range maxHints {
		node := strings.Repeat("n", MaxNodeIDBytes-4) + string([]byte{byte('a' + i%26), byte('a' + i/26%26), byte('a' + i/676), 'x'})
		most = append(most, LeaderHint{Shard: base.ShardID(i), Node: node, Term: math.MaxUint64})
	}
	for _, list := range [][]LeaderHint{{}, sampleHints(), most} {
		buf := appendHints(nil, list)
		if len(buf) > maxHintsBytes {
			t.Fatalf("%d bytes", len(buf))
		}
		if got, err := decodeHints(buf); err != nil || !reflect.DeepEqual(got, list) {
			t.Fatalf("%v, %v", got, err)
		}
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "version": {2, 0, 0}, "counts": {1, 0xff, 0xff, 3}, "no such node": {1, 1, 1, 'a', 1, 0, 1, 0},
		"no such shard": {1, 1, 1, 'a', 1, 0x81, 0x08, 0, 0}, "node without a name": {1, 1, 0, 0, 0}, "more": {1, 0, 0, 0},
	} {
		if got, err := decodeHints(bad); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func FuzzHints(f *testing.F) {
	f.Add(appendHints(nil, sampleHints()))
	f.Add([]byte{1, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := decodeHints(data)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		again, err := decodeHints(appendHints(nil, list))
		if err != nil || !reflect.DeepEqual(again, list) {
			t.Fatalf("%v became %v, %v", list, again, err)
		}
		h := newHints(func() int { return 3 })
		h.add(list, true)
		if state, err := decodeHints(h.state()); err != nil || len(state) > len(list) || len(h.take()) != len(state) {
			t.Fatalf("%v, %v", state, err)
		}
	})
}

// TestHintsKeepTheNewest of each shard, whoever tells and in whatever order.
func TestHintsKeepTheNewest(t *testing.T) {
	r := testkit.Rand(t)
	h := newHints(func() int { return 3 })
	newest := map[base.ShardID]LeaderHint{}
	for range 2000 {
		hint := LeaderHint{Shard: base.ShardID(r.IntN(10)), Node: nodeID(r.IntN(3)), Term: r.Uint64N(100)}
		h.add([]LeaderHint{hint, {Shard: 2000, Node: "a", Term: 1}, {Shard: 1, Term: 1000}}, r.IntN(2) == 0)
		if have, ok := newest[hint.Shard]; !ok || hint.Term > have.Term {
			newest[hint.Shard] = hint
		}
		if h.queue.NumQueued() > len(newest) {
			t.Fatalf("%d messages about %d shards", h.queue.NumQueued(), len(newest))
		}
	}
	state, err := decodeHints(h.state())
	if err != nil || len(state) != len(newest) {
		t.Fatal(state, err)
	}
	for _, hint := range state {
		if newest[hint.Shard] != hint {
			t.Errorf("%+v, want %+v", hint, newest[hint.Shard])
		}
	}
	sent := 0
	for messages := h.messages(3, packetBytes); len(messages) > 0; messages = h.messages(3, packetBytes) {
		if sent += len(messages); len(messages) > maxHintMessages {
			t.Fatalf("%d messages at once", len(messages))
		}
	}
	if sent < len(newest) {
		t.Errorf("%d messages sent", sent)
	}
}

func TestNames(t *testing.T) {
	for _, n := range []name{
		{"node-1", 1, "10.0.0.1:7000"}, {"a", 0, "b"}, {"x@y/z-7", math.MaxUint64, "[::1]:7000"}, {strings.Repeat("n", MaxNodeIDBytes), 5, strings.Repeat("a", MaxAddressBytes)},
	} {
		if got, ok := parseName(n.String()); !ok || got != n {
			t.Errorf("%+v became %+v, %v", n, got, ok)
		}
	}
	for _, s := range []string{"", "a", "a-1", "a@b", "-1@b", "a-@b", "a-01@b", "a-+1@b", "a-1@", "a-1@b c", "a-1@b/c", listenerName, "a-18446744073709551616@b"} {
		if n, ok := parseName(s); ok {
			t.Errorf("%q is %+v", s, n)
		}
	}
}

func FuzzName(f *testing.F) {
	f.Add("node-1-42@node-1.example:7000")
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := parseName(s); ok && n.String() != s {
			t.Fatalf("%q became %q", s, n)
		}
	})
}

// FuzzHello reads any bytes as the beginning of a connection and the packets
// after it.
func FuzzHello(f *testing.F) {
	f.Add(hello{kind: frameHelloPackets, from: "a:1"}.frame())
	f.Add(hello{kind: frameHelloStream}.frame())
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		h, err := readHello(r)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			return
		}
		if again := h.frame(); !bytes.Equal(again, data[:len(data)-r.Len()]) {
			t.Fatalf("%x became %x", data, again)
		}
	})
}
