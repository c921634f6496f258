package sololog

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/inflight"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/replication/internal/logtest"
	"github.com/distributedcache/cache/storage"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// soloFixture runs a sololog on a memory file system that outlives it.
type soloFixture struct {
	t          *testing.T
	fs         storage.FS
	durability storage.Durability
	clock      base.Clock
	store      *storage.Store
	log        *Log
}

func (f *soloFixture) open() {
	store, err := storage.Open(storage.Config{Dir: "/db", FS: f.fs, Shards: 4, Durability: f.durability, DiskReserveBytes: -1})
	if err != nil {
		f.t.Fatal(err)
	}
	head, err := LoadHead(store)
	if err != nil {
		f.t.Fatal(err)
	}
	machines := make([]*kvfsm.Machine, store.Identity().Shards)
	for i := range machines {
		if machines[i], err = kvfsm.Open(store, base.ShardID(i), head.clock); err != nil {
			f.t.Fatal(err)
		}
	}
	f.store = store
	f.log = Open(Config{
		Store: store, Machines: machines, Head: head, Clock: f.clock, MaxInFlight: 1000,
		Synced: f.durability == storage.Synced, SyncInterval: time.Millisecond,
		Logger: slog.New(slog.DiscardHandler),
	})
}

func (f *soloFixture) close() {
	if f.log != nil {
		f.log.Close()
		f.log = nil
	}
	if err := f.store.Close(); err != nil {
		f.t.Error(err)
	}
}

func TestSololog(t *testing.T) {
	for _, d := range []storage.Durability{storage.Synced, storage.Relaxed} {
		t.Run(d.String(), func(t *testing.T) {
			logtest.Run(t, func(t *testing.T) *logtest.Fixture {
				solo := &soloFixture{t: t, fs: vfs.NewMem(), durability: d, clock: testkit.NewClock(time.Time{}).Now}
				solo.open()
				t.Cleanup(solo.close)
				fixture := &logtest.Fixture{Log: solo}
				fixture.Read = func(shard base.ShardID, key base.Key) storage.Record {
					rec, err := solo.store.Space(shard).Get(key)
					if err != nil {
						t.Error(err)
					}
					return rec
				}
				fixture.Reopen = func() {
					solo.close()
					solo.open()
				}
				return fixture
			})
		})
	}
}

// The fixture is the log of the moment, across reopens.

func (f *soloFixture) Propose(ctx context.Context, txn *command.Txn) error {
	if f.log == nil {
		return inflight.NotApplied(base.ErrClosed)
	}
	return f.log.Propose(ctx, txn)
}

func (f *soloFixture) Current(ctx context.Context, shards []base.ShardID) error {
	return f.log.Current(ctx, shards)
}

func (f *soloFixture) Settle(ctx context.Context, shard base.ShardID, v base.Version) error {
	return f.log.Settle(ctx, shard, v)
}

func (f *soloFixture) Ordered() base.Version              { return f.log.Ordered() }
func (f *soloFixture) InFlight() (waiting, refused int64) { return f.log.InFlight() }
func (f *soloFixture) Close()                             { f.log.Close(); f.log = nil }

func TestBatcherTakesAllAtOnce(t *testing.T) {
	b := newBatcher[int]()
	for i := range 5 {
		b.add(i)
	}
	got, ok := b.take(nil)
	if !ok || len(got) != 5 || got[0] != 0 || got[4] != 4 {
		t.Fatalf("%v, %v", got, ok)
	}
	b.add(6)
	b.close()
	if b.add(7) {
		t.Error("added after close")
	}
	if got, ok = b.take(got); !ok || len(got) != 1 || got[0] != 6 {
		t.Errorf("what was added before the close: %v, %v", got, ok)
	}
	if _, ok = b.take(got); ok {
		t.Error("closed and empty, and yet more")
	}
}

func TestBatcherWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBatcher[int]()
		sum := 0
		var server sync.WaitGroup
		server.Go(func() {
			var queue []int
			for {
				var ok bool
				if queue, ok = b.take(queue); !ok {
					return
				}
				for _, n := range queue {
					sum += n
				}
			}
		})
		for i := range 1000 {
			b.add(i)
			if i%10 == 0 {
				synctest.Wait()
			}
		}
		b.close()
		server.Wait()
		if sum != 999*1000/2 {
			t.Errorf("sum %d", sum)
		}
	})
}

func TestSettler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s settler
		s.advance(10)
		if err := s.wait(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
		results := make(chan error, 3)
		for _, v := range []base.Version{11, 12, 13} {
			go func() { results <- s.wait(context.Background(), v) }()
		}
		synctest.Wait()
		s.advance(12)
		synctest.Wait()
		if len(results) != 2 {
			t.Fatalf("%d readers were released, want 2", len(results))
		}
		cause := errors.New("disk")
		s.fail(cause)
		synctest.Wait()
		if len(results) != 3 {
			t.Fatal("a reader hangs on a failed log")
		}
		if err := s.wait(context.Background(), 14); !errors.Is(err, cause) {
			t.Errorf("after the failure: %v", err)
		}
		if err := s.wait(context.Background(), 12); err != nil {
			t.Errorf("what was durable before the failure: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var slow settler
		if err := slow.wait(ctx, 1); !errors.Is(err, base.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the deadline: %v", err)
		}
	})
}
