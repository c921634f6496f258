package metamorphic

import (
	"flag"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/storage"
)

var steps = flag.Int("steps", 50_000, "steps of the metamorphic tests")

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

func TestSoloAgreesWithModel(t *testing.T) {
	n := *steps
	if testing.Short() {
		n = min(n, 5000)
	}
	clock := testkit.NewClock(time.Time{})
	clock.Advance(500 * time.Millisecond)
	cfg := node.Config{
		Dir: "/db", Shards: 7, Clock: clock.Now, Limits: base.DefaultLimits(),
		Storage: storage.Config{
			FS: vfs.NewMem(), DiskReserveBytes: -1,
			MemTableBytes: 1 << 20, BlockCacheBytes: 1 << 20, ReadCacheBytes: 1 << 18,
		},
		Requests:      node.RequestConfig{Retention: time.Minute, MaxPerShard: 100},
		SweepInterval: time.Millisecond,
	}
	sys := &system{}
	sys.reopen = func() *node.Node {
		if sys.Node != nil {
			if err := sys.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		n, err := node.Open(testkit.Context(t), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	sys.Node = sys.reopen()
	newHistory(t, testkit.Rand(t), clock, sys).run(n)
	if err := sys.Close(); err != nil {
		t.Error(err)
	}
}
