package catalog

import (
	"maps"
	"slices"

	"github.com/distributedcache/cache/internal/base"
)

// Found returns the first records of a cluster: its settings, the nodes that
// found it, and for each shard of the placement the nodes that get its first
// replicas, in the order of FirstReplicas. The placement must have CatalogShard
// and may leave out others, which SetFounders places later.
//
// All founders may try: once the same cluster is founded, there is nothing to
// write. The error wraps base.ErrInvalid if another cluster is, or an argument
// is not valid.
func (s *State) Found(settings Settings, nodes []NodeRecord, placement map[base.ShardID][]string) ([]base.Write, error) {
	if s.Founded() {
		if s.settings.ClusterID == settings.ClusterID {
			return nil, nil
		}
		return nil, invalid("the catalog belongs to cluster %s and cannot become that of %s", s.settings.ClusterID, settings.ClusterID)
	}
	if f := settings.fault(); f != "" {
		return nil, invalid("%s", f)
	}
	if len(placement[CatalogShard]) == 0 {
		return nil, invalid("a cluster needs a place for its catalog")
	}
	b := s.change().put(clusterKey(), encodeSettings(&settings))
	byID := make(map[string]NodeRecord, len(nodes))
	for _, n := range nodes {
		if f := n.fault(); f != "" || n.State != Active {
			return nil, invalid("founding node %q: %s", n.ID, firstFault(f, "it is not active"))
		}
		byID[n.ID] = n
		b.node(n)
	}
	if len(byID) != len(nodes) || len(nodes) > MaxNodes {
		return nil, invalid("%d founding nodes, with %d ids", len(nodes), len(byID))
	}
	for _, shard := range slices.Sorted(maps.Keys(placement)) {
		if shard != CatalogShard && int(shard) >= settings.Shards {
			return nil, invalid("there is no shard %d", shard)
		}
	}
	for i := range settings.Shards + 1 {
		shard := base.ShardID(i)
		if i == settings.Shards {
			shard = CatalogShard
		}
		r, err := firstRecord(shard, placement[shard], byID)
		if err != nil {
			return nil, err
		}
		b.shard(r)
	}
	writes := b.done()
	if _, err := s.foresee(writes); err != nil {
		return nil, err
	}
	return writes, nil
}

// firstRecord returns the record of a shard that is founded on these nodes.
func firstRecord(shard base.ShardID, ids []string, nodes map[string]NodeRecord) (ShardRecord, error) {
	on := make([]NodeRecord, len(ids))
	for i, id := range ids {
		n, ok := nodes[id]
		if !ok {
			return ShardRecord{}, invalid("shard %d is placed on %q, which is not an active node", shard, id)
		}
		on[i] = n
	}
	first := FirstReplicas(on)
	r := ShardRecord{Shard: shard, Next: uint64(len(first) + 1), Founders: first, Replicas: first}
	if f := r.fault(); f != "" {
		return ShardRecord{}, invalid("shard %d: %s", shard, f)
	}
	return r, nil
}

// SetFounders places a shard that has never had a replica. Once it has these
// founders, there is nothing to write. The error wraps base.ErrNotFound if there
// is no such shard, and base.ErrInvalid if it has had replicas or a node is not
// active.
func (s *State) SetFounders(shard base.ShardID, nodes []string) ([]base.Write, error) {
	have, ok := s.Shard(shard)
	if !ok {
		return nil, s.noShard(shard)
	}
	active := make(map[string]NodeRecord, len(nodes))
	for _, id := range nodes {
		if n, ok := s.Node(id); ok && n.State == Active {
			active[id] = n
		}
	}
	next, err := firstRecord(shard, nodes, active)
	switch {
	case err != nil:
		return nil, err
	case len(nodes) == 0:
		return nil, invalid("shard %d needs a node", shard)
	case slices.Equal(have.Founders, next.Founders):
		return nil, nil
	case have.Next != 1:
		return nil, invalid("shard %d has been founded already", shard)
	}
	b := s.change().shard(next)
	for _, id := range nodes {
		b.check(nodeKey(id))
	}
	return b.done(), nil
}

// UpdateSettings changes the replication factor or raises the format. The error
// wraps base.ErrInvalid if anything else differs, and base.ErrUnavailable if
// there is no cluster yet.
func (s *State) UpdateSettings(next Settings) ([]base.Write, error) {
	if err := s.mustBeFounded(); err != nil {
		return nil, err
	}
	have := s.settings
	next.Founded = normal(next.Founded)
	if f := next.fault(); f != "" {
		return nil, invalid("%s", f)
	}
	if next == have {
		return nil, nil
	}
	fixed := next
	fixed.Replication, fixed.Format = have.Replication, have.Format
	switch {
	case fixed != have:
		return nil, invalid("id, name, shards and founding time of a cluster never change")
	case next.Format < have.Format:
		return nil, invalid("the format of the cluster is %d and cannot go back to %d", have.Format, next.Format)
	}
	return s.change().put(clusterKey(), encodeSettings(&next)).done(), nil
}
