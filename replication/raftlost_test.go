package replication

import (
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/config"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// TestALostLogIsRefused opens a node whose raft log is gone while its data are
// there: it would have forgotten its votes.
func TestALostLogIsRefused(t *testing.T) {
	c := newCluster(t, 3)
	c.startAll()
	ctx := testkit.Context(t)
	key := base.K("k", "")
	shard := c.leader(0).host.shardOf(key)
	for range 3 {
		err := c.do(ctx, shard, func(h *Host) error {
			_, err := h.Write(ctx, &base.Write{Key: key, Value: []byte("v")}, base.RequestID{})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	i := 0
	for c.nodes[i] == c.leader(shard) { // a follower
		i++
	}
	if err := c.nodes[i].host.Barrier(ctx); err != nil { // it has applied the writes
		t.Fatal(err)
	}
	if err := c.nodes[i].store.Sync(); err != nil {
		t.Fatal(err)
	}
	c.stop(i)
	if err := c.nodes[i].fs.RemoveAll("/raft"); err != nil {
		t.Fatal(err)
	}
	if err := c.open(i); !errors.Is(err, base.ErrCorrupt) {
		t.Errorf("opened without its log: %v", err)
	}
}

func TestRaftConfigIsValidated(t *testing.T) {
	c := newCluster(t, 1)
	good := RaftConfig{Dir: "/raft", FS: c.nodes[0].fs, Node: "node-0", Peers: c.peers, Network: c.net.Node("n0:1")}
	for name, spoil := range map[string]func(*RaftConfig){
		"no peers":          func(r *RaftConfig) { r.Peers = nil },
		"no network":        func(r *RaftConfig) { r.Network = nil },
		"no directory":      func(r *RaftConfig) { r.Dir = "" },
		"not a peer":        func(r *RaftConfig) { r.Node = "somebody" },
		"replica 0":         func(r *RaftConfig) { r.Peers = []Peer{{Node: "node-0", Address: "a"}} },
		"the same twice":    func(r *RaftConfig) { r.Peers = append(r.Peers[:1:1], r.Peers[0]) },
		"hasty elections":   func(r *RaftConfig) { r.ElectionTicks = 3 },
		"an idle heartbeat": func(r *RaftConfig) { r.HeartbeatTicks = 20 },
	} {
		bad := good
		spoil(&bad)
		if err := bad.withDefaults().validate(); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := good.withDefaults().validate(); err != nil {
		t.Error(err)
	}
}

// Older directories were founded with another number of step workers, which dragonboat
// holds them to.
func TestDirectoryOfAnOlderFormat(t *testing.T) {
	c := newCluster(t, 1)
	c.tuneRaft = func(hc *config.NodeHostConfig) { hc.Expert.Engine.ExecShards, hc.Expert.LogDB.Shards = 4, 4 }
	c.startAll()
	ctx := testkit.Context(t)
	key := keyOn(c.hostOf(0), 1, 1)
	mustWrite(t, ctx, c.hostOf(0), base.Write{Key: key, Value: []byte("v")})
	c.stopAll()
	format, err := c.nodes[0].fs.Create("/raft/log/FORMAT", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := format.Write([]byte("raftlog 1\n924f0242accdc7d2\n")); err != nil {
		t.Fatal(err)
	}
	if err := format.Close(); err != nil {
		t.Fatal(err)
	}
	c.tuneRaft = nil
	c.startAll()
	if it, err := c.hostOf(0).Get(ctx, 1, key, base.ReadOptions{}); err != nil || string(it.Value) != "v" {
		t.Errorf("%q, %v", it.Value, err)
	}
}
