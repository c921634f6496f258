package storage

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// memConfig is a durable store on a file system in memory.
func memConfig(fs FS) Config {
	return Config{
		Dir:              "/db",
		FS:               fs,
		Shards:           4,
		MemTableBytes:    1 << 20,
		BlockCacheBytes:  4 << 20,
		ReadCacheBytes:   1 << 20,
		DiskReserveBytes: -1,
	}
}

// mustOpen opens a store that the test closes, unless it did before.
func mustOpen(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func openMem(t testing.TB) *Store { return mustOpen(t, memConfig(vfs.NewMem())) }

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal("close:", err)
	}
}

// write applies a batch and waits for it.
func write(s *Store, fill func(b *Batch)) error {
	b := s.NewBatch()
	defer b.Release()
	fill(b)
	if err := b.Apply(); err != nil {
		return err
	}
	return b.Wait()
}

func mustWrite(t testing.TB, s *Store, fill func(b *Batch)) {
	t.Helper()
	if err := write(s, fill); err != nil {
		t.Fatal(err)
	}
}

func mustPut(t testing.TB, s *Store, shard base.ShardID, key base.Key, v base.Version, value string) {
	t.Helper()
	mustWrite(t, s, func(b *Batch) { b.Put(shard, key, Record{Version: v, Value: []byte(value)}) })
}

// wantGet checks what a key holds; version 0 means that it is absent.
func wantGet(t testing.TB, s *Store, shard base.ShardID, key base.Key, v base.Version, value string) {
	t.Helper()
	rec, err := s.Space(shard).Get(key)
	if err != nil || rec.Version != v || string(rec.Value) != value {
		t.Fatalf("%v is version %d, %q, error %v; want version %d, %q", key, rec.Version, rec.Value, err, v, value)
	}
	head, err := s.Space(shard).Head(key)
	if err != nil || head.Version != v {
		t.Fatalf("head of %v is %+v, error %v; want version %d", key, head, err, v)
	}
}

func wantErr(t testing.TB, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("%s: error %v, want %v", what, err, target)
	}
	if n := sentinels(err); n != 1 {
		t.Fatalf("%s: error %v matches %d sentinels", what, err, n)
	}
}

// sentinels counts the sentinel errors that err matches: one, if it is typed.
func sentinels(err error) (n int) {
	for _, target := range []error{
		base.ErrCorrupt, base.ErrNoSpace, base.ErrClosed, base.ErrUnavailable, base.ErrInvalid, base.ErrInUse,
	} {
		if errors.Is(err, target) {
			n++
		}
	}
	return n
}

func testKey(i int) base.Key {
	return base.K(fmt.Sprintf("primary%d", i/10), fmt.Sprintf("secondary%03d", i))
}
