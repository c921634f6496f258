package logstore

import (
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
)

const (
	storeName    = "distributedcache-pebble"
	binaryFormat = 1
)

// Factory returns what hands an open store to a NodeHost, which will close it.
func Factory(s *Store) config.LogDBFactory { return factory{s} }

type factory struct{ store *Store }

// Create implements config.LogDBFactory. The store lies where it was opened;
// the directories of the NodeHost are not used.
func (f factory) Create(
	config.NodeHostConfig, config.LogDBCallback, []string, []string,
) (raftio.ILogDB, error) {
	if err := f.store.Err(); err != nil {
		return nil, err
	}
	if f.store.isClosed() {
		return nil, errClosed()
	}
	return f.store, nil
}

// Name implements config.LogDBFactory.
func (f factory) Name() string { return storeName }
