package storage

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/distributedcache/cache/internal/base"
)

// TestRecordGolden pins the storage format. A change here means a new
// FormatVersion.
func TestRecordGolden(t *testing.T) {
	for _, c := range []struct {
		rec  Record
		want string
	}{
		{Record{Version: 0x0102030405060708, Value: []byte("v")}, "01" + "00" + "0102030405060708" + "76"},
		{Record{Version: 1}, "01" + "00" + "0000000000000001"},
		{Record{Version: 1, ExpiresAt: 2, Value: []byte{0, 0xFF}}, "01" + "01" + "0000000000000001" + "0000000000000002" + "00ff"},
	} {
		if got := hex.EncodeToString(appendRecord(nil, c.rec)); got != c.want {
			t.Errorf("%+v: %s, want %s", c.rec, got, c.want)
		}
		if n := recordLen(c.rec); n != len(c.want)/2 {
			t.Errorf("%+v: recordLen %d", c.rec, n)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(appendRecord(nil, Record{Version: 1, Value: []byte("v")}))
	f.Add(appendRecord(nil, Record{Version: 1, ExpiresAt: 9}))
	f.Add([]byte{recordFormat, 2, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, buf []byte) {
		rec, err := decodeRecord(buf)
		head, _, headErr := decodeHead(buf)
		switch {
		case (err == nil) != (headErr == nil) || rec.Version != head.Version || rec.ExpiresAt != head.ExpiresAt:
			t.Fatalf("record %+v, %v but head %+v, %v", rec, err, head, headErr)
		case err == nil && !bytes.Equal(appendRecord(nil, rec), buf):
			t.Fatalf("%x decodes to %+v, which encodes differently", buf, rec)
		case err != nil && !errors.Is(err, base.ErrCorrupt):
			t.Fatal(err)
		}
	})
}

func TestRecordMalformed(t *testing.T) {
	for _, s := range []string{
		"", "01", "0100000000000000", // cut
		"01000000000000000000",                 // version 0
		"02000000000000000001",                 // unknown format
		"01020000000000000001",                 // unknown flag
		"0101000000000000000100000000000000",   // cut expiry
		"010100000000000000010000000000000000", // expiry 0
	} {
		buf, _ := hex.DecodeString(s)
		if _, err := decodeRecord(buf); !errors.Is(err, base.ErrCorrupt) {
			t.Errorf("%s: error %v", s, err)
		}
	}
}
