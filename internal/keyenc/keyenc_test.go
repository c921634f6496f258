package keyenc_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/keyenc"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// TestGolden pins the storage format. A change here means a new FormatVersion.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"record", keyenc.AppendRecordKey(nil, 0x0102, base.K("ab", "cd")), "0102" + "20" + "6162" + "0001" + "6364"},
		{"no secondary", keyenc.AppendRecordKey(nil, 0, base.K("a", "")), "0000" + "20" + "61" + "0001"},
		{"zero bytes", keyenc.AppendRecordKey(nil, 29, base.K("\x00a\x00", "\x00\x01")), "001d" + "20" + "00ff6100ff" + "0001" + "0001"},
		{"high bytes", keyenc.AppendRecordKey(nil, 0xFFFF, base.K("\xff\xff", "\xff")), "ffff" + "20" + "ffff" + "0001" + "ff"},
		{"expiry", keyenc.AppendExpiryKey(nil, 3, 0x0102030405060708, base.K("a", "b")), "0003" + "60" + "0102030405060708" + "61" + "0001" + "62"},
		{"all", keyenc.AppendBound(nil, 1, base.Key{}), "0001" + "20" + "0001"},
		{"to the end", keyenc.AppendRangeEnd(nil, 1, base.Key{}), "0001" + "21"},
		{"meta", keyenc.AppendPrefix(nil, 1, keyenc.SpaceMeta), "000110"},
		{"lock", keyenc.AppendPrefix(nil, 1, keyenc.SpaceLock), "000130"},
		{"txn", keyenc.AppendPrefix(nil, 1, keyenc.SpaceTxn), "000140"},
		{"request", keyenc.AppendPrefix(nil, 1, keyenc.SpaceRequest), "000150"},
		{"history", keyenc.AppendPrefix(nil, 1, keyenc.SpaceHistory), "000170"},
		{"change", keyenc.AppendPrefix(nil, 1, keyenc.SpaceChange), "000180"},
		{"shard start", keyenc.AppendShardStart(nil, 0x0102), "010200"},
		{"shard end", keyenc.AppendShardEnd(nil, 0xFFFF), "ffffff"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func sign(n int) int { return max(-1, min(1, n)) }

// checkPair checks round trips and that bytewise order is key order, for a
// pair of keys.
func checkPair(t *testing.T, a, b base.Key) {
	t.Helper()
	encA, encB := keyenc.AppendRecordKey(nil, 7, a), keyenc.AppendRecordKey(nil, 7, b)
	if got, want := sign(bytes.Compare(encA, encB)), a.Compare(b); got != want {
		t.Fatalf("%q and %q: encoded order %d, key order %d", a, b, got, want)
	}
	if len(encA) != keyenc.RecordKeyLen(a) {
		t.Fatalf("%q: RecordKeyLen %d, encoded %d", a, keyenc.RecordKeyLen(a), len(encA))
	}
	atA, atB := keyenc.AppendExpiryKey(nil, 7, 9, a), keyenc.AppendExpiryKey(nil, 7, 10, b)
	if bytes.Compare(atA, atB) >= 0 {
		t.Fatalf("an earlier expiry is not first: %q, %q", a, b)
	}
	if len(atA) != keyenc.ExpiryKeyLen(a) {
		t.Fatalf("%q: ExpiryKeyLen %d, encoded %d", a, keyenc.ExpiryKeyLen(a), len(atA))
	}
	if a.Validate() != nil {
		return
	}
	if shard, got, err := keyenc.DecodeRecordKey(encA); err != nil || shard != 7 || got != a {
		t.Fatalf("%q decodes to %d, %q, %v", a, shard, got, err)
	}
	if shard, at, got, err := keyenc.DecodeExpiryKey(atA); err != nil || shard != 7 || at != 9 || got != a {
		t.Fatalf("%q decodes to %d, %d, %q, %v", a, shard, at, got, err)
	}
	end := keyenc.AppendRangeEnd(nil, 7, base.Key{})
	if start := keyenc.AppendBound(nil, 7, base.Key{}); bytes.Compare(start, encA) > 0 || bytes.Compare(encA, end) >= 0 {
		t.Fatalf("%q lies outside of its space", a)
	}
	if bytes.Compare(keyenc.AppendShardStart(nil, 7), atA) > 0 || bytes.Compare(atA, keyenc.AppendShardEnd(nil, 7)) >= 0 {
		t.Fatalf("%q lies outside of its shard", a)
	}
}

func TestOrderAndRoundTrip(t *testing.T) {
	r := testkit.Rand(t)
	for range 20_000 {
		checkPair(t, testkit.Key(r), testkit.Key(r))
	}
	for _, s := range []string{"\x00", "\x00\x00", "\x00\xff", "\x00\x01", "\xff", "a\x00", "a\x00\x01", "a", "a\x01"} {
		for _, u := range []string{"\x00", "\x00\x00", "\x00\xff", "\x00\x01", "\xff", "a\x00", "a\x00\x01", "a", "a\x01"} {
			checkPair(t, base.K(s, u), base.K(u, s))
			checkPair(t, base.K(s, u), base.K(s, s))
		}
	}
}

// TestBounds: a bound of a range may be no valid key, and orders all the same.
func TestBounds(t *testing.T) {
	long := strings.Repeat("x", base.MaxPrimaryBytes)
	checkPair(t, base.K(long, "a"), base.K(long+"\x00", ""))
	checkPair(t, base.K("", "a"), base.K("a", ""))
	checkPair(t, base.K(long, strings.Repeat("\xff", base.MaxSecondaryBytes)), base.K(long, strings.Repeat("\xff", base.MaxSecondaryBytes+1)))
}

func FuzzKeys(f *testing.F) {
	f.Add("a", "b", "a", "c")
	f.Add("a\x00", "", "a", "\x00")
	f.Add("\x00\xff", "\xff", "\x00", "\x01")
	f.Fuzz(func(t *testing.T, p1, s1, p2, s2 string) {
		checkPair(t, base.K(p1, s1), base.K(p2, s2))
	})
}

// FuzzDecode: any bytes decode to an error or to a key that encodes to them.
func FuzzDecode(f *testing.F) {
	f.Add(keyenc.AppendRecordKey(nil, 1, base.K("a\x00b", "c")))
	f.Add(keyenc.AppendExpiryKey(nil, 1, 5, base.K("a\x00b", "c")))
	f.Add([]byte{0, 1, 0x20, 'a', 0, 2})
	f.Fuzz(func(t *testing.T, phys []byte) {
		switch shard, key, err := keyenc.DecodeRecordKey(phys); {
		case err == nil && !bytes.Equal(keyenc.AppendRecordKey(nil, shard, key), phys):
			t.Fatalf("%x decodes to %q, which encodes differently", phys, key)
		case err != nil && !errors.Is(err, keyenc.ErrMalformed):
			t.Fatal(err)
		}
		switch shard, at, key, err := keyenc.DecodeExpiryKey(phys); {
		case err == nil && !bytes.Equal(keyenc.AppendExpiryKey(nil, shard, at, key), phys):
			t.Fatalf("%x decodes to %q, which encodes differently", phys, key)
		case err != nil && !errors.Is(err, keyenc.ErrMalformed):
			t.Fatal(err)
		}
	})
}

func TestNoAllocation(t *testing.T) {
	key, buf := base.K("user\x001", "cart"), make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { buf = keyenc.AppendRecordKey(buf[:0], 1, key) }); n != 0 {
		t.Errorf("encoding allocates %v times", n)
	}
}
