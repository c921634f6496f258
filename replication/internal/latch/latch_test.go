package latch

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

func keys(names ...string) (all []base.Key) {
	for _, name := range names {
		all = append(all, base.K(name, ""))
	}
	return all
}

func (g *Guard) holds() bool {
	select {
	case <-g.ready:
		return true
	default:
		return false
	}
}

func TestTurns(t *testing.T) {
	l := New(10)
	first := l.Enqueue(keys("b", "a", "b"))
	second := l.Enqueue(keys("b", "c"))
	third := l.Enqueue(keys("c"))
	other := l.Enqueue(keys("d"))
	if !first.holds() || second.holds() || third.holds() || !other.holds() {
		t.Error("not in the order in which they came")
	}
	if !first.Covers(keys("a", "b")) || first.Covers(keys("a", "c")) {
		t.Error("keys are mixed up")
	}
	if !l.Busy(keys("x", "d")) || l.Busy(keys("x")) {
		t.Error("which keys are busy is not known")
	}
	second.Release() // it gives up
	if !third.holds() {
		t.Error("nobody is ahead")
	}
	fourth := l.Enqueue(keys("a", "c"))
	third.Release()
	if fourth.holds() {
		t.Error("one key is not all")
	}
	first.Release()
	if !fourth.holds() {
		t.Error("both are free")
	}
	fourth.Release()
	other.Release()
	if len(l.queues) != 0 || l.guards != 0 {
		t.Errorf("%d queues, %d guards are left", len(l.queues), l.guards)
	}
}

func TestGuardsAreBounded(t *testing.T) {
	l := New(2)
	first, second := l.Enqueue(keys("a")), l.Enqueue(keys("a"))
	if l.Enqueue(keys("b")) != nil {
		t.Error("a third one of two")
	}
	second.Wait(context.Background(), time.Millisecond) // in vain
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	second.Wait(ctx, time.Hour)
	if second.holds() {
		t.Error("two hold a key")
	}
	first.Release()
	second.Wait(context.Background(), time.Hour)
	second.Release()
	if g := l.Enqueue(keys("b")); g == nil {
		t.Error("not one of two")
	} else {
		g.Release()
	}
}

// Whoever has waited is alone on its keys, whatever the others do.
func TestAloneOnTheKeys(t *testing.T) {
	l := New(1000)
	rng := testkit.Rand(t)
	var owners [8]atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		rng := testkit.Fork(rng)
		all.Go(func() {
			for range 500 {
				mine := rng.Perm(len(owners))[:1+rng.IntN(3)]
				var names []string
				for _, i := range mine {
					names = append(names, fmt.Sprint(i))
				}
				g := l.Enqueue(keys(names...))
				if rng.IntN(10) > 0 {
					g.Wait(context.Background(), time.Hour)
					for _, i := range mine {
						if n := owners[i].Add(1); n != 1 {
							t.Errorf("%d owners", n)
						}
					}
					for _, i := range slices.Backward(mine) {
						owners[i].Add(-1)
					}
				}
				g.Release()
			}
		})
	}
	all.Wait()
	if len(l.queues) != 0 || l.guards != 0 {
		t.Errorf("%d queues, %d guards are left", len(l.queues), l.guards)
	}
}
