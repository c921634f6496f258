package base_test

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestVersionTime(t *testing.T) {
	at := time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)
	v := base.VersionAt(at)
	if v != 1709208000123456 {
		t.Errorf("version %d", v)
	}
	if got := v.Time(); !got.Equal(at.Truncate(time.Microsecond)) || got.Location() != time.UTC {
		t.Errorf("time %v", got)
	}
	if !base.Version(0).Time().IsZero() || base.VersionAt(time.Unix(-1, 0)) != 0 || base.VersionAt(time.Time{}) != 0 {
		t.Error("0 is not the absent version")
	}
	if far := base.VersionAt(time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)); far > 1<<53 {
		t.Errorf("version %d does not fit a JSON number", far)
	}
}

// TestCursorGolden: clients keep cursors over an upgrade.
func TestCursorGolden(t *testing.T) {
	for key, want := range map[base.Key]string{
		base.K("p", "s"):       "AQFwcyE9rYI",
		base.K("p", ""):        "AQFwAJs2aQ",
		base.K("\x00", "\xff"): "AQEA_9iKj-U",
		base.K("user:1", "東京"): "AQZ1c2VyOjHmnbHkuqxiS3um",
	} {
		if got := base.EncodeCursor(key); got != want {
			t.Errorf("%s: cursor %q, want %q", key, got, want)
		}
		if got, err := base.DecodeCursor(want); err != nil || got != key {
			t.Errorf("%q: %+v, %v", want, got, err)
		}
	}
	item := base.Item{Key: base.K("p", "s"), Version: 1}
	if item.Cursor() != base.EncodeCursor(item.Key) || !item.Exists() || (base.Item{}).Exists() {
		t.Error("Item disagrees with its key")
	}
}

func TestCursorRoundTrip(t *testing.T) {
	r := testkit.Rand(t)
	for range 2000 {
		key := testkit.Key(r)
		if got, err := base.DecodeCursor(base.EncodeCursor(key)); err != nil || got != key {
			t.Fatalf("%s: %+v, %v", key, got, err)
		}
	}
}

// sealed returns a cursor with this body and the right checksum: what somebody
// who knows the format can make.
func sealed(body ...byte) string {
	body = binary.LittleEndian.AppendUint32(body, uint32(xxhash.Sum64(body)))
	return base64.RawURLEncoding.EncodeToString(body)
}

func TestDecodeCursorRefuses(t *testing.T) {
	good := base.EncodeCursor(base.K("primary", "secondary"))
	for name, cursor := range map[string]string{
		"empty":              "",
		"not base64":         "!!!!!!!!!!",
		"newline":            good[:4] + "\n" + good[4:],
		"padded":             good + "=",
		"cut":                good[:len(good)-4],
		"too long":           strings.Repeat("A", 1<<20),
		"other version":      sealed(2, 1, 'p', 's'),
		"no length":          sealed(1, 0x80),
		"length too long":    sealed(1, 9, 'p', 's'),
		"length overflows":   sealed(1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 'p'),
		"length not minimal": sealed(1, 0x81, 0x00, 'p', 's'),
		"empty primary":      sealed(1, 0, 's'),
	} {
		if key, err := base.DecodeCursor(cursor); !errors.Is(err, base.ErrInvalid) || !key.IsZero() {
			t.Errorf("%s: %+v, %v; want ErrInvalid", name, key, err)
		}
	}
	for i := range good {
		flipped := []byte(good)
		flipped[i] ^= 1
		if _, err := base.DecodeCursor(string(flipped)); err == nil {
			t.Errorf("a flipped bit in character %d is not noticed", i)
		}
	}
}

func FuzzDecodeCursor(f *testing.F) {
	f.Add(base.EncodeCursor(base.K("p", "s")))
	f.Add(base.EncodeCursor(base.K(strings.Repeat("p", base.MaxPrimaryBytes), strings.Repeat("s", base.MaxSecondaryBytes))))
	f.Add(sealed(1, 0x81, 0x00, 'p'))
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		// The fuzzer cannot find checksums, so try s as a body too.
		for _, cursor := range []string{s, sealed([]byte(s)...), sealed(append([]byte{1}, s...)...)} {
			key, err := base.DecodeCursor(cursor)
			switch {
			case err != nil && !errors.Is(err, base.ErrInvalid):
				t.Fatalf("untyped error %v", err)
			case err == nil && (key.Validate() != nil || base.EncodeCursor(key) != cursor):
				t.Fatalf("%q -> %+v -> %q", cursor, key, base.EncodeCursor(key))
			}
		}
	})
}

func TestRequestID(t *testing.T) {
	id := base.NewRequestID()
	if id.IsZero() || id == base.NewRequestID() || !(base.RequestID{}).IsZero() {
		t.Fatal("ids are not unique")
	}
	if back, err := base.ParseRequestID(id.String()); err != nil || back != id {
		t.Errorf("%s: %v, %v", id, back, err)
	}
	var text base.RequestID
	if b, err := id.MarshalText(); err != nil || text.UnmarshalText(b) != nil || text != id {
		t.Errorf("text %s: %v", b, err)
	}
	for _, s := range []string{"", "00", strings.Repeat("0", 31), strings.Repeat("g", 32), strings.Repeat("0", 33)} {
		if id, err := base.ParseRequestID(s); !errors.Is(err, base.ErrInvalid) || !id.IsZero() {
			t.Errorf("%q: %v, %v", s, id, err)
		}
	}
}

func TestCond(t *testing.T) {
	for _, c := range []struct {
		cond         base.Cond
		absent, five bool
		want         base.Version
	}{
		{base.Cond{}, true, true, 0},
		{base.Cond{Kind: base.CondVersion}, true, false, 0},
		{base.Cond{Kind: base.CondVersion, Version: 5}, false, true, 5},
		{base.Cond{Kind: base.CondVersion, Version: 6}, false, false, 6},
		{base.Cond{Kind: base.CondPresent}, false, true, math.MaxUint64},
	} {
		if c.cond.Holds(0) != c.absent || c.cond.Holds(5) != c.five || c.cond.Want() != c.want {
			t.Errorf("%+v: absent %v, version 5 %v, want %d", c.cond, c.cond.Holds(0), c.cond.Holds(5), c.cond.Want())
		}
	}
	w := base.Write{Key: base.K("ab", "c"), Value: []byte("defg")}
	if w.Bytes() != 7 {
		t.Errorf("%d bytes", w.Bytes())
	}
}
