package storage

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// openStream opens a store for the tests of streams, backups and checks, and
// closes it at the end of the test.
func openStream(t testing.TB, cfg Config) *Store {
	t.Helper()
	if cfg.Shards == 0 {
		cfg.Shards = 4
	}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// streamSnapshot takes a snapshot that is closed at the end of the test.
func streamSnapshot(t testing.TB, s *Store) *Snapshot {
	t.Helper()
	sn, err := s.NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sn.Close(); err != nil {
			t.Errorf("close snapshot: %v", err)
		}
	})
	return sn
}

// fillStream writes n random records, some of which expire, are overwritten or
// deleted, and entries of the other spaces, over all shards.
func fillStream(t testing.TB, s *Store, r *rand.Rand, n int) {
	t.Helper()
	for done := 0; done < n; {
		mustWrite(t, s, func(b *Batch) {
			for range min(200, n-done) {
				done++
				randomWrite(b, r, s.id.Shards, base.Version(1000+done))
			}
		})
	}
	mustWrite(t, s, func(b *Batch) { b.Set(NodeShard, KindMeta, []byte("node"), testkit.Bytes(r, 30)) })
}

func randomWrite(b *Batch, r *rand.Rand, shards int, version base.Version) {
	shard := base.ShardID(r.IntN(shards))
	key := testkit.Key(r)
	if r.IntN(2) == 0 {
		key = base.K(fmt.Sprintf("p%d", r.IntN(20)), fmt.Sprintf("s%d", r.IntN(200)))
	}
	switch r.IntN(10) {
	case 0:
		b.Delete(shard, key)
	case 1:
		kinds := []Kind{KindMeta, KindLock, KindTxn, KindRequest}
		b.Set(shard, kinds[r.IntN(len(kinds))], fmt.Appendf(nil, "k%d", r.IntN(50)), testkit.Bytes(r, r.IntN(40)))
	case 2, 3:
		b.Put(shard, key, Record{Version: version, ExpiresAt: 1 + r.Uint64N(1e15), Value: testkit.Bytes(r, r.IntN(300))})
	default:
		b.Put(shard, key, Record{Version: version, Value: testkit.Bytes(r, r.IntN(300))})
	}
}

// physical returns every physical entry of a snapshot.
func physical(t testing.TB, sn *Snapshot) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := sn.s.scan(sn.snap, nil, nil, func(key, value []byte) error {
		all[string(key)] = string(value)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sameEntries(t testing.TB, got, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if have, ok := got[key]; !ok || have != value {
			t.Fatalf("entry %x: present %v, value %x, want %x", key, ok, have, value)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
}

// digests returns the digest of every shard.
func digests(t testing.TB, sn *Snapshot) map[base.ShardID][32]byte {
	t.Helper()
	all := map[base.ShardID][32]byte{}
	for i := range sn.s.id.Shards + 1 {
		shard := sn.s.nthShard(i)
		info, err := sn.Export(context.Background(), shard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		all[shard] = info.Digest
	}
	return all
}

// crashClone is what a power cut leaves of a file system: nothing that was not
// synced.
func crashClone(fsys *vfs.MemFS) *vfs.MemFS {
	return fsys.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0})
}
