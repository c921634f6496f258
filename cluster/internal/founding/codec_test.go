package founding

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

var update = flag.Bool("update", false, "write the golden files that are missing")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	want, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) && *update {
		if err := os.WriteFile(path, []byte(hex.EncodeToString(got)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if hex.EncodeToString(got) != strings.TrimSpace(string(want)) {
		t.Errorf("%s: the format changed:\n got %x\nwant %s", name, got, want)
	}
}

func sampleProposal() *proposal {
	p := &proposal{attempt: 3, terms: terms(2), founders: []Peer{peer(0), peer(1)}, witnesses: []Peer{peer(5)}}
	p.founders[0].Zone = "east"
	return p.sealed()
}

func sampleDurables() map[string]durable {
	return map[string]durable{
		"free":     {floor: 7},
		"accepted": {floor: 4, held: sampleProposal()},
		"decided":  {floor: 4, held: sampleProposal(), decided: true},
	}
}

func sampleMessages() map[string]*message {
	fresh := &message{
		to: address(9), self: peer(1), terms: terms(2), oldest: 1, newest: 2, status: statusFresh, durable: sampleDurables()["accepted"],
		sees: []ref{{name(0), dir(0)}}, open: []string{address(3)}, known: []string{address(0), address(4)},
	}
	member := &message{
		self: peer(1), terms: terms(0), oldest: 1, newest: 1, status: statusMember, durable: sampleDurables()["decided"],
		cluster: &Membership{Cluster: dir(8), Name: "test", Shards: 30, Addresses: []string{address(1)}},
	}
	return map[string]*message{"fresh": fresh, "member": member}
}

func TestGolden(t *testing.T) {
	for what, d := range sampleDurables() {
		golden(t, "durable_v1_"+what, encodeDurable(ref{name(1), dir(1)}, d))
	}
	for what, m := range sampleMessages() {
		golden(t, "message_v1_"+what, encodeMessage(m))
	}
	if got := sampleProposal().cluster(); got != "63528d859d459610da368d895bd3bc63" {
		t.Errorf("the id of the sample's cluster became %s", got)
	}
}

func TestDurableRoundTripAndRefuse(t *testing.T) {
	for what, d := range sampleDurables() {
		b := encodeDurable(ref{name(1), dir(1)}, d)
		self, got, err := decodeDurable(b)
		if err != nil || self != (ref{name(1), dir(1)}) || !bytes.Equal(encodeDurable(self, got), b) {
			t.Fatalf("%s: %+v, %v", what, got, err)
		}
		for at := range b {
			bad := bytes.Clone(b)
			bad[at] ^= 1
			if _, _, err := decodeDurable(bad); !errors.Is(err, base.ErrCorrupt) {
				t.Fatalf("%s flipped at %d: %v", what, at, err)
			}
			if _, _, err := decodeDurable(b[:at]); !errors.Is(err, base.ErrCorrupt) {
				t.Fatalf("%s cut at %d: %v", what, at, err)
			}
		}
		newer := append([]byte{durableVersion + 1}, b[1:len(b)-sumBytes]...)
		if _, _, err := decodeDurable(wire.AppendUint64(newer, xxhash.Sum64(newer))); !errors.Is(err, base.ErrInvalid) {
			t.Fatalf("newer: %v", err)
		}
	}
}

func TestMessageRoundTripAndRefuse(t *testing.T) {
	for what, m := range sampleMessages() {
		b := encodeMessage(m)
		got, err := decodeMessage(b)
		if err != nil || !bytes.Equal(encodeMessage(got), b) {
			t.Fatalf("%s: %+v, %v", what, got, err)
		}
		for cut := range b {
			if _, err := decodeMessage(b[:cut]); !errors.Is(err, base.ErrCorrupt) {
				t.Fatalf("%s cut at %d: %v", what, cut, err)
			}
		}
		b[0]++
		if _, err := decodeMessage(b); !errors.Is(err, base.ErrInvalid) {
			t.Fatalf("newer %s: %v", what, err)
		}
	}
}

func FuzzDurable(f *testing.F) {
	for _, d := range sampleDurables() {
		b := encodeDurable(ref{name(1), dir(1)}, d)
		f.Add(b[:len(b)-sumBytes])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b := wire.AppendUint64(bytes.Clone(body), xxhash.Sum64(body)) // else nothing gets past the checksum
		self, d, err := decodeDurable(b)
		if err == nil && !bytes.Equal(encodeDurable(self, d), b) {
			t.Fatalf("%x became %x", b, encodeDurable(self, d))
		}
		if err != nil && !errors.Is(err, base.ErrCorrupt) && !errors.Is(err, base.ErrInvalid) {
			t.Fatal(err)
		}
	})
}

func FuzzMessage(f *testing.F) {
	for _, m := range sampleMessages() {
		f.Add(encodeMessage(m))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMessage(b)
		if err != nil {
			if !errors.Is(err, base.ErrCorrupt) && !errors.Is(err, base.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(encodeMessage(m), b) {
			t.Fatalf("%x became %x", b, encodeMessage(m))
		}
		// Whatever a peer says, a node can take it in.
		c := newCore(peer(3), terms(2), 1, 1, []string{address(1)}, durable{})
		c.handle(m)
		c.hear(address(1), m)
		for range 10 {
			next, changed := c.step()
			if !changed {
				break
			}
			c.commit(next)
		}
		_, _ = c.outcome()
		_ = c.waiting()
	})
}
