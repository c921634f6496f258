package node

import (
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/storage"
)

// Config is the resolved configuration of a node: whoever fills it in has
// validated it and put in the defaults.
type Config struct {
	Dir    string // "" = in memory
	NodeID string // "" = what Dir has, or a new one
	Shards int    // 0 = what Dir has, or the default
	// Storage has the engine's own settings; Open fills in Dir, NodeID, Shards,
	// Logger and OnFence.
	Storage      storage.Config
	SyncInterval time.Duration // with storage.Relaxed
	Limits       base.Limits
	Requests     RequestConfig
	// Raft makes the node one of a cluster, whose raft log takes the place of the
	// log of the storage engine; nil is a node by itself. Dir must be set. Open
	// fills in OnFail, and FS if it is nil.
	Raft *replication.RaftConfig
	// Cluster makes the node one of a cluster that takes in and loses nodes; nil is
	// a node by itself. It excludes Raft.
	Cluster    *ClusterConfig
	Logger     *slog.Logger          // nil = silent
	Registerer prometheus.Registerer // may be nil
	SlowOp     time.Duration         // 0 = off
	OnAlert    func(base.Alert)      // may be nil; must not block
	OnFatal    func(error)           // may be nil; must not block
	Clock      base.Clock            // nil = time.Now
	// SweepInterval is the pause between looks for expired keys; 0 = default.
	SweepInterval time.Duration
}

// ClusterConfig says which cluster a node belongs to and how it is reached.
type ClusterConfig struct {
	Addr        string // to listen at
	Advertise   string // what others dial; "" = Addr with a host that can be reached
	Peers       []string
	Name        string
	Expect      int
	Replication int
	Zone        string
	// TLS returns the credentials of the node for each connection; nil is only for
	// Insecure.
	TLS      func() (*tls.Config, error)
	Insecure bool

	DeadNodeGrace       time.Duration
	MaxClockOffset      time.Duration
	SnapshotBytesPerSec int64

	// Network takes the place of a port, in tests; Advertise is the address then.
	Network replication.Network
	// Tick is raft's unit of time, Fast divides all intervals, and the other two say
	// when a shard forgets its log; 0 = as in production.
	Tick                         time.Duration
	Fast                         float64
	SnapshotEntries, KeepEntries uint64
}

// RequestConfig says how long, and how many, requests each shard remembers.
type RequestConfig struct {
	Retention   time.Duration
	MaxPerShard int
}

func (cfg Config) withDefaults() Config {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	return cfg
}

// engine returns the settings of the storage engine.
func (cfg Config) engine() storage.Config {
	engine := cfg.Storage
	engine.Dir, engine.NodeID, engine.Shards, engine.Logger = cfg.Dir, cfg.NodeID, cfg.Shards, cfg.Logger
	if cfg.Raft != nil || cfg.Cluster != nil {
		engine.Durability = storage.Volatile
	}
	return engine
}
