package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

var testHeader = Header{DataFormat: 1, Shard: 3, Shards: 30, Created: 1_700_000_000_000_000}

type entry struct{ key, value []byte }

// encode writes a whole stream.
func encode(t testing.TB, h Header, entries []entry) ([]byte, Info) {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := w.Add(e.key, e.value); err != nil {
			t.Fatal(err)
		}
	}
	info, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if info.StreamBytes != uint64(buf.Len()) {
		t.Fatalf("info counts %d bytes of %d", info.StreamBytes, buf.Len())
	}
	return buf.Bytes(), info
}

// decode reads a whole stream; the error is nil if it is sound.
func decode(r io.Reader) ([]entry, Info, error) {
	sr, err := NewReader(r)
	if err != nil {
		return nil, Info{}, err
	}
	var entries []entry
	for {
		key, value, err := sr.Next()
		if err == io.EOF {
			return entries, sr.Info(), nil
		}
		if err != nil {
			return entries, sr.Info(), err
		}
		entries = append(entries, entry{bytes.Clone(key), bytes.Clone(value)})
	}
}

// someEntries returns n sorted entries with values of up to valueBytes.
func someEntries(r *rand.Rand, n, valueBytes int) []entry {
	entries := make([]entry, n)
	for i := range entries {
		entries[i] = entry{fmt.Appendf(nil, "key-%08d", i), testkit.Bytes(r, r.IntN(valueBytes+1))}
	}
	return entries
}

func sameEntries(a, b []entry) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i].key, b[i].key) || !bytes.Equal(a[i].value, b[i].value) {
			return false
		}
	}
	return true
}

func TestRoundTrip(t *testing.T) {
	r := testkit.Rand(t)
	big := []entry{
		{[]byte("a"), testkit.Bytes(r, targetBlockBytes-1)},
		{[]byte("b"), make([]byte, MaxValueBytes)},
		{bytes.Repeat([]byte("c"), MaxKeyBytes), nil},
	}
	for name, entries := range map[string][]entry{
		"empty":   nil,
		"one":     {{[]byte{0}, nil}},
		"small":   someEntries(r, 10, 20),
		"blocks":  someEntries(r, 3000, 400),
		"maximum": big,
	} {
		t.Run(name, func(t *testing.T) {
			data, wrote := encode(t, testHeader, entries)
			got, read, err := decode(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if !sameEntries(got, entries) {
				t.Fatal("other entries came out")
			}
			if wrote != read {
				t.Fatalf("writer says %+v, reader says %+v", wrote, read)
			}
			if read.Entries != uint64(len(entries)) || read.Header != testHeader {
				t.Fatalf("info %+v", read)
			}
			if name == "blocks" && read.Blocks < 3 {
				t.Fatalf("only %d blocks: the test tests nothing", read.Blocks)
			}
			if len(data) < 1<<20 {
				if got, _, err = decode(iotest.OneByteReader(bytes.NewReader(data))); err != nil || !sameEntries(got, entries) {
					t.Fatalf("byte by byte: %v", err)
				}
			}
		})
	}
}

func TestNextAfterTheEnd(t *testing.T) {
	data, _ := encode(t, testHeader, someEntries(testkit.Rand(t), 2, 5))
	r, err := NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if _, _, err := r.Next(); err != io.EOF {
			t.Fatalf("got %v, want io.EOF", err)
		}
	}
}

func TestDigestDependsOnContentsOnly(t *testing.T) {
	r := testkit.Rand(t)
	entries := someEntries(r, 500, 600)
	_, a := encode(t, testHeader, entries)
	later := testHeader
	later.Created++
	if _, b := encode(t, later, entries); a.Digest != b.Digest {
		t.Error("the digest depends on the time of creation")
	}
	other := testHeader
	other.Shard++
	if _, b := encode(t, other, entries); a.Digest == b.Digest {
		t.Error("the digest does not depend on the shard")
	}
	changed := someEntries(r, 500, 600)
	if _, b := encode(t, testHeader, changed); a.Digest == b.Digest {
		t.Error("the digest does not depend on the values")
	}
	if _, b := encode(t, testHeader, entries[:499]); a.Digest == b.Digest {
		t.Error("the digest does not depend on the count")
	}
}

func TestWriterRefuses(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []entry
		want    error
	}{
		{"empty key", []entry{{nil, nil}}, base.ErrInvalid},
		{"same key twice", []entry{{[]byte("a"), nil}, {[]byte("a"), nil}}, base.ErrInvalid},
		{"unsorted", []entry{{[]byte("b"), nil}, {[]byte("a"), nil}}, base.ErrInvalid},
		{"long key", []entry{{make([]byte, MaxKeyBytes+1), nil}}, base.ErrTooLarge},
		{"long value", []entry{{[]byte("a"), make([]byte, MaxValueBytes+1)}}, base.ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, err := NewWriter(io.Discard, testHeader)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range c.entries {
				err = w.Add(e.key, e.value)
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if _, err := w.Close(); !errors.Is(err, c.want) {
				t.Fatalf("Close after a fault: %v", err)
			}
		})
	}
	for _, h := range []Header{
		{},
		{DataFormat: 1, Shard: 1, Shards: 1},
		{DataFormat: 0, Shards: 1},
		{DataFormat: 1, Shards: base.MaxShards + 1},
	} {
		if _, err := NewWriter(io.Discard, h); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("header %+v: %v", h, err)
		}
	}
	if _, err := NewWriter(io.Discard, Header{DataFormat: 1, Shard: NodeShard, Shards: 1}); err != nil {
		t.Errorf("node shard: %v", err)
	}
}

func TestWriterIsOverAfterClose(t *testing.T) {
	w, _ := NewWriter(io.Discard, testHeader)
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Add([]byte("a"), nil); err == nil {
		t.Error("Add after Close")
	}
	if _, err := w.Close(); err == nil {
		t.Error("second Close")
	}
}

// failingWriter takes budget bytes.
type failingWriter struct {
	budget int
	err    error
}

func (f *failingWriter) Write(p []byte) (int, error) {
	if len(p) > f.budget {
		return f.budget, f.err
	}
	f.budget -= len(p)
	return len(p), nil
}

func TestWriterReportsWriteErrors(t *testing.T) {
	entries := someEntries(testkit.Rand(t), 1500, 400)
	whole, _ := encode(t, testHeader, entries)
	full := errors.New("disk full")
	for budget := 0; budget < len(whole); budget += 1 + len(whole)/97 {
		w, err := NewWriter(&failingWriter{budget, full}, testHeader)
		for i := 0; err == nil && i < len(entries); i++ {
			err = w.Add(entries[i].key, entries[i].value)
		}
		if err == nil {
			_, err = w.Close()
		}
		if !errors.Is(err, full) {
			t.Fatalf("budget %d of %d: %v", budget, len(whole), err)
		}
	}
	short := &failingWriter{budget: 10}
	if _, err := NewWriter(short, testHeader); !errors.Is(err, io.ErrShortWrite) {
		t.Fatalf("short write: %v", err)
	}
}

func TestReaderReportsReadErrors(t *testing.T) {
	data, _ := encode(t, testHeader, someEntries(testkit.Rand(t), 50, 40))
	broken := errors.New("broken pipe")
	for n := range len(data) + 1 {
		_, _, err := decode(io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(broken)))
		if !errors.Is(err, broken) || errors.Is(err, base.ErrCorrupt) {
			t.Fatalf("error after %d bytes: got %v", n, err)
		}
	}
}

func TestErrorNamesThePlace(t *testing.T) {
	entries := someEntries(testkit.Rand(t), 3000, 400)
	data, _ := encode(t, testHeader, entries)
	blocks := offsets(t, data)
	damaged := bytes.Clone(data)
	damaged[blocks[2]+frameBytes+100] ^= 4
	_, _, err := decode(bytes.NewReader(damaged))
	var e *Error
	if !errors.As(err, &e) || e.Block != 2 || e.Offset != int64(blocks[2]) || e.Part != partBlock {
		t.Fatalf("got %#v", err)
	}
	want := fmt.Sprintf("block 2 at byte %d: checksum of its content does not match", blocks[2])
	if !strings.Contains(err.Error(), want) {
		t.Fatalf("%q does not say %q", err, want)
	}
}
