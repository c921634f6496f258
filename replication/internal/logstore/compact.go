package logstore

import (
	"context"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
)

// deadShare is the part of the files, one in so many bytes, that must be dead
// to be worth a round. While much is written the engine's own merges keep it
// lower than that.
const deadShare = 3

// compactor knows which entries are dead and have not been reclaimed. While
// entries are written the engine reclaims most of them itself; the rounds of
// the compactor reclaim what is left behind when fewer are.
type compactor struct {
	mu    sync.Mutex
	dirty map[raftio.NodeInfo]uint64 // the last dead entry of a replica
	next  chan struct{}              // closed at the end of the next round
	wake  chan struct{}              // capacity 1: a round is wanted
}

// add notes that the entries of a replica up to index are dead, and returns
// the channel that will be closed when the next round is over.
func (c *compactor) add(id raftio.NodeInfo, index uint64) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dirty[id] = max(c.dirty[id], index)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return c.next
}

// wait blocks until a round is wanted; it reports false if ctx ends first.
func (c *compactor) wait(ctx context.Context) bool {
	select {
	case <-c.wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// begin starts a round: what is dirty, and the channel to close at its end.
func (c *compactor) begin() (map[raftio.NodeInfo]uint64, chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	dirty, done := c.dirty, c.next
	c.dirty, c.next = make(map[raftio.NodeInfo]uint64), make(chan struct{})
	return dirty, done
}

// keep takes back what a round left for a later one.
func (c *compactor) keep(dirty map[raftio.NodeInfo]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, index := range dirty {
		c.dirty[id] = max(c.dirty[id], index)
	}
}

// CompactEntriesTo implements raftio.ILogDB. The channel is closed when the
// space was reclaimed or is too little to be worth it.
func (s *Store) CompactEntriesTo(shard, replica, index uint64) (<-chan struct{}, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	done := s.compactor.add(raftio.NodeInfo{ShardID: shard, ReplicaID: replica}, index)
	s.leave("compact", nil)
	return done, nil
}

// compact runs rounds until the store closes.
func (s *Store) compact(ctx context.Context) {
	for s.compactor.wait(ctx) && sleep(ctx, s.cfg.pace.every) {
		dirty, done := s.compactor.begin()
		s.compactor.keep(s.round(ctx, dirty))
		close(done)
	}
	_, done := s.compactor.begin()
	close(done)
}

// round reclaims what is dead, if it is enough, and returns what it left.
func (s *Store) round(ctx context.Context, dirty map[raftio.NodeInfo]uint64) map[raftio.NodeInfo]uint64 {
	var dead uint64
	bytes := make(map[raftio.NodeInfo]uint64)
	for id, index := range dirty {
		bytes[id] = s.deadBytes(id, index)
		dead += bytes[id]
	}
	if dead < s.cfg.pace.deadBytes || dead < s.db.Metrics().DiskSpaceUsage()/deadShare {
		return dirty
	}
	for id, index := range dirty {
		if ctx.Err() != nil || s.fence.Err() != nil {
			return nil
		}
		if bytes[id] == 0 {
			continue
		}
		began := time.Now()
		s.compactRange(ctx, id, index)
		sleep(ctx, time.Since(began)*time.Duration(s.cfg.pace.rest))
	}
	return nil
}

// deadBytes estimates what the files hold of entries up to index.
func (s *Store) deadBytes(id raftio.NodeInfo, index uint64) uint64 {
	n, err := s.db.EstimateDiskUsage(entryKey(id, 0), afterEntry(id, index))
	if err != nil {
		s.cfg.Logger.Warn("estimate the size of the raft log", "error", err)
	}
	return n
}

func (s *Store) compactRange(ctx context.Context, id raftio.NodeInfo, index uint64) {
	var err error
	defer func() {
		if err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("compact the raft log", "error", err)
		}
	}()
	defer recovered(s.cfg.Logger, "compact", &err)
	err = s.db.Compact(ctx, entryKey(id, 0), afterEntry(id, index), false)
}

// sleep waits and reports whether ctx is still good.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
