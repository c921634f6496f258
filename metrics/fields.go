package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/distributedcache/cache/internal/base"
)

// field is one number of base.Stats and the metric that shows it.
type field struct {
	name, help string
	kind       prometheus.ValueType
	value      func(*base.Stats) float64
}

// fields lists what is exposed of base.Stats. A test compares it with the
// struct, so that a new field is not forgotten.
func fields() []field {
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	type stats = base.Stats
	return []field{
		{"uptime_seconds", "Time since the cache was opened.", gauge,
			func(s *stats) float64 { return s.Uptime.Seconds() }},
		{"shards", "Shards of the data directory.", gauge,
			func(s *stats) float64 { return float64(s.Shards) }},
		{"in_flight_writes", "Writes that wait now.", gauge,
			func(s *stats) float64 { return float64(s.InFlight) }},
		{"refused_writes_total", "Writes refused because too many waited.", counter,
			func(s *stats) float64 { return float64(s.Refused) }},
		{"requests_remembered", "Request ids whose results are kept.", gauge,
			func(s *stats) float64 { return float64(s.Requests) }},

		{"storage_disk_bytes", "Disk used by the data directory.", gauge,
			func(s *stats) float64 { return float64(s.Storage.DiskBytes) }},
		{"storage_disk_free_bytes", "Free space of the file system.", gauge,
			func(s *stats) float64 { return float64(s.Storage.DiskFreeBytes) }},
		{"storage_disk_reserve_bytes", "Free space below which writes are refused.", gauge,
			func(s *stats) float64 { return float64(s.Storage.ReserveBytes) }},
		{"storage_memtable_bytes", "Memory of the memtables.", gauge,
			func(s *stats) float64 { return float64(s.Storage.MemTableBytes) }},
		{"storage_block_cache_bytes", "Memory of the block cache.", gauge,
			func(s *stats) float64 { return float64(s.Storage.BlockCacheBytes) }},
		{"storage_block_cache_hits_total", "Blocks found in the block cache.", counter,
			func(s *stats) float64 { return float64(s.Storage.BlockCacheHits) }},
		{"storage_block_cache_misses_total", "Blocks not found in the block cache.", counter,
			func(s *stats) float64 { return float64(s.Storage.BlockCacheMisses) }},
		{"storage_read_cache_bytes", "Memory of the read cache.", gauge,
			func(s *stats) float64 { return float64(s.Storage.ReadCacheBytes) }},
		{"storage_read_cache_items", "Items in the read cache.", gauge,
			func(s *stats) float64 { return float64(s.Storage.ReadCacheItems) }},
		{"storage_read_cache_hits_total", "Reads answered by the read cache.", counter,
			func(s *stats) float64 { return float64(s.Storage.ReadCacheHits) }},
		{"storage_read_cache_misses_total", "Reads not answered by the read cache.", counter,
			func(s *stats) float64 { return float64(s.Storage.ReadCacheMisses) }},
		{"storage_wal_bytes", "Size of the write-ahead log.", gauge,
			func(s *stats) float64 { return float64(s.Storage.WALBytes) }},
		{"storage_flushes_total", "Memtables written out.", counter,
			func(s *stats) float64 { return float64(s.Storage.Flushes) }},
		{"storage_compactions_total", "Compactions done.", counter,
			func(s *stats) float64 { return float64(s.Storage.Compactions) }},
		{"storage_read_amplification", "Sorted runs that a read may have to look at.", gauge,
			func(s *stats) float64 { return float64(s.Storage.ReadAmp) }},
		{"storage_write_stalls_total", "Times that writes had to wait for flushes or compactions.", counter,
			func(s *stats) float64 { return float64(s.Storage.WriteStalls) }},
	}
}
