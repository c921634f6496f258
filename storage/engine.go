package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
)

// How the engine is tuned.
const (
	blockBytes      = 8 << 10  // a point read decompresses one block
	indexBlockBytes = 64 << 10 // larger ones keep indexes one level deep
	bloomBits       = 10       // about 1 % false positives

	// memTablesBeforeStall bounds memtables that wait for their flush.
	memTablesBeforeStall = 3
	// memTablesInCache is how many memtables the block cache has room for
	// beside the blocks: the engine takes the memory of memtables out of the
	// cache, and without this room two of them could leave nothing for blocks.
	memTablesInCache = 2
	// neverStallL0 turns the engine's own L0 stall off: it can only be left
	// by a compaction, which a fenced store does not run. See pressure.go.
	neverStallL0 = 1 << 20

	// maxBackgroundFailures is after how many failed flushes and compactions
	// in a row the engine counts as broken: it retries without a pause.
	maxBackgroundFailures = 10
)

// engineOptions returns the options of the engine. Benchmarks run the raw
// engine with exactly these.
func engineOptions(cfg Config, cache *pebble.Cache) *pebble.Options {
	opts := &pebble.Options{
		Cache:                       cache,
		DisableWAL:                  cfg.Durability == Volatile,
		MemTableSize:                uint64(cfg.MemTableBytes),
		MemTableStopWritesThreshold: memTablesBeforeStall,
		L0StopWritesThreshold:       neverStallL0,
		FormatMajorVersion:          pebble.FormatNewest,
		CompactionConcurrencyRange:  func() (int, int) { return 1, min(2, runtime.GOMAXPROCS(0)) },
		FS:                          cfg.FS,
	}
	for i := range opts.Levels {
		opts.Levels[i].BlockSize = blockBytes
		opts.Levels[i].IndexBlockSize = indexBlockBytes
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(bloomBits)
	}
	compression := pebble.DBCompressionFastest
	switch cfg.Compression {
	case CompressionNone:
		compression = pebble.DBCompressionNone
	case CompressionZstd:
		compression = pebble.DBCompressionGood
	}
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return compression })
	return opts
}

// newBlockCache returns the cache of an engine with this configuration.
func newBlockCache(cfg Config) *pebble.Cache {
	return pebble.NewCache(cfg.BlockCacheBytes + memTablesInCache*cfg.MemTableBytes)
}

// engineLog receives what the engine logs and its events.
type engineLog struct {
	log   *slog.Logger
	fence *diskio.Fence
	// wake makes the maintenance goroutine look at the engine.
	wake func()

	failures    atomic.Int32 // of background work, in a row
	writeStalls atomic.Int64
}

// Infof implements pebble.Logger.
func (l *engineLog) Infof(format string, args ...any) { l.logf(slog.LevelDebug, format, args) }

// Errorf implements pebble.Logger.
func (l *engineLog) Errorf(format string, args ...any) { l.logf(slog.LevelWarn, format, args) }

// Fatalf implements pebble.Logger. The engine calls it when it would rather
// end the process. The fence makes going on harmless instead: nothing reaches
// the disk any more, and nobody is answered.
func (l *engineLog) Fatalf(format string, args ...any) {
	l.logf(slog.LevelError, format, args)
	err := fmt.Errorf(format, args...)
	for _, arg := range args {
		if cause, ok := arg.(error); ok {
			err = fmt.Errorf("%s: %w", err.Error(), cause)
		}
	}
	l.fence.Trip(diskio.Typed("storage engine", err))
}

func (l *engineLog) logf(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "storage engine", "message", fmt.Sprintf(format, args...))
	}
}

// events returns the listener of the engine. Its functions run with locks of
// the engine held: they must not call it.
func (l *engineLog) events() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: l.backgroundError,
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			l.log.Error("corrupt data file", "path", info.Path, "error", info.Details)
		},
		FlushEnd: func(info pebble.FlushInfo) {
			l.log.Debug("memtable flushed", "bytes", info.InputBytes, "took", info.TotalDuration, "error", info.Err)
			l.backgroundDone(info.Err)
		},
		CompactionEnd: func(info pebble.CompactionInfo) {
			l.log.Debug("compacted", "reason", info.Reason, "took", info.TotalDuration, "error", info.Err)
			l.backgroundDone(info.Err)
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			l.writeStalls.Add(1)
			l.log.Info("writes stall", "reason", info.Reason)
		},
		WriteStallEnd: func() { l.log.Info("writes go on") },
	}
}

func (l *engineLog) backgroundDone(err error) {
	if err == nil {
		l.failures.Store(0)
	}
	l.wake()
}

// backgroundError judges a failed flush or compaction, which the engine will
// try again at once.
func (l *engineLog) backgroundError(err error) {
	if l.fence.Err() != nil || errors.Is(err, base.ErrClosed) {
		runtime.Gosched()
		return
	}
	l.log.Warn("background work of the storage engine failed", "error", err)
	switch {
	case pebble.IsCorruptionError(err):
		l.fence.Trip(diskio.Typed("background work", err))
	case diskio.IsNoSpace(err):
	case l.failures.Add(1) >= maxBackgroundFailures:
		l.fence.Trip(diskio.Typed("background work failed again and again", err))
	}
}

// recovered turns a panic of the engine into an error: damaged bytes that pass
// their checksum may lead it astray. It is deferred around calls of the
// engine.
func recovered(log *slog.Logger, what string, err *error) {
	if r := recover(); r != nil {
		log.Error("storage engine panicked", "during", what, "panic", r, "stack", string(debug.Stack()))
		*err = fmt.Errorf("%w: %s: the storage engine panicked: %v", base.ErrCorrupt, what, r)
	}
}
