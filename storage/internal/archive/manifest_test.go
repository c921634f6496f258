package archive

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// testManifest returns a valid manifest of a backup of so many shards.
func testManifest(shards int) Manifest {
	m := Manifest{
		Format:     FormatVersion,
		DataFormat: 1,
		Created:    time.Date(2024, 5, 17, 9, 30, 0, 123456000, time.UTC),
		Node:       "node-1",
		Shards:     shards,
	}
	for i := range shards + 1 {
		shard := shardOf(i, shards)
		m.Files = append(m.Files, File{
			Name: FileName(shard), Shard: shard, Bytes: 1000 + int64(i), Entries: int64(i),
			SHA256: strings.Repeat("0a", 32), Digest: strings.Repeat("f7", 32),
		})
	}
	return m
}

func encodeManifest(t testing.TB, m Manifest) []byte {
	t.Helper()
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestManifestRoundTrip(t *testing.T) {
	for _, shards := range []int{1, 30, base.MaxShards} {
		m := testManifest(shards)
		m.Node, m.Cluster = "a <\"&\u2028\x00\xff> name", "c"
		m.Node = strings.ToValidUTF8(m.Node, "?") // JSON knows no other bytes
		data := encodeManifest(t, m)
		got, err := DecodeManifest(data)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(encodeManifest(t, got), data) || got.Node != m.Node || !got.Created.Equal(m.Created) {
			t.Fatalf("got %+v", got)
		}
	}
}

func TestManifestGolden(t *testing.T) {
	data := encodeManifest(t, testManifest(2))
	const path = "testdata/v1.json"
	if *update {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want) {
		t.Fatalf("the format has changed:\n%s\nwant\n%s", data, want)
	}
	if _, err := DecodeManifest(want); err != nil {
		t.Fatal(err)
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

func TestManifestEveryEdit(t *testing.T) {
	data := encodeManifest(t, testManifest(1))
	check := func(edited []byte, what string, at int) {
		t.Helper()
		_, err := DecodeManifest(edited)
		if !errors.Is(err, base.ErrCorrupt) || !strings.Contains(err.Error(), ManifestName) {
			t.Fatalf("%s at %d: got %v", what, at, err)
		}
	}
	for i := range data {
		was := data[i]
		for bit := range 8 {
			data[i] = was ^ 1<<bit
			check(data, "flip", i)
		}
		data[i] = was
		check(data[:i], "cut", i)
		check(append(bytes.Clone(data[:i]), data[i+1:]...), "byte removed", i)
		for _, c := range []byte(" 0\n}") {
			check(append(append(bytes.Clone(data[:i]), c), data[i:]...), "byte added", i)
		}
	}
	check(append(bytes.Clone(data), '\n'), "byte added", len(data))
	check(append(bytes.Clone(data), data...), "twice", len(data))
	check(nil, "empty", 0)
	check(make([]byte, MaxManifestBytes+1), "too long", 0)
}

// TestManifestForged edits the text and makes the checksum right again: what
// is not a manifest is still refused.
func TestManifestForged(t *testing.T) {
	sound := string(encodeManifest(t, testManifest(2)))
	body := sound[:len(sound)-sealBytes]
	for _, c := range []struct {
		name, old, new string
		want           error
		says           string
	}{
		{"newer format", `"format": 1,`, `"format": 2,`, base.ErrInvalid, "backup format 2"},
		{"newer format with new fields", `"format": 1,`, `"format": 7, "more": {"deep": [1]},`, base.ErrInvalid, "backup format 7"},
		{"unknown key", `"format": 1,`, `"format": 1, "extra": 1,`, base.ErrCorrupt, "extra"},
		{"key in another case", `"shards"`, `"Shards"`, base.ErrCorrupt, "not written the way"},
		{"key twice", `"node": "node-1"`, `"node": "node-1", "node": "node-1"`, base.ErrCorrupt, `key "node" comes twice`},
		{"key twice in a file", `"entries": 0,`, `"entries": 0, "entries": 0,`, base.ErrCorrupt, `key "entries" comes twice`},
		{"path traversal", `"shard-0000.stream"`, `"../../etc/passwd"`, base.ErrCorrupt, `name "../../etc/passwd"`},
		{"absolute path", `"shard-0001.stream"`, `"/etc/passwd"`, base.ErrCorrupt, `name "/etc/passwd"`},
		{"the manifest itself", `"shard-0001.stream"`, `"MANIFEST.json"`, base.ErrCorrupt, "name"},
		{"one file twice", `"shard-0001.stream"`, `"shard-0000.stream"`, base.ErrCorrupt, "name"},
		{"shard twice", `"shard": 1,`, `"shard": 0,`, base.ErrCorrupt, "shard 0 instead of 1"},
		{"more shards", `"shards": 2`, `"shards": 3`, base.ErrCorrupt, "3 files for 3 shards"},
		{"too many shards", `"shards": 2`, `"shards": 2000`, base.ErrCorrupt, "2000 shards"},
		{"negative size", `"bytes": 1000`, `"bytes": -1`, base.ErrCorrupt, "-1 bytes"},
		{"huge number", `"bytes": 1000`, `"bytes": 1e40`, base.ErrCorrupt, "bytes"},
		{"bad digest", `"sha256": "0a`, `"sha256": "0A`, base.ErrCorrupt, "digest"},
		{"short digest", `"sha256": "0a`, `"sha256": "`, base.ErrCorrupt, "digest"},
		{"spaces", `"shards": 2`, `"shards":  2`, base.ErrCorrupt, "not written the way"},
		{"another zone", `123456Z"`, `123456+01:00"`, base.ErrCorrupt, "not written the way"},
		{"no JSON", `"shards": 2`, `"shards" 2`, base.ErrCorrupt, "invalid character"},
		{"deep", `"files": [`, `"files": [` + strings.Repeat("[", 5000), base.ErrCorrupt, "nested"},
		{"null", `"files": [`, `"files": null, "x": [`, base.ErrCorrupt, "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			edited := strings.Replace(body, c.old, c.new, 1)
			if edited == body {
				t.Fatalf("the manifest has no %q", c.old)
			}
			_, err := DecodeManifest(seal([]byte(edited)))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want %v that says %q", err, c.want, c.says)
			}
		})
	}
	for _, text := range []string{"", "null", "[]", "{", `{"format": 1}`, "1", `"x"`} {
		if _, err := DecodeManifest(seal([]byte(text))); err == nil {
			t.Errorf("%q was taken for a manifest", text)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, edit := range map[string]func(*Manifest){
		"format":      func(m *Manifest) { m.Format = 2 },
		"data format": func(m *Manifest) { m.DataFormat = 0 },
		"local time":  func(m *Manifest) { m.Created = m.Created.In(time.FixedZone("", 3600)) },
		"long node":   func(m *Manifest) { m.Node = strings.Repeat("n", maxIDBytes+1) },
		"file lost":   func(m *Manifest) { m.Files = m.Files[1:] },
		"order":       func(m *Manifest) { m.Files[0], m.Files[1] = m.Files[1], m.Files[0] },
	} {
		m := testManifest(3)
		edit(&m)
		if _, err := m.Encode(); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// FuzzManifest feeds any bytes, sealed with the right checksum if asked. What
// is accepted is exactly what Encode writes.
func FuzzManifest(f *testing.F) {
	for _, shards := range []int{1, 3} {
		data := encodeManifest(f, testManifest(shards))
		f.Add(data, false)
		f.Add(data[:len(data)-sealBytes], true)
		f.Add(data[:len(data)/2], true)
	}
	f.Add([]byte(`{"format": 1, "files": [{"name": "../x"}]`), true)
	f.Add([]byte(`{"a":{"a":[{"a":1,"a":2}]}`), true)
	f.Fuzz(func(t *testing.T, data []byte, sealed bool) {
		if sealed {
			data = seal(data)
		}
		m, err := DecodeManifest(data)
		if err != nil {
			if !errors.Is(err, base.ErrCorrupt) && !errors.Is(err, base.ErrInvalid) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if again := encodeManifest(t, m); !bytes.Equal(again, data) {
			t.Fatalf("accepted\n%s\nwrites\n%s", data, again)
		}
	})
}
