package catalog

import (
	"maps"
	"slices"
	"strings"

	"github.com/distributedcache/cache/internal/base"
)

// State is everything the catalog says at one epoch. It never changes; what its
// methods return must not be changed either.
type State struct {
	items    []base.Item // all of them, ordered by key
	versions map[base.Key]base.Version
	settings Settings
	nodes    []NodeRecord // ordered by id
	nodeAt   map[string]int
	shards   []ShardRecord // ordered by shard
	shardAt  map[base.ShardID]int
	onNode   map[string][]Placed
}

// Placed is a replica together with its shard.
type Placed struct {
	Shard base.ShardID
	Replica
}

// Build returns the State that the items of the catalog shard make. No items
// make the State of a cluster that has not been founded. The items' values are
// kept, not copied. The error wraps base.ErrCorrupt if the items contradict
// themselves, and base.ErrInvalid if a newer version wrote one.
func Build(items []base.Item) (*State, error) {
	s := &State{
		items:    slices.SortedFunc(slices.Values(items), func(a, b base.Item) int { return a.Key.Compare(b.Key) }),
		versions: make(map[base.Key]base.Version, len(items)),
		nodeAt:   map[string]int{},
		shardAt:  map[base.ShardID]int{},
		onNode:   map[string][]Placed{},
	}
	for i := range s.items {
		if err := s.take(&s.items[i]); err != nil {
			return nil, err
		}
	}
	if fault := s.fault(); fault != "" {
		return nil, corrupt("%s", fault)
	}
	for i := range s.shards {
		for _, r := range s.shards[i].Replicas {
			s.onNode[r.Node] = append(s.onNode[r.Node], Placed{Shard: s.shards[i].Shard, Replica: r})
		}
	}
	return s, nil
}

// take decodes one item. Items come in the order of their keys, so nodes and
// shards end up in that of their ids.
func (s *State) take(item *base.Item) (err error) {
	if item.Version == 0 || s.versions[item.Key] != 0 {
		return corrupt("item %v has no version or is there twice", item.Key)
	}
	s.versions[item.Key] = item.Version
	switch item.Key.Primary {
	case clusterPrimary:
		s.settings, err = decodeSettings(item.Value)
		return orMisplaced(err, item.Key, clusterKey())
	case epochPrimary:
		_, err = open("epoch", item.Value)
		return orMisplaced(err, item.Key, epochKey())
	case nodePrimary:
		n, err := decodeNode(item.Value)
		s.nodeAt[n.ID] = len(s.nodes)
		s.nodes = append(s.nodes, n)
		return orMisplaced(err, item.Key, nodeKey(n.ID))
	case shardPrimary:
		r, err := decodeShard(item.Value)
		s.shardAt[r.Shard] = len(s.shards)
		s.shards = append(s.shards, r)
		return orMisplaced(err, item.Key, shardKey(r.Shard))
	}
	return nil
}

func orMisplaced(err error, key, want base.Key) error {
	if err == nil && key != want {
		return corrupt("item %v holds the record of %v", key, want)
	}
	return err
}

// fault returns what is wrong between the records, or "".
func (s *State) fault() string {
	if s.versions[clusterKey()] == 0 {
		if len(s.nodes) > 0 || len(s.shards) > 0 || s.Epoch() != 0 {
			return "there are records, but no settings"
		}
		return ""
	}
	members, removed := s.counts()
	switch {
	case s.Epoch() == 0:
		return "there are records, but no epoch"
	case members > MaxNodes || removed > MaxRemoved:
		return "too many nodes"
	}
	if _, ok := s.Shard(CatalogShard); !ok || len(s.shards) != s.settings.Shards+1 {
		return "the number of shard records is not that of the shards"
	}
	for i := range s.shards[:s.settings.Shards] {
		if s.shards[i].Shard != base.ShardID(i) {
			return "a shard has no record"
		}
	}
	directories := make(map[string]bool, len(s.nodes))
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.Member() && directories[n.Directory] {
			return "two nodes have one directory"
		}
		directories[n.Directory] = directories[n.Directory] || n.Member()
	}
	return ""
}

func (s *State) counts() (members, removed int) {
	for i := range s.nodes {
		if s.nodes[i].Member() {
			members++
		} else {
			removed++
		}
	}
	return members, removed
}

// Founded reports whether there is a cluster at all.
func (s *State) Founded() bool { return s.versions[clusterKey()] != 0 }

// Epoch numbers the State; 0 before the founding.
func (s *State) Epoch() base.Version { return s.versions[epochKey()] }

// Settings returns what all nodes share; the zero Settings before the founding.
func (s *State) Settings() Settings { return s.settings }

// Node returns the record of a node, which may be one that was removed.
func (s *State) Node(id string) (NodeRecord, bool) {
	i, ok := s.nodeAt[id]
	if !ok {
		return NodeRecord{}, false
	}
	return s.nodes[i], true
}

// Nodes returns all records, those of removed nodes included, ordered by id.
func (s *State) Nodes() []NodeRecord { return s.nodes }

// Members returns the active and draining nodes, ordered by id.
func (s *State) Members() []NodeRecord {
	members := make([]NodeRecord, 0, len(s.nodes))
	for i := range s.nodes {
		if s.nodes[i].Member() {
			members = append(members, s.nodes[i])
		}
	}
	return members
}

// Shard returns the record of a shard, CatalogShard included.
func (s *State) Shard(id base.ShardID) (ShardRecord, bool) {
	i, ok := s.shardAt[id]
	if !ok {
		return ShardRecord{}, false
	}
	return s.shards[i], true
}

// Shards returns the records of all shards in their order; that of the catalog
// is the last.
func (s *State) Shards() []ShardRecord { return s.shards }

// ReplicasOf returns the replicas that the records give to a node, ordered by
// shard, the lost ones included.
func (s *State) ReplicasOf(node string) []Placed { return s.onNode[node] }

// Catalog returns the replicas of the catalog itself.
func (s *State) Catalog() []Replica {
	r, _ := s.Shard(CatalogShard)
	return r.Replicas
}

// Lost reports whether what the replica held is gone: its node was removed, or
// has another directory now.
func (s *State) Lost(r Replica) bool {
	n, ok := s.Node(r.Node)
	return !ok || !n.Member() || n.Directory != r.Directory
}

// Check returns every rule between the records of old and next that does not
// hold, where next is a later State of the same cluster. Tests call it after
// each change; what one State can say of itself, Build has checked.
func Check(old, next *State) (faults []string) {
	if !old.Founded() {
		return nil
	}
	a, b := old.settings, next.settings
	if a.ClusterID != b.ClusterID || a.Name != b.Name || a.Shards != b.Shards || !a.Founded.Equal(b.Founded) || b.Format < a.Format {
		faults = append(faults, "a setting changed that never does")
	}
	if next.Epoch() < old.Epoch() || (next.Epoch() == old.Epoch() && !maps.Equal(old.versions, next.versions)) {
		faults = append(faults, "records changed without the epoch")
	}
	for i := range min(len(old.shards), len(next.shards)) {
		faults = append(faults, checkShard(&old.shards[i], &next.shards[i])...)
	}
	for i := range old.nodes {
		was := &old.nodes[i]
		is, ok := next.Node(was.ID)
		switch {
		case !ok && was.Member():
			faults = append(faults, "node "+was.ID+" is forgotten, though it was never removed")
		case ok && was.State == Removed && is.Member() && is.Directory == was.Directory:
			faults = append(faults, "node "+was.ID+" is back with the directory it was removed with")
		}
	}
	return faults
}

func checkShard(was, is *ShardRecord) (faults []string) {
	key := strings.TrimLeft(shardKey(was.Shard).Secondary, "0")
	if is.Next < was.Next {
		faults = append(faults, "shard "+key+": the next replica id fell")
	}
	if len(was.Founders) > 0 && !slices.Equal(was.Founders, is.Founders) {
		faults = append(faults, "shard "+key+": the founders changed")
	}
	for _, r := range is.Replicas {
		if before, ok := was.Replica(r.ID); ok && before != r {
			faults = append(faults, "shard "+key+": a replica moved")
		} else if !ok && r.ID < was.Next {
			faults = append(faults, "shard "+key+": a replica id was given out twice")
		}
	}
	return faults
}
