package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// offsets returns where each block and the trailer of a sound stream start.
func offsets(t testing.TB, data []byte) (starts []int) {
	t.Helper()
	for at := headerBytes; at < len(data); {
		starts = append(starts, at)
		at += frameBytes + int(binary.BigEndian.Uint32(data[at+12:]))
	}
	return starts
}

func wantCorrupt(t *testing.T, data []byte, what string) {
	t.Helper()
	if _, _, err := decode(bytes.NewReader(data)); !errors.Is(err, base.ErrCorrupt) {
		t.Fatalf("%s: got %v, want ErrCorrupt", what, err)
	}
}

// TestEveryFlip flips each bit of a stream of all parts, and sets each byte to
// 0 and to 255.
func TestEveryFlip(t *testing.T) {
	data, _ := encode(t, testHeader, someEntries(testkit.Rand(t), 6, 12))
	for i := range data {
		was := data[i]
		for bit := range 8 {
			data[i] = was ^ 1<<bit
			if _, _, err := decode(bytes.NewReader(data)); !errors.Is(err, base.ErrCorrupt) {
				t.Fatalf("bit %d of byte %d flipped: got %v", bit, i, err)
			}
		}
		for _, b := range []byte{0, 255} {
			if data[i] = b; b != was {
				wantCorrupt(t, data, "byte overwritten")
			}
		}
		data[i] = was
	}
}

func TestEveryCut(t *testing.T) {
	data, _ := encode(t, testHeader, someEntries(testkit.Rand(t), 6, 12))
	for n := range data {
		_, _, err := decode(bytes.NewReader(data[:n]))
		if !errors.Is(err, base.ErrCorrupt) || !strings.Contains(err.Error(), "cut") {
			t.Fatalf("cut to %d of %d bytes: got %v", n, len(data), err)
		}
	}
}

func TestTrailingGarbage(t *testing.T) {
	data, _ := encode(t, testHeader, someEntries(testkit.Rand(t), 6, 12))
	wantCorrupt(t, append(bytes.Clone(data), 0), "a zero byte after the end")
	wantCorrupt(t, append(bytes.Clone(data), data...), "the stream twice")
}

// TestBlocksMoved removes, repeats and swaps whole blocks, whose own checksums
// stay right.
func TestBlocksMoved(t *testing.T) {
	data, _ := encode(t, testHeader, someEntries(testkit.Rand(t), 3000, 400))
	starts := offsets(t, data)
	if len(starts) < 5 {
		t.Fatalf("only %d blocks", len(starts))
	}
	part := func(i int) []byte {
		end := len(data)
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		return data[starts[i]:end]
	}
	build := func(order ...int) []byte {
		out := bytes.Clone(data[:headerBytes])
		for _, i := range order {
			out = append(out, part(i)...)
		}
		return out
	}
	all := make([]int, len(starts))
	for i := range all {
		all[i] = i
	}
	if _, _, err := decode(bytes.NewReader(build(all...))); err != nil {
		t.Fatal(err)
	}
	last := len(starts) - 1
	wantCorrupt(t, build(append([]int{1, 0}, all[2:]...)...), "two blocks swapped")
	wantCorrupt(t, build(append([]int{0}, all...)...), "a block twice")
	wantCorrupt(t, build(all[1:]...), "first block missing")
	wantCorrupt(t, build(append(all[:2:2], all[3:]...)...), "a middle block missing")
	wantCorrupt(t, build(append(all[:last-1:last-1], last)...), "last block missing")
	wantCorrupt(t, build(last), "all blocks missing")
	other, _ := encode(t, Header{DataFormat: 1, Shard: 4, Shards: 30}, nil)
	wantCorrupt(t, append(bytes.Clone(other[:headerBytes]), data[headerBytes:]...), "header of another shard")
}

// reseal recomputes the checksums of the header and of every block, as a
// program with a fault of its own would have written them.
func reseal(data []byte) []byte {
	out := bytes.Clone(data)
	binary.BigEndian.PutUint64(out[40:], xxhash.Sum64(out[:40]))
	for at := headerBytes; at+frameBytes <= len(out); {
		n := int(binary.BigEndian.Uint32(out[at+12:]))
		if end := at + frameBytes + n; end <= len(out) {
			binary.BigEndian.PutUint64(out[at+16:], xxhash.Sum64(out[at+frameBytes:end]))
		}
		binary.BigEndian.PutUint64(out[at+24:], xxhash.Sum64(out[at:at+24]))
		at += frameBytes + n
	}
	return out
}

// TestWrongButSealed changes single fields and makes all block checksums right
// again: the deeper checks must find them, and name them.
func TestWrongButSealed(t *testing.T) {
	entries := []entry{{[]byte("aa"), []byte("11")}, {[]byte("bb"), []byte("22")}, {[]byte("cc"), []byte("33")}}
	data, _ := encode(t, testHeader, entries)
	const block = headerBytes
	const content = block + frameBytes
	trailer := offsets(t, data)[1]
	counts := trailer + frameBytes
	for _, c := range []struct {
		name string
		at   int
		set  []byte
		want error
		says string
	}{
		{"newer version", 8, []byte{0, 2}, base.ErrInvalid, "stream format 2"},
		{"version 0", 8, []byte{0, 0}, base.ErrInvalid, "stream format 0"},
		{"data format 0", 10, []byte{0, 0}, base.ErrCorrupt, "data format 0"},
		{"shard too high", 12, []byte{0, 30}, base.ErrCorrupt, "shard 30 of 30"},
		{"another shard", 12, []byte{0, 4}, base.ErrCorrupt, "digest"},
		{"no shards", 14, []byte{0, 0}, base.ErrCorrupt, "0 shards"},
		{"reserved", 20, []byte{1}, base.ErrCorrupt, "reserved"},
		{"kind", block, []byte{7}, base.ErrCorrupt, "unknown kind 7"},
		{"compression", block + 1, []byte{9}, base.ErrCorrupt, "unknown compression 9"},
		{"reserved of a block", block + 3, []byte{9}, base.ErrCorrupt, "reserved"},
		{"number", block + 4, []byte{0, 0, 0, 1}, base.ErrCorrupt, "is number 1"},
		{"fewer entries", block + 8, []byte{0, 0, 0, 2}, base.ErrCorrupt, "after its last entry"},
		{"more entries", block + 8, []byte{0, 0, 0, 4}, base.ErrCorrupt, "out of bounds"},
		{"no entries", block + 8, []byte{0, 0, 0, 0}, base.ErrCorrupt, "0 entries"},
		{"entries that cannot fit", block + 8, []byte{0, 1, 0, 0}, base.ErrCorrupt, "entries in"},
		{"key length 0", content, []byte{0}, base.ErrCorrupt, "length of a key"},
		{"key length not shortest", content, []byte{0x82, 0}, base.ErrCorrupt, "length of a key"},
		{"key too long", content, []byte{0xff, 0xff, 0x7f}, base.ErrCorrupt, "length of a key"},
		{"value over the block", content + 1, []byte{100}, base.ErrCorrupt, "longer than its block"},
		{"value too long", content + 1, []byte{0xff, 0xff, 0xff, 0xff, 0x7f}, base.ErrCorrupt, "length of a value"},
		{"another key", content + 2, []byte("ab"), base.ErrCorrupt, "digest"},
		{"another value", content + 4, []byte("xx"), base.ErrCorrupt, "digest"},
		{"key twice", content + 8, []byte("aa"), base.ErrCorrupt, "key 6161 comes twice"},
		{"unsorted", content + 2, []byte("bx"), base.ErrCorrupt, "not sorted"},
		{"trailer's entries", counts + 7, []byte{9}, base.ErrCorrupt, "promises 9 entries, there are 3"},
		{"trailer's bytes", counts + 15, []byte{9}, base.ErrCorrupt, "promises 9 bytes"},
		{"trailer's blocks", counts + 19, []byte{9}, base.ErrCorrupt, "promises 9 blocks, there are 1"},
		{"digest", counts + 20, []byte{0, 0, 0, 0}, base.ErrCorrupt, "digest"},
		{"trailer with entries", trailer + 11, []byte{1}, base.ErrCorrupt, "trailer of 52 bytes and 1 entries"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := bytes.Clone(data)
			copy(changed[c.at:], c.set)
			_, _, err := decode(bytes.NewReader(reseal(changed)))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want %v that says %q", err, c.want, c.says)
			}
		})
	}
}

// TestUnsortedAcrossBlocks has the fault at the border between two blocks.
func TestUnsortedAcrossBlocks(t *testing.T) {
	r := testkit.Rand(t)
	data, _ := encode(t, testHeader, []entry{
		{[]byte("k1"), testkit.Bytes(r, targetBlockBytes)},
		{[]byte("k2"), testkit.Bytes(r, targetBlockBytes)},
	})
	second := offsets(t, data)[1] + frameBytes
	i := second + bytes.Index(data[second:second+10], []byte("k2"))
	for key, says := range map[string]string{"k1": "comes twice", "k0": "not sorted"} {
		changed := bytes.Clone(data)
		copy(changed[i:], key)
		_, _, err := decode(bytes.NewReader(reseal(changed)))
		if !errors.Is(err, base.ErrCorrupt) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v", key, err)
		}
	}
}

// TestHugePromiseCostsNoMemory has a frame of the largest block and no bytes
// behind it.
func TestHugePromiseCostsNoMemory(t *testing.T) {
	data := appendHeader(nil, testHeader)
	data = appendFrame(data, frame{kind: kindData, entries: 1, length: maxBlockBytes})
	data = append(data, make([]byte, 100)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	wantCorrupt(t, data, "a promise of the largest block")
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > growBytes+64<<10 {
		t.Errorf("allocated %d bytes for a stream of %d", used, len(data))
	}
	over := appendHeader(nil, testHeader)
	over = appendFrame(over, frame{kind: kindData, entries: 1, length: maxBlockBytes + 1})
	wantCorrupt(t, over, "a block over the limit")
}

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden holds the bytes of the format. A change of them is a new
// FormatVersion, never an update of the file.
func TestGolden(t *testing.T) {
	data, info := encode(t, testHeader, []entry{
		{[]byte{0x10, 'u', 's', 'e', 'r', 0, 1, 'a'}, []byte("first value")},
		{[]byte{0x10, 'u', 's', 'e', 'r', 0, 1, 'b'}, nil},
		{[]byte{0x40, 0}, bytes.Repeat([]byte{0xAB}, 200)},
	})
	const path = "testdata/v1.stream"
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
		t.Fatalf("the format has changed:\n got %x\nwant %x", data, want)
	}
	got, read, err := decode(bytes.NewReader(want))
	if err != nil || read != info || len(got) != 3 {
		t.Fatalf("%v: %+v", err, read)
	}
}
