package cache

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
)

// The sentinel errors. Every error of this package matches one of them with
// [errors.Is]; failed operations return them inside an [*Error], which carries
// the details. Where it says that nothing was applied, that holds for the
// whole batch or transaction.
var (
	// ErrNotFound: the key has no value.
	ErrNotFound = base.ErrNotFound
	// ErrVersionMismatch: a condition of the write did not hold; use
	// [errors.As] with [*VersionError] to see which. Nothing was applied.
	ErrVersionMismatch = base.ErrVersionMismatch
	// ErrConflict: the transaction met other transactions too often. Nothing
	// was applied; run it again.
	ErrConflict = base.ErrConflict
	// ErrRequestReused: this request id was used before with another payload.
	// Nothing was applied; take a new id for a new request.
	ErrRequestReused = base.ErrRequestReused
	// ErrUnauthenticated: the caller did not prove who it is.
	ErrUnauthenticated = base.ErrUnauthenticated
	// ErrPermission: the caller may not do this.
	ErrPermission = base.ErrPermission
	// ErrUnavailable: the operation could not be served in time. For a write,
	// nothing was applied.
	ErrUnavailable = base.ErrUnavailable
	// ErrIndeterminate: the write may or may not have been applied. Ask
	// [Cache.Outcome] with the request id, read the key, or repeat the write
	// with the same request id.
	ErrIndeterminate = base.ErrIndeterminate
	// ErrOverloaded: too much work is in flight. Nothing was applied; try
	// again after [Error].RetryAfter.
	ErrOverloaded = base.ErrOverloaded
	// ErrQuota: the caller's quota is used up.
	ErrQuota = base.ErrQuota
	// ErrNoSpace: the disk is fuller than the reserve allows. Writes are
	// refused until there is room again and then resume by themselves; reads
	// go on.
	ErrNoSpace = base.ErrNoSpace
	// ErrTooLarge: a key, value, batch or transaction is over a limit.
	ErrTooLarge = base.ErrTooLarge
	// ErrCorrupt: stored data failed a checksum, or did not decode. It is
	// never returned as a value; restore the directory from a backup.
	ErrCorrupt = base.ErrCorrupt
	// ErrInvalid: an argument or an option is not valid. Nothing was applied.
	ErrInvalid = base.ErrInvalid
	// ErrClosed: the cache has been closed.
	ErrClosed = base.ErrClosed
	// ErrAuditUnavailable: the audit could not be written and strict mode
	// refuses to go on without it.
	ErrAuditUnavailable = base.ErrAuditUnavailable
	// ErrInUse: another cache, in this or another process, has the data
	// directory open.
	ErrInUse = base.ErrInUse
)

// Error is what every failed operation returns. Use [errors.Is] with the
// sentinels to branch on the kind, and [errors.As] for the details:
//
//	type Error struct {
//		Op         string        // the operation: "get", "put", "multiput", ...
//		Key        Key           // the key concerned; zero if there is not just one
//		Shard      int           // the shard concerned; -1 if there is not just one
//		Node       string        // the node that failed; "" if it is this one
//		Outcome    Outcome       // for writes: applied, not applied or unknown
//		RetryAfter time.Duration // with ErrOverloaded: when to try again
//		RequestID  RequestID     // of the write, if it had one
//		Err        error         // the cause; wraps a sentinel
//	}
type Error = base.Error

// VersionError is the cause of [ErrVersionMismatch]: Key had version Have where
// the write asked for Want. Version 0 stands for an absent key; Want is
// [AnyVersion] if the key was only asked to be present.
//
//	type VersionError struct {
//		Key        Key
//		Want, Have Version
//	}
type VersionError = base.VersionError

// Outcome says what became of a write: [OutcomeUnknown], [OutcomeNotApplied]
// or [OutcomeApplied]. Its String is "unknown", "not applied" or "applied".
type Outcome = base.Outcome

// The outcomes of a write. OutcomeUnknown is the zero value: the write may or
// may not have been applied, or its id is remembered no longer.
const (
	OutcomeUnknown    = base.OutcomeUnknown
	OutcomeNotApplied = base.OutcomeNotApplied
	OutcomeApplied    = base.OutcomeApplied
)

// Retryable reports whether the same call may succeed if it is simply made
// again after a pause. It is false for [ErrIndeterminate]: repeat such a write
// only with its request id. A cache that has failed ([Cache.Done] is closed)
// answers ErrUnavailable until it is opened again: stop retrying then.
func Retryable(err error) bool { return base.Retryable(err) }

// refused returns the error of a call that was refused before anything was
// done. cause wraps a sentinel.
func refused(op string, key Key, cause error) error {
	return &Error{Op: op, Key: key, Shard: -1, Outcome: OutcomeNotApplied, Err: cause}
}

// invalidf returns an error that wraps ErrInvalid.
func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// errNilContext is the cause of every call that was given no context.
func errNilContext() error {
	return invalidf("the context is nil; pass context.Background() if there is no other")
}
