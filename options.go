package cache

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/distributedcache/cache/internal/base"
)

// The defaults of [Options]. A field that is 0 stands for its default.
const (
	// DefaultShards divides evenly over 1, 2, 3, 5, 6, 10 and 15 nodes.
	DefaultShards = 30
	// DefaultSyncInterval is how much a power failure may cost with Relaxed.
	DefaultSyncInterval = time.Second

	DefaultMemTableBytes   = 64 << 20
	DefaultBlockCacheBytes = 128 << 20
	DefaultReadCacheBytes  = 64 << 20

	DefaultMaxValueBytes = 1 << 20
	DefaultMaxBatchOps   = 1000
	DefaultMaxBatchBytes = 4 << 20
	// DefaultMaxInFlight lets a disk that syncs slowly be kept busy, and keeps
	// the memory of waiting writes of common size to some tens of megabytes.
	DefaultMaxInFlight = 16384

	DefaultClusterName       = "default"
	DefaultReplicationFactor = 3
	// DefaultDeadNodeGrace is longer than a restart or an upgrade takes.
	DefaultDeadNodeGrace  = 5 * time.Minute
	DefaultMaxClockOffset = 500 * time.Millisecond

	DefaultRequestRetention   = 10 * time.Minute
	DefaultRequestMaxPerShard = 100_000
)

// The hard limits: what the limits in [Options] can be raised to.
const (
	MaxShards         = base.MaxShards
	HardMaxValueBytes = base.HardMaxValueBytes
	HardMaxBatchOps   = base.HardMaxBatchOps
	HardMaxBatchBytes = base.HardMaxBatchBytes
)

// Options say what to open and how. The zero value plus Dir is a working
// single node with safe defaults. A field that is 0 stands for its default.
type Options struct {
	// Dir is the data directory; it is created if it is missing. One cache at
	// a time can have it open. The empty string keeps everything in memory,
	// for tests: nothing survives Close.
	Dir string
	// NodeID names this node, in at most 128 bytes of printable ASCII without
	// spaces. It is kept in Dir, where it must not change any more. The empty
	// string takes what Dir has; a new directory gets a random one.
	NodeID string
	// Shards is the number of shards, 1 to 1024, default 30. It is fixed when
	// Dir is created; 0 takes what Dir has. In solo 30 is fine. For a cluster
	// take a multiple of the number of nodes you plan for, 3 to 6 for each:
	// shards are what moves between nodes, and each costs some CPU.
	Shards int
	// Storage configures the storage engine.
	Storage StorageOptions
	// Cluster makes the node one of a cluster; its zero value is a node by itself.
	Cluster ClusterOptions
	// Security configures how nodes show one another who they are.
	Security SecurityOptions
	// Limits bound what one call may ask for, and how many may wait.
	Limits LimitOptions
	// Requests configures the memory for request ids.
	Requests RequestOptions
	// Observe configures logging, metrics and alerts.
	Observe ObserveOptions
	// OnFatal is called once, with the cause, when the node is fenced, that
	// is, can no longer serve because its disk failed. It is not called by
	// Close. It must not block and must not call the cache.
	OnFatal func(error)
}

// Durability says when a write is acknowledged.
type Durability int

const (
	// Synced acknowledges a write when it has been synced to disk: it survives
	// kill -9 and power loss. It is the default. Writers that wait at the same
	// time share one sync.
	Synced Durability = iota
	// Relaxed acknowledges a write when it has been handed to the log, which
	// is synced every SyncInterval: kill -9 or power loss may cost the last
	// writes, never older ones and never one out of the middle.
	Relaxed
)

// String returns "synced" or "relaxed".
func (d Durability) String() string { return enumName("durability", int(d), "synced", "relaxed") }

// Compression says how data files are compressed. It may change with every
// Open; files are converted as they are compacted.
type Compression int

const (
	// CompressionFast costs little CPU on every level. It is the default.
	CompressionFast Compression = iota
	// CompressionNone does not compress: for values that are compressed or
	// encrypted already.
	CompressionNone
	// CompressionZstd compresses the lower levels, which hold most of the
	// data, with zstd: smaller files for more CPU.
	CompressionZstd
)

// String returns "fast", "none" or "zstd".
func (c Compression) String() string {
	return enumName("compression", int(c), "fast", "none", "zstd")
}

// StorageOptions configure the storage engine.
type StorageOptions struct {
	// Durability is [Synced] or [Relaxed], default Synced.
	Durability Durability
	// SyncInterval is the interval of [Relaxed], 1 ms to 1 minute, default
	// 1 s: at most this much may be lost on power failure. Synced does not
	// use it.
	SyncInterval time.Duration
	// MemTableBytes is how much is collected in memory before it is written as
	// a table file, 1 MiB to 2 GiB, default 64 MiB. Two such tables exist at
	// once, three when writes come faster than they can be flushed.
	MemTableBytes int64
	// BlockCacheBytes is the memory for blocks of table files, default
	// 128 MiB.
	BlockCacheBytes int64
	// ReadCacheBytes is the memory for single values that are read often,
	// default 64 MiB; below 0 there is no such cache.
	ReadCacheBytes int64
	// Compression is [CompressionFast], [CompressionNone] or
	// [CompressionZstd], default CompressionFast.
	Compression Compression
	// DiskReserveBytes stays free on the disk: when less is free, writes get
	// [ErrNoSpace] and reads go on, until there is room again. 0 is the
	// default, 5 % of the disk but at most 1 GiB; below 0 it is off.
	DiskReserveBytes int64
}

// ClusterOptions describe the cluster that the node is part of.
//
// A directory that has been in a cluster rejoins it. Else, without Peers, the node
// founds a cluster by itself at once, and takes along what its directory has of a
// time without a cluster; with Peers it joins their cluster and never founds one;
// with Peers and Expect it founds one together with them.
type ClusterOptions struct {
	// Addr is the host:port to listen on, the one port of the node. A node
	// with an Addr is clustered. Port 0 takes any that is free.
	Addr string
	// Advertise is what other nodes dial, default Addr with a routable host.
	Advertise string
	// Peers are addresses of any members of the cluster. They may name the
	// node itself and may be unreachable for now.
	Peers []string
	// Name is the cluster's name, default "default". Nodes of another name are
	// refused.
	Name string
	// Expect, if positive, founds the cluster together with this many fresh
	// nodes, this one included: once so many with the same Name, Shards,
	// ReplicationFactor and Expect see one another, and all that they list as
	// Peers have been heard. More nodes join what was founded.
	Expect int
	// ReplicationFactor is on how many nodes each shard lives, default 3.
	ReplicationFactor int
	// Zone is the failure domain of the node; replicas are spread over zones.
	Zone string
	// Insecure allows plaintext between nodes, on loopback addresses only.
	Insecure bool
	// DeadNodeGrace is after how long a silent node's replicas are rebuilt
	// elsewhere, default 5 minutes.
	DeadNodeGrace time.Duration
	// MaxClockOffset is how far clocks of nodes may be apart, default 500 ms.
	MaxClockOffset time.Duration
	// SnapshotBytesPerSec bounds the bandwidth for copying shards; 0 is no
	// bound.
	SnapshotBytesPerSec int64
}

// SecurityOptions say how nodes and callers show who they are. Encryption of
// the disk, authentication of callers and audit are to follow.
type SecurityOptions struct {
	// TLS are the certificates with which the nodes of a cluster know one
	// another. A node without Cluster.Addr does not use them.
	TLS TLSOptions
}

// TLSOptions say where the certificates of a node come from: from three files,
// or from a Provider. Nodes speak TLS 1.3 and nothing older, and each verifies
// the certificate of the other.
type TLSOptions struct {
	// CertFile has the certificate of the node in PEM, followed by those
	// between it and the CA if there are any. It must be good for servers and
	// for clients (extended key usages serverAuth and clientAuth), and name the
	// host or IP address that other nodes dial.
	CertFile string
	// KeyFile has the private key of the certificate in PEM, not encrypted.
	// Only the user that runs the node should be able to read it.
	KeyFile string
	// CAFile has the CAs in PEM that sign the certificates of nodes: whoever
	// has a certificate of one of them is let in. Take a CA that signs nothing
	// else.
	CAFile string
	// Provider returns the certificates instead of the files, for those that
	// are kept elsewhere. It is called for each connection, from any goroutine,
	// and must return quickly. The result is not changed, and must not be
	// changed by the provider either. It needs Certificates, or both
	// GetCertificate and GetClientCertificate; and RootCAs, ClientCAs or both.
	// InsecureSkipVerify is refused, VerifyPeerCertificate and VerifyConnection
	// are heeded, versions and session resumption are overruled.
	Provider func() (*tls.Config, error)
}

// LimitOptions bound what one call may ask for. A call over a limit gets
// [ErrTooLarge] before anything is done; too many at once get [ErrOverloaded].
type LimitOptions struct {
	// MaxValueBytes is the largest value, default 1 MiB, at most 4 MiB.
	MaxValueBytes int
	// MaxBatchOps is how many operations a batch or transaction may have,
	// default 1,000, at most 100,000.
	MaxBatchOps int
	// MaxBatchBytes is how many bytes the keys and values of a batch or
	// transaction may have together, default 4 MiB, at most 16 MiB.
	MaxBatchBytes int
	// MaxInFlight is how many writes may wait at once, default 16,384, at
	// most 1,000,000. Together with the largest values it bounds the memory
	// that waiting writes take.
	MaxInFlight int
}

// RequestOptions configure how long request ids are remembered, see
// [WithRequestID].
type RequestOptions struct {
	// Retention is how long an id is remembered, default 10 minutes, at least
	// 1 s and at most 7 days.
	Retention time.Duration
	// MaxPerShard is how many ids each shard remembers, default 100,000, at
	// most 10,000,000. When there are more the oldest are forgotten first.
	MaxPerShard int
}

// ObserveOptions configure what can be seen from outside.
type ObserveOptions struct {
	// Logger gets what happens besides calls: starts, stops, failures, alerts,
	// slow operations. nil is silent.
	Logger *slog.Logger
	// Registerer, if not nil, gets the cache's Prometheus metrics, which are
	// unregistered by Close. Two caches in one process need one each, or one
	// wrapped with different labels.
	Registerer prometheus.Registerer
	// SlowOp is from which duration on an operation is logged and listed by
	// Admin.SlowOps; 0 is off.
	SlowOp time.Duration
	// OnAlert is called when an alert begins and when it ends. It must not
	// block and must not call the cache.
	OnAlert func(Alert)
}
