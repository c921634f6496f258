package replication

import (
	"errors"
	"testing"

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
