package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/internal/keyenc"
	"github.com/distributedcache/cache/storage/internal/stream"
)

const (
	// importPrefix begins the name of the directories in which imports build
	// their data files, next to the engine's.
	importPrefix = "import-"

	// importTableBytes is when an import begins the next data file: about what
	// the engine makes of the lowest level by itself.
	importTableBytes = 64 << 20

	// importSyncBytes is how much of a data file may wait in the page cache.
	importSyncBytes = 1 << 20

	// importLevel is the level for whose blocks and compression the files are
	// built: they go to the lowest one.
	importLevel = 6

	// importCheckEvery is how many entries are taken between two looks at ctx
	// and at the free space.
	importCheckEvery = 1024
)

// Import replaces everything that a shard has by what a stream of Export
// holds. It reads and checks the whole stream first and changes nothing if
// there is the least fault: ErrCorrupt says what is damaged and where,
// ErrInvalid that the stream is sound but of another shard, shard count or
// format. The replacement is atomic and durable on return. It holds only a
// few blocks in memory, whatever the size of the shard, and takes as much
// room on the disk as the shard.
//
// Nobody may write to the shard meanwhile. Snapshots that were taken before
// are no longer valid for this shard: they give ErrUnavailable for it.
func (s *Store) Import(ctx context.Context, shard base.ShardID, r io.Reader) (info StreamInfo, err error) {
	if err := s.checkShard(shard); err != nil {
		return StreamInfo{}, err
	}
	if err := s.Writable(); err != nil {
		return StreamInfo{}, targetError(err)
	}
	sr, err := stream.NewReader(r)
	if err != nil {
		return StreamInfo{}, err
	}
	if err := s.checkHeader(sr.Header(), shard); err != nil {
		return StreamInfo{}, err
	}
	b, err := s.newTableBuilder(shard)
	if err != nil {
		return StreamInfo{}, err
	}
	defer b.cleanUp()
	if err := b.addAll(ctx, sr); err != nil {
		return StreamInfo{}, err
	}
	if err := s.replaceShard(ctx, shard, b.paths); err != nil {
		return StreamInfo{}, targetError(err)
	}
	return streamInfo(sr.Info()), nil
}

// importError is a fault of the store that imports, as opposed to one of the
// stream.
type importError struct{ cause error }

func (e *importError) Error() string { return e.cause.Error() }
func (e *importError) Unwrap() error { return e.cause }

func targetError(err error) error {
	if err == nil {
		return nil
	}
	return &importError{err}
}

// checkShard returns an error if the store has no such shard.
func (s *Store) checkShard(shard base.ShardID) error {
	if shard != NodeShard && shard != base.CatalogShard && int(shard) >= s.id.Shards {
		return fmt.Errorf("%w: shard %d of %d", base.ErrInvalid, shard, s.id.Shards)
	}
	return nil
}

// checkHeader returns an error if a stream is not one of this shard.
func (s *Store) checkHeader(h stream.Header, shard base.ShardID) error {
	switch {
	case h.DataFormat != FormatVersion:
		return fmt.Errorf("%w: the stream has data of format %d, only %d can be read", base.ErrInvalid, h.DataFormat, FormatVersion)
	case h.Shard != shard:
		return fmt.Errorf("%w: the stream is of shard %d, not %d", base.ErrInvalid, h.Shard, shard)
	case int(h.Shards) != s.id.Shards:
		return fmt.Errorf("%w: the stream is of %d shards, not %d", base.ErrInvalid, h.Shards, s.id.Shards)
	}
	return nil
}

// replaceShard puts data files in the place of everything a shard has.
func (s *Store) replaceShard(ctx context.Context, shard base.ShardID, paths []string) error {
	// The engine would not ingest under what it still has in memory of the
	// shard, but log the ingestion for later.
	if err := s.Flush(ctx); err != nil {
		return err
	}
	span := pebble.KeyRange{Start: keyenc.AppendShardStart(nil, shard), End: keyenc.AppendShardEnd(nil, shard)}
	return s.replacing("import", func() error {
		defer s.replaced.begin(shard)()
		_, err := s.db.IngestAndExcise(ctx, paths, nil, nil, span)
		return err
	})
}

// tableBuilder writes the entries of one shard into data files, outside of
// the engine.
type tableBuilder struct {
	s     *Store
	fs    vfs.FS // not the guarded one: what fails here fails nothing else
	dir   string
	opts  sstable.WriterOptions
	shard base.ShardID
	key   []byte          // scratch
	w     *sstable.Writer // the open file; nil: none
	paths []string        // all files, the open one included
}

func (s *Store) newTableBuilder(shard base.ShardID) (*tableBuilder, error) {
	if err := s.enter(); err != nil {
		return nil, targetError(err)
	}
	defer s.leave()
	opts := engineOptions(s.cfg, s.cache)
	opts.EnsureDefaults()
	b := &tableBuilder{
		s:     s,
		fs:    s.cfg.FS,
		opts:  opts.MakeWriterOptions(importLevel, s.db.TableFormat()),
		shard: shard,
	}
	b.dir = b.fs.PathJoin(s.cfg.Dir, importPrefix+base.NewRequestID().String())
	if err := b.fs.MkdirAll(b.dir, 0o755); err != nil {
		return nil, targetError(diskio.Typed("import", err))
	}
	return b, nil
}

// addAll adds all entries of a stream and checks each. It returns nil only if
// the stream is whole and sound.
func (b *tableBuilder) addAll(ctx context.Context, sr *stream.Reader) error {
	for n := 0; ; n++ {
		if n%importCheckEvery == 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := b.s.Writable(); err != nil {
				return targetError(diskio.Typed("import", err))
			}
		}
		key, value, err := sr.Next()
		if errors.Is(err, io.EOF) {
			return b.closeTable()
		}
		if err != nil {
			return err
		}
		b.key = append(append(b.key[:0], byte(b.shard>>8), byte(b.shard)), key...)
		if _, err := checkEntry(b.key, value); err != nil {
			return err
		}
		if err := b.add(value); err != nil {
			return err
		}
	}
}

// add adds the entry of b.key.
func (b *tableBuilder) add(value []byte) error {
	if b.w == nil {
		if err := b.openTable(); err != nil {
			return err
		}
	}
	if err := b.w.Set(b.key, value); err != nil {
		return targetError(diskio.Typed("import", err))
	}
	if b.w.Raw().EstimatedSize() < importTableBytes {
		return nil
	}
	return b.closeTable()
}

func (b *tableBuilder) openTable() error {
	path := b.fs.PathJoin(b.dir, fmt.Sprintf("%06d%s", len(b.paths), tableSuffix))
	f, err := b.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return targetError(diskio.Typed("import", err))
	}
	b.paths = append(b.paths, path)
	f = vfs.NewSyncingFile(f, vfs.SyncingFileOptions{BytesPerSync: importSyncBytes})
	b.w = sstable.NewWriter(objstorageprovider.NewFileWritable(f), b.opts)
	return nil
}

// closeTable makes the open file durable.
func (b *tableBuilder) closeTable() error {
	if b.w == nil {
		return nil
	}
	w := b.w
	b.w = nil
	return targetError(diskio.Typed("import", w.Close()))
}

// cleanUp removes what the engine has not taken over.
func (b *tableBuilder) cleanUp() {
	if b.w != nil {
		_ = b.w.Close()
	}
	_ = b.fs.RemoveAll(b.dir)
}

// removeStaleImports removes what imports left behind that were interrupted
// by a crash. The directory is locked and no import runs in it.
func removeStaleImports(cfg Config) {
	names, err := cfg.FS.List(cfg.Dir)
	if err != nil {
		return // whatever is wrong with the directory, the engine will tell
	}
	for _, name := range names {
		if !strings.HasPrefix(name, importPrefix) {
			continue
		}
		if err := cfg.FS.RemoveAll(cfg.FS.PathJoin(cfg.Dir, name)); err != nil {
			cfg.Logger.Warn("files of an interrupted import stay", "name", name, "error", err)
		}
	}
}
