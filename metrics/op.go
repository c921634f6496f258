package metrics

import (
	"context"
	"errors"

	"github.com/distributedcache/cache/internal/base"
)

// Op is a kind of operation.
type Op uint8

// The kinds of operations.
const (
	OpGet Op = iota
	OpMultiGet
	OpRangeScan
	OpPut
	OpDelete
	OpMultiPut
	OpView
	OpUpdate
	OpOutcome
	OpFlush
	OpCompact
	OpBackup

	numOps
)

// String returns the name that stands in metrics, logs and base.OpStats.
func (op Op) String() string {
	switch op {
	case OpGet:
		return "get"
	case OpMultiGet:
		return "multiget"
	case OpRangeScan:
		return "rangescan"
	case OpPut:
		return "put"
	case OpDelete:
		return "delete"
	case OpMultiPut:
		return "multiput"
	case OpView:
		return "view"
	case OpUpdate:
		return "update"
	case OpOutcome:
		return "outcome"
	case OpFlush:
		return "flush"
	case OpCompact:
		return "compact"
	case OpBackup:
		return "backup"
	default:
		return "unknown"
	}
}

// outcome is what became of an operation, as a label value: the sentinel that
// its error wraps.
type outcome uint8

const (
	outcomeOK outcome = iota
	outcomeNotFound
	outcomeVersionMismatch
	outcomeConflict
	outcomeRequestReused
	outcomeUnauthenticated
	outcomePermission
	outcomeUnavailable
	outcomeIndeterminate
	outcomeOverloaded
	outcomeQuota
	outcomeNoSpace
	outcomeTooLarge
	outcomeCorrupt
	outcomeInvalid
	outcomeClosed
	outcomeCanceled
	outcomeOther

	numOutcomes
)

// outcomeNames has the label values in the order of the constants.
func outcomeNames() [numOutcomes]string {
	return [numOutcomes]string{
		"ok", "not_found", "version_mismatch", "conflict", "request_reused", "unauthenticated", "permission",
		"unavailable", "indeterminate", "overloaded", "quota", "no_space", "too_large", "corrupt", "invalid", "closed",
		"canceled", "other",
	}
}

// failed reports whether the outcome counts as an error of the operation. That
// a key is absent or has another version is an answer, not a failure.
func (o outcome) failed() bool {
	return o != outcomeOK && o != outcomeNotFound && o != outcomeVersionMismatch
}

// classify returns the outcome that err stands for. The order matters where an
// error wraps two: what the cache says comes before the context error that
// caused it.
func classify(err error) outcome {
	if err == nil {
		return outcomeOK
	}
	for _, c := range [...]struct {
		target error
		outcome
	}{
		{base.ErrNotFound, outcomeNotFound},
		{base.ErrVersionMismatch, outcomeVersionMismatch},
		{base.ErrConflict, outcomeConflict},
		{base.ErrRequestReused, outcomeRequestReused},
		{base.ErrUnauthenticated, outcomeUnauthenticated},
		{base.ErrPermission, outcomePermission},
		{base.ErrIndeterminate, outcomeIndeterminate},
		{base.ErrOverloaded, outcomeOverloaded},
		{base.ErrQuota, outcomeQuota},
		{base.ErrNoSpace, outcomeNoSpace},
		{base.ErrTooLarge, outcomeTooLarge},
		{base.ErrCorrupt, outcomeCorrupt},
		{base.ErrInvalid, outcomeInvalid},
		{base.ErrClosed, outcomeClosed},
		{context.Canceled, outcomeCanceled},
		{base.ErrUnavailable, outcomeUnavailable},
		{context.DeadlineExceeded, outcomeUnavailable},
	} {
		if errors.Is(err, c.target) {
			return c.outcome
		}
	}
	return outcomeOther
}
