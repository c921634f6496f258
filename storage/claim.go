package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
)

// Directory is a data directory that is locked and not open yet. It is for a node
// that has to find out what it belongs to before its store can be opened, and that
// keeps small files of its own beside the data.
type Directory struct {
	cfg  Config
	lock io.Closer
}

// Claim locks a data directory, which it creates if it is missing. The errors are
// those of Open. Release or Open must be called.
func Claim(cfg Config) (*Directory, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg, err := locate(cfg.withDefaults())
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(cfg)
	if err != nil {
		return nil, err
	}
	return &Directory{cfg: cfg, lock: lock}, nil
}

// Path returns where the directory is.
func (d *Directory) Path() string { return d.cfg.Dir }

// FS returns what the directory is on.
func (d *Directory) FS() FS { return d.cfg.FS }

// Identity returns what the directory is, and whether it is anything yet.
func (d *Directory) Identity() (id Identity, found bool, err error) {
	id, err = readIdentity(d.cfg.FS, d.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, false, nil
	}
	if err != nil {
		return Identity{}, false, diskio.Typed("read "+identityFile, err)
	}
	return id, true, nil
}

// Open opens the store in the directory, which then has the lock. The directory is
// released if that fails. Dir and FS of the config do not count.
func (d *Directory) Open(cfg Config) (*Store, error) {
	err := cfg.validate()
	if err == nil {
		cfg = cfg.withDefaults()
		cfg.Dir, cfg.FS = d.cfg.Dir, d.cfg.FS
		var s *Store
		if s, err = open(cfg); err == nil {
			s.lock = d.lock
			return s, nil
		}
	}
	d.Release()
	return nil, err
}

// Release gives the lock back.
func (d *Directory) Release() { _ = d.lock.Close() }

// filesDir is where the small files of the node are, beside the data.
const filesDir = "cluster"

// maxFileBytes bounds a small file.
const maxFileBytes = 64 << 20

func (d *Directory) file(name string) string {
	return d.cfg.FS.PathJoin(d.cfg.Dir, filesDir, name)
}

// Load returns a small file; nil if there is none. Files may also be loaded and
// saved while the store is open.
func (d *Directory) Load(name string) ([]byte, error) {
	f, err := d.cfg.FS.Open(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, diskio.Typed("read "+name, err)
	}
	defer func() { _ = f.Close() }()
	buf, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, diskio.Typed("read "+name, err)
	}
	if len(buf) > maxFileBytes {
		return nil, fmt.Errorf("%w: %s has over %d bytes", base.ErrCorrupt, name, maxFileBytes)
	}
	return buf, nil
}

// Save replaces a small file: after a crash it has the old contents or the new.
func (d *Directory) Save(name string, data []byte) error {
	if err := diskio.MakeDir(d.cfg.FS, d.cfg.FS.PathJoin(d.cfg.Dir, filesDir)); err != nil {
		return diskio.Typed("write "+name, err)
	}
	if err := swapFile(d.cfg.FS, d.file(name), data); err != nil {
		return diskio.Typed("write "+name, err)
	}
	return nil
}

// swapFile replaces a file as a whole and makes that durable.
func swapFile(fsys vfs.FS, path string, data []byte) error {
	tmp := path + ".tmp"
	f, err := fsys.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(tmp, path); err != nil {
		return err
	}
	return diskio.SyncDir(fsys, fsys.PathDir(path))
}
