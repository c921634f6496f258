package main

import (
	"context"
	"errors"
	"time"

	"github.com/distributedcache/cache"
)

// wrongSum is the kind of error that must not be.
const wrongSum = "wrong_sum"

// kindOf returns the name under which an error is counted.
func kindOf(err error) string {
	for _, kind := range []struct {
		sentinel error
		name     string
	}{
		// Refusals first: they are what a limit is for, and nothing was done.
		{cache.ErrOverloaded, "overloaded"},
		{cache.ErrQuota, "quota"},
		{cache.ErrNoSpace, "no_space"},
		{cache.ErrTooLarge, "too_large"},
		{cache.ErrConflict, "conflict"},
		{cache.ErrVersionMismatch, "version_mismatch"},
		{cache.ErrIndeterminate, "indeterminate"},
		{cache.ErrNotFound, "not_found"},
		{cache.ErrClosed, "closed"},
		{cache.ErrCorrupt, "corrupt"},
		{cache.ErrInvalid, "invalid"},
		{cache.ErrUnavailable, "unavailable"},
		{errWrongSum, wrongSum},
		{context.DeadlineExceeded, "timeout"},
		{context.Canceled, "canceled"},
	} {
		if errors.Is(err, kind.sentinel) {
			return kind.name
		}
	}
	return "other"
}

// The shortest and longest pause after a refusal, if the refusal does not say.
const (
	minRetryPause = 5 * time.Millisecond
	maxRetryPause = time.Second
)

// retryAfter returns how long to wait after a call that was refused because too
// much is asked for already, 0 after any other.
func retryAfter(err error) time.Duration {
	if !errors.Is(err, cache.ErrOverloaded) && !errors.Is(err, cache.ErrQuota) && !errors.Is(err, cache.ErrNoSpace) {
		return 0
	}
	var detail *cache.Error
	if errors.As(err, &detail) && detail.RetryAfter > 0 {
		return min(detail.RetryAfter, maxRetryPause)
	}
	return minRetryPause
}

// mayBeApplied reports whether a transaction that failed may have been applied
// all the same.
func mayBeApplied(err error) bool {
	var detail *cache.Error
	return !errors.As(err, &detail) || detail.Outcome != cache.OutcomeNotApplied
}
