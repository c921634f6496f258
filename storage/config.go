package storage

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
)

// FormatVersion is the version of everything this package writes into a data
// directory. It only ratchets: a directory of an older version is upgraded,
// one of a newer version is refused.
const FormatVersion = 1

// DefaultShards is the shard count of a directory that is created without
// saying how many.
const DefaultShards = 30

// NodeShard is the pseudo shard that holds the node's own data. Only
// KindMeta is used in it.
const NodeShard base.ShardID = 0xFFFF

// FS is the file system a store lives on. Tests pass their own.
type FS = vfs.FS

// OSFS returns the file system of the operating system.
func OSFS() FS { return vfs.Default }

// Durability says when an applied batch is on disk.
type Durability int

const (
	// Synced: Batch.Wait returns after the write was fsynced.
	Synced Durability = iota
	// Relaxed: a write is in the log but only fsynced by the next Sync. A
	// crash of the process or the machine may lose the writes since then.
	Relaxed
	// Volatile: there is no log. Sync flushes the memtables; what was not
	// flushed is lost in a crash. For stores whose writes can be replayed
	// from elsewhere.
	Volatile
)

// String returns the name of the durability.
func (d Durability) String() string {
	switch d {
	case Synced:
		return "synced"
	case Relaxed:
		return "relaxed"
	case Volatile:
		return "volatile"
	}
	return fmt.Sprintf("durability(%d)", int(d))
}

// Compression says how blocks of data files are compressed. It may change
// with every Open; files are converted as they are compacted.
type Compression int

const (
	// CompressionFast trades ratio for speed on every level.
	CompressionFast Compression = iota
	// CompressionNone does not compress.
	CompressionNone
	// CompressionZstd compresses the lower levels, which hold most of the
	// data, with zstd and the upper ones fast.
	CompressionZstd
)

// String returns the name of the compression.
func (c Compression) String() string {
	switch c {
	case CompressionFast:
		return "fast"
	case CompressionNone:
		return "none"
	case CompressionZstd:
		return "zstd"
	}
	return fmt.Sprintf("compression(%d)", int(c))
}

// The defaults of a Config.
const (
	DefaultMemTableBytes    = 64 << 20
	DefaultBlockCacheBytes  = 64 << 20
	DefaultReadCacheBytes   = 64 << 20
	DefaultDiskPollInterval = 500 * time.Millisecond

	maxDefaultReserveBytes = 1 << 30 // and at most 5 % of the disk
	minMemTableBytes       = 1 << 20 // below this flushing never pays
)

// Config says what to open and how. The zero value of each field but Dir is
// its default.
type Config struct {
	// Dir is the data directory; it is created if it is missing. "" opens an
	// empty store in memory, which is Volatile.
	Dir string
	// FS is the file system of Dir; nil is that of the operating system.
	FS FS
	// NodeID names the node. "" takes what the directory has, or generates
	// one for a new directory.
	NodeID string
	// ClusterID is the cluster that the directory belongs to, "" for that of a node
	// by itself. A directory of another cluster, or of any if this is "", is refused;
	// one of a node by itself becomes one of the cluster by SetCluster only.
	ClusterID string
	// Shards is the shard count. 0 takes what the directory has, or
	// DefaultShards for a new one. It never changes afterwards.
	Shards     int
	Durability Durability
	// MemTableBytes is the size at which a memtable is flushed.
	MemTableBytes int64
	// BlockCacheBytes is how much memory uncompressed blocks may take.
	BlockCacheBytes int64
	// ReadCacheBytes is how much memory cached records may take; < 0 turns
	// the read cache off.
	ReadCacheBytes int64
	Compression    Compression
	// DiskReserveBytes is how much of the disk stays free: below it Writable
	// reports ErrNoSpace. 0 is 5 % of the disk or 1 GiB, whichever is less;
	// < 0 turns the reserve off.
	DiskReserveBytes int64
	// DiskPollInterval is how often the free space is looked at.
	DiskPollInterval time.Duration
	// Logger receives what the engine reports; nil discards it.
	Logger *slog.Logger
	// OnFence is called at most once, when the store was fenced, on a
	// goroutine of the store. It must not call Close.
	OnFence func(error)

	inMemory bool // Dir was ""
}

// withDefaults returns the config with every zero field filled in.
func (cfg Config) withDefaults() Config {
	if cfg.Dir == "" {
		cfg.FS = vfs.NewMem()
		cfg.Dir = memDir
		cfg.inMemory = true
		cfg.Durability = Volatile
		cfg.DiskReserveBytes = -1
	}
	if cfg.FS == nil {
		cfg.FS = vfs.Default
	}
	if cfg.MemTableBytes == 0 {
		cfg.MemTableBytes = DefaultMemTableBytes
	}
	cfg.MemTableBytes = max(cfg.MemTableBytes, minMemTableBytes)
	if cfg.BlockCacheBytes == 0 {
		cfg.BlockCacheBytes = DefaultBlockCacheBytes
	}
	if cfg.ReadCacheBytes == 0 {
		cfg.ReadCacheBytes = DefaultReadCacheBytes
	}
	if cfg.DiskPollInterval <= 0 {
		cfg.DiskPollInterval = DefaultDiskPollInterval
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg
}

// memDir is where an in-memory store lives in its private file system.
const memDir = "/mem"

// validate reports what Open cannot work with.
func (cfg Config) validate() error {
	switch {
	case cfg.Shards < 0 || cfg.Shards > base.MaxShards:
		return fmt.Errorf("%w: %d shards; 1 to %d are possible", base.ErrInvalid, cfg.Shards, base.MaxShards)
	case cfg.Durability < Synced || cfg.Durability > Volatile:
		return fmt.Errorf("%w: unknown %v", base.ErrInvalid, cfg.Durability)
	case cfg.Compression < CompressionFast || cfg.Compression > CompressionZstd:
		return fmt.Errorf("%w: unknown %v", base.ErrInvalid, cfg.Compression)
	case cfg.MemTableBytes < 0 || cfg.BlockCacheBytes < 0:
		return fmt.Errorf("%w: negative size", base.ErrInvalid)
	case cfg.MemTableBytes >= 4<<30:
		return fmt.Errorf("%w: a memtable of %d bytes; it must stay below 4 GiB", base.ErrInvalid, cfg.MemTableBytes)
	case len(cfg.NodeID) > maxNodeIDBytes:
		return fmt.Errorf("%w: node id of %d bytes; at most %d are allowed", base.ErrInvalid, len(cfg.NodeID), maxNodeIDBytes)
	}
	return nil
}
