package node

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/distributedcache/cache/internal/base"
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
	Logger       *slog.Logger          // nil = silent
	Registerer   prometheus.Registerer // may be nil
	SlowOp       time.Duration         // 0 = off
	OnAlert      func(base.Alert)      // may be nil; must not block
	OnFatal      func(error)           // may be nil; must not block
	Clock        base.Clock            // nil = time.Now
	// SweepInterval is the pause between looks for expired keys; 0 = default.
	SweepInterval time.Duration
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
	return engine
}
