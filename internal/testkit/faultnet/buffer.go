package faultnet

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// bufferBytes is what a connection holds at each of its four ends.
const bufferBytes = 256 << 10

// buffer is a bounded pipe of bytes.
type buffer struct {
	mu      sync.Mutex
	data    []byte
	ended   bool          // no more is written
	broken  error         // of both sides, at once
	changed chan struct{} // closed and replaced at each change
	readBy  time.Time
	writeBy time.Time
}

func newBuffer() *buffer { return &buffer{changed: make(chan struct{})} }

// change runs f under the lock and wakes all who wait.
func (b *buffer) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	b.wakeLocked()
}

func (b *buffer) wakeLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// end lets the reader read what there is, and then io.EOF.
func (b *buffer) end() { b.change(func() { b.ended = true }) }

// fail makes reads and writes return err from now on.
func (b *buffer) fail(err error) {
	b.change(func() {
		if b.broken == nil {
			b.broken, b.data = err, nil
		}
	})
}

// read waits for bytes and moves them to p.
func (b *buffer) read(p []byte) (int, error) {
	for {
		b.mu.Lock()
		if n, err, ok := b.readLocked(p); ok {
			b.mu.Unlock()
			return n, err
		}
		changed, by := b.changed, b.readBy
		b.mu.Unlock()
		wait(changed, by)
	}
}

func (b *buffer) readLocked(p []byte) (n int, err error, ok bool) {
	switch {
	case b.broken != nil:
		return 0, b.broken, true
	case passed(b.readBy):
		return 0, os.ErrDeadlineExceeded, true
	case len(b.data) > 0 || len(p) == 0:
		n = copy(p, b.data)
		b.data = b.data[n:]
		b.wakeLocked()
		return n, nil, true
	case b.ended:
		return 0, io.EOF, true
	}
	return 0, nil, false
}

// write waits for room until all of p is taken.
func (b *buffer) write(p []byte) (n int, err error) {
	for {
		b.mu.Lock()
		m, err := b.writeLocked(p[n:])
		n += m
		if err != nil || n == len(p) {
			b.mu.Unlock()
			return n, err
		}
		changed, by := b.changed, b.writeBy
		b.mu.Unlock()
		wait(changed, by)
	}
}

func (b *buffer) writeLocked(p []byte) (int, error) {
	switch {
	case b.broken != nil:
		return 0, b.broken
	case b.ended:
		return 0, net.ErrClosed
	case passed(b.writeBy):
		return 0, os.ErrDeadlineExceeded
	}
	n := min(len(p), bufferBytes-len(b.data))
	if n > 0 {
		b.data = append(b.data, p[:n]...)
		b.wakeLocked()
	}
	return n, nil
}

func passed(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

// wait returns when something changed or the deadline passed.
func wait(changed <-chan struct{}, deadline time.Time) {
	if deadline.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// isBroken reports whether both sides of the buffer have failed.
func (b *buffer) isBroken() bool {
	_, broken := b.watch()
	return broken
}

// watch returns a channel that is closed at the next change.
func (b *buffer) watch() (changed <-chan struct{}, broken bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed, b.broken != nil
}
