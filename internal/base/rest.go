package base

// next returns the smallest key after k.
func (k Key) next() Key { return Key{k.Primary, k.Secondary + "\x00"} }

// After returns the part of r that comes after key, in the direction of the
// scan. The zero key leaves r as it is.
func (r Range) After(key Key, reverse bool) Range {
	switch {
	case key.IsZero():
	case reverse:
		if r.End.IsZero() || key.Compare(r.End) < 0 {
			r.End = key
		}
	case key.Compare(r.Start) >= 0:
		r.Start = key.next()
	}
	return r
}

// Through returns the part of r up to and including key, in the direction of
// the scan.
func (r Range) Through(key Key, reverse bool) Range {
	if reverse {
		r.Start = key
	} else {
		r.End = key.next()
	}
	return r
}
