package diskio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/atomicfs"

	"github.com/distributedcache/cache/internal/base"
)

// The engine's manifest says which data files and logs there are. The engine
// reads it up to the first place that is not valid, because that is how a
// manifest ends after a crash. Rot at any place would therefore silently undo
// all that was flushed after it.
//
// The seal is the witness against that: whenever the manifest was synced, its
// length and hash go to a file of their own, synced too, before the engine
// learns that its sync is done. Nothing that depends on the manifest, such as
// removing a log, happens before. When the directory is opened, the manifest
// must begin with what was sealed last. What follows that may be torn.

// SealFile is the name of the file, beside the directory of the engine.
const SealFile = "SEAL"

const (
	manifestTag = "MANIFEST-"

	// The file is a ring of slots, so that writing one leaves the others.
	// Beside the last record of the manifest that is in use there may be those
	// of a newer one that a crash kept from coming into use.
	sealSlots     = 8
	sealSlotBytes = 64 // never crosses a sector
)

// sealRecord says that the first size bytes of a manifest were synced and
// have this hash. Of the records, the one with the highest serial is newest.
type sealRecord struct {
	serial, manifest, size, hash uint64
}

// encode returns the record as it is stored: the four numbers as u64 BE, and
// their hash.
func (r sealRecord) encode() []byte {
	buf := make([]byte, 0, sealSlotBytes)
	for _, v := range []uint64{r.serial, r.manifest, r.size, r.hash} {
		buf = binary.BigEndian.AppendUint64(buf, v)
	}
	buf = binary.BigEndian.AppendUint64(buf, xxhash.Sum64(buf))
	return buf[:sealSlotBytes]
}

// decodeSeal returns the record of a slot, if it holds one. A damaged slot
// holds none: it is a witness that is missing, not damaged data.
func decodeSeal(slot []byte) (r sealRecord, ok bool) {
	if len(slot) < 40 || xxhash.Sum64(slot[:32]) != binary.BigEndian.Uint64(slot[32:]) {
		return sealRecord{}, false
	}
	for i, field := range []*uint64{&r.serial, &r.manifest, &r.size, &r.hash} {
		*field = binary.BigEndian.Uint64(slot[8*i:])
	}
	return r, true
}

// Seal writes the records of one directory.
type Seal struct {
	mu     sync.Mutex // protects all below
	f      vfs.File
	serial uint64
}

// OpenSeal opens the seal of a directory to be written, and makes one if
// there is none.
func OpenSeal(fsys vfs.FS, dir string) (*Seal, error) {
	records, err := readSeal(fsys, dir)
	if err != nil {
		return nil, err
	}
	f, err := fsys.OpenReadWrite(fsys.PathJoin(dir, SealFile), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	if err := SyncDir(fsys, dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s := &Seal{f: f}
	for _, r := range records {
		s.serial = max(s.serial, r.serial)
	}
	return s, nil
}

// Write records what was just synced of a manifest; Sync makes the record
// durable. Only the goroutine that syncs the manifest calls them, and the
// engine has one of those at a time.
func (s *Seal) Write(d *ManifestDigest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := sealRecord{serial: s.serial + 1, manifest: d.number, size: d.size, hash: d.hash.Sum64()}
	if _, err := s.f.WriteAt(r.encode(), int64(r.serial%sealSlots*sealSlotBytes)); err != nil {
		return err
	}
	s.serial++
	return nil
}

// Sync makes durable what Write has recorded.
func (s *Seal) Sync() error { return s.f.Sync() }

// Close closes the file; a nil Seal has none.
func (s *Seal) Close() error {
	if s == nil {
		return nil
	}
	return s.f.Close()
}

// ManifestDigest is what the seal of a manifest will say: a digest of what was
// written of it. A nil one, of any other file, takes everything and says nothing.
type ManifestDigest struct {
	number uint64
	size   uint64
	hash   *xxhash.Digest
}

// Digest returns an empty digest if the path is that of a new manifest and there
// is a seal, else nil.
func (s *Seal) Digest(path string) *ManifestDigest {
	number, ok := manifestNumber(path)
	if !ok || s == nil {
		return nil
	}
	return &ManifestDigest{number: number, hash: xxhash.New()}
}

// Add takes what is about to be appended.
func (d *ManifestDigest) Add(p []byte) {
	if d != nil {
		d.size += uint64(len(p))
		_, _ = d.hash.Write(p)
	}
}

// readSeal returns all valid records of a directory.
func readSeal(fsys vfs.FS, dir string) (records []sealRecord, err error) {
	f, err := fsys.Open(fsys.PathJoin(dir, SealFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	buf, err := io.ReadAll(io.LimitReader(f, sealSlots*sealSlotBytes))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	for len(buf) > 0 {
		slot := buf[:min(len(buf), sealSlotBytes)]
		if r, ok := decodeSeal(slot); ok {
			records = append(records, r)
		}
		buf = buf[len(slot):]
	}
	return records, nil
}

// CheckSeal compares the manifest in use, of the engine in the directory data,
// with its seal in dir. The error wraps ErrCorrupt. Without a seal there is
// nothing to compare.
func CheckSeal(fsys vfs.FS, dir, data string) error {
	records, err := readSeal(fsys, dir)
	if err != nil {
		return Typed("read "+SealFile, err)
	}
	name, err := atomicfs.ReadMarker(fsys, data, "manifest")
	number, known := manifestNumber(name)
	if err != nil || !known {
		return nil // the engine says what is wrong with it
	}
	var newest sealRecord
	for _, r := range records {
		if r.manifest == number && r.serial > newest.serial {
			newest = r
		}
	}
	if newest.serial == 0 {
		return nil
	}
	return newest.check(fsys, fsys.PathJoin(data, name))
}

// check compares a manifest with its seal.
func (r sealRecord) check(fsys vfs.FS, path string) error {
	f, err := fsys.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing", base.ErrCorrupt, path)
	}
	if err != nil {
		return Typed("open the manifest", err)
	}
	hash := xxhash.New()
	n, err := io.Copy(hash, io.LimitReader(f, int64(min(r.size, 1<<62))))
	if err = errors.Join(err, f.Close()); err != nil {
		return Typed("read the manifest", err)
	}
	if uint64(n) < r.size {
		return fmt.Errorf("%w: %s has been cut from %d to %d bytes", base.ErrCorrupt, path, r.size, n)
	}
	if hash.Sum64() != r.hash {
		return fmt.Errorf("%w: %s: the first %d bytes do not have the checksum they were sealed with", base.ErrCorrupt, path, n)
	}
	return nil
}

// manifestNumber returns the number in the name of a manifest.
func manifestNumber(path string) (number uint64, ok bool) {
	i := strings.LastIndex(path, manifestTag)
	if i < 0 {
		return 0, false
	}
	number, err := strconv.ParseUint(path[i+len(manifestTag):], 10, 64)
	return number, err == nil
}
