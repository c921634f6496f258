package wire_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/wire"
)

// frame returns a frame made of its parts.
func frame(t testing.TB, kind byte, payload []byte) []byte {
	t.Helper()
	buf := append(wire.BeginFrame(nil), payload...)
	if err := wire.FinishFrame(buf, kind); err != nil {
		t.Fatal(err)
	}
	return buf
}

// TestGoldenFrames: nodes of different versions talk in these bytes.
func TestGoldenFrames(t *testing.T) {
	for want, got := range map[string][]byte{
		"0107000000000000d8f17f24":           frame(t, 7, nil),
		"01010000000000053f3ed8a668656c6c6f": frame(t, 1, []byte("hello")),
	} {
		if hex.EncodeToString(got) != want {
			t.Errorf("%x, want %s", got, want)
		}
	}
}

func TestFramesComeBack(t *testing.T) {
	r := testkit.Rand(t)
	var stream []byte
	var want [][]byte
	for range 300 {
		payload := testkit.Bytes(r, r.IntN(1<<r.IntN(16)))
		start := len(stream)
		stream = append(wire.BeginFrame(stream), payload...)
		if err := wire.FinishFrame(stream[start:], byte(len(want))); err != nil {
			t.Fatal(err)
		}
		if n, err := wire.FrameBytes(stream[start:]); err != nil || n != len(stream)-start {
			t.Fatalf("%d bytes, %v, want %d", n, err, len(stream)-start)
		}
		want = append(want, payload)
	}
	for name, src := range map[string]io.Reader{
		"at once":   bytes.NewReader(stream),
		"buffered":  bufio.NewReader(bytes.NewReader(stream)),
		"in pieces": iotest.HalfReader(bytes.NewReader(stream)),
	} {
		fr := wire.NewFrameReader(src, 1<<17)
		for i, w := range want {
			kind, payload, err := fr.Next()
			if err != nil || kind != byte(i) || !bytes.Equal(payload, w) {
				t.Fatalf("%s, frame %d: kind %d, %d bytes, %v", name, i, kind, len(payload), err)
			}
		}
		if _, _, err := fr.Next(); err != io.EOF {
			t.Fatalf("%s: %v at the end", name, err)
		}
	}
}

func TestFrameFaults(t *testing.T) {
	good := frame(t, 3, []byte("payload"))
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	for name, b := range map[string][]byte{
		"version":  change(0, 2),
		"kind":     change(1, 4),
		"reserved": change(2, 1),
		"length":   change(7, 6),
		"checksum": change(8, ^good[8]),
		"payload":  change(15, 'X'),
		"too long": change(4, 0xff),
	} {
		if _, _, err := wire.NewFrameReader(bytes.NewReader(b), 1<<20).Next(); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := 1; n < len(good); n++ {
		if _, _, err := wire.NewFrameReader(bytes.NewReader(good[:n]), 1<<20).Next(); err != io.ErrUnexpectedEOF {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	if _, err := wire.FrameBytes(good[:wire.FrameHeaderBytes-1]); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("short header: %v", err)
	}
	broken := io.MultiReader(bytes.NewReader(good[:14]), iotest.ErrReader(io.ErrClosedPipe))
	if _, _, err := wire.NewFrameReader(broken, 1<<20).Next(); err != io.ErrClosedPipe {
		t.Errorf("error of the reader became %v", err)
	}
}

// TestFrameOverLimit: neither a frame over the limit nor one within it that
// does not come costs the memory that it promises.
func TestFrameOverLimit(t *testing.T) {
	head := wire.BeginFrame(nil)
	if err := wire.FinishFrame(head, 1); err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(head[4:], 512<<20)
	var size *wire.FrameSizeError
	for name, limit := range map[string]int{"over": 16 << 20, "within": 600 << 20} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := wire.NewFrameReader(bytes.NewReader(head), limit).Next()
		runtime.ReadMemStats(&after)
		if name == "over" && (!errors.As(err, &size) || size.Limit != limit || size.Bytes != 512<<20+wire.FrameHeaderBytes || !errors.Is(err, wire.ErrMalformed)) {
			t.Errorf("%s: %v", name, err)
		}
		if name == "within" && err != io.ErrUnexpectedEOF {
			t.Errorf("%s: %v", name, err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
			t.Errorf("%s: %d bytes were allocated", name, got)
		}
	}
}

// TestFrameBufferShrinks: one long frame does not weigh on a connection for
// ever, and short ones are read without allocations.
func TestFrameBufferShrinks(t *testing.T) {
	long, short := frame(t, 1, make([]byte, 4<<20)), frame(t, 1, make([]byte, 100))
	src := bytes.NewReader(append(bytes.Clone(long), bytes.Repeat(short, 1200)...))
	fr := wire.NewFrameReader(src, 8<<20)
	next := func() {
		if _, _, err := fr.Next(); err != nil {
			t.Fatal(err)
		}
	}
	next()
	for range 65 {
		next()
	}
	_, payload, err := fr.Next()
	if err != nil || cap(payload) != len(payload) {
		t.Fatalf("capacity %d of %d, %v", cap(payload), len(payload), err)
	}
	if got := fr.BufferBytes(); got > 256<<10 {
		t.Errorf("a buffer of %d bytes is kept", got)
	}
	if n := testing.AllocsPerRun(1000, next); n != 0 {
		t.Errorf("%v allocations for each frame", n)
	}
}

// FuzzFrame reads any bytes as frames. Only what is sound frames to the last
// bit comes out, and writing it again gives the same bytes.
func FuzzFrame(f *testing.F) {
	f.Add(frame(f, 1, []byte("abc")), false)
	f.Add(append(frame(f, 1, nil), frame(f, 2, make([]byte, 300))...), false)
	f.Add(frame(f, 9, bytes.Repeat([]byte{7}, 50))[:40], true)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		const limit = 1 << 12
		if n, err := wire.FrameBytes(data); err == nil && seal && n <= len(data) {
			data = bytes.Clone(data)
			sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
			sum.Write(data[:8])
			sum.Write(data[wire.FrameHeaderBytes:n])
			binary.BigEndian.PutUint32(data[8:], sum.Sum32())
		}
		fr := wire.NewFrameReader(bytes.NewReader(data), limit)
		for read := 0; ; {
			kind, payload, err := fr.Next()
			if err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, wire.ErrMalformed) {
					t.Fatal(err)
				}
				if err == io.EOF && read != len(data) {
					t.Fatalf("end after %d of %d bytes", read, len(data))
				}
				return
			}
			again := frame(t, kind, payload)
			if len(again) > limit || !bytes.Equal(again, data[read:read+len(again)]) {
				t.Fatalf("read %x, wrote %x", data[read:], again)
			}
			read += len(again)
		}
	})
}

func BenchmarkFrame(b *testing.B) {
	payload := make([]byte, 4096)
	buf := make([]byte, 0, 8192)
	src := bytes.NewReader(nil)
	fr := wire.NewFrameReader(src, 1<<20)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		buf = append(wire.BeginFrame(buf[:0]), payload...)
		if err := wire.FinishFrame(buf, 1); err != nil {
			b.Fatal(err)
		}
		src.Reset(buf)
		if _, _, err := fr.Next(); err != nil {
			b.Fatal(err)
		}
	}
}
