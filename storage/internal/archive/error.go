package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/distributedcache/cache/internal/base"
)

// typed makes err match one sentinel. what says what was being done.
func typed(what string, err error) error {
	for _, sentinel := range []error{base.ErrCorrupt, base.ErrInvalid, base.ErrNoSpace, base.ErrTooLarge} {
		if errors.Is(err, sentinel) {
			return err
		}
	}
	kind := base.ErrUnavailable
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		kind = base.ErrNoSpace
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EROFS):
		kind = base.ErrInvalid
	}
	return fmt.Errorf("%w: %s: %w", kind, what, err)
}
