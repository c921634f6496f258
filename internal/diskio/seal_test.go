package diskio

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// TestSealGolden pins the storage format.
func TestSealGolden(t *testing.T) {
	r := sealRecord{serial: 1, manifest: 2, size: 3, hash: 0x0102030405060708}
	const golden = "0000000000000001" + "0000000000000002" + "0000000000000003" + "0102030405060708" + "9cd46986debdda22"
	buf := r.encode()
	if got := hex.EncodeToString(buf); got != golden+strings.Repeat("00", 24) {
		t.Fatalf("encoded as %s", got)
	}
	if got, ok := decodeSeal(buf); !ok || got != r {
		t.Fatalf("%+v, %v", got, ok)
	}
	for i := range 40 {
		bad := bytes.Clone(buf)
		bad[i] ^= 0x10
		if _, ok := decodeSeal(bad); ok {
			t.Fatalf("byte %d damaged and still valid", i)
		}
	}
	if _, ok := decodeSeal(buf[:39]); ok {
		t.Fatal("cut and still valid")
	}
}
