package diskio

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// DropUnfinished removes from the directory of an engine that was never opened
// what the engine cannot go on from, if the power failed while it created the
// directory: the marker that names a manifest may be there without the manifest,
// since the engine syncs the directory after both.
func DropUnfinished(fsys vfs.FS, dir string) error {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "MANIFEST-") {
			return nil
		}
	}
	for _, name := range names {
		if strings.HasPrefix(name, "marker.manifest.") {
			if err := fsys.Remove(fsys.PathJoin(dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}
