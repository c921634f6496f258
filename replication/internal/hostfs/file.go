package hostfs

import (
	"crypto/md5" //nolint:gosec // the checksum of dragonboat's format
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/raftpb"
	lni "github.com/lni/vfs"
)

// file is an open file or directory of the disk. The engine's files cannot
// seek, so the position is kept here, and all goes through offsets.
type file struct {
	inner vfs.File
	fs    *FS
	name  string
	pos   int64
}

var _ lni.File = (*file)(nil)

// Read implements io.Reader.
func (f *file) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.inner.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		return n, io.EOF
	}
	return n, f.fs.look("read", f.name, err)
}

// Write implements io.Writer.
func (f *file) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

// WriteAt implements io.WriterAt.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	_, err := f.fs.change("write", f.name, func() error {
		n, err := f.inner.WriteAt(p, off)
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Seek implements io.Seeker.
func (f *file) Seek(offset int64, whence int) (int64, error) {
	end := func() (int64, error) {
		info, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	}
	return seek(&f.pos, offset, whence, end)
}

// seek moves pos as io.Seeker asks for.
func seek(pos *int64, offset int64, whence int, end func() (int64, error)) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += *pos
	case io.SeekEnd:
		size, err := end()
		if err != nil {
			return 0, err
		}
		offset += size
	default:
		return 0, os.ErrInvalid
	}
	if offset < 0 {
		return 0, os.ErrInvalid
	}
	*pos = offset
	return offset, nil
}

// Stat implements vfs.File of dragonboat.
func (f *file) Stat() (os.FileInfo, error) {
	info, err := f.inner.Stat()
	if err != nil {
		return nil, f.fs.look("stat", f.name, err)
	}
	return info, nil
}

// Sync implements vfs.File of dragonboat. It is never tried twice: after a
// failed fsync the kernel may have dropped what was to be written.
func (f *file) Sync() error {
	_, err := f.fs.change("sync", f.name, f.inner.Sync)
	return err
}

// Close implements io.Closer.
func (f *file) Close() error {
	err := f.inner.Close()
	if err == nil || f.fs.dead.Load() {
		return nil
	}
	return f.fs.fail("close", f.name, err)
}

// lock is a held lock.
type lock struct {
	held io.Closer
	fs   *FS
	name string
}

// Close implements io.Closer. dragonboat panics if that fails.
func (l *lock) Close() error {
	if err := l.held.Close(); err != nil {
		return l.fs.fail("unlock", l.name, err)
	}
	return nil
}

// ghost is a file or directory that takes everything and keeps nothing.
type ghost struct {
	name      string
	dir       bool
	pos, size int64
}

var _ lni.File = (*ghost)(nil)

// Read implements io.Reader.
func (g *ghost) Read([]byte) (int, error) { return 0, io.EOF }

// ReadAt implements io.ReaderAt.
func (g *ghost) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }

// Write implements io.Writer.
func (g *ghost) Write(p []byte) (int, error) {
	n, err := g.WriteAt(p, g.pos)
	g.pos += int64(n)
	return n, err
}

// WriteAt implements io.WriterAt.
func (g *ghost) WriteAt(p []byte, off int64) (int, error) {
	g.size = max(g.size, off+int64(len(p)))
	return len(p), nil
}

// Seek implements io.Seeker.
func (g *ghost) Seek(offset int64, whence int) (int64, error) {
	return seek(&g.pos, offset, whence, func() (int64, error) { return g.size, nil })
}

// Stat implements vfs.File of dragonboat.
func (g *ghost) Stat() (os.FileInfo, error) { return ghostInfo(*g), nil }

// Sync implements vfs.File of dragonboat.
func (g *ghost) Sync() error { return nil }

// Close implements io.Closer.
func (g *ghost) Close() error { return nil }

// ghostInfo describes a ghost.
type ghostInfo ghost

// Name implements os.FileInfo.
func (i ghostInfo) Name() string { return filepath.Base(i.name) }

// Size implements os.FileInfo.
func (i ghostInfo) Size() int64 { return i.size }

// Mode implements os.FileInfo.
func (i ghostInfo) Mode() os.FileMode {
	if i.dir {
		return os.ModeDir | 0o750
	}
	return 0o640
}

// ModTime implements os.FileInfo.
func (i ghostInfo) ModTime() time.Time { return time.Time{} }

// IsDir implements os.FileInfo.
func (i ghostInfo) IsDir() bool { return i.dir }

// Sys implements os.FileInfo.
func (i ghostInfo) Sys() any { return nil }

// flagFile is a flag file in the root on its way: it is there once it has been
// synced, and before that a ghost.
type flagFile struct {
	ghost
	fs      *FS
	content []byte
}

// Write implements io.Writer.
func (f *flagFile) Write(p []byte) (int, error) {
	f.content = append(f.content, p...)
	return f.ghost.Write(p)
}

// Sync implements vfs.File of dragonboat.
func (f *flagFile) Sync() error {
	content := f.content
	if filepath.Base(f.name) == statusFile {
		content = withoutHostname(content)
	}
	tmp, err := f.fs.create(f.name + tmpSuffix)
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return f.fs.Rename(f.name+tmpSuffix, f.name)
}

// statusHashBytes is how much of the checksum comes before a flag.
const statusHashBytes = 8

// withoutHostname returns the status that dragonboat writes about its
// directory without the name of the machine; it does not compare an empty one.
// What does not look like a status is returned as it is.
func withoutHostname(content []byte) []byte {
	if len(content) < statusHashBytes {
		return content
	}
	var status raftpb.RaftDataStatus
	if err := status.Unmarshal(content[statusHashBytes:]); err != nil {
		return content
	}
	status.Hostname = ""
	data, err := status.Marshal()
	if err != nil {
		return content
	}
	sum := md5.Sum(data) //nolint:gosec // see the import
	return append(sum[len(sum)-statusHashBytes:], data...)
}
