package harness

import (
	"errors"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
)

// TestPowerLossWhileAnImageIsTakenOver takes the power from a node whose log begins
// after an image of a shard already, and whose data are still those before it. It
// must take the image over when it is started again; without the image, it must not
// start.
func TestPowerLossWhileAnImageIsTakenOver(t *testing.T) {
	for _, keep := range []int{0, 50, 100} {
		rng := testkit.Rand(t)
		var stick atomic.Bool
		stuck, off := make(chan struct{}, 1), make(chan struct{})
		c := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 1, Seed: rng.Uint64(), Tune: func(cfg *node.Config) {
			cfg.Raft.SnapshotEntries, cfg.Raft.KeepEntries = 20, 1
			if cfg.Raft.Node != "node-1" || !stick.Load() {
				return
			}
			cfg.Storage.FS = errorfs.Wrap(cfg.Storage.FS, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind == errorfs.OpCreate && strings.Contains(path.Dir(op.Path), "import") {
					select {
					case stuck <- struct{}{}:
					default:
					}
					<-off
				}
				return nil
			}))
		}})
		ctx := testkit.Context(t)
		keys := acknowledged(ctx, t, c.Client(1), "before", 10)
		if err := c.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		c.Stop(1)
		keys = append(keys, acknowledged(ctx, t, c.Client(0), "without it", 200)...)
		stick.Store(true)
		c.Start(1)
		<-stuck
		stick.Store(false)
		c.Crash(rng, keep, 1)
		close(off)
		c.Start(1)
		if err := c.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		mustFind(ctx, t, c.Client(1), keys)
		c.Stop(1)
		if err := c.members[1].disk.RemoveAll("/data"); err != nil {
			t.Fatal(err)
		}
		if err := c.open(ctx, 1); !errors.Is(err, base.ErrCorrupt) || !strings.Contains(err.Error(), "begins after") {
			t.Errorf("opened without its data, and without the image: %v", err)
		}
	}
}
