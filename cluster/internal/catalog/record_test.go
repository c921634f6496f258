package catalog

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

func sampleNode() NodeRecord {
	n := node(7)
	n.State, n.Past, n.Changed = Draining, []string{dir(5), dir(6)}, start.AddDate(0, 1, 0)
	return n
}

func sampleShard() ShardRecord {
	return ShardRecord{
		Shard: 12, Next: 9,
		Founders: []Replica{{1, "a", dir(1)}, {2, "b", dir(2)}},
		Replicas: []Replica{{2, "b", dir(2)}, {8, "c", dir(3)}},
	}
}

func TestGolden(t *testing.T) {
	s, n, r := settings(30), sampleNode(), sampleShard()
	golden(t, "settings_v1", encodeSettings(&s))
	golden(t, "node_v1", encodeNode(&n))
	golden(t, "shard_v1", encodeShard(&r))
	state, _ := founded(t, 3, 2)
	golden(t, "state_v1", state.Encode())
}

// decoders are those of the records, each with its encoder behind it.
func decoders() map[string]func([]byte) ([]byte, error) {
	return map[string]func([]byte) ([]byte, error){
		"settings": func(b []byte) ([]byte, error) { v, err := decodeSettings(b); return encodeSettings(&v), err },
		"node":     func(b []byte) ([]byte, error) { v, err := decodeNode(b); return encodeNode(&v), err },
		"shard":    func(b []byte) ([]byte, error) { v, err := decodeShard(b); return encodeShard(&v), err },
	}
}

func samples() map[string][]byte {
	s, n, r := settings(30), sampleNode(), sampleShard()
	return map[string][]byte{"settings": encodeSettings(&s), "node": encodeNode(&n), "shard": encodeShard(&r)}
}

func TestRecordsRoundTripAndRefuse(t *testing.T) {
	for what, sample := range samples() {
		decode := decoders()[what]
		again, err := decode(sample)
		if err != nil || !bytes.Equal(again, sample) {
			t.Fatalf("%s: %x became %x, %v", what, sample, again, err)
		}
		for cut := range sample {
			if _, err := decode(sample[:cut]); !errors.Is(err, base.ErrCorrupt) {
				t.Fatalf("%s cut at %d: %v", what, cut, err)
			}
		}
		if _, err := decode(append(bytes.Clone(sample), 0)); !errors.Is(err, base.ErrCorrupt) {
			t.Fatalf("%s with a byte too many: %v", what, err)
		}
		newer := bytes.Clone(sample)
		newer[0]++
		if _, err := decode(newer); !errors.Is(err, base.ErrInvalid) || !strings.Contains(err.Error(), "newer version") {
			t.Fatalf("newer %s: %v", what, err)
		}
	}
}

func FuzzRecord(f *testing.F) {
	for _, sample := range samples() {
		f.Add(sample)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for what, decode := range decoders() {
			again, err := decode(b)
			if err == nil && !bytes.Equal(again, b) {
				t.Fatalf("%s: %x became %x", what, b, again)
			}
			if err != nil && !errors.Is(err, base.ErrCorrupt) && !errors.Is(err, base.ErrInvalid) {
				t.Fatalf("%s: %v", what, err)
			}
		}
	})
}

func FuzzState(f *testing.F) {
	s, _ := founded(f, 3, 2)
	whole := s.Encode()
	f.Add(whole[:len(whole)-sumBytes])
	f.Add([]byte{stateVersion, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		b := wire.AppendUint64(bytes.Clone(body), xxhash.Sum64(body)) // else nothing gets past the checksum
		s, err := Decode(b)
		if err == nil && !bytes.Equal(s.Encode(), b) {
			t.Fatalf("%x became %x", b, s.Encode())
		}
		if err != nil && !errors.Is(err, base.ErrCorrupt) && !errors.Is(err, base.ErrInvalid) {
			t.Fatal(err)
		}
	})
}

func TestStateRoundTripAndRefuse(t *testing.T) {
	s, _ := founded(t, 5, 30)
	b := s.Encode()
	again, err := Decode(b)
	if err != nil || again.Epoch() != s.Epoch() || !bytes.Equal(again.Encode(), b) || len(again.ReplicasOf(name(0))) != len(s.ReplicasOf(name(0))) {
		t.Fatalf("decoded %v", err)
	}
	for at := range b {
		bad := bytes.Clone(b)
		bad[at] ^= 1
		if _, err := Decode(bad); !errors.Is(err, base.ErrCorrupt) {
			t.Fatalf("flipped at %d: %v", at, err)
		}
	}
	newer := append([]byte{stateVersion + 1}, b[1:len(b)-sumBytes]...)
	if _, err := Decode(wire.AppendUint64(newer, xxhash.Sum64(newer))); !errors.Is(err, base.ErrInvalid) {
		t.Fatalf("newer: %v", err)
	}
	if s, err := Decode((&State{}).Encode()); err != nil || s.Founded() {
		t.Fatalf("empty: %v", err)
	}
}

// TestBounds wants the largest catalog there may be to fit its own limits.
func TestBounds(t *testing.T) {
	wide := strings.Repeat("n", MaxIDBytes-8)
	n := NodeRecord{Directory: dir(1), Addr: strings.Repeat("a", MaxAddrBytes), Zone: strings.Repeat("z", MaxZoneBytes), State: Removed, Joined: start, Changed: start}
	for i := range MaxPast {
		n.Past = append(n.Past, dir(100+i))
	}
	n.ID = wide + "00000000"
	r := ShardRecord{Shard: CatalogShard, Next: 1 << 40}
	for i := range MaxReplicas {
		r.Founders = append(r.Founders, Replica{1<<39 + uint64(i), wide + name(10 + i)[4:], dir(i)})
	}
	r.Replicas = r.Founders
	if f := firstFault(n.fault(), r.fault()); f != "" {
		t.Fatal(f)
	}
	const keys = 160
	total := (MaxNodes+MaxRemoved)*(len(encodeNode(&n))+keys) + (base.MaxShards+1)*(len(encodeShard(&r))+keys)
	if total > MaxStateBytes {
		t.Fatalf("the largest state has %d bytes, %d are allowed", total, MaxStateBytes)
	}
	s, _ := founded(t, 3, base.MaxShards)
	if _, err := Decode(s.Encode()); err != nil {
		t.Fatal(err)
	}
}

func TestBuildRefusesContradictions(t *testing.T) {
	s, _ := founded(t, 3, 2)
	change := func(edit func(items []base.Item) []base.Item) error {
		items := make([]base.Item, len(s.items))
		copy(items, s.items)
		_, err := Build(edit(items))
		return err
	}
	drop := func(key base.Key) error {
		return change(func(items []base.Item) []base.Item {
			for i := range items {
				if items[i].Key == key {
					return append(items[:i:i], items[i+1:]...)
				}
			}
			t.Fatalf("no item %v", key)
			return nil
		})
	}
	add := func(item base.Item) error {
		item.Version = 1
		return change(func(items []base.Item) []base.Item { return append(items, item) })
	}
	n := node(9)
	thief := node(9)
	thief.Directory = dir(0)
	for what, err := range map[string]error{
		"no settings":          drop(clusterKey()),
		"no epoch":             drop(epochKey()),
		"a shard is missing":   drop(shardKey(1)),
		"no catalog record":    drop(shardKey(CatalogShard)),
		"record out of place":  add(base.Item{Key: nodeKey("other"), Value: encodeNode(&n)}),
		"twice":                add(base.Item{Key: epochKey(), Value: []byte{1}}),
		"two of one directory": add(base.Item{Key: nodeKey(thief.ID), Value: encodeNode(&thief)}),
	} {
		if !errors.Is(err, base.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := add(base.Item{Key: base.K("token", "x"), Value: []byte("of others")}); err != nil {
		t.Errorf("a record of others: %v", err)
	}
}
