package harness

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/shard"
	"github.com/distributedcache/cache/storage"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// solo is a Client of a host without peers.
type solo struct{ host *replication.Host }

// openSolo opens a host whose disk is in memory.
func openSolo(t *testing.T) solo {
	t.Helper()
	store, err := storage.Open(storage.Config{
		Dir: "/db", FS: vfs.NewMem(), Shards: 4, DiskReserveBytes: -1, Durability: storage.Synced,
	})
	if err != nil {
		t.Fatal(err)
	}
	host, err := replication.OpenSolo(replication.Config{
		Store: store, Clock: time.Now, Logger: slog.New(slog.DiscardHandler), Synced: true, MaxInFlight: 1000,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		host.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return solo{host}
}

// Get implements Client.
func (s solo) Get(ctx context.Context, key base.Key) ([]byte, base.Version, error) {
	item, err := s.host.Get(ctx, shard.Of(key.Primary, s.host.Shards()), key, base.ReadOptions{})
	return item.Value, item.Version, err
}

// Put implements Client.
func (s solo) Put(ctx context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	return s.host.Write(ctx, &base.Write{Kind: base.WritePut, Cond: cond, Key: key, Value: value}, base.RequestID{})
}

// Delete implements Client.
func (s solo) Delete(ctx context.Context, key base.Key, cond base.Cond) (base.Version, error) {
	return s.host.Write(ctx, &base.Write{Kind: base.WriteDelete, Cond: cond, Key: key}, base.RequestID{})
}

func always(c Client) func(int) Client { return func(int) Client { return c } }

func TestSoloIsLinearizable(t *testing.T) {
	w := Workload{Clients: 16, Keys: Keys(300), Ops: 150_000, ValueBytes: 100, Rand: testkit.Rand(t)}
	if testing.Short() {
		w.Ops = 20_000
	}
	h := record(t, w, openSolo(t))
	mustPass(t, h)
}

// record runs a workload, reads all keys in the end and returns the history.
func record(t *testing.T, w Workload, c Client) History {
	t.Helper()
	rec := NewRecorder(w.Ops + len(w.Keys))
	w.Run(testkit.Context(t), rec, always(c))
	if err := w.ReadFinally(testkit.Context(t), rec, c); err != nil {
		t.Fatal(err)
	}
	h := rec.History()
	if s := h.Stats(); s.Ops < w.Ops || s.OK < s.Ops/2 || s.Refused == 0 {
		t.Errorf("%v: the history proves little", s)
	}
	return h
}

func mustPass(t *testing.T, h History) {
	t.Helper()
	started := time.Now()
	if err := CheckSessions(h); err != nil {
		t.Error(err)
	}
	sessions := time.Since(started)
	started = time.Now()
	if err := CheckLinear(h, LinearConfig{Dir: t.ArtifactDir()}); err != nil {
		t.Error(err)
	}
	t.Logf("%v in %v; checked sessions in %v, linearizability in %v", h.Stats(), h.Span(), sessions, time.Since(started))
}
