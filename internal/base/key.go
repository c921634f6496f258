package base

import (
	"fmt"
	"strings"
)

// Limits of a key. They are part of the storage format: a key that was
// accepted once is accepted for ever.
const (
	MaxPrimaryBytes   = 1024
	MaxSecondaryBytes = 3072
)

// Key names one value. Primary places it: all keys of one primary live on one
// shard and are ordered by Secondary inside it. Both may hold any bytes;
// Primary has 1 to 1024 of them, Secondary 0 to 3072. Keys are compared
// bytewise, first by Primary, then by Secondary. Key is comparable and may
// serve as a map key.
type Key struct {
	Primary   string
	Secondary string
}

// K is shorthand for Key{Primary: primary, Secondary: secondary}.
func K(primary, secondary string) Key {
	return Key{Primary: primary, Secondary: secondary}
}

// Compare returns -1, 0 or +1 as k is ordered before, at or after other.
func (k Key) Compare(other Key) int {
	if c := strings.Compare(k.Primary, other.Primary); c != 0 {
		return c
	}
	return strings.Compare(k.Secondary, other.Secondary)
}

// IsZero reports whether k is the zero key, which names nothing.
func (k Key) IsZero() bool { return k == Key{} }

// Bytes returns the length of both levels together.
func (k Key) Bytes() int { return len(k.Primary) + len(k.Secondary) }

// Validate returns an error that wraps ErrInvalid or ErrTooLarge if k may not
// name a value.
func (k Key) Validate() error {
	switch {
	case k.Primary == "":
		return fmt.Errorf("%w: the primary of a key must not be empty", ErrInvalid)
	case len(k.Primary) > MaxPrimaryBytes:
		return fmt.Errorf("%w: primary of %d bytes, at most %d are allowed", ErrTooLarge, len(k.Primary), MaxPrimaryBytes)
	case len(k.Secondary) > MaxSecondaryBytes:
		return fmt.Errorf("%w: secondary of %d bytes, at most %d are allowed", ErrTooLarge, len(k.Secondary), MaxSecondaryBytes)
	}
	return nil
}

// String returns k as "primary:secondary". Bytes that would make that
// ambiguous or unprintable are percent-encoded, so ParseKey(k.String()) == k
// for every key, and the result is safe in a log line or a terminal.
func (k Key) String() string {
	var b strings.Builder
	b.Grow(k.Bytes() + 1)
	escapeInto(&b, k.Primary, true)
	b.WriteByte(':')
	escapeInto(&b, k.Secondary, false)
	return b.String()
}

// ParseKey is the inverse of Key.String. The first unescaped colon ends the
// primary; further colons belong to the secondary. It returns an error that
// wraps ErrInvalid if s has no colon or a broken escape.
func ParseKey(s string) (Key, error) {
	primary, secondary, found := strings.Cut(s, ":")
	if !found {
		return Key{}, fmt.Errorf("%w: key %q has no colon between primary and secondary", ErrInvalid, s)
	}
	var k Key
	var err error
	if k.Primary, err = unescape(primary); err != nil {
		return Key{}, err
	}
	if k.Secondary, err = unescape(secondary); err != nil {
		return Key{}, err
	}
	return k, nil
}

const hexDigits = "0123456789ABCDEF"

// escapeInto percent-encodes '%', ASCII control characters, spaces, bytes
// that are not part of valid UTF-8 or not printable and, in a primary, the
// colon.
func escapeInto(b *strings.Builder, s string, colon bool) {
	for i, r := range s {
		size := runeLen(s, i, r)
		plain := size > 0 && r != '%' && (r != ':' || !colon) && isPlain(r)
		if plain {
			b.WriteString(s[i : i+size])
			continue
		}
		for _, c := range []byte(s[i : i+max(size, 1)]) {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
}

func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 {
		return s, nil
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", fmt.Errorf("%w: key ends inside the escape %q", ErrInvalid, s[i:])
		}
		hi, lo := unhex(s[i+1]), unhex(s[i+2])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("%w: key has the bad escape %q", ErrInvalid, s[i:i+3])
		}
		out = append(out, byte(hi<<4|lo))
		i += 2
	}
	return string(out), nil
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
