package base

import "time"

// The structs below are what Admin returns and what the reference server
// sends as JSON. Sizes are bytes, durations are nanoseconds.

// NodeInfo describes one node.
type NodeInfo struct {
	ID       string `json:"id"`
	Addr     string `json:"addr,omitempty"` // "" in solo
	Zone     string `json:"zone,omitempty"`
	State    string `json:"state"` // "active", "joining", "draining", "removed", "failed"
	Self     bool   `json:"self"`
	Shards   int    `json:"shards"`  // replicas on this node
	Leaders  int    `json:"leaders"` // of those, how many lead
	UsedDisk int64  `json:"used_disk_bytes"`
}

// ShardInfo describes one shard.
type ShardInfo struct {
	Shard    int      `json:"shard"`
	Leader   string   `json:"leader"`
	Replicas []string `json:"replicas"`
	Applied  uint64   `json:"applied"`  // commands applied
	Clock    Version  `json:"clock"`    // the newest version of the shard
	Requests int      `json:"requests"` // request ids remembered
	State    string   `json:"state"`    // "serving", "unavailable", "moving"
}

// Stats are the counters of this node since it was opened, and its sizes now.
type Stats struct {
	Node    string        `json:"node"`
	Uptime  time.Duration `json:"uptime_ns"`
	Shards  int           `json:"shards"`
	Ops     []OpStats     `json:"ops"`
	Storage StorageStats  `json:"storage"`
	// InFlight is how many writes wait now; Refused how many were refused
	// because too many did.
	InFlight int64 `json:"in_flight"`
	Refused  int64 `json:"refused"`
	Requests int64 `json:"requests"` // request ids remembered
}

// OpStats counts one kind of operation.
type OpStats struct {
	Op     string        `json:"op"`
	Count  int64         `json:"count"`
	Errors int64         `json:"errors"`
	P50    time.Duration `json:"p50_ns"`
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"`
}

// StorageStats describes the storage engine of this node.
type StorageStats struct {
	DiskBytes        int64 `json:"disk_bytes"`      // used by the data directory
	DiskFreeBytes    int64 `json:"disk_free_bytes"` // of the file system
	ReserveBytes     int64 `json:"reserve_bytes"`   // writes stop when free falls below it
	MemTableBytes    int64 `json:"memtable_bytes"`
	BlockCacheBytes  int64 `json:"block_cache_bytes"`
	BlockCacheHits   int64 `json:"block_cache_hits"`
	BlockCacheMisses int64 `json:"block_cache_misses"`
	ReadCacheBytes   int64 `json:"read_cache_bytes"`
	ReadCacheItems   int64 `json:"read_cache_items"`
	ReadCacheHits    int64 `json:"read_cache_hits"`
	ReadCacheMisses  int64 `json:"read_cache_misses"`
	WALBytes         int64 `json:"wal_bytes"`
	Flushes          int64 `json:"flushes"`
	Compactions      int64 `json:"compactions"`
	ReadAmp          int   `json:"read_amp"`
	WriteStalls      int64 `json:"write_stalls"`
}

// Health says whether this node can serve, and if not, why.
type Health struct {
	OK       bool     `json:"ok"`       // serves reads and writes
	Reads    bool     `json:"reads"`    // serves reads
	Writes   bool     `json:"writes"`   // serves writes
	Problems []string `json:"problems"` // one sentence each, empty if OK
}

// HotKey is a key that many operations touched lately. Count is an estimate.
type HotKey struct {
	Key   Key    `json:"key"`
	Count uint64 `json:"count"`
	Error uint64 `json:"error"` // Count is at most this much too high
}

// SlowOp is one operation that took longer than ObserveOptions.SlowOp.
type SlowOp struct {
	At       time.Time     `json:"at"`
	Op       string        `json:"op"`
	Key      Key           `json:"key"`
	Keys     int           `json:"keys"` // how many keys it touched
	Duration time.Duration `json:"duration_ns"`
	Err      string        `json:"error,omitempty"`
}

// Alert is a condition that somebody should look at.
type Alert struct {
	Name    string    `json:"name"`
	Since   time.Time `json:"since"`
	Message string    `json:"message"`
	Active  bool      `json:"active"`
}

// Progress reports on long work. Total is 0 while it is not known.
type Progress struct {
	Stage      string `json:"stage"`
	Done       int64  `json:"done"`
	Total      int64  `json:"total"`
	DoneBytes  int64  `json:"done_bytes"`
	TotalBytes int64  `json:"total_bytes"`
}

// Plan lists the steps of a rebalance; it is empty when nothing needs to move.
type Plan struct {
	Moves []Move `json:"moves"`
}

// Move is one step of a Plan.
type Move struct {
	Shard int    `json:"shard"`
	From  string `json:"from"`
	To    string `json:"to"`
}

// CheckReport is what an offline check of a data directory found.
type CheckReport struct {
	Records  int64    `json:"records"`
	Expiries int64    `json:"expiries"`
	Requests int64    `json:"requests"`
	Bytes    int64    `json:"bytes"`
	Problems []string `json:"problems"` // empty: the directory is sound
}
