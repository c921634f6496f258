package node

import (
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/storage"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// testConfig is a small node on the given file system.
func testConfig(fs storage.FS, d storage.Durability) Config {
	return Config{
		Dir: "/db", Shards: 6,
		Storage: storage.Config{
			FS: fs, Durability: d, DiskReserveBytes: -1,
			MemTableBytes: 1 << 20, BlockCacheBytes: 1 << 20, ReadCacheBytes: 1 << 20,
		},
		SyncInterval: 5 * time.Millisecond,
		Limits:       base.DefaultLimits(),
		Requests:     RequestConfig{Retention: 10 * time.Minute, MaxPerShard: 100_000},
	}
}

func openTest(t testing.TB, cfg Config) *Node {
	t.Helper()
	n, err := Open(testkit.Context(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func put(key base.Key, value string) base.Write {
	return base.Write{Key: key, Value: []byte(value)}
}
