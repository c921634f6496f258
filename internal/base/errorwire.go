package base

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// errorFormat is the version of what AppendError writes.
const errorFormat = 1

// What an error may take along. Longer texts are cut; an error with longer
// details loses them, as half of them are of no use.
const (
	maxErrorTextBytes    = 1024
	maxErrorNameBytes    = 255 // of an operation and of a node
	maxErrorDetailsBytes = 4096
)

// The parts that an encoded error may have.
const (
	errorHasError = 1 << iota
	errorHasVersion
	errorHasDetails

	errorParts = errorHasError | errorHasVersion | errorHasDetails
)

// AppendError appends err, which is not nil, in the form that DecodeError
// reads: the code of its sentinel, its text, the fields of the *Error and the
// *VersionError in it, and the details of a WireDetailer.
func AppendError(buf []byte, err error) []byte {
	var outer *Error
	var version *VersionError
	var detailer WireDetailer
	var parts, kind byte
	var details []byte
	cause := err
	if errors.As(err, &outer) {
		parts |= errorHasError
		if outer.Err != nil {
			cause = outer.Err
		}
	}
	if errors.As(err, &version) {
		parts |= errorHasVersion
	}
	if errors.As(err, &detailer) {
		if kind, details = detailer.WireDetails(); kind != 0 && len(details) <= maxErrorDetailsBytes {
			parts |= errorHasDetails
		}
	}
	buf = append(buf, errorFormat, byte(CodeOf(err)), parts)
	buf = appendText(buf, cause.Error(), maxErrorTextBytes)
	if parts&errorHasError != 0 {
		buf = appendErrorFields(buf, outer)
	}
	if parts&errorHasVersion != 0 {
		buf = appendKey(buf, version.Key)
		buf = binary.AppendUvarint(buf, uint64(version.Want))
		buf = binary.AppendUvarint(buf, uint64(version.Have))
	}
	if parts&errorHasDetails != 0 {
		buf = append(buf, kind)
		buf = append(binary.AppendUvarint(buf, uint64(len(details))), details...)
	}
	return buf
}

func appendErrorFields(buf []byte, e *Error) []byte {
	buf = appendText(buf, e.Op, maxErrorNameBytes)
	buf = appendKey(buf, e.Key)
	buf = binary.AppendVarint(buf, int64(e.Shard))
	buf = appendText(buf, e.Node, maxErrorNameBytes)
	buf = append(buf, byte(e.Outcome))
	buf = binary.AppendVarint(buf, int64(e.RetryAfter))
	return append(buf, e.RequestID[:]...)
}

func appendText(buf []byte, s string, limit int) []byte {
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

func appendKey(buf []byte, k Key) []byte {
	buf = appendText(buf, k.Primary, MaxPrimaryBytes)
	return appendText(buf, k.Secondary, MaxSecondaryBytes)
}

// DecodeError returns the error that AppendError wrote; it matches the same
// sentinel, and errors.As finds an *Error, a *VersionError and a *RemoteError
// in it if there was one. If the bytes are no error of a known format, fault
// says so, wrapping ErrInvalid. Nothing aliases data.
func DecodeError(data []byte) (err, fault error) {
	r := errorReader{buf: data}
	format, code, parts := r.byte(), Code(r.byte()), r.byte()
	if format != errorFormat || parts&^errorParts != 0 {
		r.bad = true
	}
	remote := &RemoteError{Sentinel: code.Err(), Text: r.text(maxErrorTextBytes)}
	var cause error = remote
	var outer *Error
	if parts&errorHasError != 0 {
		outer = r.errorFields()
	}
	if parts&errorHasVersion != 0 {
		version := &VersionError{Key: r.key()}
		version.Want, version.Have = Version(r.uvarint()), Version(r.uvarint())
		cause = version
	}
	if parts&errorHasDetails != 0 {
		remote.Kind = r.byte()
		remote.Details = []byte(r.text(maxErrorDetailsBytes))
		cause = remote
	}
	if r.bad || len(r.buf) > 0 || (parts&errorHasDetails != 0 && remote.Kind == 0) {
		return nil, fmt.Errorf("%w: malformed error of another node", ErrInvalid)
	}
	if cause == error(remote) && remote.Kind == 0 && remote.Text == remote.Sentinel.Error() {
		cause = remote.Sentinel
	}
	if outer != nil {
		outer.Err = cause
		return outer, nil
	}
	return cause, nil
}

// errorReader reads from the front of buf; bad sticks.
type errorReader struct {
	buf []byte
	bad bool
}

func (r *errorReader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.buf)) {
		r.bad = true
		return nil
	}
	taken := r.buf[:n]
	r.buf = r.buf[n:]
	return taken
}

func (r *errorReader) byte() byte {
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *errorReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.buf)
	if r.take(uint64(max(n, 0))); n <= 0 {
		r.bad = true
	}
	return v
}

func (r *errorReader) varint() int64 {
	v, n := binary.Varint(r.buf)
	if r.take(uint64(max(n, 0))); n <= 0 {
		r.bad = true
	}
	return v
}

func (r *errorReader) text(limit uint64) string {
	n := r.uvarint()
	if n > limit {
		r.bad = true
	}
	return string(r.take(n))
}

func (r *errorReader) key() Key {
	return Key{Primary: r.text(MaxPrimaryBytes), Secondary: r.text(MaxSecondaryBytes)}
}

func (r *errorReader) errorFields() *Error {
	e := &Error{Op: r.text(maxErrorNameBytes), Key: r.key(), Shard: int(r.varint()), Node: r.text(maxErrorNameBytes)}
	e.Outcome = Outcome(r.byte())
	if e.Outcome > OutcomeApplied { // one of a newer node
		e.Outcome = OutcomeUnknown
	}
	e.RetryAfter = time.Duration(r.varint())
	copy(e.RequestID[:], r.take(uint64(len(e.RequestID))))
	return e
}
