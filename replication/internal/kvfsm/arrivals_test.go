package kvfsm

import (
	"sync"
	"testing"

	"github.com/distributedcache/cache/internal/testkit"
)

func TestAwait(t *testing.T) {
	var a arrivals
	a.reach(3)
	if ready, _ := a.await(3); ready != nil {
		t.Error("waits for what is there")
	}
	early, _ := a.await(4)
	late, forget := a.await(9)
	a.reach(5)
	select {
	case <-early:
	default:
		t.Error("does not hear of what it waits for")
	}
	select {
	case <-late:
		t.Error("goes on too early")
	default:
	}
	forget()
	if a.reach(8); a.waiting.Load() != 0 || len(a.mu.readers) != 0 {
		t.Error("a reader that has left is waited on")
	}
}

// No reader is forgotten, whenever it comes.
func TestAwaitAtTheSameTime(t *testing.T) {
	const last = 2000
	var a arrivals
	var readers sync.WaitGroup
	for range 4 {
		rng := testkit.Rand(t)
		readers.Go(func() {
			for range 500 {
				if ready, _ := a.await(uint64(rng.IntN(last))); ready != nil {
					<-ready
				}
			}
		})
	}
	for index := range uint64(last) {
		a.reach(index + 1)
	}
	readers.Wait()
}
