package base

import "errors"

// Code stands for a sentinel error where errors leave the process. A code
// never changes and is never used again; new ones are added at the end.
type Code uint8

// The codes. CodeNone is an error that matches no sentinel, or one of a newer
// node.
const (
	CodeNone             Code = 0
	CodeNotFound         Code = 1
	CodeVersionMismatch  Code = 2
	CodeConflict         Code = 3
	CodeRequestReused    Code = 4
	CodeUnauthenticated  Code = 5
	CodePermission       Code = 6
	CodeUnavailable      Code = 7
	CodeIndeterminate    Code = 8
	CodeOverloaded       Code = 9
	CodeQuota            Code = 10
	CodeNoSpace          Code = 11
	CodeTooLarge         Code = 12
	CodeCorrupt          Code = 13
	CodeInvalid          Code = 14
	CodeClosed           Code = 15
	CodeAuditUnavailable Code = 16
	CodeInUse            Code = 17

	lastCode = CodeInUse
)

// Err returns the sentinel of the code. A code that is not known here gives
// ErrUnavailable, the one that tells the caller least: try again later, or
// elsewhere.
func (c Code) Err() error {
	sentinels := [...]error{
		CodeNone:             ErrUnavailable,
		CodeNotFound:         ErrNotFound,
		CodeVersionMismatch:  ErrVersionMismatch,
		CodeConflict:         ErrConflict,
		CodeRequestReused:    ErrRequestReused,
		CodeUnauthenticated:  ErrUnauthenticated,
		CodePermission:       ErrPermission,
		CodeUnavailable:      ErrUnavailable,
		CodeIndeterminate:    ErrIndeterminate,
		CodeOverloaded:       ErrOverloaded,
		CodeQuota:            ErrQuota,
		CodeNoSpace:          ErrNoSpace,
		CodeTooLarge:         ErrTooLarge,
		CodeCorrupt:          ErrCorrupt,
		CodeInvalid:          ErrInvalid,
		CodeClosed:           ErrClosed,
		CodeAuditUnavailable: ErrAuditUnavailable,
		CodeInUse:            ErrInUse,
	}
	if int(c) >= len(sentinels) {
		return ErrUnavailable
	}
	return sentinels[c]
}

// CodeOf returns the code of the sentinel that err matches, or CodeNone. An
// error that matches several gets the lowest of their codes, but
// CodeIndeterminate before all others: it is the one that must not be lost.
func CodeOf(err error) Code {
	if err == nil {
		return CodeNone
	}
	if errors.Is(err, ErrIndeterminate) {
		return CodeIndeterminate
	}
	for c := CodeNone + 1; c <= lastCode; c++ {
		if errors.Is(err, c.Err()) {
			return c
		}
	}
	return CodeNone
}

// RemoteError is an error that came from another process: the sentinel it
// matches, what it said and, if it was of a type of its own, the details that
// this type put on the wire. Sentinel is never nil.
type RemoteError struct {
	Sentinel error
	Text     string
	Kind     uint8  // what Details is; 0 for none
	Details  []byte // of a WireDetailer
}

// WireDetailer is implemented by errors that take details of their own to
// another process. There they arrive in a RemoteError. Kind is not 0; each
// type has its own.
type WireDetailer interface {
	WireDetails() (kind uint8, details []byte)
}

// Error returns what the error said where it arose.
func (e *RemoteError) Error() string {
	if e.Text == "" {
		return e.Sentinel.Error()
	}
	return e.Text
}

// Unwrap returns the sentinel.
func (e *RemoteError) Unwrap() error { return e.Sentinel }

// WireDetails hands on the details, so that an error survives a second hop.
func (e *RemoteError) WireDetails() (kind uint8, details []byte) { return e.Kind, e.Details }
