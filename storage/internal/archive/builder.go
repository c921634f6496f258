package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/distributedcache/cache/internal/base"
)

// manifestTemp is where the manifest is written before it gets its name.
const manifestTemp = ManifestName + ".tmp"

// syncEveryBytes is how much of a file may wait in the page cache: more would
// delay the fsyncs of the log of the store that is being backed up.
const syncEveryBytes = 16 << 20

// Output is a file of the backup while it is written.
type Output interface {
	io.Writer
	Sync() error
	Close() error
}

// CreateFunc creates a file that must not exist yet.
type CreateFunc func(root *os.Root, name string) (Output, error)

// createFile is the CreateFunc of the operating system. Only the owner may
// read a backup.
func createFile(root *os.Root, name string) (Output, error) {
	return root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// Builder writes one backup. Add the files in the order of the shards, the
// node's own last, then Commit; or Abort. It is not for concurrent use.
type Builder struct {
	dir    string
	root   *os.Root
	create CreateFunc
	made   []string // directories that were created, outermost first
	names  []string // files that were created
	files  []File
}

// Create begins a backup in dir, which must be missing or empty; missing
// parents are created. create is how files are created; nil is the way of
// the operating system, tests pass one that fails.
func Create(dir string, create CreateFunc) (*Builder, error) {
	if dir == "" {
		return nil, fmt.Errorf("%w: a backup needs a directory", base.ErrInvalid)
	}
	if create == nil {
		create = createFile
	}
	b := &Builder{dir: filepath.Clean(dir), create: create}
	if err := b.begin(); err != nil {
		b.removeDirs()
		return nil, typed("backup to "+b.dir, err)
	}
	return b, nil
}

func (b *Builder) begin() (err error) {
	if err := b.makeDirs(); err != nil {
		return err
	}
	if b.root, err = os.OpenRoot(b.dir); err != nil {
		return err
	}
	names, err := list(b.root, 1)
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("%w: a backup needs a new or empty directory, %s has %.80q", base.ErrInvalid, b.dir, names[0])
	}
	if err != nil {
		_ = b.root.Close()
	}
	return err
}

// makeDirs creates dir and its missing parents.
func (b *Builder) makeDirs() error {
	var missing []string
	for at := b.dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			return fmt.Errorf("%w: %s is not a directory", base.ErrInvalid, at)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(at) == at {
			return err
		}
		missing = append(missing, at)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := os.Mkdir(missing[i], 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		} else if err == nil {
			b.made = append(b.made, missing[i])
		}
	}
	return nil
}

// FileWriter writes one file of a backup.
type FileWriter struct {
	b        *Builder
	out      Output
	shard    base.ShardID
	hash     hash.Hash
	bytes    int64
	unsynced int64
}

// File begins the file of the next shard. Close it before the next one.
func (b *Builder) File(shard base.ShardID) (*FileWriter, error) {
	name := FileName(shard)
	out, err := b.create(b.root, name)
	if err != nil {
		return nil, b.fault(name, err)
	}
	b.names = append(b.names, name)
	return &FileWriter{b: b, out: out, shard: shard, hash: sha256.New()}, nil
}

// Write appends to the file.
func (f *FileWriter) Write(p []byte) (int, error) {
	n, err := f.out.Write(p)
	f.hash.Write(p[:n])
	f.bytes += int64(n)
	f.unsynced += int64(n)
	if err == nil && f.unsynced >= syncEveryBytes {
		f.unsynced = 0
		err = f.out.Sync()
	}
	if err != nil {
		return n, f.b.fault(FileName(f.shard), err)
	}
	return n, nil
}

// Close makes the file durable and adds it to the manifest. digest is that of
// the contents.
func (f *FileWriter) Close(entries int64, digest []byte) error {
	if err := errors.Join(f.out.Sync(), f.out.Close()); err != nil {
		return f.b.fault(FileName(f.shard), err)
	}
	f.b.files = append(f.b.files, File{
		Name:    FileName(f.shard),
		Shard:   f.shard,
		Bytes:   f.bytes,
		Entries: entries,
		SHA256:  hex.EncodeToString(f.hash.Sum(nil)),
		Digest:  hex.EncodeToString(digest),
	})
	return nil
}

// Discard closes the file without adding it; Abort removes it.
func (f *FileWriter) Discard() { _ = f.out.Close() }

// Commit ends the backup: it writes the manifest m, whose Files it fills in.
// Once Commit has returned nil, the backup is whole and durable; until then
// there is no manifest.
func (b *Builder) Commit(m Manifest) (Manifest, error) {
	m.Files = b.files
	data, err := m.Encode()
	if err != nil {
		return Manifest{}, err
	}
	// The files' names must be on disk before the manifest's is.
	if err := b.syncDirs(); err != nil {
		return Manifest{}, b.fault(".", err)
	}
	b.names = append(b.names, manifestTemp)
	if err := b.writeManifest(data); err != nil {
		return Manifest{}, b.fault(ManifestName, err)
	}
	b.names = append(b.names, ManifestName)
	if err := b.root.Rename(manifestTemp, ManifestName); err != nil {
		return Manifest{}, b.fault(ManifestName, err)
	}
	if err := syncDir(b.root); err != nil {
		return Manifest{}, b.fault(".", err)
	}
	_ = b.root.Close()
	return m, nil
}

func (b *Builder) writeManifest(data []byte) error {
	out, err := b.create(b.root, manifestTemp)
	if err != nil {
		return err
	}
	_, err = out.Write(data)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// Abort removes everything that was written, as far as that is possible. Call
// it after any error, with every file closed.
func (b *Builder) Abort() {
	for i := len(b.names) - 1; i >= 0; i-- { // the manifest first
		_ = b.root.Remove(b.names[i])
	}
	_ = b.root.Close()
	b.removeDirs()
}

func (b *Builder) removeDirs() {
	for i := len(b.made) - 1; i >= 0; i-- {
		if os.Remove(b.made[i]) != nil { // not empty: somebody else uses it
			return
		}
	}
}

// syncDirs makes the entries of the directory durable, and its own name and
// those of its parents where they are new.
func (b *Builder) syncDirs() error {
	if err := syncDir(b.root); err != nil {
		return err
	}
	for i := len(b.made) - 1; i >= 0; i-- {
		parent, err := os.OpenRoot(filepath.Dir(b.made[i]))
		if err != nil {
			return err
		}
		if err := errors.Join(syncDir(parent), parent.Close()); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) fault(name string, err error) error {
	return typed("backup file "+filepath.Join(b.dir, name), err)
}

// syncDir fsyncs a directory. Windows has no such thing.
func syncDir(root *os.Root) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// list returns up to limit names of the directory, unsorted.
func list(root *os.Root, limit int) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(limit)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, errors.Join(err, d.Close())
}
