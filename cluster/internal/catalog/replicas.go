package catalog

import (
	"slices"

	"github.com/distributedcache/cache/internal/base"
)

// AllocateReplica gives the shard one more replica, on a node that has none of
// it, and returns the id, which nothing has had before. Only once the writes are
// applied may others hear of the id. If the node has a replica of the shard,
// that one's id is returned and there is nothing to write.
//
// The error wraps base.ErrNotFound if there is no such shard or node, and
// base.ErrInvalid if the node is not active, the shard has MaxReplicas, or what the
// node had of it is lost but not yet forgotten.
func (s *State) AllocateReplica(shard base.ShardID, node string) ([]base.Write, uint64, error) {
	r, ok := s.Shard(shard)
	if !ok {
		return nil, 0, s.noShard(shard)
	}
	n, err := s.member(node)
	if err != nil {
		return nil, 0, err
	}
	if have, ok := r.On(node); ok {
		if s.Lost(have) {
			return nil, 0, invalid("%s has the lost replica %d on node %q; it has to be forgotten before there can be another", nameOf(shard), have.ID, node)
		}
		return nil, have.ID, nil
	}
	switch {
	case n.State != Active:
		return nil, 0, invalid("node %q is %v and gets no replicas", node, n.State)
	case len(r.Replicas) >= MaxReplicas:
		return nil, 0, invalid("%s has %d replicas, which is the limit", nameOf(shard), len(r.Replicas))
	case len(r.Replicas) == 0:
		return nil, 0, invalid("%s has no replica that another could learn from; it has to be founded", nameOf(shard))
	}
	id := r.Next
	r.Next++
	r.Replicas = append(slices.Clone(r.Replicas), Replica{ID: id, Node: node, Directory: n.Directory})
	return s.change().shard(r).check(nodeKey(node)).done(), id, nil
}

// ForgetReplica takes a replica out of the record. It must have left the raft
// group before, or never have entered it. Forgetting one that is not there
// changes nothing. The error wraps base.ErrNotFound if there is no such shard,
// and base.ErrInvalid if the id was never given out or the replica is the last one.
func (s *State) ForgetReplica(shard base.ShardID, id uint64) ([]base.Write, error) {
	r, ok := s.Shard(shard)
	if !ok {
		return nil, s.noShard(shard)
	}
	if id == 0 || id >= r.Next {
		return nil, invalid("%s never had a replica %d", nameOf(shard), id)
	}
	if _, ok := r.Replica(id); !ok {
		return nil, nil
	}
	if len(r.Replicas) == 1 {
		return nil, invalid("replica %d is the last one of %s", id, nameOf(shard))
	}
	r.Replicas = slices.DeleteFunc(slices.Clone(r.Replicas), func(x Replica) bool { return x.ID == id })
	return s.change().shard(r).done(), nil
}
