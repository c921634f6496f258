package base

import (
	"unicode"
	"unicode/utf8"
)

// runeLen returns how many bytes the rune r at s[i:] takes, or 0 if the bytes
// there are not valid UTF-8.
func runeLen(s string, i int, r rune) int {
	if r != utf8.RuneError {
		return utf8.RuneLen(r)
	}
	if _, size := utf8.DecodeRuneInString(s[i:]); size > 1 {
		return size // a replacement character that was really there
	}
	return 0
}

// isPlain reports whether r may stand for itself in a log line: printable and
// no space. Format characters such as bidirectional overrides are not.
func isPlain(r rune) bool { return unicode.IsGraphic(r) && !unicode.IsSpace(r) }
