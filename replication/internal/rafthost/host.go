package rafthost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/diskio"
	"github.com/distributedcache/cache/replication/internal/hostfs"
	"github.com/distributedcache/cache/replication/internal/hostlog"
	"github.com/distributedcache/cache/replication/internal/logstore"
	"github.com/distributedcache/cache/replication/internal/transport"
	"github.com/distributedcache/cache/storage"
)

// Config says how raft runs on a node. All of it must be set but where noted.
type Config struct {
	Store   *storage.Store
	Logger  *slog.Logger
	Dir     string // of the raft log and what belongs to it, on FS
	FS      storage.FS
	Node    string
	Address string
	Network transport.Network
	Tick    time.Duration
	// ElectionTicks and HeartbeatTicks are how long a leader may be silent, and is.
	ElectionTicks, HeartbeatTicks int
	// SnapshotEntries is after how many entries a shard forgets its log, but for
	// the newest KeepEntries.
	SnapshotEntries, KeepEntries uint64
	SnapshotBytesPerSecond       int64                        // 0 = no bound
	OwnProposals                 bool                         // see transport.Config
	OnFail                       func(error)                  // may be nil
	OnLeader                     func(base.ShardID)           // the shard has another leader, or none; must not wait
	Tune                         func(*config.NodeHostConfig) // for measurements; may be nil
}

// Host is raft on one node: what its replicas share, and their coming and going.
// Its methods may be called concurrently, but for one call of Start or Remove at a
// time.
type Host struct {
	cfg    Config
	raft   *dragonboat.NodeHost
	logs   *logstore.Store
	files  *hostfs.FS // what dragonboat keeps beside the log
	detach func()     // the logger
	// fence separates the node from the rest once it has failed: no message leaves,
	// no caller is told that something was applied.
	fence    *diskio.Fence
	registry *transport.Registry
	carrier  *transport.Transport
	names    nodeNames
	stop     chan struct{}
	calls    sync.WaitGroup // of UnlessFailed
}

// Open starts raft without replicas.
func Open(cfg Config) (*Host, error) {
	n := &Host{cfg: cfg, fence: diskio.NewFence(), stop: make(chan struct{}), detach: hostlog.Attach(cfg.Logger)}
	if err := n.open(); err != nil {
		n.detach()
		return nil, err
	}
	return n, nil
}

// Raft returns what entries are proposed to and barriers asked of.
func (n *Host) Raft() *dragonboat.NodeHost { return n.raft }

// Fence returns what trips when the node has failed.
func (n *Host) Fence() *diskio.Fence { return n.fence }

// Failed returns an error if the node has failed. Its log store would not come back
// with an answer then, until Close.
func (n *Host) Failed() error {
	if err := n.fence.Err(); err != nil {
		return fmt.Errorf("%w: this node has failed: %v", base.ErrUnavailable, err)
	}
	return nil
}

// UnlessFailed runs fn, which uses the log store, and does not wait for it any more
// once the node has failed. Then fn ends in Close.
func (n *Host) UnlessFailed(fn func() error) error {
	done := make(chan error, 1)
	n.calls.Go(func() { done <- fn() })
	select {
	case err := <-done:
		return err
	case <-n.fence.Tripped():
		return n.Failed()
	}
}

// GroupID is the number of the raft group of a shard; 0 is not allowed.
func GroupID(id base.ShardID) uint64 { return uint64(id) + 1 }

// Leader returns the replica that this node takes for the leader of a shard, and
// its term; 0 if none is known.
func (n *Host) Leader(id base.ShardID) (replica, term uint64) {
	replica, term, known, err := n.raft.GetLeaderID(GroupID(id))
	if err != nil || !known {
		return 0, term
	}
	return replica, term
}

// Told returns the newest entry of a shard that this node, as its leader, has told
// others to be committed.
func (n *Host) Told(id base.ShardID) uint64 { return n.carrier.Told(GroupID(id)) }

// hostID returns the name of a node as dragonboat wants it: a UUID.
func hostID(node string) string {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], xxhash.Sum64String("1"+node))
	binary.BigEndian.PutUint64(id[8:], xxhash.Sum64String("2"+node))
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // version 8, RFC 9562
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// releaseParked lets what the log store has parked come back if the node fails
// before the returned function is called.
func (n *Host) releaseParked() (done func()) {
	started := make(chan struct{})
	go func() {
		select {
		case <-n.fence.Tripped():
			n.logs.Release()
		case <-started:
		}
	}()
	return func() { close(started) }
}

// open starts what is below the replicas.
func (n *Host) open() (err error) {
	n.logs, err = logstore.Open(logstore.Config{
		Dir: n.cfg.FS.PathJoin(n.cfg.Dir, "log"), FS: n.cfg.FS, Logger: n.cfg.Logger, OnFail: n.fence.Trip,
	})
	if err != nil {
		return err
	}
	n.registry = transport.NewRegistry()
	n.carrier = transport.New(transport.Config{
		Network: n.cfg.Network, Logger: n.cfg.Logger, Mute: n.fence.Down,
		SnapshotBytesPerSecond: n.cfg.SnapshotBytesPerSecond, OwnProposals: n.cfg.OwnProposals,
		Saved: n.logs.Saved,
	})
	n.files = hostfs.New(n.cfg.FS, hostfs.Config{Root: n.filesDir(), OnError: func(op string, err error) {
		err = fmt.Errorf("files of raft: %s: %w", op, err)
		n.fence.Trip(err)
		n.logs.Fence(err) // nothing may get ahead of the files
	}})
	hc := config.NodeHostConfig{
		NodeHostDir:    n.filesDir(),
		NodeHostID:     hostID(n.cfg.Node),
		RaftAddress:    n.cfg.Address,
		RTTMillisecond: uint64(n.cfg.Tick.Milliseconds()),
		// The queue to each peer is bounded by count too, but entries may be large.
		MaxSendQueueSize:    maxQueueBytes,
		MaxReceiveQueueSize: maxQueueBytes,
		Expert: config.ExpertConfig{
			LogDBFactory:        logstore.Factory(n.logs),
			TransportFactory:    n.carrier.Factory(),
			NodeRegistryFactory: n.registry.Factory(),
			FS:                  n.files,
			Engine:              config.EngineConfig{ExecShards: n.logs.StepWorkers(), CommitShards: 2, ApplyShards: 2, SnapshotShards: 4, CloseShards: 4},
			LogDB:               config.GetTinyMemLogDBConfig(),
		},
	}
	if n.cfg.OnLeader != nil {
		hc.RaftEventListener = listener{n.cfg.OnLeader}
	}
	hc.Expert.LogDB.Shards = n.logs.StepWorkers() // must divide ExecShards; nothing else of it is used
	if n.cfg.Tune != nil {
		n.cfg.Tune(&hc)
	}
	n.raft, err = dragonboat.NewNodeHost(hc)
	if err == nil && n.raft == nil {
		err = errors.New("raft did not start and gave no reason")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start raft: %w", err), n.logs.Close())
	}
	return nil
}

// filesDir is where dragonboat keeps what it keeps beside the log.
func (n *Host) filesDir() string { return n.cfg.FS.PathJoin(n.cfg.Dir, "host") }

// listener hears of the leaders of the groups.
type listener struct{ onLeader func(base.ShardID) }

// LeaderUpdated implements raftio.IRaftEventListener.
func (l listener) LeaderUpdated(info raftio.LeaderInfo) { l.onLeader(base.ShardID(info.ShardID - 1)) }

// maxQueueBytes bounds what waits to be sent to one peer, or to be looked at by
// one group.
const maxQueueBytes = 64 << 20

// maxInMemLogBytes bounds what one group keeps in memory of its log; proposals
// beyond that are refused.
const maxInMemLogBytes = 64 << 20

// Watch returns when the node is closed or has failed. Its owner runs it on a
// goroutine: it fences the node when its store fails, and the log of it when the node
// does, and says so.
func (n *Host) Watch() {
	select {
	case <-n.cfg.Store.Fenced():
		n.fence.Trip(n.cfg.Store.Err())
	case <-n.fence.Tripped():
	case <-n.stop:
		return
	}
	n.logs.Fence(n.fence.Err())
	if n.cfg.OnFail != nil {
		n.cfg.OnFail(n.fence.Err())
	}
}

// Close stops raft. After a failure nothing that is still said is heard.
func (n *Host) Close() {
	close(n.stop)
	n.logs.Release()
	n.raft.Close()
	n.calls.Wait()
	_ = n.logs.Close() // which the host has done, if it ever took the store over
	n.detach()
}
