package cluster

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/distributedcache/cache/internal/base"
)

func someMembership() *membership {
	return &membership{
		Version: membershipVersion, Directory: strings.Repeat("0a", 16), Node: "node-1", Boot: 1_795_000_000_000_000,
		Cluster: strings.Repeat("0b", 16), Shards: 30, Founded: 1_795_000_000_000_001,
		Founders: []founder{
			{ID: "node-1", Directory: strings.Repeat("0a", 16), Addr: "10.0.0.1:7000", Zone: "a"},
			{ID: "node-2", Directory: strings.Repeat("0c", 16), Addr: "10.0.0.2:7000"},
		},
	}
}

// The golden file may be added to, never changed: it is in the directories of
// users.
func TestMembershipGolden(t *testing.T) {
	golden, err := os.ReadFile(filepath.Join("testdata", "membership_v1.txt"))
	if err != nil {
		t.Fatal(err)
	}
	want := someMembership()
	if got := want.encode(); !bytes.Equal(got, golden) {
		t.Errorf("encoded\n%s, golden\n%s", got, golden)
	}
	got, err := decodeMembership(golden)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("decoded %+v, %v", got, err)
	}
}

func TestMembershipIsChecked(t *testing.T) {
	sound := someMembership().encode()
	for i := range sound {
		bad := bytes.Clone(sound)
		bad[i] ^= 1
		if m, err := decodeMembership(bad); err == nil {
			t.Fatalf("byte %d flipped: %+v", i, m)
		}
	}
	for name, spoil := range map[string]func(*membership){
		"no node":          func(m *membership) { m.Node = "" },
		"no directory":     func(m *membership) { m.Directory = "x" },
		"too many shards":  func(m *membership) { m.Shards = base.MaxShards + 1 },
		"shards forgotten": func(m *membership) { m.Shards = 0 },
	} {
		m := someMembership()
		spoil(m)
		if _, err := decodeMembership(m.encode()); !errors.Is(err, base.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzMembership(f *testing.F) {
	f.Add(someMembership().encode())
	f.Add([]byte("{}\n0000000000000000\n"))
	f.Fuzz(func(t *testing.T, buf []byte) {
		m, err := decodeMembership(buf)
		if err != nil {
			if !errors.Is(err, base.ErrCorrupt) && !errors.Is(err, base.ErrInvalid) {
				t.Errorf("untyped error %v", err)
			}
			return
		}
		again, err := decodeMembership(m.encode())
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}

func FuzzJoinRequest(f *testing.F) {
	q := joinRequest{Cluster: "c", Node: someMembership().Founders[0]}
	f.Add(q.append(nil))
	f.Fuzz(func(t *testing.T, buf []byte) {
		q, err := decodeJoin(buf)
		if err != nil {
			if !errors.Is(err, base.ErrInvalid) {
				t.Errorf("untyped error %v", err)
			}
			return
		}
		if !bytes.Equal(q.append(nil), buf) {
			t.Errorf("%q became %q", buf, q.append(nil))
		}
	})
}
