package diskio

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/cockroachdb/pebble/v2"

	"github.com/distributedcache/cache/internal/base"
)

// IsNoSpace reports whether err says that the disk, or the quota, is full.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Typed makes err match exactly one sentinel. what says what was being done.
func Typed(what string, err error) error {
	if err == nil {
		return nil
	}
	for _, sentinel := range []error{
		base.ErrCorrupt, base.ErrNoSpace, base.ErrClosed, base.ErrUnavailable, base.ErrInvalid, base.ErrInUse,
	} {
		if errors.Is(err, sentinel) {
			return err
		}
	}
	switch {
	case pebble.IsCorruptionError(err):
		return fmt.Errorf("%w: %s: %w", base.ErrCorrupt, what, err)
	case IsNoSpace(err):
		return fmt.Errorf("%w: %s: %w", base.ErrNoSpace, what, err)
	case errors.Is(err, pebble.ErrClosed):
		return fmt.Errorf("%w: %s", base.ErrClosed, what)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: %s: %w", base.ErrInvalid, what, err)
	}
	return fmt.Errorf("%w: %s: %w", base.ErrUnavailable, what, err)
}
