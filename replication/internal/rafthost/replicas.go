package rafthost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/fsm"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
)

// Spec says which replica of a shard a node is to have.
type Spec struct {
	Shard   base.ShardID
	Replica uint64 // at least 1; never used again on this shard
	// Founders are the first members of the shard, if the replica is one of them.
	// Others join a group that exists, as learners. Of a replica that was started
	// before they do not count.
	Founders []ask.Member
}

// Local is a replica that a node has on its disk.
type Local struct {
	Shard   base.ShardID
	Replica uint64
}

// Start starts a replica of a shard that has none running here, and returns its
// state machine. It fails with ErrCorrupt if the disk has another past than the
// replica, and with ErrInvalid if it has another replica of the shard.
func (n *Host) Start(spec Spec) (*kvfsm.Machine, error) {
	defer n.releaseParked()()
	known, err := n.onDisk(spec.Shard, spec.Replica)
	if err != nil {
		return nil, err
	}
	if !known && len(spec.Founders) == 0 {
		// What an earlier replica may have left is not this one's. It must be gone for
		// good before the log says that this one was started.
		if err := errors.Join(n.cfg.Store.DropShard(spec.Shard), n.cfg.Store.Sync()); err != nil {
			return nil, err
		}
	}
	m, err := kvfsm.Open(n.cfg.Store, spec.Shard, 0)
	if err != nil {
		return nil, fmt.Errorf("shard %d: %w", spec.Shard, err)
	}
	if err := n.agree(spec.Shard, spec.Replica, m, known); err != nil {
		return nil, err
	}
	return m, n.run(spec, m, known)
}

// onDisk reports whether a replica was started before. It fails if another one of
// the shard was, and has not been removed.
func (n *Host) onDisk(id base.ShardID, replica uint64) (known bool, err error) {
	local, err := n.local()
	if err != nil {
		return false, err
	}
	for _, r := range local {
		if r.Shard == id && r.Replica != replica {
			return false, fmt.Errorf("%w: shard %d has replica %d on the disk here, and cannot have %d too", base.ErrInvalid, id, r.Replica, replica)
		}
		known = known || r == Local{Shard: id, Replica: replica}
	}
	return known, nil
}

// agree checks that the log and the data of a shard belong together: if one of
// them was lost, the replica would contradict what it said before.
func (n *Host) agree(id base.ShardID, replica uint64, m *kvfsm.Machine, known bool) error {
	snap, err := n.logs.GetSnapshot(GroupID(id), replica)
	if err != nil {
		return err
	}
	// A node that dies while it takes over an image has the old data, a log that begins
	// after the image, and the image, which raft reads again.
	whole, err := n.wholeImage(snap)
	if err != nil {
		return err
	}
	if snap.OnDiskIndex > m.Index() && !whole {
		return fmt.Errorf("%w: shard %d has data up to entry %d, its raft log begins after %d; "+
			"the data was lost or replaced: remove this replica and add the node anew", base.ErrCorrupt, id, m.Index(), snap.OnDiskIndex)
	}
	if !known && m.Index() > 0 {
		return fmt.Errorf("%w: shard %d has data up to entry %d and no raft log: the log was lost; "+
			"remove this replica and add the node anew", base.ErrCorrupt, id, m.Index())
	}
	return nil
}

// imagePathParts is how many parts of the path of an image say which it is: the
// deployment, the partition, the replica, the entry, the file.
const imagePathParts = 5

// emptyImageBytes is how long the file of an image is that raft has emptied since
// the data are on the disk: a header, no sessions, a checksum and a tail.
const emptyImageBytes = 1024 + 16 + 4 + 16

// wholeImage reports whether the disk has all of the image of a shard that the log
// begins after. It does not of one that this node has made, which raft does not read
// again, or has taken over.
func (n *Host) wholeImage(snap raftpb.Snapshot) (bool, error) {
	if snap.Filepath == "" || snap.Dummy {
		return false, nil
	}
	// The directory may have had another name then.
	parts := strings.Split(filepath.ToSlash(snap.Filepath), "/")
	parts = parts[max(0, len(parts)-imagePathParts):]
	info, err := n.files.Stat(n.cfg.FS.PathJoin(append([]string{n.filesDir(), "host"}, parts...)...))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", base.ErrUnavailable, err)
	}
	return info.Size() > emptyImageBytes, nil
}

// run hands the replica to dragonboat.
func (n *Host) run(spec Spec, m *kvfsm.Machine, known bool) error {
	var members map[uint64]dragonboat.Target
	join := len(spec.Founders) == 0
	if !join && !known {
		members = make(map[uint64]dragonboat.Target)
		for _, f := range spec.Founders {
			members[f.Replica] = n.names.target(f.Node)
		}
	}
	joined, err := n.joined(spec.Shard, spec.Replica, join)
	if err != nil {
		return err
	}
	create := func(uint64, uint64) statemachine.IOnDiskStateMachine {
		return fsm.New(fsm.Config{
			Store: n.cfg.Store, Shard: spec.Shard, Machine: m, Fail: n.fence.Trip, Failed: n.fence.Down, Stopped: n.stop,
		})
	}
	err = n.raft.StartOnDiskReplica(members, join && !known, create, config.Config{
		ShardID:                GroupID(spec.Shard),
		ReplicaID:              spec.Replica,
		IsNonVoting:            joined, // until raft promotes it, which is in its log
		CheckQuorum:            true,
		PreVote:                true,
		ElectionRTT:            uint64(n.cfg.ElectionTicks),
		HeartbeatRTT:           uint64(n.cfg.HeartbeatTicks),
		SnapshotEntries:        n.cfg.SnapshotEntries,
		CompactionOverhead:     n.cfg.KeepEntries,
		OrderedConfigChange:    true,
		MaxInMemLogSize:        maxInMemLogBytes,
		DisableAutoCompactions: true,
	})
	if cause := n.fence.Err(); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("start replica %d of shard %d: %w", spec.Replica, spec.Shard, err)
	}
	return nil
}

// joined reports whether a replica began as a learner: as its log says if there is
// one, else as it is about to.
func (n *Host) joined(id base.ShardID, replica uint64, join bool) (bool, error) {
	info, err := n.logs.GetBootstrapInfo(GroupID(id), replica)
	if errors.Is(err, raftio.ErrNoBootstrapInfo) {
		return join, nil
	}
	return info.Join, err
}

// removePatience is how long a replica may take to stop before its data can be
// deleted.
const removePatience = 30 * time.Second

// Remove stops the replica of a shard and deletes its data and its log, also if it
// is on the disk only. If it fails it can be called again.
func (n *Host) Remove(ctx context.Context, shard base.ShardID) error {
	local, err := n.local()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, removePatience)
	defer cancel()
	for _, r := range local {
		if r.Shard == shard {
			if err := n.forget(ctx, r); err != nil {
				return fmt.Errorf("remove replica %d of shard %d: %w", r.Replica, shard, err)
			}
		}
	}
	// The log is gone: the data left behind would be dropped by the next Start.
	if err := n.cfg.Store.DropShard(shard); err != nil {
		return err
	}
	return n.cfg.Store.Sync()
}

// forget stops a replica and deletes its log.
func (n *Host) forget(ctx context.Context, r Local) error {
	err := n.raft.StopReplica(GroupID(r.Shard), r.Replica)
	if err != nil && !errors.Is(err, dragonboat.ErrShardNotFound) {
		return err
	}
	return n.raft.SyncRemoveData(ctx, GroupID(r.Shard), r.Replica)
}

// Local returns the replicas that this node has on its disk, whether they run or
// not.
func (n *Host) Local() ([]Local, error) {
	var all []Local
	err := n.UnlessFailed(func() (err error) {
		found, err := n.local()
		if err == nil {
			all = found
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (n *Host) local() ([]Local, error) {
	infos, err := n.logs.ListNodeInfo()
	if err != nil {
		return nil, err
	}
	var all []Local
	for _, info := range infos {
		all = append(all, Local{Shard: base.ShardID(info.ShardID - 1), Replica: info.ReplicaID})
	}
	return all, nil
}

// SetAddress records where the raft of a node can be reached.
func (n *Host) SetAddress(node, address string) {
	n.registry.SetAddress(n.names.target(node), address)
}

// NodeOf returns the node that a replica is on, "" if that is not known.
func (n *Host) NodeOf(shard base.ShardID, replica uint64) string {
	if target, found := n.registry.Target(GroupID(shard), replica); found {
		return n.names.node(target)
	}
	return ""
}

// nodeNames knows the nodes by the names that dragonboat has for them.
type nodeNames struct{ byTarget sync.Map }

// target returns the name of a node for dragonboat, and remembers it.
func (n *nodeNames) target(node string) string {
	target := hostID(node)
	n.byTarget.LoadOrStore(target, node)
	return target
}

// node returns the node of that name, "" if it is not known.
func (n *nodeNames) node(target string) string {
	if node, found := n.byTarget.Load(target); found {
		return node.(string)
	}
	return ""
}
