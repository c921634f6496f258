package cache

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/storage"
)

func TestValidateNamesEachFault(t *testing.T) {
	for _, tc := range []struct {
		field string
		opts  Options
	}{
		{"NodeID", Options{NodeID: "two words"}},
		{"NodeID", Options{NodeID: strings.Repeat("x", 129)}},
		{"NodeID", Options{NodeID: "línea"}},
		{"Dir", Options{Dir: "a\x00b"}},
		{"Shards", Options{Shards: -1}},
		{"Shards", Options{Shards: 1025}},
		{"Storage.Durability", Options{Storage: StorageOptions{Durability: 2}}},
		{"Storage.Durability", Options{Storage: StorageOptions{Durability: -1}}},
		{"Storage.SyncInterval", Options{Storage: StorageOptions{SyncInterval: -1}}},
		{"Storage.SyncInterval", Options{Storage: StorageOptions{SyncInterval: time.Hour}}},
		{"Storage.MemTableBytes", Options{Storage: StorageOptions{MemTableBytes: -1}}},
		{"Storage.MemTableBytes", Options{Storage: StorageOptions{MemTableBytes: 4096}}},
		{"Storage.MemTableBytes", Options{Storage: StorageOptions{MemTableBytes: 4 << 30}}},
		{"Storage.BlockCacheBytes", Options{Storage: StorageOptions{BlockCacheBytes: -1}}},
		{"Storage.Compression", Options{Storage: StorageOptions{Compression: 3}}},
		{"Limits.MaxValueBytes", Options{Limits: LimitOptions{MaxValueBytes: HardMaxValueBytes + 1}}},
		{"Limits.MaxBatchOps", Options{Limits: LimitOptions{MaxBatchOps: HardMaxBatchOps + 1}}},
		{"Limits.MaxBatchBytes", Options{Limits: LimitOptions{MaxBatchBytes: HardMaxBatchBytes + 1}}},
		{"Limits.MaxInFlight", Options{Limits: LimitOptions{MaxInFlight: -5}}},
		{"Requests.Retention", Options{Requests: RequestOptions{Retention: time.Millisecond}}},
		{"Requests.MaxPerShard", Options{Requests: RequestOptions{MaxPerShard: -1}}},
		{"Observe.SlowOp", Options{Observe: ObserveOptions{SlowOp: -1}}},
		{"Cluster.Addr", Options{Cluster: ClusterOptions{Addr: "7000", Insecure: true}}},
		{"Cluster.Addr", Options{Cluster: ClusterOptions{Addr: "localhost:http", Insecure: true}}},
		{"Cluster.Advertise", Options{Cluster: ClusterOptions{Addr: ":7000", Advertise: "0.0.0.0:7000", Insecure: true}}},
		{"Cluster.Peers[1]", Options{Cluster: ClusterOptions{Addr: ":7000", Peers: []string{"a:1", ":2"}, Insecure: true}}},
		{"Cluster.Name", Options{Cluster: ClusterOptions{Addr: ":7000", Name: strings.Repeat("x", 129), Insecure: true}}},
		{"Cluster.Zone", Options{Cluster: ClusterOptions{Addr: ":7000", Zone: "a\n", Insecure: true}}},
		{"Cluster.Expect", Options{Cluster: ClusterOptions{Addr: ":7000", Expect: -1, Insecure: true}}},
		{"Cluster.ReplicationFactor", Options{Cluster: ClusterOptions{Addr: ":7000", ReplicationFactor: 8, Insecure: true}}},
		{"Cluster.DeadNodeGrace", Options{Cluster: ClusterOptions{Addr: ":7000", DeadNodeGrace: 1, Insecure: true}}},
		{"Cluster.MaxClockOffset", Options{Cluster: ClusterOptions{Addr: ":7000", MaxClockOffset: 1, Insecure: true}}},
		{"Cluster.SnapshotBytesPerSec", Options{Cluster: ClusterOptions{Addr: ":7000", SnapshotBytesPerSec: -1, Insecure: true}}},
		{"Cluster.Insecure", Options{Cluster: ClusterOptions{Addr: ":7000"}}},
		{"Cluster.Insecure", Options{
			Cluster: ClusterOptions{Addr: ":7000", Insecure: true}, Security: SecurityOptions{TLS: TLSOptions{Provider: noTLS}},
		}},
		{"Storage.Durability", Options{Cluster: ClusterOptions{Addr: ":7000", Insecure: true}, Storage: StorageOptions{Durability: Relaxed}}},
		{"Cluster.Peers", Options{Cluster: ClusterOptions{Peers: []string{"a:1"}}}},
		{"Cluster.Expect", Options{Cluster: ClusterOptions{Expect: 3}}},
		{"Cluster.Insecure", Options{Cluster: ClusterOptions{Insecure: true}}},
		{"Security.TLS.CertFile", Options{Security: SecurityOptions{TLS: TLSOptions{KeyFile: "k", CAFile: "c"}}}},
		{"Security.TLS.KeyFile", Options{Security: SecurityOptions{TLS: TLSOptions{CertFile: "c", CAFile: "c"}}}},
		{"Security.TLS.CAFile", Options{Security: SecurityOptions{TLS: TLSOptions{CertFile: "c", KeyFile: "k"}}}},
		{"Security.TLS.KeyFile", Options{Security: SecurityOptions{TLS: TLSOptions{CertFile: "c", KeyFile: "k\x00", CAFile: "c"}}}},
		{"Security.TLS.CAFile", Options{Security: SecurityOptions{TLS: TLSOptions{CAFile: "c", Provider: noTLS}}}},
	} {
		err := tc.opts.Validate()
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.field+" is ") {
			t.Errorf("%s: got %v", tc.field, err)
		}
		if _, err := Open(tc.opts); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: Open gave %v", tc.field, err)
		}
	}
}

func noTLS() (*tls.Config, error) { return nil, nil }

func TestValidateReportsAllFaultsAtOnce(t *testing.T) {
	opts := Options{
		Shards:   -1,
		Storage:  StorageOptions{Durability: 9, BlockCacheBytes: -1},
		Cluster:  ClusterOptions{Addr: ":1", Expect: -3, ReplicationFactor: 9},
		Limits:   LimitOptions{MaxInFlight: -1},
		Security: SecurityOptions{TLS: TLSOptions{KeyFile: "k"}},
	}
	joined, ok := opts.Validate().(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("not a joined error: %v", opts.Validate())
	}
	faults := joined.Unwrap()
	if len(faults) != 8 {
		t.Fatalf("%d faults, want 8: %v", len(faults), faults)
	}
	for _, fault := range faults {
		if !errors.Is(fault, ErrInvalid) {
			t.Errorf("%v does not wrap ErrInvalid", fault)
		}
	}
}

func TestValidateAccepts(t *testing.T) {
	for name, opts := range map[string]*Options{
		"the zero value": {},
		"every bound": {
			Dir: "x", NodeID: strings.Repeat("x", 128), Shards: 1024,
			Storage: StorageOptions{
				Durability: Relaxed, SyncInterval: time.Millisecond, MemTableBytes: 1 << 20, ReadCacheBytes: -1,
				Compression: CompressionZstd, DiskReserveBytes: -1,
			},
			Cluster: ClusterOptions{Peers: []string{}},
			Limits: LimitOptions{
				MaxValueBytes: HardMaxValueBytes, MaxBatchOps: HardMaxBatchOps,
				MaxBatchBytes: HardMaxBatchBytes, MaxInFlight: 1,
			},
			Requests: RequestOptions{Retention: time.Second, MaxPerShard: 1},
			Security: SecurityOptions{TLS: TLSOptions{CertFile: "c", KeyFile: "k", CAFile: "a"}},
		},
		"a provider of certificates": {Security: SecurityOptions{TLS: TLSOptions{Provider: noTLS}}},
	} {
		if err := opts.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (*Options)(nil).Validate(); !errors.Is(err, ErrInvalid) {
		t.Errorf("nil options: %v", err)
	}
}

func TestResolveFillsDefaults(t *testing.T) {
	cfg := new(Options).resolve()
	if want := (base.Limits{MaxValueBytes: 1 << 20, MaxBatchOps: 1000, MaxBatchBytes: 4 << 20, MaxInFlight: 16384}); cfg.Limits != want {
		t.Errorf("limits %+v, want %+v", cfg.Limits, want)
	}
	if cfg.SyncInterval != time.Second || cfg.Requests.Retention != 10*time.Minute || cfg.Requests.MaxPerShard != 100_000 {
		t.Errorf("got %v, %+v", cfg.SyncInterval, cfg.Requests)
	}
	s := cfg.Storage
	if s.MemTableBytes != 64<<20 || s.BlockCacheBytes != 128<<20 || s.ReadCacheBytes != 64<<20 {
		t.Errorf("storage %+v", s)
	}
	if s.Durability != storage.Synced || s.Compression != storage.CompressionFast || cfg.Logger == nil {
		t.Errorf("storage %+v, logger %v", s, cfg.Logger)
	}

	logger := slog.New(slog.DiscardHandler)
	set := Options{
		Storage: StorageOptions{Durability: Relaxed, Compression: CompressionNone, ReadCacheBytes: -1, MemTableBytes: 2 << 20},
		Limits:  LimitOptions{MaxValueBytes: 17},
		Observe: ObserveOptions{Logger: logger, SlowOp: time.Second},
	}
	cfg = set.resolve()
	s = cfg.Storage
	if s.Durability != storage.Relaxed || s.Compression != storage.CompressionNone || s.ReadCacheBytes >= 0 || s.MemTableBytes != 2<<20 {
		t.Errorf("storage %+v", s)
	}
	if cfg.Limits.MaxValueBytes != 17 || cfg.Logger != logger || cfg.SlowOp != time.Second {
		t.Errorf("got %+v", cfg)
	}
	if CompressionZstd.engine() != storage.CompressionZstd {
		t.Error("zstd is not zstd")
	}
}

func TestNamesOfEnums(t *testing.T) {
	for want, got := range map[string]string{
		"synced": Synced.String(), "relaxed": Relaxed.String(), "durability(7)": Durability(7).String(),
		"fast": CompressionFast.String(), "none": CompressionNone.String(), "zstd": CompressionZstd.String(),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
