package diskio

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"

	"github.com/distributedcache/cache/internal/base"
)

// The engine reads its newest log up to the first chunk that is not valid,
// because that is how a log ends after a crash. It looks for proof that the
// chunk was rotten rather than never written, but not within the same block
// of 32 KiB, and by an offset that it counts too low. So a single bit could
// cost all that was acknowledged after it, in silence. The check here reads
// the logs before the engine does and finds that.
//
// Each chunk of a log carries how far the log had been synced when the chunk
// was made. These marks only rise. The proof that the bytes at an invalid
// place were once durable is one of:
//
//   - a later chunk whose mark is beyond the place;
//   - later chunks with two marks higher than that of the first one after the
//     place. Syncs run one after the other, so the second of two that ended
//     after a chunk was made began after it too, and took it along.
//
// A rotten chunk with no such chunk after it, that is within the last two or
// three syncs before a crash, looks exactly like one that was never written.

// The layout of a log, which is the engine's.
const (
	logBlockBytes  = 32 << 10
	logHeaderBytes = 19 // crc u32, length u16, kind u8, log u32, mark u64; little-endian
	logMinHeader   = 7  // less than that at the end of a block is not looked at
	logKindFirst   = 9
	logKindLast    = 12
)

// CheckLogs looks for rot in the logs of an engine that is not open. The
// error wraps ErrCorrupt and names the log.
func CheckLogs(fsys vfs.FS, dir string) error {
	names, err := fsys.List(dir)
	if err != nil {
		return nil // there is no engine yet
	}
	for _, name := range names {
		num, index, ok := wal.ParseLogFilename(name)
		if !ok || index != 0 {
			continue
		}
		f, err := fsys.Open(fsys.PathJoin(dir, name), vfs.SequentialReadsOption)
		if err != nil {
			return Typed("open the log", err)
		}
		err = checkLog(f, uint32(num))
		if err = errors.Join(err, f.Close()); err != nil {
			return Typed("log "+name, fmt.Errorf("log %s: %w", name, err))
		}
	}
	return nil
}

// RemoveOldLogs removes the logs that an engine kept to reuse their space. After
// a flush nothing needs them, and rot in them would only raise alarm.
func RemoveOldLogs(fsys vfs.FS, dir string) {
	names, err := fsys.List(dir)
	if err != nil {
		return
	}
	var logs []string
	for _, name := range names {
		if _, _, ok := wal.ParseLogFilename(name); ok {
			logs = append(logs, name)
		}
	}
	slices.SortFunc(logs, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	for _, name := range logs[:max(len(logs)-1, 0)] {
		_ = fsys.Remove(fsys.PathJoin(dir, name))
	}
}

// logScan reads one log.
type logScan struct {
	number [4]byte // of the log, as its chunks have it
	bad    int64   // the first invalid place; -1: none yet
	first  bool    // whether a chunk was seen after bad
	mark   uint64  // highest mark since the first chunk after bad
	rises  int     // how often it rose since then
}

func checkLog(r io.Reader, number uint32) error {
	s := logScan{bad: -1}
	binary.LittleEndian.PutUint32(s.number[:], number)
	buf := make([]byte, logBlockBytes)
	for at := int64(0); ; at += logBlockBytes {
		n, err := io.ReadFull(r, buf)
		if n > 0 && s.block(buf[:n], at) {
			return fmt.Errorf("%w: the bytes at %d are damaged: they had been written", base.ErrCorrupt, s.bad)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// block reads one block and reports whether there is proof of rot.
func (s *logScan) block(buf []byte, at int64) (rotten bool) {
	for i := 0; len(buf)-i >= logMinHeader; {
		n, valid := s.chunk(buf[i:])
		switch {
		case valid && s.bad >= 0 && s.proves(binary.LittleEndian.Uint64(buf[i+11:])):
			return true
		case valid:
			i += n
			continue
		case len(buf)-i < logHeaderBytes && isZero(buf[i:]):
			return false // padding
		case s.bad < 0:
			s.bad = at + int64(i)
		}
		next := s.nextChunk(buf[i+1:])
		if next < 0 {
			return false
		}
		i += 1 + next
	}
	return false
}

// chunk returns the length of the chunk at the front of buf and whether it is
// valid.
func (s *logScan) chunk(buf []byte) (n int, valid bool) {
	if len(buf) < logHeaderBytes || buf[6] < logKindFirst || buf[6] > logKindLast || [4]byte(buf[7:11]) != s.number {
		return 0, false
	}
	n = logHeaderBytes + int(binary.LittleEndian.Uint16(buf[4:]))
	return n, n <= len(buf) && binary.LittleEndian.Uint32(buf) == logChecksum(buf[6:n])
}

// nextChunk returns where in buf the next header may be, or -1.
func (s *logScan) nextChunk(buf []byte) int {
	const before = 7 // of the header, in front of the number
	if len(buf) < before {
		return -1
	}
	return bytes.Index(buf[before:], s.number[:])
}

// proves takes the mark of a valid chunk after the invalid place.
func (s *logScan) proves(mark uint64) bool {
	switch {
	case !s.first:
		s.first, s.mark = true, mark
	case mark > s.mark:
		s.mark = mark
		s.rises++
	}
	return mark > uint64(s.bad) || s.rises >= 2
}

var logTable = crc32.MakeTable(crc32.Castagnoli)

// logChecksum is the masked CRC-32C of the engine.
func logChecksum(b []byte) uint32 {
	c := crc32.Checksum(b, logTable)
	return (c>>15 | c<<17) + 0xa282ead8
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
