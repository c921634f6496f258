package sololog

import "sync"

// batcher gathers what callers submit while the one goroutine that serves them
// is busy, and hands it over in order and at once. It never waits for company:
// whoever comes to an idle server is taken alone.
type batcher[T any] struct {
	mu struct {
		sync.Mutex
		queue  []T
		closed bool
	}
	wake chan struct{} // has a token if the server should look again
}

func newBatcher[T any]() *batcher[T] {
	return &batcher[T]{wake: make(chan struct{}, 1)}
}

// add appends an item; false after close. The caller bounds how many there
// can be.
func (b *batcher[T]) add(item T) bool {
	b.mu.Lock()
	if b.mu.closed {
		b.mu.Unlock()
		return false
	}
	b.mu.queue = append(b.mu.queue, item)
	first := len(b.mu.queue) == 1
	b.mu.Unlock()
	if first {
		b.signal()
	}
	return true
}

// take waits for items and returns all that are there, in order. It swaps its
// queue for the given one, which must no longer be in use. It returns false
// once the batcher is closed and empty.
func (b *batcher[T]) take(spare []T) ([]T, bool) {
	clear(spare)
	for {
		b.mu.Lock()
		items, closed := b.mu.queue, b.mu.closed
		if len(items) > 0 {
			b.mu.queue = spare[:0]
			b.mu.Unlock()
			return items, true
		}
		b.mu.Unlock()
		if closed {
			return nil, false
		}
		<-b.wake
	}
}

// close refuses what comes from now on. What was added before is still served.
func (b *batcher[T]) close() {
	b.mu.Lock()
	b.mu.closed = true
	b.mu.Unlock()
	b.signal()
}

func (b *batcher[T]) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}
