package storage

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/storage/internal/archive"
	"github.com/distributedcache/cache/storage/internal/stream"
)

// The stages that Progress names.
const (
	stageBackup  = "backup"
	stageRestore = "restore"
)

// Backup writes everything of the snapshot, all shards and the node's own
// entries, into dir, which must be missing or empty. Writes to the store go
// on meanwhile and are not part of it. The backup is complete and durable if
// the error is nil; after an error nothing of it is left. One that was
// interrupted, by a crash say, has no manifest and is refused by VerifyBackup
// and RestoreBackup. progress may be nil; it is called after each shard.
//
// The error wraps ErrInvalid if dir cannot be used, ErrNoSpace if its disk is
// full, ErrUnavailable if its disk fails. The store is unharmed in any case.
func Backup(ctx context.Context, sn *Snapshot, dir string, progress func(base.Progress)) error {
	return backup(ctx, sn, dir, progress, nil)
}

// backup is Backup with a way to create files; tests pass one that fails.
func backup(
	ctx context.Context, sn *Snapshot, dir string, progress func(base.Progress), create archive.CreateFunc,
) error {
	b, err := archive.Create(dir, create)
	if err != nil {
		return err
	}
	if err := fillBackup(ctx, sn, b, progress); err != nil {
		b.Abort()
		return err
	}
	return nil
}

func fillBackup(ctx context.Context, sn *Snapshot, b *archive.Builder, progress func(base.Progress)) error {
	id := sn.s.id
	report := newReport(stageBackup, int64(id.Shards+1), 0, progress)
	for i := range id.Shards + 1 {
		n, err := backupShard(ctx, sn, b, sn.s.nthShard(i))
		if err != nil {
			return err
		}
		report.add(1, n)
	}
	_, err := b.Commit(archive.Manifest{
		Format:     archive.FormatVersion,
		DataFormat: FormatVersion,
		Created:    time.Now().UTC().Truncate(time.Microsecond),
		Node:       id.NodeID,
		Cluster:    id.ClusterID,
		Shards:     id.Shards,
	})
	return err
}

// backupShard writes the file of one shard and returns its size.
func backupShard(ctx context.Context, sn *Snapshot, b *archive.Builder, shard base.ShardID) (int64, error) {
	f, err := b.File(shard)
	if err != nil {
		return 0, err
	}
	info, err := sn.Export(ctx, shard, f)
	if err != nil {
		f.Discard()
		return 0, err
	}
	return info.StreamBytes, f.Close(info.Entries, info.Digest[:])
}

// report adds up and hands out progress.
type report struct {
	p  base.Progress
	fn func(base.Progress)
}

func newReport(stage string, total, totalBytes int64, fn func(base.Progress)) *report {
	r := &report{p: base.Progress{Stage: stage, Total: total, TotalBytes: totalBytes}, fn: fn}
	r.add(0, 0)
	return r
}

func (r *report) add(done, doneBytes int64) {
	r.p.Done += done
	r.p.DoneBytes += doneBytes
	if r.fn != nil {
		r.fn(r.p)
	}
}

// VerifyBackup reads the whole backup in dir and checks everything that can
// be checked without restoring it: the manifest, that each file is there and
// no other, sizes, checksums, and that each file is a sound stream of its
// shard whose every entry decodes. The error wraps ErrCorrupt and names each
// bad file and what is wrong with it, or ErrInvalid if dir holds no backup or
// one of a newer format.
func VerifyBackup(ctx context.Context, dir string) error {
	a, err := openBackup(dir)
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	m := a.Manifest()
	return a.Verify(ctx, func(f archive.File, r io.Reader) error {
		return verifyStream(ctx, &m, f, r)
	})
}

// openBackup opens a backup whose data this version can read.
func openBackup(dir string) (*archive.Archive, error) {
	a, err := archive.Open(dir)
	if err != nil {
		return nil, err
	}
	if f := a.Manifest().DataFormat; f != FormatVersion {
		_ = a.Close()
		return nil, fmt.Errorf("%w: backup %s has data of format %d, only %d can be read", base.ErrInvalid, dir, f, FormatVersion)
	}
	return a, nil
}

// verifyStream decodes the file of one shard.
func verifyStream(ctx context.Context, m *archive.Manifest, f archive.File, r io.Reader) error {
	sr, err := stream.NewReader(r)
	if err != nil {
		return err
	}
	if h := sr.Header(); h.Shard != f.Shard || int(h.Shards) != m.Shards || int(h.DataFormat) != m.DataFormat {
		return fmt.Errorf("%w: it is the stream of shard %d of %d, data format %d", base.ErrCorrupt, h.Shard, h.Shards, h.DataFormat)
	}
	var phys []byte
	for n := 0; ; n++ {
		if n%importCheckEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		key, value, err := sr.Next()
		if errors.Is(err, io.EOF) {
			return checkContents(f, streamInfo(sr.Info()))
		}
		if err != nil {
			return err
		}
		phys = append(append(phys[:0], byte(f.Shard>>8), byte(f.Shard)), key...)
		if _, err := checkEntry(phys, value); err != nil {
			return err
		}
	}
}

// checkContents compares what a stream held with what the manifest says.
func checkContents(f archive.File, info StreamInfo) error {
	if info.Entries != f.Entries || hex.EncodeToString(info.Digest[:]) != f.Digest {
		return fmt.Errorf("%w: %d entries with digest %x, the manifest says %d with %s",
			base.ErrCorrupt, info.Entries, info.Digest, f.Entries, f.Digest)
	}
	return nil
}
