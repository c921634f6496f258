package peer

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// benchPair is a server and a pool over the loopback interface. Method 0
// echoes, 1 answers with 4 MiB; a stream sends 100 MB.
func benchPair(b *testing.B, cfg Config, wire *narrow) (*Pool, string) {
	b.Helper()
	n := newTCPNet(b)
	n.narrow = wire
	cfg.Network = n
	big := make([]byte, 4<<20)
	startServer(b, cfg, funcs{
		serve: func(_ context.Context, method uint8, request []byte) ([]byte, error) {
			if method == 1 {
				return big, nil
			}
			return slices.Clone(request), nil
		},
		stream: func(_ context.Context, _ uint8, _ []byte, send func([]byte) error) error {
			for sent := 0; sent < 100_000_000; sent += 128 << 10 {
				if err := send(big[:128<<10]); err != nil {
					return err
				}
			}
			return nil
		},
	})
	return startPool(b, cfg), n.addr()
}

// cpuTime is what the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCall is calls of 256 bytes at several numbers of callers. cpu-us/op
// is both sides together.
func BenchmarkCall(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			p, addr := benchPair(b, Config{}, nil)
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			request := make([]byte, 256)
			if _, err := p.Call(ctx, addr, 0, request); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ResetTimer()
			before := cpuTime()
			for range callers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := p.Call(ctx, addr, 0, request); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-us/op")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// BenchmarkBeside is the latency of small calls, one at a time, beside nothing
// and beside long answers: streams with a connection of their own or on that
// of the calls, and calls of 4 MiB. "narrow" is a link of 50 MB/s, where what
// is in the socket's buffers has to be waited for.
func BenchmarkBeside(b *testing.B) {
	for _, link := range []string{"loopback", "narrow"} {
		for _, beside := range []string{"nothing", "stream-same-conn", "stream", "calls"} {
			b.Run(link+"/"+beside, func(b *testing.B) {
				var wire *narrow
				if link == "narrow" {
					wire = &narrow{rate: 50e6}
				}
				p, addr := benchPair(b, Config{oneConn: beside == "stream-same-conn"}, wire)
				benchBeside(b, p, addr, beside)
			})
		}
	}
}

func benchBeside(b *testing.B, p *Pool, addr, beside string) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var moved atomic.Int64
	load := func(ctx context.Context) error {
		return p.Stream(ctx, addr, 0, nil, func(piece []byte) error { moved.Add(int64(len(piece))); return nil })
	}
	switch beside {
	case "nothing":
		load = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	case "calls":
		load = func(ctx context.Context) error {
			reply, err := p.Call(ctx, addr, 1, nil)
			moved.Add(int64(len(reply)))
			return err
		}
	}
	wg.Go(func() {
		for load(ctx) == nil {
		}
	})
	measureLatency(b, p, addr)
	b.ReportMetric(float64(moved.Load())/1e6/b.Elapsed().Seconds(), "MB/s-beside")
	cancel()
	wg.Wait()
}

func measureLatency(b *testing.B, p *Pool, addr string) {
	took := make([]time.Duration, 0, b.N)
	request := make([]byte, 256)
	b.ResetTimer()
	for range b.N {
		start := time.Now()
		if _, err := p.Call(context.Background(), addr, 0, request); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
		runtime.Gosched()
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}
