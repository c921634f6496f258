package base_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

func TestErrorText(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&base.Error{Op: "get", Key: base.K("p", "s"), Err: base.ErrNotFound}, "cache: get p:s: not found"},
		{&base.Error{Op: "scan", Node: "n2", Err: base.ErrClosed}, "cache: scan on n2: closed"},
		{&base.Error{Op: "put", RetryAfter: time.Second, Err: base.ErrOverloaded}, "cache: put: overloaded (retry after 1s)"},
		{&base.Error{Op: "put"}, "cache: put"},
		{&base.VersionError{Key: base.K("p", "s"), Want: 0, Have: 7}, "version mismatch: p:s: want absent, have 7"},
		{&base.VersionError{Key: base.K("p", "s"), Want: base.AnyVersion}, "version mismatch: p:s: want present, have absent"},
		{&base.VersionError{Key: base.K("p", "s"), Want: 3, Have: 4}, "version mismatch: p:s: want 3, have 4"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestErrorsIsAndAs(t *testing.T) {
	err := error(&base.Error{Op: "put", Err: fmt.Errorf("put: %w", &base.VersionError{Have: 4})})
	var version *base.VersionError
	var outer *base.Error
	if !errors.Is(err, base.ErrVersionMismatch) || !errors.As(err, &version) || version.Have != 4 || !errors.As(err, &outer) {
		t.Error("details of a version mismatch are not reachable")
	}
	if errors.Is(err, base.ErrNotFound) || errors.Is(err, base.ErrConflict) {
		t.Error("an error of two kinds")
	}
}

func TestRetryable(t *testing.T) {
	for err, want := range map[error]bool{
		nil:                         false,
		base.ErrUnavailable:         true,
		base.ErrOverloaded:          true,
		base.ErrConflict:            true,
		base.ErrNoSpace:             true,
		base.ErrQuota:               true,
		base.ErrIndeterminate:       false,
		base.ErrNotFound:            false,
		base.ErrVersionMismatch:     false,
		base.ErrClosed:              false,
		base.ErrCorrupt:             false,
		context.Canceled:            false,
		context.DeadlineExceeded:    false,
		errors.New("anything else"): false,
		fmt.Errorf("%w: %w", base.ErrUnavailable, context.Canceled):         false,
		fmt.Errorf("%w: %w", base.ErrUnavailable, context.DeadlineExceeded): true,
	} {
		if got := base.Retryable(err); got != want {
			t.Errorf("Retryable(%v) = %v", err, got)
		}
		if err != nil && base.Retryable(&base.Error{Op: "put", Err: err}) != want {
			t.Errorf("Retryable(%v) differs when wrapped", err)
		}
	}
}

func TestOutcomeText(t *testing.T) {
	if fmt.Sprint(base.OutcomeUnknown, base.OutcomeNotApplied, base.OutcomeApplied, base.Outcome(9)) != "unknown not applied applied unknown" {
		t.Error("names of outcomes changed")
	}
}
