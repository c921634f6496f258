package logstore

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/diskio"
)

// Store is the raft log of all shards of one node. It implements
// raftio.ILogDB. All its methods are safe for concurrent use; what is saved
// for one replica must be saved by one goroutine at a time.
type Store struct {
	cfg   Config
	fence *diskio.Fence
	fs    *guardFS
	cache *pebble.Cache
	db    *pebble.DB
	lock  io.Closer

	workers uint64 // see StepWorkers

	released chan struct{} // closed by Release
	release  sync.Once
	batches  atomic.Int64

	compactor   compactor
	compactions sync.WaitGroup // the goroutine of the compactor
	cancel      context.CancelFunc

	teller sync.WaitGroup // the goroutine that calls OnFail
	stop   chan struct{}  // closed by Close after the engine

	// open keeps the engine from being closed under a call.
	open struct {
		sync.RWMutex
		closed bool
	}

	// snapshots is held from comparing the record of a snapshot with the last
	// one until it is written: it comes from two goroutines of a replica.
	snapshots sync.Mutex

	nodes struct {
		sync.RWMutex
		byID map[raftio.NodeInfo]*node
	}
}

var _ raftio.ILogDB = (*Store)(nil)

// node is what is remembered of a replica: what was written last, which is
// what the engine holds or is about to.
type node struct {
	mu       sync.Mutex
	state    raftpb.State
	commit   uint64 // of the state that was written last
	snapshot uint64 // the index of the snapshot record; 0 if there is none
	// first and last bound the entries; there are none if first > last.
	first, last uint64
	// saved is the last entry that is durable.
	saved uint64
}

// Stats is what the store has done since it was opened and what it holds.
type Stats struct {
	DiskBytes   int64  // of all files
	LiveEntries uint64 // of the replicas that were used since the store was opened
	Batches     int64  // written to the log of the engine
	Fsyncs      int64  // of the log of the engine
}

// Stats returns a moment's figures; after Close only the counters.
func (s *Store) Stats() Stats {
	s.open.RLock()
	defer s.open.RUnlock()
	stats := Stats{Batches: s.batches.Load(), Fsyncs: s.fs.fsyncs.Load()}
	if s.open.closed {
		return stats
	}
	stats.DiskBytes = int64(s.db.Metrics().DiskSpaceUsage())
	s.nodes.RLock()
	defer s.nodes.RUnlock()
	for _, n := range s.nodes.byID {
		n.mu.Lock()
		stats.LiveEntries += n.last + 1 - n.first
		n.mu.Unlock()
	}
	return stats
}

// StepWorkers returns how many step workers a NodeHost with this store must have.
func (s *Store) StepWorkers() uint64 { return s.workers }

// Fence makes the store behave from now on as after an error of the disk:
// nothing is written any more and every call parks until Release. Only the
// first cause counts.
func (s *Store) Fence(cause error) { s.fence.Trip(diskio.Typed("fenced", cause)) }

// Err returns why the store failed or was fenced; nil as long as all is well.
func (s *Store) Err() error { return s.fence.Err() }

// Release lets go of the goroutines that a failure has parked, and of those
// that a later one would park: their calls return as if they had succeeded.
// Call it before closing the NodeHost of the store, when nothing that the node
// says can be heard any more and its state machines do not apply. It changes
// nothing for a store that has not failed.
func (s *Store) Release() { s.release.Do(func() { close(s.released) }) }

// Close implements raftio.ILogDB. It never fails, as NodeHost would panic:
// what goes wrong is what Err returns. It releases what is parked. Further
// calls do nothing.
func (s *Store) Close() error {
	s.Release()
	s.open.Lock()
	defer s.open.Unlock()
	if s.open.closed {
		return nil
	}
	s.open.closed = true
	s.cancel()
	close(s.fs.closing)
	s.compactions.Wait()
	if err := errors.Join(s.flush(), s.closeEngine()); err != nil {
		s.fence.Trip(diskio.Typed("close raft log", err))
	}
	if s.fence.Err() == nil {
		diskio.RemoveOldLogs(s.fs, s.engineDir())
	}
	close(s.stop)
	s.teller.Wait()
	if err := s.lock.Close(); err != nil {
		s.cfg.Logger.Warn("unlock raft log", "error", err)
	}
	return nil
}

// flush empties the log of the engine before a close in good order, so that what
// becomes of the log afterwards costs nothing.
func (s *Store) flush() (err error) {
	defer recovered(s.cfg.Logger, "flush", &err)
	if s.fence.Err() != nil {
		return nil
	}
	if err := s.write(false, s.putCommits); err != nil {
		return err
	}
	return s.db.Flush()
}

// putCommits adds the commit indexes that were not written.
func (s *Store) putCommits(b *pebble.Batch) error {
	s.nodes.RLock()
	defer s.nodes.RUnlock()
	var err error
	for id, n := range s.nodes.byID {
		n.mu.Lock()
		if n.commit != n.state.Commit {
			err = errors.Join(err, n.writeState(b, id))
		}
		n.mu.Unlock()
	}
	return err
}

func (s *Store) closeEngine() (err error) {
	defer recovered(s.cfg.Logger, "close", &err)
	defer s.cache.Unref()
	if s.db != nil {
		err = s.db.Close()
	}
	return errors.Join(err, s.fs.seal.Close())
}

func (s *Store) engineDir() string { return s.fs.PathJoin(s.cfg.Dir, engineDir) }

func (s *Store) isClosed() bool {
	s.open.RLock()
	defer s.open.RUnlock()
	return s.open.closed
}

// enter begins a call: it parks if the store has failed. Only a closed store
// is an error. After nil, leave must follow.
func (s *Store) enter() error {
	s.open.RLock()
	if s.open.closed {
		s.open.RUnlock()
		return errClosed()
	}
	s.park()
	return nil
}

// leave ends a call that may have failed with err. It parks if the store has
// failed meanwhile, for whatever the call did may not have reached the disk.
func (s *Store) leave(what string, err error) {
	if err != nil {
		s.fence.Trip(diskio.Typed(what, err))
	}
	s.park()
	s.open.RUnlock()
}

// park blocks until Release if the store has failed.
func (s *Store) park() {
	if s.fence.Err() != nil {
		<-s.released
	}
}

// node returns what is remembered of a replica and reads it the first time.
func (s *Store) node(id raftio.NodeInfo) (*node, error) {
	s.nodes.RLock()
	n := s.nodes.byID[id]
	s.nodes.RUnlock()
	if n != nil {
		return n, nil
	}
	n, err := s.loadNode(id)
	if err != nil {
		return nil, err
	}
	s.nodes.Lock()
	defer s.nodes.Unlock()
	if other := s.nodes.byID[id]; other != nil {
		return other, nil
	}
	s.nodes.byID[id] = n
	return n, nil
}

// forget drops what is remembered of a replica.
func (s *Store) forget(id raftio.NodeInfo) {
	s.nodes.Lock()
	defer s.nodes.Unlock()
	delete(s.nodes.byID, id)
}

func (s *Store) loadNode(id raftio.NodeInfo) (*node, error) {
	n := &node{first: 1}
	if _, err := s.get(nodeKey(kindState, id), &n.state); err != nil {
		return nil, err
	}
	n.commit = n.state.Commit
	var snapshot raftpb.Snapshot
	if _, err := s.get(nodeKey(kindSnapshot, id), &snapshot); err != nil {
		return nil, err
	}
	n.snapshot = snapshot.Index
	first, last, found, err := s.bounds(id, 0)
	if err == nil && found {
		n.first, n.last, n.saved = first, last, last
	}
	return n, err
}
