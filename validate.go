package cache

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/storage"
)

// The bounds of fields that have one besides the hard limits.
const (
	maxNodeIDBytes     = 128
	minSyncInterval    = time.Millisecond // below it syncing would be all the disk does
	maxSyncInterval    = time.Minute      // above it one can as well not sync
	minMemTableBytes   = 1 << 20          // below it table files are too small to be worth it
	maxMemTableBytes   = 2 << 30          // the engine's offsets into a memtable have 32 bits
	maxInFlight        = 1_000_000        // each waiting write costs about a kilobyte and a goroutine
	minRequestRetain   = time.Second      // below it a retry comes too late
	maxRequestRetain   = 7 * 24 * time.Hour
	maxRequestPerShard = 10_000_000 // about a gigabyte on disk for each shard
)

// Validate returns nil if the options can be used, or an error that joins all
// their faults. Each names its field, what it is and what is allowed, and
// wraps [ErrInvalid]. It looks at the options only, not at Dir.
func (o *Options) Validate() error {
	if o == nil {
		return invalidf("the options are nil")
	}
	var f faults
	if why := badNodeID(o.NodeID); why != "" {
		f.add("NodeID", o.NodeID, why)
	}
	f.within("Shards", int64(o.Shards), 1, MaxShards)
	if strings.IndexByte(o.Dir, 0) >= 0 {
		f.add("Dir", o.Dir, "a path has no zero bytes")
	}
	f.storage(&o.Storage)
	f.cluster(&o.Cluster)
	f.within("Limits.MaxValueBytes", int64(o.Limits.MaxValueBytes), 1, HardMaxValueBytes)
	f.within("Limits.MaxBatchOps", int64(o.Limits.MaxBatchOps), 1, HardMaxBatchOps)
	f.within("Limits.MaxBatchBytes", int64(o.Limits.MaxBatchBytes), 1, HardMaxBatchBytes)
	f.within("Limits.MaxInFlight", int64(o.Limits.MaxInFlight), 1, maxInFlight)
	f.durationWithin("Requests.Retention", o.Requests.Retention, minRequestRetain, maxRequestRetain)
	f.within("Requests.MaxPerShard", int64(o.Requests.MaxPerShard), 1, maxRequestPerShard)
	if o.Observe.SlowOp < 0 {
		f.add("Observe.SlowOp", o.Observe.SlowOp, "it must not be negative; 0 is off")
	}
	return errors.Join(f...)
}

// faults collects what is wrong with options.
type faults []error

func (f *faults) add(field string, value any, why string) {
	if s, ok := value.(string); ok {
		value = fmt.Sprintf("%q", s)
	}
	*f = append(*f, invalidf("%s is %v: %s", field, value, why))
}

// within wants value to be 0, for the default, or in [low, high].
func (f *faults) within(field string, value, low, high int64) {
	if value != 0 && (value < low || value > high) {
		f.add(field, value, fmt.Sprintf("it must be from %d to %d, or 0 for the default", low, high))
	}
}

func (f *faults) durationWithin(field string, value, low, high time.Duration) {
	if value != 0 && (value < low || value > high) {
		f.add(field, value, fmt.Sprintf("it must be from %v to %v, or 0 for the default", low, high))
	}
}

func (f *faults) storage(s *StorageOptions) {
	if s.Durability < Synced || s.Durability > Relaxed {
		f.add("Storage.Durability", int(s.Durability), "it must be Synced or Relaxed")
	}
	if s.Compression < CompressionFast || s.Compression > CompressionZstd {
		f.add("Storage.Compression", int(s.Compression), "it must be CompressionFast, CompressionNone or CompressionZstd")
	}
	f.durationWithin("Storage.SyncInterval", s.SyncInterval, minSyncInterval, maxSyncInterval)
	f.within("Storage.MemTableBytes", s.MemTableBytes, minMemTableBytes, maxMemTableBytes)
	if s.BlockCacheBytes < 0 {
		f.add("Storage.BlockCacheBytes", s.BlockCacheBytes, "it must not be negative; 0 is the default")
	}
}

// cluster refuses every field that is set.
func (f *faults) cluster(c *ClusterOptions) {
	v := reflect.ValueOf(*c)
	for i := range v.NumField() {
		field := v.Field(i)
		if field.IsZero() || (field.Kind() == reflect.Slice && field.Len() == 0) {
			continue
		}
		f.add("Cluster."+v.Type().Field(i).Name, field.Interface(), "clustering is not part of this version; leave it empty to run on a single node")
	}
}

// badNodeID says why id cannot be a node id, "" if it can.
func badNodeID(id string) string {
	if len(id) > maxNodeIDBytes {
		return fmt.Sprintf("it has %d bytes, at most %d are allowed", len(id), maxNodeIDBytes)
	}
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' {
			return "it may have printable ASCII characters only, and no spaces"
		}
	}
	return ""
}

// resolve returns the configuration of a node with every default filled in.
// The options must be valid.
func (o *Options) resolve() node.Config {
	return node.Config{
		Dir:    o.Dir,
		NodeID: o.NodeID,
		Shards: o.Shards, // 0 is left to storage, which knows what Dir has
		Storage: storage.Config{
			Durability:       o.Storage.Durability.engine(),
			MemTableBytes:    cmp.Or(o.Storage.MemTableBytes, DefaultMemTableBytes),
			BlockCacheBytes:  cmp.Or(o.Storage.BlockCacheBytes, DefaultBlockCacheBytes),
			ReadCacheBytes:   cmp.Or(o.Storage.ReadCacheBytes, DefaultReadCacheBytes),
			Compression:      o.Storage.Compression.engine(),
			DiskReserveBytes: o.Storage.DiskReserveBytes,
		},
		SyncInterval: cmp.Or(o.Storage.SyncInterval, DefaultSyncInterval),
		Limits: base.Limits{
			MaxValueBytes: cmp.Or(o.Limits.MaxValueBytes, DefaultMaxValueBytes),
			MaxBatchOps:   cmp.Or(o.Limits.MaxBatchOps, DefaultMaxBatchOps),
			MaxBatchBytes: cmp.Or(o.Limits.MaxBatchBytes, DefaultMaxBatchBytes),
			MaxInFlight:   cmp.Or(o.Limits.MaxInFlight, DefaultMaxInFlight),
		},
		Requests: node.RequestConfig{
			Retention:   cmp.Or(o.Requests.Retention, DefaultRequestRetention),
			MaxPerShard: cmp.Or(o.Requests.MaxPerShard, DefaultRequestMaxPerShard),
		},
		Logger:     cmp.Or(o.Observe.Logger, slog.New(slog.DiscardHandler)),
		Registerer: o.Observe.Registerer,
		SlowOp:     o.Observe.SlowOp,
		OnAlert:    o.Observe.OnAlert,
		OnFatal:    o.OnFatal,
	}
}

// engine returns the durability in the words of the storage engine.
func (d Durability) engine() storage.Durability {
	if d == Relaxed {
		return storage.Relaxed
	}
	return storage.Synced
}

// engine returns the compression in the words of the storage engine.
func (c Compression) engine() storage.Compression {
	switch c {
	case CompressionNone:
		return storage.CompressionNone
	case CompressionZstd:
		return storage.CompressionZstd
	default:
		return storage.CompressionFast
	}
}

// enumName returns the name of value, or kind(value) if it has none.
func enumName(kind string, value int, names ...string) string {
	if value >= 0 && value < len(names) {
		return names[value]
	}
	return fmt.Sprintf("%s(%d)", kind, value)
}
