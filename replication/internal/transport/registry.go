package transport

import (
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
)

// ErrUnknownTarget is returned for a replica whose node, or whose node's
// address, is not known. Dragonboat drops what is for it.
var ErrUnknownTarget = errors.New("address of the replica is unknown")

// Limits on what a Registry remembers. Dragonboat adds the sender of every
// message that comes in, so peers decide what is in it.
const (
	maxReplicas = 1 << 16 // 1,000 shards with three replicas take 3,000
	maxNodes    = 1 << 12
)

// registryBuckets spreads the replicas by shard, so that adding one copies few
// others.
const registryBuckets = 256

// Registry knows on which node each replica is and at which address each node
// is. Which node never changes in the life of a replica: a replica id is not
// used again. The address of a node may change at any time; a replica may be
// added before the address of its node. Nodes are named by their NodeHostID, a
// UUID, in any case of letters.
//
// It is safe for concurrent use, and Resolve takes no lock.
type Registry struct {
	buckets [registryBuckets]atomic.Pointer[map[replica]*node]
	refused atomic.Uint64

	mu struct { // for writers; the maps in buckets are never changed
		sync.Mutex
		nodes    map[string]*node
		replicas int
	}
}

type replica struct{ shard, id uint64 }

// node is one node. Once it is in a Registry it stays.
type node struct {
	id      string
	address atomic.Pointer[string] // nil while unknown
}

// NewRegistry returns a Registry that knows nothing.
func NewRegistry() *Registry {
	r := &Registry{}
	r.mu.nodes = map[string]*node{}
	return r
}

// Factory returns what goes into config.ExpertConfig.NodeRegistryFactory.
func (r *Registry) Factory() config.NodeRegistryFactory { return registryFactory{r} }

type registryFactory struct{ r *Registry }

// Create implements config.NodeRegistryFactory. All shards share one stream to
// a node, which makes for few and long batches.
func (f registryFactory) Create(_ string, _ uint64, valid config.TargetValidator) (raftio.INodeRegistry, error) {
	return &validRegistry{f.r, valid}, nil
}

// validRegistry ignores what is no name of a node.
type validRegistry struct {
	*Registry
	valid config.TargetValidator
}

// Add implements raftio.INodeRegistry.
func (r *validRegistry) Add(shard, id uint64, target string) {
	if _, known := r.lookup(replica{shard, id}); !known && !r.valid(target) {
		r.refused.Add(1)
		return
	}
	r.Registry.Add(shard, id, target)
}

// Close implements raftio.INodeRegistry. A Registry needs no closing.
func (r *Registry) Close() error { return nil }

func (r *Registry) bucket(shard uint64) *atomic.Pointer[map[replica]*node] {
	return &r.buckets[shard%registryBuckets]
}

func (r *Registry) lookup(at replica) (*node, bool) {
	m := r.bucket(at.shard).Load()
	if m == nil {
		return nil, false
	}
	n, ok := (*m)[at]
	return n, ok
}

// Add records that a replica is on the node target. What was recorded first
// stays until it is removed: both the membership of a shard and the messages
// of peers are added through here, and of the two the membership comes first.
func (r *Registry) Add(shard, id uint64, target string) {
	at := replica{shard, id}
	if n, ok := r.lookup(at); ok {
		if n.id != target && !strings.EqualFold(n.id, target) {
			r.refused.Add(1)
		}
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.lookup(at); ok {
		return
	}
	n := r.nodeLocked(target)
	if n == nil || r.mu.replicas >= maxReplicas {
		r.refused.Add(1)
		return
	}
	r.mu.replicas++
	r.updateLocked(shard, func(m map[replica]*node) { m[at] = n })
}

// updateLocked replaces the bucket of the shard by a changed copy.
func (r *Registry) updateLocked(shard uint64, change func(map[replica]*node)) {
	b := r.bucket(shard)
	next := map[replica]*node{}
	if m := b.Load(); m != nil {
		next = maps.Clone(*m)
	}
	change(next)
	b.Store(&next)
}

// nodeLocked returns the node of that name, or nil if there are too many.
func (r *Registry) nodeLocked(name string) *node {
	name = strings.ToLower(name)
	n := r.mu.nodes[name]
	if n == nil && len(r.mu.nodes) < maxNodes {
		n = &node{id: name}
		r.mu.nodes[name] = n
	}
	return n
}

// Remove forgets a replica.
func (r *Registry) Remove(shard, id uint64) {
	r.removeIf(shard, func(at replica) bool { return at == replica{shard, id} })
}

// RemoveShard forgets all replicas of a shard.
func (r *Registry) RemoveShard(shard uint64) {
	r.removeIf(shard, func(at replica) bool { return at.shard == shard })
}

func (r *Registry) removeIf(shard uint64, gone func(replica) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.updateLocked(shard, func(m map[replica]*node) {
		before := len(m)
		maps.DeleteFunc(m, func(at replica, _ *node) bool { return gone(at) })
		r.mu.replicas -= before - len(m)
	})
}

// SetAddress records where a node is. Messages queued for a former address go
// there; those that follow go to the new one.
func (r *Registry) SetAddress(name, addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.nodeLocked(name)
	if n == nil {
		r.refused.Add(1)
		return
	}
	n.address.Store(&addr)
}

// RemoveAddress forgets where a node is. Nothing is sent to it until
// SetAddress.
func (r *Registry) RemoveAddress(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.mu.nodes[strings.ToLower(name)]; n != nil {
		n.address.Store(nil)
	}
}

// Resolve returns the address of a replica and the key of the queue to it,
// which is the address too, so that a new address gets a new queue. The error
// is ErrUnknownTarget.
func (r *Registry) Resolve(shard, id uint64) (address, key string, err error) {
	if n, ok := r.lookup(replica{shard, id}); ok {
		if addr := n.address.Load(); addr != nil {
			return *addr, *addr, nil
		}
	}
	return "", "", ErrUnknownTarget
}

// Target returns the node that a replica is on.
func (r *Registry) Target(shard, id uint64) (name string, found bool) {
	n, found := r.lookup(replica{shard, id})
	if !found {
		return "", false
	}
	return n.id, true
}

// Refused returns how many additions were ignored: no UUID, another node than
// the one recorded, or over a limit.
func (r *Registry) Refused() uint64 { return r.refused.Load() }
