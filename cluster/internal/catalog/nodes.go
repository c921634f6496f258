package catalog

import (
	"fmt"
	"slices"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// Joining is a node that asks to become a member, or a member that has started
// again.
type Joining struct {
	ID        string
	Directory string
	Addr      string
	Zone      string
	// OldAlive says that the directory which the cluster knows for this id is
	// in use by a running process.
	OldAlive bool
}

// Join makes the node a member, or brings the record of one up to date: its
// address, its zone, its directory if the disk was wiped. With a new directory
// the replicas that the node had are lost (see Lost). A draining node that comes
// back goes on draining. Whether the node is of this cluster and has its shard
// count is for the caller to check.
//
// The error wraps base.ErrInvalid if
//   - the record would not be valid,
//   - another process uses the id from another directory and is alive,
//   - the directory belongs to another node,
//   - the directory is one that this node was removed with or had before,
//   - there are MaxNodes members,
//
// and base.ErrUnavailable if there is no cluster yet.
func (s *State) Join(j Joining, now time.Time) ([]base.Write, error) {
	if err := s.mustBeFounded(); err != nil {
		return nil, err
	}
	next := NodeRecord{ID: j.ID, Directory: j.Directory, Addr: j.Addr, Zone: j.Zone, State: Active, Joined: normal(now), Changed: normal(now)}
	if f := next.fault(); f != "" {
		return nil, invalid("%s", f)
	}
	if err := s.directoryIsFree(j); err != nil {
		return nil, err
	}
	have, known := s.Node(j.ID)
	if !known || have.State == Removed {
		if members, _ := s.counts(); members >= MaxNodes {
			return nil, invalid("the cluster has %d nodes, which is the limit", members)
		}
	}
	if !known {
		return s.change().node(next).done(), nil
	}
	if have.Member() && have.Directory == j.Directory {
		return s.update(have, func(n *NodeRecord) { n.Addr, n.Zone = j.Addr, j.Zone }), nil
	}
	if have.Member() {
		next.State, next.Joined = have.State, have.Joined
	}
	next.Past = pastOf(have)
	return s.change().node(next).done(), nil
}

// directoryIsFree checks that the directory may be that of the node.
func (s *State) directoryIsFree(j Joining) error {
	for i := range s.nodes {
		n := &s.nodes[i]
		switch {
		case n.ID != j.ID && n.Member() && n.Directory == j.Directory:
			return invalid("the data directory of node %q is that of node %q; a copy of a directory cannot become another node, start with an empty one", j.ID, n.ID)
		case n.ID != j.ID:
		case slices.Contains(n.Past, j.Directory):
			return invalid("node %q has another data directory since; start it with that one or with an empty one", j.ID)
		case n.State == Removed && n.Directory == j.Directory:
			return invalid("node %q was removed from the cluster; to come back it needs an empty data directory", j.ID)
		case n.Member() && n.Directory != j.Directory && j.OldAlive:
			return invalid("node %q is running at %s with another data directory; give this node another id", j.ID, n.Addr)
		}
	}
	return nil
}

// pastOf returns the past directories of a node that gets a new one.
func pastOf(n NodeRecord) []string {
	past := append(slices.Clone(n.Past), n.Directory)
	return past[max(0, len(past)-MaxPast):]
}

// update returns the writes of a changed record, none if nothing changed.
func (s *State) update(have NodeRecord, change func(*NodeRecord)) []base.Write {
	next := have
	change(&next)
	if string(encodeNode(&next)) == string(encodeNode(&have)) {
		return nil
	}
	return s.change().node(next).done()
}

// SetAddress records where a member is reached now. The directory proves that
// it speaks for itself. The error wraps base.ErrNotFound if the node is unknown,
// and base.ErrInvalid if it was removed, has another directory, or the address
// is not valid.
func (s *State) SetAddress(node, directory, addr string) ([]base.Write, error) {
	have, err := s.member(node)
	if err != nil {
		return nil, err
	}
	if f := faultOfText("address", addr, 1, MaxAddrBytes); f != "" {
		return nil, invalid("%s", f)
	}
	if have.Directory != directory {
		return nil, invalid("node %q has another data directory; it has to join first", node)
	}
	return s.update(have, func(n *NodeRecord) { n.Addr = addr }), nil
}

// Drain has a node give away its replicas. The error wraps base.ErrNotFound if
// the node is unknown, and base.ErrInvalid if it was removed or no other node
// is active, so that nobody could take them.
func (s *State) Drain(node string, now time.Time) ([]base.Write, error) {
	have, err := s.member(node)
	if err != nil || have.State == Draining {
		return nil, err
	}
	if !s.otherActive(node) {
		return nil, invalid("node %q is the last active one; there is nobody to take its replicas", node)
	}
	return s.update(have, func(n *NodeRecord) { n.State, n.Changed = Draining, now }), nil
}

// Undrain makes a draining node active again. The error wraps base.ErrNotFound
// if the node is unknown, and base.ErrInvalid if it was removed.
func (s *State) Undrain(node string, now time.Time) ([]base.Write, error) {
	have, err := s.member(node)
	if err != nil || have.State == Active {
		return nil, err
	}
	return s.update(have, func(n *NodeRecord) { n.State, n.Changed = Active, now }), nil
}

// Removal says what is known when a node is removed.
type Removal struct {
	// Dead says that the node does not run and what it holds may be given up.
	Dead bool
	// Alive reports whether another node runs. nil takes all members for alive.
	Alive func(node string) bool
	Now   time.Time
}

// Remove ends the membership of a node. What is left on a dead one is lost from
// then on. Removing a removed node changes nothing. The error wraps
// base.ErrNotFound if the node is unknown, and base.ErrInvalid, with the reason, if
//   - it holds replicas and is not known to be dead,
//   - a shard would be left without a majority of its recorded replicas on nodes
//     that are alive; giving up the node would give up the shard,
//   - no active node would be left.
func (s *State) Remove(node string, r Removal) ([]base.Write, error) {
	have, ok := s.Node(node)
	switch {
	case !ok:
		return nil, s.noNode(node)
	case have.State == Removed:
		return nil, nil
	case !s.otherActive(node):
		return nil, invalid("node %q cannot be removed: no active node would be left", node)
	}
	held := s.ReplicasOf(node)
	if len(held) > 0 && !r.Dead {
		return nil, invalid("node %q cannot be removed: it still holds %d replicas; drain it first", node, len(held))
	}
	for _, placed := range held {
		if err := s.survives(placed.Shard, node, r.Alive); err != nil {
			return nil, err
		}
	}
	have.State, have.Changed = Removed, normal(r.Now)
	b := s.change().node(have)
	for _, placed := range held {
		b.check(shardKey(placed.Shard))
	}
	if _, removed := s.counts(); removed >= MaxRemoved {
		old, ok := s.oldestRemoved()
		if !ok {
			return nil, invalid("%d removed nodes still have replicas in the records; nothing more can be removed before they are replaced", removed)
		}
		b.remove(nodeKey(old))
	}
	return b.done(), nil
}

// survives checks that a shard has a majority without what is on the node.
func (s *State) survives(shard base.ShardID, node string, alive func(string) bool) error {
	r, _ := s.Shard(shard)
	left := 0
	for _, replica := range r.Replicas {
		if replica.Node != node && !s.Lost(replica) && (alive == nil || alive(replica.Node)) {
			left++
		}
	}
	if need := len(r.Replicas)/2 + 1; left < need {
		return invalid("node %q cannot be removed: %s would have %d of %d replicas left and needs %d; bring back another of its nodes first",
			node, nameOf(shard), left, len(r.Replicas), need)
	}
	return nil
}

// oldestRemoved returns the removed node that has to be forgotten before one
// more can be remembered. One that a replica still names is kept.
func (s *State) oldestRemoved() (oldest string, ok bool) {
	var since time.Time
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.State == Removed && len(s.onNode[n.ID]) == 0 && (!ok || n.Changed.Before(since)) {
			oldest, since, ok = n.ID, n.Changed, true
		}
	}
	return oldest, ok
}

// otherActive reports whether a node besides this one is active.
func (s *State) otherActive(node string) bool {
	return slices.ContainsFunc(s.nodes, func(n NodeRecord) bool { return n.State == Active && n.ID != node })
}

// member returns the record of a node that must be a member.
func (s *State) member(node string) (NodeRecord, error) {
	n, ok := s.Node(node)
	switch {
	case !ok:
		return n, s.noNode(node)
	case !n.Member():
		return n, invalid("node %q was removed from the cluster", node)
	}
	return n, nil
}

func (s *State) mustBeFounded() error {
	if !s.Founded() {
		return fmt.Errorf("%w: the cluster has not been founded yet", base.ErrUnavailable)
	}
	return nil
}

func (s *State) noNode(node string) error {
	return fmt.Errorf("%w: the cluster has no node %q", base.ErrNotFound, node)
}

func (s *State) noShard(shard base.ShardID) error {
	return fmt.Errorf("%w: the cluster has no shard %d", base.ErrNotFound, shard)
}

func nameOf(shard base.ShardID) string {
	if shard == CatalogShard {
		return "the catalog"
	}
	return fmt.Sprintf("shard %d", shard)
}
