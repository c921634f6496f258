package storage

import (
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
)

// diskView is what the last look at the disk showed.
type diskView struct {
	free, reserve int64
}

const (
	// minLookInterval bounds how often the disk and the engine are looked at,
	// however often the goroutine is woken.
	minLookInterval = 10 * time.Millisecond
	// Writes begin to wait when L0 has that many sublevels, because every
	// read must look into each, and go on when compactions are back at less.
	l0StallSublevels  = 20
	l0ResumeSublevels = 12
)

// poke wakes the maintenance goroutine. It never blocks and may be called
// with any lock held.
func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// maintain watches the free space and the shape of the engine until the store
// is closed.
func (s *Store) maintain() {
	ticker := time.NewTicker(s.cfg.DiskPollInterval)
	defer ticker.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		s.watchDisk()
		s.watchL0()
		pause.Reset(minLookInterval)
		select {
		case <-pause.C:
		case <-s.stop:
			s.resume()
			return
		}
		select {
		case <-ticker.C:
		case <-s.wake:
		case <-s.stop:
			s.resume()
			return
		}
	}
}

// watchDisk refuses writes while less than the reserve is free or a write
// waits for space. They are accepted again with a bit more than the reserve,
// so that they do not flap.
func (s *Store) watchDisk() {
	view := diskView{}
	usage, err := s.cfg.FS.GetDiskUsage(s.cfg.Dir)
	switch {
	case err == nil:
		view.free = int64(min(usage.AvailBytes, 1<<62))
		view.reserve = s.reserveBytes(usage)
		s.disk.Store(&view)
	case !errors.Is(err, vfs.ErrUnsupported):
		s.cfg.Logger.Warn("free disk space unknown", "error", err)
		fallthrough
	default:
		view.free = 1 << 62
	}
	s.fs.budget.Store(view.free - view.reserve)
	need := view.reserve
	if s.full.Load() != nil {
		need += view.reserve / 8
	}
	switch {
	case s.fs.waiting.Load() > 0:
		s.refuse(fmt.Errorf("%w: the disk is full", base.ErrNoSpace))
	case view.free < need:
		s.refuse(fmt.Errorf("%w: %d MiB free, %d MiB reserved", base.ErrNoSpace, view.free>>20, view.reserve>>20))
	case s.full.Swap(nil) != nil:
		s.cfg.Logger.Info("disk space is back, writes go on", "free", view.free, "reserve", view.reserve)
	}
}

func (s *Store) refuse(err error) {
	if s.full.Swap(&err) == nil {
		s.cfg.Logger.Warn("writes are refused", "error", err)
	}
}

func (s *Store) reserveBytes(usage vfs.DiskUsage) int64 {
	switch {
	case s.cfg.DiskReserveBytes < 0:
		return 0
	case s.cfg.DiskReserveBytes > 0:
		return s.cfg.DiskReserveBytes
	}
	return int64(min(usage.TotalBytes/20, maxDefaultReserveBytes))
}

// stall is a period in which writes wait.
type stall struct{ over chan struct{} }

// watchL0 makes writes wait while compactions lag behind. The engine could do
// that itself, but would not let go of the writers when the store is fenced
// or closed.
func (s *Store) watchL0() {
	sublevels := int(s.db.Metrics().Levels[0].Sublevels)
	switch {
	case s.fence.Err() != nil || sublevels <= l0ResumeSublevels:
		s.resume()
	case sublevels >= l0StallSublevels && s.stalled.Load() == nil:
		s.stalls.Add(1)
		s.cfg.Logger.Info("writes wait for compactions", "sublevels", sublevels)
		s.stalled.Store(&stall{over: make(chan struct{})})
	}
}

func (s *Store) resume() {
	if st := s.stalled.Swap(nil); st != nil {
		close(st.over)
	}
}

// admit waits until compactions keep up with writes.
func (s *Store) admit() {
	if st := s.stalled.Load(); st != nil {
		select {
		case <-st.over:
		case <-s.fence.Tripped():
		}
	}
}
