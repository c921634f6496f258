package cache

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/security"
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

	maxPeers             = 128
	maxExpect            = 128
	maxReplicationFactor = 7 // more voters cost each write more than they protect
	maxClusterNameBytes  = 128
	maxZoneBytes         = 64
	maxAddressBytes      = 260 // a DNS name and a port
	minDeadNodeGrace     = time.Second
	maxDeadNodeGrace     = 30 * 24 * time.Hour
	minClockOffset       = 10 * time.Millisecond // below it the measurement itself is as far off
	maxClockOffset       = time.Hour
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
	f.cluster(o)
	f.tls(&o.Security.TLS)
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

// cluster wants nothing without an address, and else what a node needs to find and
// to trust others.
func (f *faults) cluster(o *Options) {
	c := &o.Cluster
	if c.Addr == "" {
		f.notClustered(c)
		return
	}
	f.address("Cluster.Addr", c.Addr, false)
	if c.Advertise != "" {
		f.address("Cluster.Advertise", c.Advertise, true)
	}
	for i, p := range c.Peers {
		f.address(fmt.Sprintf("Cluster.Peers[%d]", i), p, true)
	}
	if len(c.Peers) > maxPeers {
		f.add("Cluster.Peers", len(c.Peers), fmt.Sprintf("at most %d are allowed; a few that are usually there are enough", maxPeers))
	}
	f.label("Cluster.Name", c.Name, maxClusterNameBytes)
	f.label("Cluster.Zone", c.Zone, maxZoneBytes)
	f.within("Cluster.Expect", int64(c.Expect), 1, maxExpect)
	f.within("Cluster.ReplicationFactor", int64(c.ReplicationFactor), 1, maxReplicationFactor)
	f.durationWithin("Cluster.DeadNodeGrace", c.DeadNodeGrace, minDeadNodeGrace, maxDeadNodeGrace)
	f.durationWithin("Cluster.MaxClockOffset", c.MaxClockOffset, minClockOffset, maxClockOffset)
	if c.SnapshotBytesPerSec < 0 {
		f.add("Cluster.SnapshotBytesPerSec", c.SnapshotBytesPerSec, "it must not be negative; 0 is no bound")
	}
	t := &o.Security.TLS
	certified := t.Provider != nil || t.CertFile != "" || t.KeyFile != "" || t.CAFile != ""
	switch {
	case c.Insecure && certified:
		f.add("Cluster.Insecure", true, "there are certificates in Security.TLS; leave out one of them")
	case !c.Insecure && !certified:
		f.add("Cluster.Insecure", false, "give Security.TLS the certificates of this node, or set Insecure to do without on loopback addresses")
	}
	if o.Storage.Durability == Relaxed {
		f.add("Storage.Durability", o.Storage.Durability, "a cluster answers a write when a majority has it on disk; Relaxed is for a node by itself")
	}
}

// notClustered refuses every field that only means something in a cluster.
func (f *faults) notClustered(c *ClusterOptions) {
	v := reflect.ValueOf(*c)
	for i := range v.NumField() {
		field := v.Field(i)
		if field.IsZero() || (field.Kind() == reflect.Slice && field.Len() == 0) {
			continue
		}
		f.add("Cluster."+v.Type().Field(i).Name, field.Interface(), "it needs Cluster.Addr; leave it empty to run on a single node")
	}
}

// address wants host:port, and, if others are to dial it, a host and a port that
// they can.
func (f *faults) address(field, addr string, dialled bool) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || len(addr) > maxAddressBytes {
		f.add(field, addr, "it must be host:port, such as 10.0.0.1:7000 or [::1]:7000")
		return
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		f.add(field, addr, "the port must be a number from 1 to 65535")
		return
	}
	ip := net.ParseIP(host)
	if dialled && (n == 0 || host == "" || (ip != nil && ip.IsUnspecified())) {
		f.add(field, addr, "others must be able to dial it: name a host and a port")
	}
}

// label wants short printable text.
func (f *faults) label(field, text string, most int) {
	if len(text) > most {
		f.add(field, text, fmt.Sprintf("it has %d bytes, at most %d are allowed", len(text), most))
		return
	}
	for _, c := range text {
		if !unicode.IsPrint(c) {
			f.add(field, text, "it may have printable characters only")
			return
		}
	}
}

// tls wants three files or a provider, or nothing at all.
func (f *faults) tls(t *TLSOptions) {
	files := []struct{ field, value string }{
		{"Security.TLS.CertFile", t.CertFile}, {"Security.TLS.KeyFile", t.KeyFile}, {"Security.TLS.CAFile", t.CAFile},
	}
	some := t.CertFile != "" || t.KeyFile != "" || t.CAFile != ""
	for _, file := range files {
		switch {
		case strings.IndexByte(file.value, 0) >= 0:
			f.add(file.field, file.value, "a path has no zero bytes")
		case file.value != "" && t.Provider != nil:
			f.add(file.field, file.value, "certificates come from files or from Security.TLS.Provider; leave out one of them")
		case file.value == "" && some && t.Provider == nil:
			f.add(file.field, file.value, "certificate, key and CA file go together; name all three")
		}
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

// resolve returns the configuration of a node by itself with every default filled
// in. The options must be valid.
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

// resolveCluster returns what makes the node one of a cluster, nil if nothing does.
// The error is one of the certificates.
func (o *Options) resolveCluster() (*node.ClusterConfig, error) {
	c := &o.Cluster
	if c.Addr == "" {
		return nil, nil
	}
	cfg := &node.ClusterConfig{
		Addr: c.Addr, Advertise: c.Advertise, Peers: c.Peers, Expect: c.Expect, Zone: c.Zone, Insecure: c.Insecure,
		Name:                cmp.Or(c.Name, DefaultClusterName),
		Replication:         cmp.Or(c.ReplicationFactor, DefaultReplicationFactor),
		DeadNodeGrace:       cmp.Or(c.DeadNodeGrace, DefaultDeadNodeGrace),
		MaxClockOffset:      cmp.Or(c.MaxClockOffset, DefaultMaxClockOffset),
		SnapshotBytesPerSec: c.SnapshotBytesPerSec,
	}
	if c.Insecure {
		return cfg, nil
	}
	t := &o.Security.TLS
	var err error
	cfg.TLS, err = security.TLS{CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.CAFile, Provider: t.Provider}.Credentials()
	return cfg, err
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
