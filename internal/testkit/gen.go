package testkit

import (
	"math/rand/v2"

	"github.com/distributedcache/cache/internal/base"
)

// Bytes returns n random bytes.
func Bytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Key returns a valid key that is made to cause trouble: from a small alphabet
// with 0x00, 0xff, the escape characters and prefixes of one another, now and
// then as long as is allowed.
func Key(r *rand.Rand) base.Key {
	return base.Key{
		Primary:   nasty(r, 1, base.MaxPrimaryBytes),
		Secondary: nasty(r, 0, base.MaxSecondaryBytes),
	}
}

// nasty returns a string of between atLeast and atMost bytes, mostly a short
// one.
func nasty(r *rand.Rand, atLeast, atMost int) string {
	const alphabet = "\x00\x01\xfe\xff%:/ab\x7f"
	n := atLeast + r.IntN(4)
	switch r.IntN(100) {
	case 0:
		n = atMost
	case 1:
		n = atLeast + r.IntN(atMost-atLeast+1)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}
