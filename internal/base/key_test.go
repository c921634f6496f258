package base_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// TestKeyStringGolden: these strings are in logs, URLs and scripts of users.
func TestKeyStringGolden(t *testing.T) {
	for _, c := range []struct {
		key  base.Key
		want string
	}{
		{base.K("user:1", "a:b"), "user%3A1:a:b"},
		{base.K("p", ""), "p:"},
		{base.Key{}, ":"},
		{base.K("100%", "50%"), "100%25:50%25"},
		{base.K("a b", "\t\n"), "a%20b:%09%0A"},
		{base.K("\x00\xff", "\x7f"), "%00%FF:%7F"},
		{base.K("Zürich", "東京"), "Zürich:東京"},
		{base.K("\u202eevil", "\u00a0\u2028"), "%E2%80%AEevil:%C2%A0%E2%80%A8"}, // text direction, spaces
		{base.K("\xe6\x9d", "\ufffd"), "%E6%9D:\ufffd"},                         // half a rune, a real U+FFFD
		{base.K("a/b?c#d", "\"'\\"), "a/b?c#d:\"'\\"},
	} {
		if got := c.key.String(); got != c.want {
			t.Errorf("%q %q: %q, want %q", c.key.Primary, c.key.Secondary, got, c.want)
		}
		if got, err := base.ParseKey(c.want); err != nil || got != c.key {
			t.Errorf("ParseKey(%q) = %+v, %v", c.want, got, err)
		}
	}
}

func TestParseKeyLenient(t *testing.T) {
	for s, want := range map[string]base.Key{
		"a:b:c":       base.K("a", "b:c"),
		"%61%3a:%3A":  base.K("a:", ":"),
		"a b:\x00":    base.K("a b", "\x00"),
		":x":          base.K("", "x"),
		"p:100%25":    base.K("p", "100%"),
		"%E6%9d%b1:x": base.K("東", "x"),
	} {
		if got, err := base.ParseKey(s); err != nil || got != want {
			t.Errorf("ParseKey(%q) = %+v, %v; want %+v", s, got, err, want)
		}
	}
}

func TestParseKeyRefuses(t *testing.T) {
	for _, s := range []string{"", "nocolon", "%:", "%4:", "a:%", "a:%4", "a:%zz", "a:%4g", "%3A"} {
		if k, err := base.ParseKey(s); !errors.Is(err, base.ErrInvalid) || k != (base.Key{}) {
			t.Errorf("ParseKey(%q) = %+v, %v; want ErrInvalid", s, k, err)
		}
	}
}

func TestKeyValidate(t *testing.T) {
	long := strings.Repeat("x", base.MaxSecondaryBytes+1)
	for _, c := range []struct {
		key  base.Key
		want error
	}{
		{base.K("", ""), base.ErrInvalid},
		{base.K("", "s"), base.ErrInvalid},
		{base.K("p", ""), nil},
		{base.K("\x00", "\x00"), nil},
		{base.K(long[:base.MaxPrimaryBytes], long[:base.MaxSecondaryBytes]), nil},
		{base.K(long[:base.MaxPrimaryBytes+1], ""), base.ErrTooLarge},
		{base.K("p", long), base.ErrTooLarge},
	} {
		if err := c.key.Validate(); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("key of %d and %d bytes: %v, want %v", len(c.key.Primary), len(c.key.Secondary), err, c.want)
		}
	}
}

func TestKeyOrderIsBytewise(t *testing.T) {
	r := testkit.Rand(t)
	keys := make([]base.Key, 2000)
	for i := range keys {
		keys[i] = testkit.Key(r)
	}
	slices.SortFunc(keys, base.Key.Compare)
	for i, b := range keys[1:] {
		a := keys[i]
		bytewise := a.Primary < b.Primary || (a.Primary == b.Primary && a.Secondary <= b.Secondary)
		if !bytewise || a.Compare(b) != -b.Compare(a) || (a.Compare(b) == 0) != (a == b) {
			t.Fatalf("%s before %s", a, b)
		}
	}
}

func TestKeySurvivesJSON(t *testing.T) {
	r := testkit.Rand(t)
	for range 1000 {
		want := base.HotKey{Key: testkit.Key(r), Count: 1}
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got base.HotKey
		if err := json.Unmarshal(text, &got); err != nil || got != want {
			t.Fatalf("%s: %+v, %v", text, got, err)
		}
	}
	var k base.Key
	if err := json.Unmarshal([]byte(`"nocolon"`), &k); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("a bad key in JSON: %v", err)
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"p:s", "a%3Ab:c", ":", "%", "\xff:\x00", "東京:\u202e", "p:%C2%A0", "p:\ufffd%FF"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		// Any two strings are a key that survives String and ParseKey.
		half := len(s) / 2
		for _, k := range []base.Key{base.K(s, ""), base.K("", s), base.K(s[:half], s[half:])} {
			text := k.String()
			if back, err := base.ParseKey(text); err != nil || back != k {
				t.Fatalf("%q %q -> %q -> %+v, %v", k.Primary, k.Secondary, text, back, err)
			}
			for _, r := range text {
				if unicode.IsSpace(r) || !unicode.IsGraphic(r) {
					t.Fatalf("%q holds %U", text, r)
				}
			}
		}
		// Whatever parses has one canonical string.
		k, err := base.ParseKey(s)
		if err != nil {
			if !errors.Is(err, base.ErrInvalid) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if back, err := base.ParseKey(k.String()); err != nil || back != k {
			t.Fatalf("%q -> %+v -> %+v, %v", s, k, back, err)
		}
	})
}
