package storage

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/distributedcache/cache/internal/testkit"
)

// TestPowerLossWhileCreating takes the power at every change of the first Open
// and opens what is left.
func TestPowerLossWhileCreating(t *testing.T) {
	rng := testkit.Rand(t)
	for at, more := 1, true; more; at++ {
		disk := testkit.NewCrashFS()
		var left *vfs.MemFS
		n := 0
		watched := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				if n++; n == at {
					left = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * rng.IntN(3), RNG: rng})
				}
			}
			return nil
		}))
		open := func(fs FS) *Store {
			s, err := Open(Config{Dir: "/some/where/below", FS: fs, Shards: 2, DiskReserveBytes: -1, MemTableBytes: 1 << 20})
			if err != nil {
				t.Fatalf("power lost before change %d: %v", at, err)
			}
			return s
		}
		if err := open(watched).Close(); err != nil {
			t.Fatal(err)
		}
		if more = left != nil; more {
			if err := open(left).Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
