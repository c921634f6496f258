package cache_test

import (
	"context"
	"crypto/tls"
	"iter"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/distributedcache/cache"
)

// This file names everything that other programs compile against, with its
// exact type. It does nothing but compile: whoever renames, drops or changes
// something learns it here. Add to it, never take away.

// Opening and the life of a cache.
var (
	_ func(cache.Options) (*cache.Cache, error)                                      = cache.Open
	_ func(context.Context, cache.Options) (*cache.Cache, error)                     = cache.OpenContext
	_ func(*cache.Cache, context.Context) error                                      = (*cache.Cache).Ready
	_ func(*cache.Cache) error                                                       = (*cache.Cache).Close
	_ func(*cache.Cache) <-chan struct{}                                             = (*cache.Cache).Done
	_ func(*cache.Cache) error                                                       = (*cache.Cache).Err
	_ func(*cache.Cache) *cache.Admin                                                = (*cache.Cache).Admin
	_ func(context.Context, string, cache.Options) error                             = cache.Restore
	_ func(context.Context, string) (cache.CheckReport, error)                       = cache.Check
	_ func(context.Context, string) error                                            = cache.VerifyBackup
	_ cache.Store                                                                    = (*cache.Cache)(nil)
	_ func(cache.Store, cache.Codec[int]) *cache.Table[int]                          = cache.NewTable[int]
	_ func() cache.Codec[int]                                                        = cache.JSON[int]
	_ func(*cache.Options) error                                                     = (*cache.Options).Validate
	_ func(error) bool                                                               = cache.Retryable
	_ func(cache.Item) bool                                                          = cache.Item.Exists
	_ func(cache.Item) string                                                        = cache.Item.Cursor
	_ func(cache.Version) time.Time                                                  = cache.Version.Time
	_ func(string, string) cache.Key                                                 = cache.K
	_ func(cache.Key) string                                                         = cache.Key.String
	_ func(string) (cache.Key, error)                                                = cache.ParseKey
	_ func() cache.Range                                                             = cache.All
	_ func(string) cache.Range                                                       = cache.Primary
	_ func(string) cache.Range                                                       = cache.PrimaryPrefix
	_ func(cache.Range, string) cache.Range                                          = cache.Range.Prefix
	_ func(cache.Range, string, string) cache.Range                                  = cache.Range.Between
	_ func() cache.RequestID                                                         = cache.NewRequestID
	_ func(string) (cache.RequestID, error)                                          = cache.ParseRequestID
	_ func(cache.Key, []byte, ...cache.WriteOption) cache.Op                         = cache.PutOp
	_ func(cache.Key, ...cache.WriteOption) cache.Op                                 = cache.DeleteOp
	_ func(cache.Key, cache.Version) cache.Op                                        = cache.CheckOp
	_ func(*cache.Tx, cache.Key) (cache.Item, error)                                 = (*cache.Tx).Get
	_ func(*cache.Tx, []cache.Key) ([]cache.Item, error)                             = (*cache.Tx).MultiGet
	_ func(*cache.Tx, cache.Key, []byte, ...cache.WriteOption) error                 = (*cache.Tx).Put
	_ func(*cache.Tx, cache.Key, ...cache.WriteOption) error                         = (*cache.Tx).Delete
	_ func(*cache.Tx) context.Context                                                = (*cache.Tx).Context
	_ func(*cache.Tx, cache.Range, ...cache.ReadOption) iter.Seq2[cache.Item, error] = (*cache.Tx).RangeScan
)

// Options of one call.
var (
	_ func(cache.Version) cache.WriteOption     = cache.IfVersion
	_ func() cache.WriteOption                  = cache.IfAbsent
	_ func() cache.WriteOption                  = cache.IfPresent
	_ func(time.Duration) cache.WriteOption     = cache.TTL
	_ func(cache.RequestID) cache.WriteTxOption = cache.WithRequestID
	_ func() cache.TxOption                     = cache.Independent
	_ func(int) cache.TxOption                  = cache.MaxAttempts
	_ func() cache.ReadOption                   = cache.Linearizable
	_ func(time.Duration) cache.ReadOption      = cache.Stale
	_ func(int) cache.ReadOption                = cache.Limit
	_ func() cache.ReadOption                   = cache.KeysOnly
	_ func() cache.ReadOption                   = cache.Reverse
	_ func(string) cache.ReadOption             = cache.From
	_ func(cache.Key) cache.ReadOption          = cache.After
)

// contractStore is Store, method for method. The two must be identical.
type contractStore interface {
	Get(ctx context.Context, key cache.Key, opts ...cache.ReadOption) (cache.Item, error)
	MultiGet(ctx context.Context, keys []cache.Key, opts ...cache.ReadOption) ([]cache.Item, error)
	RangeScan(ctx context.Context, r cache.Range, opts ...cache.ReadOption) iter.Seq2[cache.Item, error]
	Put(ctx context.Context, key cache.Key, value []byte, opts ...cache.WriteOption) (cache.Version, error)
	Delete(ctx context.Context, key cache.Key, opts ...cache.WriteOption) (cache.Version, error)
	MultiPut(ctx context.Context, ops []cache.Op, opts ...cache.TxOption) ([]cache.Result, error)
	View(ctx context.Context, fn func(tx *cache.Tx) error, opts ...cache.TxOption) error
	Update(ctx context.Context, fn func(tx *cache.Tx) error, opts ...cache.TxOption) (cache.Version, error)
	Outcome(ctx context.Context, id cache.RequestID) (cache.Outcome, cache.Version, error)
}

var (
	_ contractStore = cache.Store(nil)
	_ cache.Store   = contractStore(nil)
)

// contractAdmin has every method of Admin.
type contractAdmin interface {
	Nodes(ctx context.Context) ([]cache.NodeInfo, error)
	Shards(ctx context.Context) ([]cache.ShardInfo, error)
	Stats(ctx context.Context) (cache.Stats, error)
	Health(ctx context.Context) (cache.Health, error)
	HotKeys(ctx context.Context, n int) ([]cache.HotKey, error)
	SlowOps(ctx context.Context, n int) ([]cache.SlowOp, error)
	Alerts(ctx context.Context) ([]cache.Alert, error)
	Flush(ctx context.Context) error
	Compact(ctx context.Context) iter.Seq2[cache.Progress, error]
	Backup(ctx context.Context, dir string) iter.Seq2[cache.Progress, error]
	VerifyBackup(ctx context.Context, dir string) error
	Rebalance(ctx context.Context) (cache.Plan, error)
	Drain(ctx context.Context, nodeID string) iter.Seq2[cache.Progress, error]
	Remove(ctx context.Context, nodeID string) error
	TransferLeader(ctx context.Context, shard int, nodeID string) error
}

var _ contractAdmin = (*cache.Admin)(nil)

// contractTable has every method of Table.
type contractTable[T any] interface {
	Get(ctx context.Context, key cache.Key, opts ...cache.ReadOption) (cache.Entry[T], error)
	MultiGet(ctx context.Context, keys []cache.Key, opts ...cache.ReadOption) ([]cache.Entry[T], error)
	RangeScan(ctx context.Context, r cache.Range, opts ...cache.ReadOption) iter.Seq2[cache.Entry[T], error]
	Put(ctx context.Context, key cache.Key, value T, opts ...cache.WriteOption) (cache.Version, error)
	Delete(ctx context.Context, key cache.Key, opts ...cache.WriteOption) (cache.Version, error)
	PutOp(key cache.Key, value T, opts ...cache.WriteOption) cache.Op
	GetTx(tx *cache.Tx, key cache.Key) (cache.Entry[T], error)
	PutTx(tx *cache.Tx, key cache.Key, value T, opts ...cache.WriteOption) error
}

var _ contractTable[int] = (*cache.Table[int])(nil)

// The fields of the structs that callers read and write.
var (
	_ = cache.Key{Primary: "", Secondary: ""}
	_ = cache.Item{Key: cache.Key{}, Value: []byte(nil), Version: cache.Version(0), ExpiresAt: time.Time{}}
	_ = cache.Range{Start: cache.Key{}, End: cache.Key{}}
	_ = cache.Result{Key: cache.Key{}, Version: cache.Version(0), Err: error(nil)}
	_ = cache.Entry[int]{Key: cache.Key{}, Value: 0, Version: cache.Version(0), ExpiresAt: time.Time{}}
	_ = cache.VersionError{Key: cache.Key{}, Want: cache.Version(0), Have: cache.AnyVersion | cache.PendingVersion}
	_ = cache.Error{
		Op: "", Key: cache.Key{}, Shard: 0, Node: "", Outcome: cache.OutcomeUnknown,
		RetryAfter: time.Duration(0), RequestID: cache.RequestID([16]byte{}), Err: error(nil),
	}
	_ = cache.Options{
		Dir: "", NodeID: "", Shards: 0,
		Storage: cache.StorageOptions{
			Durability: cache.Synced, SyncInterval: time.Duration(0),
			MemTableBytes: int64(0), BlockCacheBytes: int64(0), ReadCacheBytes: int64(0),
			Compression: cache.CompressionFast, DiskReserveBytes: int64(0),
		},
		Cluster: cache.ClusterOptions{
			Addr: "", Advertise: "", Peers: []string(nil), Name: "", Expect: 0, ReplicationFactor: 0, Zone: "",
			Insecure: false, DeadNodeGrace: time.Duration(0), MaxClockOffset: time.Duration(0), SnapshotBytesPerSec: int64(0),
		},
		Security: cache.SecurityOptions{TLS: cache.TLSOptions{
			CertFile: "", KeyFile: "", CAFile: "", Provider: (func() (*tls.Config, error))(nil),
		}},
		Limits:   cache.LimitOptions{MaxValueBytes: 0, MaxBatchOps: 0, MaxBatchBytes: 0, MaxInFlight: 0},
		Requests: cache.RequestOptions{Retention: time.Duration(0), MaxPerShard: 0},
		Observe: cache.ObserveOptions{
			Logger: (*slog.Logger)(nil), Registerer: prometheus.Registerer(nil),
			SlowOp: time.Duration(0), OnAlert: (func(cache.Alert))(nil),
		},
		OnFatal: (func(error))(nil),
	}
)

// Constants, and the structs that Admin returns.
var (
	_ = [...]cache.Outcome{cache.OutcomeUnknown, cache.OutcomeNotApplied, cache.OutcomeApplied}
	_ = [...]cache.Durability{cache.Synced, cache.Relaxed}
	_ = [...]cache.Compression{cache.CompressionNone, cache.CompressionFast, cache.CompressionZstd}
	_ = [...]int64{
		cache.MaxPrimaryBytes, cache.MaxSecondaryBytes, cache.MaxShards,
		cache.HardMaxValueBytes, cache.HardMaxBatchOps, cache.HardMaxBatchBytes,
		cache.DefaultShards, cache.DefaultMemTableBytes, cache.DefaultBlockCacheBytes, cache.DefaultReadCacheBytes,
		cache.DefaultMaxValueBytes, cache.DefaultMaxBatchOps, cache.DefaultMaxBatchBytes, cache.DefaultMaxInFlight,
		cache.DefaultRequestMaxPerShard, int64(cache.DefaultRequestRetention), int64(cache.DefaultSyncInterval),
	}
	_ = cache.Progress{Stage: "", Done: 0, Total: 0, DoneBytes: 0, TotalBytes: 0}
	_ = cache.Plan{Moves: []cache.Move(nil)}
	_ = cache.Health{OK: false, Reads: false, Writes: false, Problems: nil}
	_ = cache.Stats{Ops: []cache.OpStats(nil), Storage: cache.StorageStats{}}
	_ = cache.HotKey{Key: cache.Key{}, Count: 0, Error: 0}
	_ = cache.SlowOp{At: time.Time{}, Op: "", Key: cache.Key{}, Keys: 0, Duration: 0, Err: ""}
	_ = cache.Alert{Name: "", Since: time.Time{}, Message: "", Active: false}
	_ = cache.CheckReport{Records: 0, Expiries: 0, Requests: 0, Bytes: 0, Problems: nil}
)

// sentinels are all sentinel errors; TestSentinelsAreDistinct uses them.
var sentinels = []error{
	cache.ErrNotFound, cache.ErrVersionMismatch, cache.ErrConflict, cache.ErrRequestReused, cache.ErrUnauthenticated,
	cache.ErrPermission, cache.ErrUnavailable, cache.ErrIndeterminate, cache.ErrOverloaded, cache.ErrQuota,
	cache.ErrNoSpace, cache.ErrTooLarge, cache.ErrCorrupt, cache.ErrInvalid, cache.ErrClosed,
	cache.ErrAuditUnavailable, cache.ErrInUse,
}
