package logstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
)

// How the engine is tuned: entries are appended, rarely read and soon removed.
const (
	defaultMemTableBytes = 16 << 20
	blockCacheBytes      = 8 << 20
	// memTablesInCache is how many memtables the block cache has room for
	// beside the blocks: the engine takes the memory of memtables out of it.
	memTablesInCache = 2
	// memTablesBeforeStall bounds memtables that wait for their flush.
	memTablesBeforeStall = 4
	// neverStallL0 turns the engine's own L0 stall off, which only a
	// compaction could end; a fenced store runs none.
	neverStallL0 = 1 << 20
	// l0Sublevels is how many generations of flushed memtables are collected
	// before they are merged into the level below, and onlyLevelBytes keeps
	// that the only one: every merge meets most of the log, as all replicas
	// append, so few and large ones write the least. Reads of old entries,
	// which are rare, look at more files instead.
	l0Sublevels    = 10
	onlyLevelBytes = 64 << 30
	// logBytesPerSync makes the kernel write a long batch out while it is
	// still being appended, so that the fsync at its end is short.
	logBytesPerSync = 512 << 10

	// maxBackgroundFailures is after how many failed flushes and compactions
	// in a row the engine counts as broken: it retries without a pause.
	maxBackgroundFailures = 10
)

func engineOptions(memTableBytes int64, cache *pebble.Cache) *pebble.Options {
	opts := &pebble.Options{
		Cache:                       cache,
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                uint64(memTableBytes),
		MemTableStopWritesThreshold: memTablesBeforeStall,
		L0StopWritesThreshold:       neverStallL0,
		L0CompactionThreshold:       l0Sublevels,
		LBaseMaxBytes:               onlyLevelBytes,
		WALBytesPerSync:             logBytesPerSync,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
	}
	// Most entries are removed before anything would be gained by compressing
	// them, and the engine's log is never compressed.
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	return opts
}

// engineLog receives what the engine logs and its events.
type engineLog struct {
	log      *slog.Logger
	fence    *diskio.Fence
	failures atomic.Int32 // of background work, in a row
}

// Infof implements pebble.Logger.
func (l *engineLog) Infof(format string, args ...any) { l.logf(slog.LevelDebug, format, args) }

// Errorf implements pebble.Logger.
func (l *engineLog) Errorf(format string, args ...any) { l.logf(slog.LevelWarn, format, args) }

// Fatalf implements pebble.Logger. The engine calls it when it would rather
// end the process. The fence makes going on harmless instead.
func (l *engineLog) Fatalf(format string, args ...any) {
	l.logf(slog.LevelError, format, args)
	err := fmt.Errorf(format, args...)
	for _, arg := range args {
		if cause, ok := arg.(error); ok {
			err = fmt.Errorf("%s: %w", err.Error(), cause)
		}
	}
	l.fence.Trip(diskio.Typed("raft log engine", err))
}

func (l *engineLog) logf(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "raft log engine", "message", fmt.Sprintf(format, args...))
	}
}

// events returns the listener of the engine. Its functions run with locks of
// the engine held: they must not call it.
func (l *engineLog) events() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: l.backgroundError,
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			l.log.Error("corrupt file of the raft log", "path", info.Path, "error", info.Details)
		},
		FlushEnd:      func(info pebble.FlushInfo) { l.backgroundDone(info.Err) },
		CompactionEnd: func(info pebble.CompactionInfo) { l.backgroundDone(info.Err) },
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			l.log.Info("writes to the raft log stall", "reason", info.Reason)
		},
	}
}

func (l *engineLog) backgroundDone(err error) {
	if err == nil {
		l.failures.Store(0)
	}
}

// backgroundError judges a failed flush or compaction, which the engine will
// try again at once.
func (l *engineLog) backgroundError(err error) {
	if l.fence.Err() != nil || errors.Is(err, base.ErrClosed) || errors.Is(err, pebble.ErrCancelledCompaction) {
		return
	}
	l.log.Warn("background work of the raft log failed", "error", err)
	if pebble.IsCorruptionError(err) || l.failures.Add(1) >= maxBackgroundFailures {
		l.fence.Trip(diskio.Typed("background work", err))
	}
}

// recovered turns a panic of the engine, or of a decoder, into an error. It is
// deferred around what runs on goroutines of others.
func recovered(log *slog.Logger, what string, err *error) {
	if r := recover(); r != nil {
		log.Error("raft log panicked", "during", what, "panic", r, "stack", string(debug.Stack()))
		*err = fmt.Errorf("%w: raft log: %s: panic: %v", base.ErrCorrupt, what, r)
	}
}
