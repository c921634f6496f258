package wire_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"testing"

	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/wire"
)

// TestGolden: every format of the cache is made of these bytes.
func TestGolden(t *testing.T) {
	for want, got := range map[string][]byte{
		"00":                   wire.AppendUvarint(nil, 0),
		"7f":                   wire.AppendUvarint(nil, 127),
		"8001":                 wire.AppendUvarint(nil, 128),
		"ffffffffffffffffff01": wire.AppendUvarint(nil, math.MaxUint64),
		"01020304":             wire.AppendUint32(nil, 0x01020304),
		"0102030405060708":     wire.AppendUint64(nil, 0x0102030405060708),
		"aa03616263":           wire.AppendBytes([]byte{0xaa}, []byte("abc")),
		"0161":                 wire.AppendString(nil, "a"),
		"aa00":                 wire.AppendString([]byte{0xaa}, ""),
	} {
		if hex.EncodeToString(got) != want {
			t.Errorf("%x, want %s", got, want)
		}
	}
}

func TestReadsBackWhatWasAppended(t *testing.T) {
	r := testkit.Rand(t)
	for range 2000 {
		n, v := r.Uint64()>>r.IntN(64), r.Uint64()
		b, s := testkit.Bytes(r, r.IntN(200)), testkit.Key(r).Secondary
		buf := wire.AppendUvarint([]byte{7}, n)
		buf = wire.AppendBytes(wire.AppendUint64(buf, v), b)
		buf = append(wire.AppendString(buf, s), 1, 2, 3, 4)

		rd := wire.NewReader(buf)
		var fixed [3]byte
		if got := rd.Byte(); got != 7 {
			t.Fatalf("byte %d", got)
		}
		if got := rd.Uvarint(); got != n {
			t.Fatalf("%d, want %d", got, n)
		}
		if got := rd.Uint64(); got != v {
			t.Fatalf("%d, want %d", got, v)
		}
		if got := rd.Bytes(200); !bytes.Equal(got, b) {
			t.Fatalf("%x, want %x", got, b)
		}
		if got := rd.String(4096); got != s {
			t.Fatalf("%q, want %q", got, s)
		}
		if rd.Fixed(fixed[:]); fixed != [3]byte{1, 2, 3} || rd.Len() != 1 {
			t.Fatalf("fixed %v, %d left", fixed, rd.Len())
		}
		if got := rd.Rest(); !bytes.Equal(got, []byte{4}) || rd.Close() != nil {
			t.Fatalf("rest %x, %v", got, rd.Close())
		}
	}
}

func TestRefuses(t *testing.T) {
	long := bytes.Repeat([]byte{0xff}, 11)
	for name, c := range map[string]struct {
		buf  []byte
		read func(*wire.Reader)
	}{
		"no byte":          {nil, func(r *wire.Reader) { r.Byte() }},
		"short uint32":     {long[:3], func(r *wire.Reader) { r.Uint32() }},
		"short uint64":     {long[:7], func(r *wire.Reader) { r.Uint64() }},
		"no number":        {nil, func(r *wire.Reader) { r.Uvarint() }},
		"cut number":       {[]byte{0x80}, func(r *wire.Reader) { r.Uvarint() }},
		"number overflows": {long, func(r *wire.Reader) { r.Uvarint() }},
		"number with zero": {[]byte{0x80, 0x00}, func(r *wire.Reader) { r.Uvarint() }},
		"bytes cut":        {[]byte{3, 'a', 'b'}, func(r *wire.Reader) { r.Bytes(10) }},
		"bytes over limit": {[]byte{2, 'a', 'b'}, func(r *wire.Reader) { r.Bytes(1) }},
		"string over":      {[]byte{2, 'a', 'b'}, func(r *wire.Reader) { _ = r.String(1) }},
		"count over limit": {[]byte{3, 0, 0, 0}, func(r *wire.Reader) { r.Count(2, 1) }},
		"count over rest":  {[]byte{3, 0, 0, 0, 0, 0}, func(r *wire.Reader) { r.Count(100, 2) }},
		"fixed cut":        {[]byte{1}, func(r *wire.Reader) { r.Fixed(make([]byte, 2)) }},
		"left over":        {[]byte{1}, func(*wire.Reader) {}},
		"by the caller":    {nil, func(r *wire.Reader) { r.Fail("kind %d", 9) }},
	} {
		rd := wire.NewReader(c.buf)
		c.read(rd)
		if err := rd.Close(); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

// TestFirstFaultSticks: a decoder may check once, at its end.
func TestFirstFaultSticks(t *testing.T) {
	rd := wire.NewReader([]byte{9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
	rd.Bytes(4)
	first := rd.Err()
	fixed := [2]byte{5, 5}
	rd.Fixed(fixed[:])
	rd.Fail("another")
	if rd.Byte() != 0 || rd.Uint64() != 0 || rd.Uvarint() != 0 || rd.Count(9, 1) != 0 || rd.Bytes(9) != nil ||
		rd.String(9) != "" || rd.Rest() != nil || rd.Len() != 0 || fixed != [2]byte{5, 5} {
		t.Error("reads after a fault return something")
	}
	if first == nil || !errors.Is(rd.Close(), wire.ErrMalformed) || rd.Close().Error() != first.Error() {
		t.Errorf("%v became %v", first, rd.Close())
	}
}

// TestBytesDoNotReachFurther: appending to a result must not overwrite what
// comes behind it in the buffer.
func TestBytesDoNotReachFurther(t *testing.T) {
	buf := []byte{1, 'a', 1, 'b'}
	rd := wire.NewReader(buf)
	_ = append(rd.Bytes(1), 'X', 'X')
	if got := rd.String(1); got != "b" {
		t.Errorf("%q was overwritten", got)
	}
}

// FuzzWireReader runs a program of reads, taken from the first argument, over
// the second. Nothing may panic, read backwards or return more than there was;
// and what reads cleanly must be the same bytes when it is written again.
func FuzzWireReader(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6}, []byte("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x80\x01\x02ab"))
	f.Add([]byte{2, 2, 2}, bytes.Repeat([]byte{0xff}, 12))
	f.Add([]byte{4, 5}, []byte{3, 'a', 'b', 'c', 0x81, 0x00})
	f.Fuzz(func(t *testing.T, program, buf []byte) {
		rd := wire.NewReader(buf)
		var again []byte
		for _, op := range program {
			before := rd.Len()
			again = step(rd, op, again)
			if rd.Len() > before {
				t.Fatalf("read backwards from %d to %d bytes left", before, rd.Len())
			}
			if rd.Err() != nil {
				if !errors.Is(rd.Err(), wire.ErrMalformed) || rd.Len() != 0 {
					t.Fatalf("%v with %d bytes left", rd.Err(), rd.Len())
				}
				return
			}
		}
		if !bytes.Equal(again, buf[:len(buf)-rd.Len()]) {
			t.Fatalf("read %x, wrote %x", buf[:len(buf)-rd.Len()], again)
		}
	})
}

// step does one read and appends what it read to again.
func step(rd *wire.Reader, op byte, again []byte) []byte {
	limit := int(op >> 3)
	switch op & 7 {
	case 0:
		return append(again, rd.Byte())
	case 1:
		return wire.AppendUint64(again, rd.Uint64())
	case 2:
		return wire.AppendUvarint(again, rd.Uvarint())
	case 3:
		n := rd.Count(limit, 1)
		if n > limit || n > rd.Len() {
			panic("count that does not fit")
		}
		return wire.AppendUvarint(again, uint64(n))
	case 4:
		b := rd.Bytes(limit)
		if len(b) > limit {
			panic("more bytes than the limit")
		}
		return wire.AppendBytes(again, b)
	case 5:
		return wire.AppendString(again, rd.String(limit))
	case 6:
		dst := make([]byte, limit)
		rd.Fixed(dst)
		return append(again, dst...)
	default:
		return append(again, rd.Rest()...)
	}
}

func BenchmarkReader(b *testing.B) {
	buf := wire.AppendUvarint(nil, 300)
	buf = wire.AppendBytes(wire.AppendUint64(buf, 1), bytes.Repeat([]byte{1}, 256))
	b.ReportAllocs()
	for b.Loop() {
		rd := wire.NewReader(buf)
		rd.Uvarint()
		rd.Uint64()
		rd.Bytes(256)
		if rd.Close() != nil {
			b.Fatal(rd.Err())
		}
	}
}
