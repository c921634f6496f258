package harness

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication"
)

// snapshotKind is the kind of the connections that snapshots are sent over.
const snapshotKind = 2

// spoiler is a network that spoils the first snapshots that are sent over it, each
// in another way.
type spoiler struct {
	replication.Network
	streams *atomic.Int64
	spoiled *sync.Map // how -> true
}

// spoils are the ways, in the order of the streams.
var spoils = []string{"flip", "reorder", "cut", "repeat", "flip", "reorder", "cut", "repeat"}

func (s spoiler) Dial(ctx context.Context, addr string, kind byte) (net.Conn, error) {
	conn, err := s.Network.Dial(ctx, addr, kind)
	if err != nil || kind != snapshotKind {
		return conn, err
	}
	if n := int(s.streams.Add(1)) - 1; n < len(spoils) {
		return &spoiledConn{Conn: conn, how: spoils[n], spoiled: s.spoiled}, nil
	}
	return conn, nil
}

// spoiledConn spoils what is written to it: each write is a frame or more.
type spoiledConn struct {
	net.Conn
	how     string
	spoiled *sync.Map
	writes  int
	held    []byte
}

func (c *spoiledConn) Write(p []byte) (int, error) {
	c.writes++
	out := bytes.Clone(p)
	switch {
	case c.how == "flip" && c.writes == 1+len(p)%2:
		out[len(out)/2] ^= 0x10
	case c.how == "cut" && c.writes == 2:
		_, _ = c.Conn.Write(out[:len(out)/2])
		_ = c.Conn.Close()
	case c.how == "repeat" && c.writes == 2:
		out = append(out, out...)
	case c.how == "reorder" && c.writes == 1:
		c.held = out
		return len(p), nil
	case c.how == "reorder" && c.writes == 2:
		out = append(out, c.held...)
	default:
		return c.Conn.Write(p)
	}
	c.spoiled.Store(c.how, true)
	if _, err := c.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// TestSpoiledSnapshots lets a node fall behind what the logs of the others still
// have, so that it needs a snapshot of each shard, and spoils the first of them in
// every way. It takes none of those, does not fail of them, and has everything in
// the end.
func TestSpoiledSnapshots(t *testing.T) {
	rng := testkit.Rand(t)
	streams, spoiled := new(atomic.Int64), new(sync.Map)
	c := NewCluster(t, ClusterConfig{Nodes: 3, Shards: 4, Seed: rng.Uint64(), Tune: func(cfg *node.Config) {
		cfg.Raft.SnapshotEntries, cfg.Raft.KeepEntries = 20, 1
		cfg.Raft.Network = spoiler{cfg.Raft.Network, streams, spoiled}
	}})
	ctx := testkit.Context(t)
	keys := acknowledged(ctx, t, c.Client(0), "before", 20)
	for round := range 10 {
		victim := round % 3
		c.Stop(victim)
		large := bytes.Repeat([]byte("large"), 20<<10)
		for i := range 160 {
			key := base.K(fmt.Sprintf("round/%d/%d", round, i), "")
			if _, err := c.Client(victim+1).Put(ctx, key, large[:1+rng.IntN(len(large))], base.Cond{}); err != nil {
				t.Fatal(err)
			}
			if i%20 == 0 {
				keys = append(keys, key)
			}
		}
		c.Start(victim)
		if err := c.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		if err := c.members[victim].life.Load().Err(); err != nil {
			t.Errorf("node %d failed of a spoiled snapshot: %v", victim, err)
		}
		mustFind(ctx, t, c.Client(victim), keys)
		if int(streams.Load()) > len(spoils) || t.Failed() {
			break
		}
	}
	var ways []string
	spoiled.Range(func(how, _ any) bool { ways = append(ways, how.(string)); return true })
	slices.Sort(ways)
	t.Logf("%d streams of snapshots, spoiled: %v", streams.Load(), ways)
	if len(ways) < 3 {
		t.Errorf("too few snapshots were spoiled: %v of %d", ways, streams.Load())
	}
	c.MustAgree(ctx)
}
