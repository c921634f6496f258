package kvfsm

import (
	"sync"
	"sync/atomic"
)

// arrivals lets readers wait until what an entry did can be seen.
type arrivals struct {
	shown   atomic.Uint64 // index of the newest entry that can be seen
	waiting atomic.Int32  // as many as are in mu.readers

	mu struct {
		sync.Mutex
		readers []reader
	}
}

type reader struct {
	index uint64
	ready chan struct{}
}

// Shown returns the index up to which what the log did can be seen.
func (m *Machine) Shown() uint64 { return m.arrivals.shown.Load() }

// Await returns a channel that is closed as soon as what the log did up to an index
// can be seen; nil if that is so already. forget must be called by a reader that does
// not wait any longer.
func (m *Machine) Await(index uint64) (ready <-chan struct{}, forget func()) {
	return m.arrivals.await(index)
}

func (a *arrivals) await(index uint64) (<-chan struct{}, func()) {
	if a.shown.Load() >= index {
		return nil, func() {}
	}
	ch := make(chan struct{})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting.Add(1) // before the second look: reach looks in the other order
	if a.shown.Load() >= index {
		a.waiting.Add(-1)
		return nil, func() {}
	}
	a.mu.readers = append(a.mu.readers, reader{index, ch})
	return ch, func() { a.forget(ch) }
}

// reach lets go whoever waits for an index up to this one.
func (a *arrivals) reach(index uint64) {
	a.shown.Store(index)
	if a.waiting.Load() == 0 {
		return
	}
	a.release(func(r reader) bool { return r.index <= index })
}

func (a *arrivals) forget(ch chan struct{}) {
	a.release(func(r reader) bool { return r.ready == ch })
}

// release lets some readers go.
func (a *arrivals) release(which func(reader) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kept := a.mu.readers[:0]
	for _, r := range a.mu.readers {
		if which(r) {
			close(r.ready)
		} else {
			kept = append(kept, r)
		}
	}
	clear(a.mu.readers[len(kept):])
	a.waiting.Store(int32(len(kept)))
	a.mu.readers = kept
}
