package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/distributedcache/cache"
)

// backupRoot is the directory that all backups are written under. Names come
// from clients: they are resolved by os.Root, which neither ".." nor symbolic
// links can leave.
type backupRoot struct {
	path string // absolute
	root *os.Root
}

func openBackupRoot(dir string) (*backupRoot, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("backup root: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("backup root: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("backup root: %w", err)
	}
	return &backupRoot{path: path, root: root}, nil
}

// Close releases the directory.
func (b *backupRoot) Close() error { return b.root.Close() }

// maxBackupPathBytes is well below what file systems allow for a path, so that
// the files of the backup fit below it.
const maxBackupPathBytes = 512

// resolve returns the directory of a new backup, whose parents it makes. path
// is relative to the root; an absolute path must lie inside it.
func (b *backupRoot) resolve(path string) (name, dir string, err error) {
	if path == "" || len(path) > maxBackupPathBytes || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", "", invalidf("path: want a name of 1 to %d bytes without control characters", maxBackupPathBytes)
	}
	name = filepath.FromSlash(path)
	if filepath.IsAbs(name) {
		if name, err = filepath.Rel(b.path, name); err != nil {
			return "", "", outside(path)
		}
	}
	name = filepath.Clean(name)
	if !filepath.IsLocal(name) {
		return "", "", outside(path)
	}
	if name == "." {
		return "", "", invalidf("path %q: want a name below the backup root", path)
	}
	if err := b.root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return "", "", outside(path)
	}
	if _, err := b.root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return "", "", httpErrorf(409, "exists", "path %q exists; take a new name for each backup", path)
	}
	return filepath.ToSlash(name), filepath.Join(b.path, name), nil
}

func outside(path string) error {
	return refusedf(cache.ErrInvalid, "path %q does not lie below the backup root", path)
}
