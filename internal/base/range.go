package base

import "fmt"

// Range is the half-open interval [Start, End) of keys. The zero Start is
// before every key; the zero End is after every key. Ranges are usually made
// with All, Primary and PrimaryPrefix and narrowed with Prefix and Between.
type Range struct {
	Start, End Key
}

// All returns the range of every key.
func All() Range { return Range{} }

// Primary returns the range of all keys whose primary is p. It touches one
// shard.
func Primary(p string) Range {
	return Range{Start: Key{Primary: p}, End: Key{Primary: p + "\x00"}}
}

// PrimaryPrefix returns the range of all keys whose primary starts with p.
func PrimaryPrefix(p string) Range {
	return Range{Start: Key{Primary: p}, End: Key{Primary: prefixEnd(p)}}
}

// Prefix narrows a range made by Primary to the keys whose secondary starts
// with the given string.
func (r Range) Prefix(secondary string) Range {
	return r.Between(secondary, prefixEnd(secondary))
}

// Between narrows a range made by Primary to secondaries in [from, to). An
// empty to means the end of the primary.
func (r Range) Between(from, to string) Range {
	p := r.Start.Primary
	if to == "" {
		return Range{Start: Key{p, from}, End: Key{Primary: p + "\x00"}}
	}
	return Range{Start: Key{p, from}, End: Key{p, to}}
}

// Contains reports whether key lies in r.
func (r Range) Contains(key Key) bool {
	return key.Compare(r.Start) >= 0 && (r.End.IsZero() || key.Compare(r.End) < 0)
}

// Empty reports whether no key can lie in r.
func (r Range) Empty() bool { return !r.End.IsZero() && r.Start.Compare(r.End) >= 0 }

// SinglePrimary returns the only primary that keys of r can have, if there is
// just one.
func (r Range) SinglePrimary() (string, bool) {
	p := r.Start.Primary
	if p == "" || r.End.IsZero() {
		return "", false
	}
	inside := r.End.Primary == p || (r.End.Primary == p+"\x00" && r.End.Secondary == "")
	return p, inside
}

// Validate returns an error that wraps ErrInvalid if r cannot be scanned. An
// empty range is valid: it has no items.
func (r Range) Validate() error {
	// One byte more than a key may have: Primary(p) ends right after p.
	for _, k := range []Key{r.Start, r.End} {
		if len(k.Primary) > MaxPrimaryBytes+1 || len(k.Secondary) > MaxSecondaryBytes+1 {
			return fmt.Errorf("%w: bound of a range longer than a key can be", ErrInvalid)
		}
	}
	if r.Start.Primary == "" && r.Start.Secondary != "" {
		return fmt.Errorf("%w: the start of a range has a secondary but no primary", ErrInvalid)
	}
	if r.End.Primary == "" && r.End.Secondary != "" {
		return fmt.Errorf("%w: the end of a range has a secondary but no primary", ErrInvalid)
	}
	return nil
}

// String returns the range as "[start, end)".
func (r Range) String() string {
	end := "end"
	if !r.End.IsZero() {
		end = r.End.String()
	}
	return "[" + r.Start.String() + ", " + end + ")"
}

// prefixEnd returns the smallest string after every string that starts with
// p, or "" if there is none.
func prefixEnd(p string) string {
	// Not strings.TrimRight: its cutset is made of runes, and every byte that
	// is no valid UTF-8 is the same rune to it.
	last := len(p) - 1
	for last >= 0 && p[last] == 0xff {
		last--
	}
	if last < 0 {
		return ""
	}
	return p[:last] + string([]byte{p[last] + 1})
}
