package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/distributedcache/cache/internal/base"
)

// maxExtraNames is how many files that do not belong there are looked at and
// named; a directory may have any number of them.
const maxExtraNames = 16

// Archive is a backup that is being read. Its manifest is sound; whether the
// files are is what Verify and Read find out.
type Archive struct {
	dir      string
	root     *os.Root
	manifest Manifest
}

// Open reads the manifest of the backup in dir. The error wraps ErrInvalid if
// there is no backup or one of another version, and ErrCorrupt if the
// manifest is damaged or missing.
func Open(dir string) (*Archive, error) {
	dir = filepath.Clean(dir)
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil, fmt.Errorf("%w: %s is not a backup: it is no directory", base.ErrInvalid, dir)
	}
	if err != nil {
		return nil, typed("backup "+dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, typed("backup "+dir, err)
	}
	a := &Archive{dir: dir, root: root}
	if err := a.readManifest(); err != nil {
		_ = root.Close()
		return nil, typed("backup "+dir, err)
	}
	return a, nil
}

func (a *Archive) readManifest() error {
	f, err := a.root.Open(ManifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return a.noManifest()
	}
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxManifestBytes+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	a.manifest, err = DecodeManifest(data)
	if err != nil {
		return fmt.Errorf("backup %s: %w", a.dir, err)
	}
	return nil
}

// noManifest tells a backup that lost its manifest, or never got it, from a
// directory that is no backup at all.
func (a *Archive) noManifest() error {
	names, err := list(a.root, 2*base.MaxShards)
	if err != nil {
		return err
	}
	if slices.Contains(names, FileName(0)) || slices.Contains(names, manifestTemp) {
		return fmt.Errorf("%w: backup %s: %s is missing: the backup was never finished, or was damaged",
			base.ErrCorrupt, a.dir, ManifestName)
	}
	return fmt.Errorf("%w: %s is not a backup: it has no %s", base.ErrInvalid, a.dir, ManifestName)
}

// Manifest returns the manifest. Its Files must not be changed.
func (a *Archive) Manifest() Manifest { return a.manifest }

// Close releases the directory.
func (a *Archive) Close() error { return a.root.Close() }

// DamageError lists everything that is wrong with a backup. It wraps
// ErrCorrupt.
type DamageError struct {
	Dir      string
	Problems []string // each names a file
}

// Error returns one line with the problems; of very many, the first ones.
func (e *DamageError) Error() string {
	const shown = 20
	text := fmt.Sprintf("%v: backup %s", base.ErrCorrupt, e.Dir)
	for i, p := range e.Problems[:min(len(e.Problems), shown)] {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		text += sep + p
	}
	if more := len(e.Problems) - shown; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

// Unwrap returns ErrCorrupt.
func (e *DamageError) Unwrap() error { return base.ErrCorrupt }

// Inspect reads the contents of one file to its end and says what is wrong
// with them. It need not look at size and checksum of the file.
type Inspect func(f File, contents io.Reader) error

// Verify reads the whole backup. It compares the directory with the manifest,
// every file with its size and checksum, and hands every file to inspect. It
// goes on after a problem, so that the error, a *DamageError, names every
// file that is missing, bad or should not be there. An error that says
// nothing about the backup, such as one of ctx, ends it at once.
func (a *Archive) Verify(ctx context.Context, inspect Inspect) error {
	damage := &DamageError{Dir: a.dir}
	if err := a.checkNames(damage); err != nil {
		return err
	}
	for _, f := range a.manifest.Files {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		err := a.Read(f, inspect)
		switch {
		case errors.Is(err, base.ErrCorrupt):
			var d *DamageError
			if errors.As(err, &d) {
				damage.Problems = append(damage.Problems, d.Problems...)
				continue
			}
			damage.add(f.Name, "%v", err)
		case err != nil:
			return err
		}
	}
	if len(damage.Problems) > 0 {
		return damage
	}
	return nil
}

func (e *DamageError) add(name, format string, args ...any) {
	e.Problems = append(e.Problems, name+": "+fmt.Sprintf(format, args...))
}

// checkNames looks for files that the manifest does not have.
func (a *Archive) checkNames(damage *DamageError) error {
	known := map[string]bool{ManifestName: true}
	for _, f := range a.manifest.Files {
		known[f.Name] = true
	}
	names, err := list(a.root, len(known)+maxExtraNames)
	if err != nil {
		return typed("backup "+a.dir, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if !known[name] {
			damage.add(fmt.Sprintf("%.80q", name), "does not belong to the backup")
		}
	}
	return nil
}

// Read hands the contents of one file to inspect, and compares its size and
// checksum. A *DamageError tells what is wrong with the file; an error of
// inspect that wraps ErrCorrupt or ErrInvalid becomes part of it, every other
// one is returned as it is.
func (a *Archive) Read(f File, inspect Inspect) error {
	damage := &DamageError{Dir: a.dir}
	if err := a.checkStat(f, damage); err != nil || len(damage.Problems) > 0 {
		return orDamage(err, damage)
	}
	file, err := a.root.Open(f.Name)
	if err != nil {
		return typed("backup file "+filepath.Join(a.dir, f.Name), err)
	}
	r := &hashReader{r: file, hash: sha256.New()}
	inspectErr := inspect(f, r)
	_, drainErr := io.Copy(io.Discard, r)
	if err := errors.Join(r.err, drainErr, file.Close()); err != nil {
		return typed("backup file "+filepath.Join(a.dir, f.Name), err)
	}
	if inspectErr != nil && !errors.Is(inspectErr, base.ErrCorrupt) && !errors.Is(inspectErr, base.ErrInvalid) {
		return inspectErr
	}
	if got := hex.EncodeToString(r.hash.Sum(nil)); got != f.SHA256 {
		damage.add(f.Name, "its checksum does not match")
	}
	if inspectErr != nil {
		damage.add(f.Name, "%v", inspectErr)
	}
	return orDamage(nil, damage)
}

// checkStat looks at what can be seen without reading.
func (a *Archive) checkStat(f File, damage *DamageError) error {
	info, err := a.root.Lstat(f.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		damage.add(f.Name, "is missing")
	case err != nil:
		return typed("backup file "+filepath.Join(a.dir, f.Name), err)
	case !info.Mode().IsRegular():
		damage.add(f.Name, "is not a regular file")
	case info.Size() != f.Bytes:
		damage.add(f.Name, "has %d bytes instead of %d", info.Size(), f.Bytes)
	}
	return nil
}

func orDamage(err error, damage *DamageError) error {
	if err == nil && len(damage.Problems) > 0 {
		return damage
	}
	return err
}

// hashReader hashes what is read through it.
type hashReader struct {
	r    io.Reader
	hash hash.Hash
	err  error // of r, other than io.EOF
}

func (h *hashReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.hash.Write(p[:n])
	if err != nil && !errors.Is(err, io.EOF) {
		h.err = err
	}
	return n, err
}
