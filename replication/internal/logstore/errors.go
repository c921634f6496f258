package logstore

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
)

// errClosed is what every call on a closed store returns.
func errClosed() error { return fmt.Errorf("%w: raft log", base.ErrClosed) }
