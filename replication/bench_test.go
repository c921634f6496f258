package replication

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/storage"
)

func benchHost(b *testing.B, d storage.Durability) *Host {
	b.Helper()
	store, err := storage.Open(storage.Config{Dir: b.TempDir(), Durability: d, DiskReserveBytes: -1})
	if err != nil {
		b.Fatal(err)
	}
	h, err := OpenSolo(Config{
		Store: store, Clock: time.Now, Logger: slog.New(slog.DiscardHandler), Synced: d == storage.Synced,
		SyncInterval: time.Second, MaxInFlight: 16384, RequestRetention: time.Minute, MaxRequests: 1000,
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		h.Close()
		_ = store.Close()
	})
	return h
}

// inParallel spreads b.N calls over writers goroutines.
func inParallel(b *testing.B, writers int, call func(rng *rand.Rand) error) {
	b.Helper()
	b.ResetTimer()
	var group sync.WaitGroup
	for w := range writers {
		n := b.N / writers
		if w < b.N%writers {
			n++
		}
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), uint64(b.N)))
			for range n {
				if err := call(rng); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func randomKey(rng *rand.Rand) base.Key {
	n := rng.IntN(100_000)
	return base.K(fmt.Sprintf("account-%05d", n/10), fmt.Sprintf("item-%d", n%10))
}

// BenchmarkWrite is one put of 256 bytes through the log.
func BenchmarkWrite(b *testing.B) {
	for _, d := range []storage.Durability{storage.Synced, storage.Relaxed} {
		for _, writers := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("%v/%dwriters", d, writers), func(b *testing.B) {
				h, value := benchHost(b, d), make([]byte, 256)
				inParallel(b, writers, func(rng *rand.Rand) error {
					w := base.Write{Key: randomKey(rng), Value: value}
					_, err := h.Write(context.Background(), &w, base.RequestID{})
					return err
				})
			})
		}
	}
}
