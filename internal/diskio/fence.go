package diskio

import (
	"sync"
	"sync/atomic"
)

// Fence is the one-way state of something that has failed for good: a store whose
// disk failed, a node that must not be heard any more.
type Fence struct {
	once    sync.Once
	cause   atomic.Pointer[error]
	tripped chan struct{} // closed after cause was set
}

// NewFence returns one that has not tripped.
func NewFence() *Fence { return &Fence{tripped: make(chan struct{})} }

// Trip fences with a typed cause; only the first call counts.
func (f *Fence) Trip(cause error) {
	f.once.Do(func() {
		f.cause.Store(&cause)
		close(f.tripped)
	})
}

// Err returns the cause, or nil as long as all is well.
func (f *Fence) Err() error {
	if cause := f.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}

// Down reports whether the fence has tripped.
func (f *Fence) Down() bool { return f.cause.Load() != nil }

// Tripped is closed when the fence trips.
func (f *Fence) Tripped() <-chan struct{} { return f.tripped }
