package base

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// The sentinel errors. Every error of the cache matches exactly one of them
// with errors.Is; most are wrapped in *Error, which carries the details.
var (
	// ErrNotFound: the key has no value.
	ErrNotFound = errors.New("not found")
	// ErrVersionMismatch: a condition of the write did not hold; see
	// *VersionError. Nothing was applied.
	ErrVersionMismatch = errors.New("version mismatch")
	// ErrConflict: the transaction met other transactions too often. Nothing
	// was applied; run it again.
	ErrConflict = errors.New("conflict with another transaction")
	// ErrRequestReused: this request id was used before with another payload.
	// Nothing was applied; take a new id for a new request.
	ErrRequestReused = errors.New("request id reused for a different request")
	// ErrUnauthenticated: the caller did not prove who it is.
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrPermission: the caller may not do this.
	ErrPermission = errors.New("permission denied")
	// ErrUnavailable: the operation could not be served in time. For a write,
	// nothing was applied.
	ErrUnavailable = errors.New("unavailable")
	// ErrIndeterminate: the write may or may not have been applied. Ask
	// Outcome with the request id, read the key, or repeat the write with the
	// same request id.
	ErrIndeterminate = errors.New("outcome unknown")
	// ErrOverloaded: too much work is in flight. Nothing was applied; try
	// again after Error.RetryAfter.
	ErrOverloaded = errors.New("overloaded")
	// ErrQuota: the caller's quota is used up.
	ErrQuota = errors.New("quota exceeded")
	// ErrNoSpace: the disk is fuller than the reserve allows. Writes are
	// refused until there is room again; reads go on.
	ErrNoSpace = errors.New("no space left above the disk reserve")
	// ErrTooLarge: a key, value, batch or transaction is over a limit.
	ErrTooLarge = errors.New("too large")
	// ErrCorrupt: stored data failed a checksum. It is never returned as a
	// value; restore this directory from a replica or a backup.
	ErrCorrupt = errors.New("corrupt data")
	// ErrInvalid: an argument or an option is not valid.
	ErrInvalid = errors.New("invalid")
	// ErrClosed: the cache has been closed.
	ErrClosed = errors.New("closed")
	// ErrAuditUnavailable: the audit could not be written and strict mode
	// refuses to go on without it.
	ErrAuditUnavailable = errors.New("audit unavailable")
	// ErrInUse: another cache, in this or another process, has the data
	// directory open.
	ErrInUse = errors.New("data directory in use")
)

// Outcome says what became of a write.
type Outcome int

// The outcomes of a write. OutcomeUnknown is the zero value: the write may or
// may not have been applied.
const (
	OutcomeUnknown Outcome = iota
	OutcomeNotApplied
	OutcomeApplied
)

// String returns "unknown", "not applied" or "applied".
func (o Outcome) String() string {
	switch o {
	case OutcomeNotApplied:
		return "not applied"
	case OutcomeApplied:
		return "applied"
	default:
		return "unknown"
	}
}

// Error is what every failed operation returns. Use errors.Is with the
// sentinels to branch on the kind, and errors.As for the details.
type Error struct {
	Op         string        // the operation: "get", "put", "multiput", ...
	Key        Key           // the key concerned; zero if there is not just one
	Shard      int           // the shard concerned; -1 if there is not just one
	Node       string        // the node that failed; "" if it is this one
	Outcome    Outcome       // for writes: applied, not applied or unknown
	RetryAfter time.Duration // with ErrOverloaded: when to try again
	RequestID  RequestID     // of the write, if it had one
	Err        error         // the cause; wraps a sentinel
}

// Error returns one line that names the operation, the key and the cause.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("cache")
	if e.Op != "" {
		b.WriteString(": " + e.Op)
	}
	if !e.Key.IsZero() {
		b.WriteByte(' ')
		b.WriteString(e.Key.String())
	}
	if e.Node != "" {
		b.WriteString(" on ")
		b.WriteString(e.Node)
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, " (retry after %v)", e.RetryAfter)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// VersionError is the cause of ErrVersionMismatch: key had version Have where
// the write asked for Want. Version 0 stands for an absent key; Want is
// AnyVersion if the key was only asked to be present.
type VersionError struct {
	Key        Key
	Want, Have Version
}

// AnyVersion stands in VersionError.Want for "any, but present".
const AnyVersion = ^Version(0)

// Error says what was wanted and what was found.
func (e *VersionError) Error() string {
	want := fmt.Sprint(uint64(e.Want))
	switch e.Want {
	case 0:
		want = "absent"
	case AnyVersion:
		want = "present"
	}
	have := fmt.Sprint(uint64(e.Have))
	if e.Have == 0 {
		have = "absent"
	}
	return fmt.Sprintf("%v: %s: want %s, have %s", ErrVersionMismatch, e.Key, want, have)
}

// Is makes errors.Is(err, ErrVersionMismatch) true.
func (e *VersionError) Is(target error) bool { return target == ErrVersionMismatch }

// Retryable reports whether the same call may succeed if it is simply made
// again after a pause. It is false for ErrIndeterminate: repeat such a write
// only with its request id.
func Retryable(err error) bool {
	if errors.Is(err, context.Canceled) {
		return false
	}
	for _, target := range []error{ErrUnavailable, ErrOverloaded, ErrConflict, ErrNoSpace, ErrQuota} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
