package stream

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// FuzzReader feeds whole streams of any bytes. What is accepted must come out
// again when it is written and read.
func FuzzReader(f *testing.F) {
	r := testkit.NewRand(1)
	for _, n := range []int{0, 1, 5, 40} {
		data, _ := encode(f, testHeader, someEntries(r, n, 50))
		f.Add(data, false)
		f.Add(data[:len(data)/2], false)
		f.Add(data, true)
	}
	f.Add([]byte(magic), false)
	f.Add(appendFrame(appendHeader(nil, testHeader), frame{kind: kindData, entries: 1, length: maxBlockBytes}), false)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		if seal && len(data) >= headerBytes {
			data = reseal(data) // get past the checksums
		}
		check(t, data)
	})
}

// FuzzBlock wraps any bytes as the content of one block of an otherwise sound
// stream, so that the decoding of entries is reached.
func FuzzBlock(f *testing.F) {
	data, _ := encode(f, testHeader, someEntries(testkit.NewRand(2), 5, 30))
	f.Add(data[headerBytes+frameBytes:len(data)-frameBytes-trailerBytes], uint32(5))
	f.Add([]byte{1, 0, 'a', 1, 0, 'b'}, uint32(2))
	f.Add([]byte{1, 0, 'b', 1, 0, 'a'}, uint32(2))
	f.Add([]byte{0, 0, 0}, uint32(1))
	content := []byte{1, 1, 'a', 'x'}
	sealed := appendFrame(appendHeader(nil, testHeader), frame{kind: kindData, entries: 1, length: 4, sum: xxhash.Sum64(content)})
	sealed = append(sealed, content...)
	_, info, _ := decode(bytes.NewReader(sealed))
	if got, _, err := decode(bytes.NewReader(appendSealedTrailer(sealed, info))); err != nil || len(got) != 1 {
		f.Fatalf("the trailer of this test is wrong: %v", err)
	}
	f.Fuzz(func(t *testing.T, content []byte, entries uint32) {
		if len(content) == 0 {
			return
		}
		out := appendHeader(nil, testHeader)
		out = appendFrame(out, frame{kind: kindData, entries: entries, length: uint32(len(content)), sum: xxhash.Sum64(content)})
		out = append(out, content...)
		_, info, _ := decode(bytes.NewReader(out)) // finds no trailer
		check(t, appendSealedTrailer(out, info))
	})
}

// appendSealedTrailer appends the trailer that fits a stream which was read as
// info.
func appendSealedTrailer(data []byte, info Info) []byte {
	digest := sha256.New()
	digest.Write(data[:digestedHead])
	digest.Write(data[headerBytes:])
	info.Digest = contentDigest(digest, &info)
	trailer := appendTrailer(nil, &info)
	data = appendFrame(data, frame{kind: kindTrailer, number: info.Blocks, length: trailerBytes, sum: xxhash.Sum64(trailer)})
	return append(data, trailer...)
}

func check(t *testing.T, data []byte) {
	entries, info, err := decode(bytes.NewReader(data))
	if err != nil {
		if !errors.Is(err, base.ErrCorrupt) && !errors.Is(err, base.ErrInvalid) {
			t.Fatalf("untyped error %v", err)
		}
		if errors.Is(err, io.EOF) {
			t.Fatalf("an error that is io.EOF: %v", err)
		}
		return
	}
	again, _ := encode(t, info.Header, entries)
	got, _, err := decode(bytes.NewReader(again))
	if err != nil || !sameEntries(got, entries) {
		t.Fatalf("what was accepted cannot be written: %v", err)
	}
}
