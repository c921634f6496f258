package catalog

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/distributedcache/cache/internal/base"
)

// CatalogShard is the shard that holds the catalog. It comes after all that
// hold data.
const CatalogShard base.ShardID = base.MaxShards

// The bounds of a catalog. They keep a whole State below MaxStateBytes and a
// record far below what a value may have.
const (
	MaxIDBytes      = 128  // of a node id, which travels in every gossip message
	MaxNameBytes    = 128  // of the cluster's name
	MaxAddrBytes    = 300  // a DNS name has at most 253, and a port
	MaxZoneBytes    = 64   // a label, not a description
	MaxNodes        = 4096 // active and draining; gossip ends to be useful before
	MaxRemoved      = 4096 // remembered removals; the oldest is forgotten for one more
	MaxReplicas     = 16   // of one shard: a replication factor of 7, and moves
	MaxReplication  = 7    // more voters cost each write more than they protect
	MaxPast         = 16   // directories that a node had before
	directoryDigits = 32   // 16 random bytes in hexadecimal
)

// The primaries of the catalog's keys.
const (
	clusterPrimary = "cluster"
	epochPrimary   = "epoch"
	nodePrimary    = "node"
	shardPrimary   = "shard"
)

// Settings are what all nodes of a cluster share. Only the replication factor
// and, upwards, the format may change after the founding.
type Settings struct {
	ClusterID   string // 16 bytes in hexadecimal; two clusters never have the same
	Name        string // what people call it; may be ""
	Shards      int    // that hold data; never changes
	Replication int    // how many replicas a shard should have
	Format      uint32 // of what the nodes write to one another's disks; only rises
	Founded     time.Time
}

// NodeState is what a node is to the cluster.
type NodeState uint8

// The states of a node. Their numbers are part of the format.
const (
	Active   NodeState = 1 // holds replicas and may get more
	Draining NodeState = 2 // gives its replicas away
	Removed  NodeState = 3 // no member; kept so that it cannot come back unnoticed
)

// String returns "active", "draining" or "removed".
func (s NodeState) String() string {
	switch s {
	case Active:
		return "active"
	case Draining:
		return "draining"
	case Removed:
		return "removed"
	default:
		return fmt.Sprintf("state %d", uint8(s))
	}
}

// NodeRecord is what the cluster knows of a node. Times are kept in
// microseconds.
type NodeRecord struct {
	ID        string
	Directory string // random id of its data directory, 16 bytes in hexadecimal
	Addr      string // host:port
	Zone      string // "" = none
	State     NodeState
	Joined    time.Time
	Changed   time.Time // when State or Directory became what they are
	Past      []string  // directories it had before, the oldest first
}

// Member reports whether the node belongs to the cluster.
func (n *NodeRecord) Member() bool { return n.State == Active || n.State == Draining }

// Replica is one replica of a shard: its id in the raft group, the node, and the
// data directory that holds it.
type Replica struct {
	ID        uint64
	Node      string
	Directory string
}

// ShardRecord says which replicas a shard has. Its slices must not be changed.
type ShardRecord struct {
	Shard    base.ShardID
	Next     uint64    // the next replica id; starts at 1 and only rises
	Founders []Replica // the members that the group was started with, for ever
	Replicas []Replica // ordered by id
}

// Replica returns the replica with that id.
func (r *ShardRecord) Replica(id uint64) (Replica, bool) {
	for _, replica := range r.Replicas {
		if replica.ID == id {
			return replica, true
		}
	}
	return Replica{}, false
}

// On returns the replica on that node.
func (r *ShardRecord) On(node string) (Replica, bool) {
	for _, replica := range r.Replicas {
		if replica.Node == node {
			return replica, true
		}
	}
	return Replica{}, false
}

// FirstReplicas returns the replicas that a shard is founded with, on these
// nodes in this order: the ids count from 1. The catalog's group has to run
// before its record can be written, so whoever starts it takes them from here.
func FirstReplicas(nodes []NodeRecord) []Replica {
	replicas := make([]Replica, len(nodes))
	for i, n := range nodes {
		replicas[i] = Replica{ID: uint64(i + 1), Node: n.ID, Directory: n.Directory}
	}
	return replicas
}

func clusterKey() base.Key             { return base.K(clusterPrimary, "") }
func epochKey() base.Key               { return base.K(epochPrimary, "") }
func nodeKey(id string) base.Key       { return base.K(nodePrimary, id) }
func shardKey(s base.ShardID) base.Key { return base.K(shardPrimary, fmt.Sprintf("%05d", s)) }

// The checks below return what is wrong with a value, or "".

func faultOfText(what, s string, least, most int) string {
	switch {
	case len(s) < least:
		return what + " is missing"
	case len(s) > most:
		return fmt.Sprintf("%s has %d bytes, at most %d are allowed", what, len(s), most)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		return what + " is not plain text"
	}
	return ""
}

func faultOfHex(what, s string) string {
	if len(s) != directoryDigits || strings.Trim(s, "0123456789abcdef") != "" {
		return fmt.Sprintf("%s is not %d lower-case hexadecimal digits", what, directoryDigits)
	}
	return ""
}

// firstFault returns the first that is not "".
func firstFault(faults ...string) string {
	for _, f := range faults {
		if f != "" {
			return f
		}
	}
	return ""
}

func (s *Settings) fault() string {
	bounds := ""
	switch {
	case s.Shards < 1 || s.Shards > base.MaxShards:
		bounds = fmt.Sprintf("%d shards, there must be 1 to %d", s.Shards, base.MaxShards)
	case s.Replication < 1 || s.Replication > MaxReplication:
		bounds = fmt.Sprintf("replication factor %d, it must be 1 to %d", s.Replication, MaxReplication)
	case s.Format == 0:
		bounds = "the format is missing"
	}
	return firstFault(faultOfHex("cluster id", s.ClusterID),
		faultOfText("name of the cluster", s.Name, 0, MaxNameBytes), bounds, faultOfTime("founding time", s.Founded))
}

func (n *NodeRecord) fault() string {
	faults := []string{
		faultOfText("node id", n.ID, 1, MaxIDBytes), faultOfHex("directory id", n.Directory),
		faultOfText("address", n.Addr, 1, MaxAddrBytes), faultOfText("zone", n.Zone, 0, MaxZoneBytes),
		faultOfTime("joining time", n.Joined), faultOfTime("time of change", n.Changed),
	}
	for _, past := range n.Past {
		faults = append(faults, faultOfHex("past directory", past))
		if past == n.Directory {
			faults = append(faults, "the present directory is among the past ones")
		}
	}
	switch {
	case n.State < Active || n.State > Removed:
		faults = append(faults, n.State.String()+" is not one of a node")
	case len(n.Past) > MaxPast:
		faults = append(faults, fmt.Sprintf("%d past directories", len(n.Past)))
	}
	return firstFault(faults...)
}

func (r *ShardRecord) fault() string {
	switch {
	case r.Shard > CatalogShard:
		return fmt.Sprintf("shard %d cannot be", r.Shard)
	case r.Next < 1:
		return "the next replica id is 0"
	}
	return firstFault(r.faultOf("founders", r.Founders), r.faultOf("replicas", r.Replicas))
}

// faultOf checks a list of replicas: rising ids below Next, each on a node of
// its own.
func (r *ShardRecord) faultOf(what string, list []Replica) string {
	if len(list) > MaxReplicas {
		return fmt.Sprintf("%d %s, at most %d are allowed", len(list), what, MaxReplicas)
	}
	last := uint64(0)
	for i, replica := range list {
		if replica.ID <= last || replica.ID >= r.Next {
			return fmt.Sprintf("%s: replica id %d after %d, the next is %d", what, replica.ID, last, r.Next)
		}
		last = replica.ID
		for _, other := range list[:i] {
			if other.Node == replica.Node {
				return fmt.Sprintf("%s: %d and %d are on one node", what, other.ID, replica.ID)
			}
		}
		if f := firstFault(faultOfText("node id", replica.Node, 1, MaxIDBytes), faultOfHex("directory id", replica.Directory)); f != "" {
			return f
		}
	}
	return ""
}

// faultOfTime wants a time that fits the format: what a Version can say, or
// the zero Time.
func faultOfTime(what string, t time.Time) string {
	if us := microseconds(t); us > uint64(base.PendingVersion) {
		return what + " is out of range"
	}
	return ""
}

func microseconds(t time.Time) uint64 { return uint64(base.VersionAt(t)) }

// normal returns t as it is kept.
func normal(t time.Time) time.Time { return base.VersionAt(t).Time() }
