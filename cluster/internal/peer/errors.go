package peer

import (
	"errors"
	"fmt"

	"github.com/distributedcache/cache/internal/base"
)

// CallError says that a peer did not answer. It matches base.ErrUnavailable
// and its cause. Sent tells whether the request may have been executed there:
// if it is false, it has not been and will not be.
type CallError struct {
	Addr string
	Sent bool
	Err  error
}

// Error implements error.
func (e *CallError) Error() string {
	what := "not sent"
	if e.Sent {
		what = "may have been executed"
	}
	return fmt.Sprintf("peer %s: request %s: %v", e.Addr, what, e.Err)
}

// Unwrap returns base.ErrUnavailable and the cause.
func (e *CallError) Unwrap() []error { return []error{base.ErrUnavailable, e.Err} }

// RemoteError is what a Handler's error arrives as, unless it was nothing but
// a sentinel; the *base.Error or *base.VersionError that it was wrapped in or
// that it wrapped come along.
type RemoteError = base.RemoteError

// Causes of a CallError. They do not leave the package but in one.
var (
	errEnded   = errors.New("connection was closed")
	errDead    = errors.New("peer is silent")
	errForgot  = errors.New("address was forgotten")
	errIdle    = errors.New("connection was idle")
	errTooOld  = errors.New("connection had to give way to a new one")
	errMoved   = errors.New("connection takes no more calls")
	errUsed    = errors.New("connection is used up")
	errHello   = errors.New("peer did not say hello")
	errBroken  = errors.New("handler broke down")
	errGivenUp = errors.New("caller gave up before the request was started")
)

// remoteFailure decodes the error in a failure frame.
func remoteFailure(body []byte) error {
	err, fault := base.DecodeError(body)
	if fault != nil {
		// It failed, that much is known; nothing says that it did nothing.
		return &RemoteError{Sentinel: base.ErrIndeterminate, Text: fault.Error()}
	}
	return err
}
