package base_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// TestRangesHoldWhatTheyName compares each constructor with its definition in
// words, over keys that are made to sit on the boundaries.
func TestRangesHoldWhatTheyName(t *testing.T) {
	r := testkit.Rand(t)
	for range 20_000 {
		k, other := testkit.Key(r), testkit.Key(r)
		p, s := other.Primary, other.Secondary
		if r.IntN(2) == 0 {
			p = k.Primary // otherwise hardly any key is inside
		}
		from, to := testkit.Key(r).Secondary, testkit.Key(r).Secondary
		same := k.Primary == p
		for _, c := range []struct {
			name string
			r    base.Range
			want bool
		}{
			{"all", base.All(), true},
			{"primary", base.Primary(p), same},
			{"primary prefix", base.PrimaryPrefix(p), strings.HasPrefix(k.Primary, p)},
			{"prefix", base.Primary(p).Prefix(s), same && strings.HasPrefix(k.Secondary, s)},
			{"between", base.Primary(p).Between(from, to), same && k.Secondary >= from && (to == "" || k.Secondary < to)},
		} {
			if got := c.r.Contains(k); got != c.want {
				t.Fatalf("%s %v contains %s: %v", c.name, c.r, k, got)
			}
			if c.want && c.r.Empty() {
				t.Fatalf("%s %v is empty but holds %s", c.name, c.r, k)
			}
			if err := c.r.Validate(); err != nil {
				t.Fatalf("%s %v: %v", c.name, c.r, err)
			}
			if only, ok := c.r.SinglePrimary(); ok && c.want && only != k.Primary {
				t.Fatalf("%s %v says it has primary %q only and holds %s", c.name, c.r, only, k)
			}
		}
	}
}

func TestSinglePrimary(t *testing.T) {
	for _, c := range []struct {
		r    base.Range
		want bool
	}{
		{base.Primary("p"), true},
		{base.Primary("p").Prefix("a"), true},
		{base.Primary("p").Prefix("\xff"), true},
		{base.Primary("p").Between("a", "b"), true},
		{base.Range{Start: base.K("p", "a"), End: base.K("q", "")}, false},
		{base.Range{Start: base.K("p", "a"), End: base.K("p\x00", "a")}, false},
		{base.Range{Start: base.K("p", "a")}, false},
		{base.PrimaryPrefix("p"), false},
		{base.All(), false},
	} {
		if p, ok := c.r.SinglePrimary(); ok != c.want || (ok && p != "p") {
			t.Errorf("%v: %q, %v", c.r, p, ok)
		}
	}
}

// TestPrefixOfBytes: the end of a prefix is found by bytes, not by runes.
func TestPrefixOfBytes(t *testing.T) {
	for p, end := range map[string]string{
		"a": "b", "a\xff": "b", "\xfe\xff\xfe": "\xfe\xff\xff", "\xfe\xff\xff": "\xff", "\xff\xff": "", "東\xe6": "東\xe7",
	} {
		if got := base.PrimaryPrefix(p).End; got != base.K(end, "") {
			t.Errorf("prefix %q ends at %q, want %q", p, got.Primary, end)
		}
	}
}

func TestRangeEmpty(t *testing.T) {
	for _, r := range []base.Range{
		{Start: base.K("b", ""), End: base.K("a", "")},
		{Start: base.K("a", "x"), End: base.K("a", "x")},
		base.Primary("p").Between("b", "a"),
	} {
		if !r.Empty() || r.Validate() != nil {
			t.Errorf("%v: empty %v, %v", r, r.Empty(), r.Validate())
		}
	}
	if base.All().Empty() || base.Primary("p").Empty() {
		t.Error("full ranges are empty")
	}
}

func TestRangeValidateAndString(t *testing.T) {
	long := strings.Repeat("x", base.MaxSecondaryBytes+2)
	for _, r := range []base.Range{
		{Start: base.K(long[:base.MaxPrimaryBytes+2], "")},
		{End: base.K(long[:base.MaxPrimaryBytes+2], "")},
		{Start: base.K("p", long)},
		{End: base.K("p", long)},
		{End: base.K("", "s")},
		{Start: base.K("", "s")},
		base.All().Prefix("s"),
	} {
		if err := r.Validate(); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("a bad range is valid: %v", err)
		}
	}
	longest := base.Primary(long[:base.MaxPrimaryBytes]).Prefix(long[:base.MaxSecondaryBytes])
	if err := longest.Validate(); err != nil {
		t.Errorf("the longest key as a range: %v", err)
	}
	if got := base.Primary("p").Prefix("a").String() + base.All().String(); got != "[p:a, p:b)[:, end)" {
		t.Errorf("string %q", got)
	}
}

func TestRangeAfter(t *testing.T) {
	r := testkit.Rand(t)
	for range 20_000 {
		k, last := testkit.Key(r), testkit.Key(r)
		scan := base.PrimaryPrefix(testkit.Key(r).Primary)
		if r.IntN(2) == 0 {
			scan = base.All()
		}
		for _, reverse := range []bool{false, true} {
			c := k.Compare(last)
			want := scan.Contains(k) && c != 0 && (c < 0) == reverse
			if got := scan.After(last, reverse).Contains(k); got != want {
				t.Fatalf("%v after %s, reverse %v: contains %s %v", scan, last, reverse, k, got)
			}
			through := base.All().Through(last, reverse).Contains(k)
			if through == base.All().After(last, reverse).Contains(k) {
				t.Fatalf("%s is both behind and not behind %s, reverse %v", k, last, reverse)
			}
			if scan.After(base.Key{}, reverse) != scan {
				t.Fatal("the zero key changes a range")
			}
			if err := scan.After(last, reverse).Validate(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestNarrow(t *testing.T) {
	after := base.ReadOptions{After: base.K("p", "b")}
	cursor := base.ReadOptions{After: base.K("p", "z"), Cursor: base.EncodeCursor(base.K("p", "b"))}
	for _, ro := range []base.ReadOptions{after, cursor} {
		if r, err := ro.Narrow(base.Primary("p")); err != nil || r != base.Primary("p").After(base.K("p", "b"), false) {
			t.Errorf("%+v: %v, %v", ro, r, err)
		}
	}
	bad := base.ReadOptions{Cursor: "nonsense"}
	if _, err := bad.Narrow(base.All()); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("a bad cursor: %v", err)
	}
}
