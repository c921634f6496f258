package storage

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/keyenc"
)

// checkEntry decodes a physical entry as far as this package knows its
// meaning, and returns its space. The error wraps ErrCorrupt.
func checkEntry(key, value []byte) (keyenc.Space, error) {
	_, space, _, err := keyenc.SplitPrefix(key)
	if err != nil {
		return 0, fmt.Errorf("%w: entry %.40x: %w", base.ErrCorrupt, key, err)
	}
	switch space {
	case keyenc.SpaceRecord:
		if _, _, err = keyenc.DecodeRecordKey(key); err == nil {
			_, _, err = decodeHead(value)
		}
	case keyenc.SpaceExpiry:
		_, err = decodeExpired(key, value)
	case keyenc.SpaceMeta, keyenc.SpaceLock, keyenc.SpaceTxn, keyenc.SpaceRequest:
	default:
		err = fmt.Errorf("unknown space %#x", byte(space))
	}
	if err != nil {
		return space, fmt.Errorf("%w: entry %.40x: %w", base.ErrCorrupt, key, err)
	}
	return space, nil
}
