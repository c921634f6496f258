package replication

import (
	"context"
	"fmt"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/rafthost"
)

// Member is a replica of a shard and the node that it is on.
type Member = ask.Member

// ReplicaSpec says which replica of a shard a node is to have.
type ReplicaSpec = rafthost.Spec

// LocalReplica is a replica that a node has on its disk.
type LocalReplica = rafthost.Local

// StartReplica starts this node's replica of a shard, unless it runs. It fails
// with ErrCorrupt if the disk has another past than the replica, and with
// ErrInvalid if the node has another replica of the shard, which must be removed
// before.
func (h *Host) StartReplica(_ context.Context, spec ReplicaSpec) error {
	n := h.raft
	if err := n.host.Failed(); err != nil {
		return err // changing may be held for ever
	}
	n.changing.Lock()
	defer n.changing.Unlock()
	return n.start(h.group(spec.Shard), spec)
}

// start is StartReplica. REQUIRES: changing is held, or nobody else is there yet.
func (n *raftNode) start(g *group, spec ReplicaSpec) error {
	if r := g.replica.Load(); r != nil {
		if r.id == spec.Replica {
			return nil
		}
		return fmt.Errorf("%w: shard %d has replica %d here, and cannot have %d too", base.ErrInvalid, g.id, r.id, spec.Replica)
	}
	m, err := n.host.Start(spec)
	if err != nil {
		return err
	}
	g.replica.Store(&replica{id: spec.Replica, machine: m})
	if n.log.far.Any() {
		n.log.tasks.Spawn(n.log.group(g.id).catchUp)
	}
	return n.fence.Err()
}

// RemoveReplica stops this node's replica of a shard and deletes its data and its
// log, also if it is on the disk only. The group must not count it as a member any
// more. If it fails it can be called again.
func (h *Host) RemoveReplica(ctx context.Context, shard base.ShardID) error {
	n := h.raft
	return n.host.UnlessFailed(func() error {
		n.changing.Lock()
		defer n.changing.Unlock()
		if err := n.host.Failed(); err != nil {
			return err
		}
		h.group(shard).replica.Store(nil) // readers go elsewhere from now on
		return n.host.Remove(ctx, shard)
	})
}

// LocalReplicas returns the replicas that this node has on its disk, whether they
// run or not.
func (h *Host) LocalReplicas() ([]LocalReplica, error) { return h.raft.host.Local() }

// SetAddress records where the raft of a node can be reached.
func (h *Host) SetAddress(node, address string) { h.raft.host.SetAddress(node, address) }

// nodeOf returns the node that a replica is on, "" if that is not known.
func (n *raftNode) nodeOf(shard base.ShardID, replica uint64) string {
	if r := n.log.group(shard).replica.Load(); r != nil && r.id == replica {
		return n.cfg.Node
	}
	return n.host.NodeOf(shard, replica)
}
