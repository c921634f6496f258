package hostfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/distributedcache/cache/internal/base"
)

// CheckSettingsFiles returns an error that wraps base.ErrInvalid if the working
// directory has a file from which dragonboat takes its internal settings when
// the process starts. Nodes that differ in them damage their data, and nobody
// who runs a cache put such a file there for the cache.
func CheckSettingsFiles() error {
	dir, err := os.Getwd()
	if err != nil {
		return nil //nolint:nilerr // without a working directory there are no files in it
	}
	for _, name := range []string{"dragonboat-soft-settings.json", "dragonboat-hard-settings.json"} {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s would change internals of the replication; "+
				"remove it or start the process in another directory", base.ErrInvalid, path)
		}
	}
	return nil
}
