package node

import (
	"context"
	"errors"
	"net"

	"github.com/distributedcache/cache/cluster"
	"github.com/distributedcache/cache/internal/mux"
	"github.com/distributedcache/cache/replication"
	"github.com/distributedcache/cache/storage"
)

// member is what a node has besides if it is one of a cluster.
type member struct {
	port    *mux.Mux // nil if the network was given
	cluster *cluster.Cluster
}

func (m *member) close() {
	if m.port != nil {
		_ = m.port.Close()
	}
}

// openMember opens a node of a cluster. Which one, and how many shards it has, has
// to be found out before the store can be opened.
func (n *Node) openMember(ctx context.Context) error {
	engine := n.cfg.engine()
	engine.OnFence = n.life.fence
	dir, err := storage.Claim(engine)
	if err != nil {
		return err
	}
	m := &member{}
	was, err := n.meet(ctx, dir, m)
	if err != nil {
		dir.Release()
		m.close()
		return err
	}
	engine.NodeID, engine.Shards = m.cluster.NodeID(), m.cluster.Shards()
	if !was.alone {
		engine.ClusterID = m.cluster.ID()
	}
	if n.store, err = dir.Open(engine); err == nil {
		n.observe()
		err = n.openReplicas(dir, m, was)
	}
	if err != nil {
		m.cluster.Close()
		m.close()
		return err
	}
	n.member = m
	return nil
}

// former is what a directory was before.
type former struct {
	// alone says that it has the data of a node by itself.
	alone bool
}

// meet finds the cluster of the node.
func (n *Node) meet(ctx context.Context, dir *storage.Directory, m *member) (was former, err error) {
	id, found, err := dir.Identity()
	if err != nil {
		return was, err
	}
	was.alone = found && id.ClusterID == ""
	cc := n.cfg.Cluster
	cfg := cluster.Config{
		NodeID: n.cfg.NodeID, Address: cc.Advertise, Zone: cc.Zone, Name: cc.Name, Peers: cc.Peers, Expect: cc.Expect,
		Shards: n.cfg.Shards, Replication: cc.Replication, Holds: was.alone, Network: cc.Network, Files: dir,
		Clock: n.cfg.Clock, Logger: n.cfg.Logger, DeadNodeGrace: cc.DeadNodeGrace, MaxClockOffset: cc.MaxClockOffset,
		Alert: n.alert, Fast: cc.Fast,
	}
	if found {
		cfg.NodeID, cfg.Shards = id.NodeID, id.Shards
	}
	if cfg.Network == nil {
		if m.port, err = mux.Listen(mux.Config{Listen: cc.Addr, TLS: cc.TLS, Insecure: cc.Insecure, Logger: n.cfg.Logger}); err != nil {
			return was, err
		}
		cfg.Network = m.port
		if cfg.Address == "" {
			cfg.Address = reachable(m.port.Addr())
		}
	}
	m.cluster, err = cluster.Open(ctx, cfg)
	return was, err
}

// openReplicas opens the shards of a node of a cluster, of which it has no replicas
// yet, or those that its directory has. What it had as a node by itself becomes the
// first replica of each.
func (n *Node) openReplicas(dir *storage.Directory, m *member, was former) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, n.store.Close())
		}
	}()
	if was.alone {
		if err := replication.Adopt(n.store); err != nil {
			return err
		}
		if err := n.store.SetCluster(m.cluster.ID()); err != nil {
			return err
		}
	}
	cc := n.cfg.Cluster
	network := cc.Network
	if network == nil {
		network = m.port
	}
	n.host, err = replication.OpenRaft(n.hostConfig(), replication.RaftConfig{
		Dir: dir.FS().PathJoin(dir.Path(), raftDir), FS: dir.FS(), Node: m.cluster.NodeID(), Address: m.cluster.Address(),
		Network: network, Remote: m.cluster.Remote(), Tick: cc.Tick, SnapshotBytesPerSecond: cc.SnapshotBytesPerSec,
		SnapshotEntries: cc.SnapshotEntries, KeepEntries: cc.KeepEntries, OnFail: n.life.fence,
	})
	return err
}

// raftDir is where raft keeps its log and files, in the data directory.
const raftDir = "raft"

// reachable returns an address that others can dial for one that is listened at: if
// that is all interfaces, the first that is not loopback.
func reachable(listening string) string {
	host, port, err := net.SplitHostPort(listening)
	if err != nil {
		return listening
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return listening
	}
	addrs, err := net.InterfaceAddrs()
	if err == nil {
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				return net.JoinHostPort(n.IP.String(), port)
			}
		}
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// alert raises or clears an alert of the cluster.
func (n *Node) alert(name, message string, active bool) {
	switch {
	case n.metrics == nil: // before the store is open nobody listens
	case active:
		n.metrics.Raise(name, message)
	default:
		n.metrics.Clear(name)
	}
}
