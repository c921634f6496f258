package storage

import (
	"sync"
	"sync/atomic"
)

// fence is the one-way state of a store whose engine failed for good.
type fence struct {
	once    sync.Once
	cause   atomic.Pointer[error]
	tripped chan struct{} // closed after cause was set
}

func newFence() *fence { return &fence{tripped: make(chan struct{})} }

// trip fences with a typed cause; only the first call counts.
func (f *fence) trip(cause error) {
	f.once.Do(func() {
		f.cause.Store(&cause)
		close(f.tripped)
	})
}

// err returns the cause, or nil as long as all is well.
func (f *fence) err() error {
	if cause := f.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}
