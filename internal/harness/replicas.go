package harness

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/storage"
)

// replica is what a node has of a shard.
type replica struct {
	found  bool
	index  uint64 // of the newest entry of the raft log that is in it
	info   storage.StreamInfo
	stream []byte
}

const (
	// compareAttempts is how often the nodes are stopped to be compared. One time is
	// enough unless something was still being written.
	compareAttempts = 10
	// levelPatience is how long the replicas may take to come to the same place.
	levelPatience = time.Minute
)

// MustAgree stops the nodes in good order, all of which that count must be up, and
// fails the test if two replicas of a shard differ that are at the same place in its
// log. It leaves them stopped, and returns on which nodes each shard was.
func (c *Cluster) MustAgree(ctx context.Context) (where [][]int) {
	c.t.Helper()
	nodes := c.running()
	var apart string
	defer func() {
		if c.t.Failed() && apart != "" {
			c.t.Log(apart)
		}
	}()
	for range compareAttempts {
		if err := c.Ready(ctx); err != nil {
			c.t.Errorf("not ready to be compared: %v", err)
			return nil
		}
		// A node may be ready by what others have, while its own replicas catch up.
		testkit.Eventually(c.t, levelPatience, "the replicas to come to the same place", func() bool {
			apart = c.level(ctx, nodes)
			return apart == ""
		})
		for _, i := range nodes {
			c.Stop(i)
		}
		var err error
		if where, apart, err = c.compare(ctx, nodes); err != nil {
			c.t.Error(err)
			return nil
		}
		if apart == "" {
			return where
		}
		var starting sync.WaitGroup
		for _, i := range nodes {
			starting.Go(func() { c.Start(i) })
		}
		starting.Wait()
	}
	c.t.Errorf("the replicas did not come to the same place in %d attempts", compareAttempts)
	return nil
}

// level returns which replicas of running nodes are not at the same place in the log
// of their shard.
func (c *Cluster) level(ctx context.Context, nodes []int) (apart string) {
	type place struct {
		node  int
		index uint64
	}
	first := map[base.ShardID]place{}
	for _, i := range nodes {
		for _, r := range c.members[i].life.Load().Replicas(ctx) {
			a, found := first[r.Shard]
			switch {
			case int(r.Shard) >= c.cfg.Shards: // the catalog, which is always written
			case !found:
				first[r.Shard] = place{i, r.Applied}
			case a.index != r.Applied:
				return fmt.Sprintf("shard %d is at entry %d on node %d, at %d on node %d", r.Shard, a.index, a.node, r.Applied, i)
			}
		}
	}
	return ""
}

// compare compares the replicas on the disks of stopped nodes. It returns on which
// of them each shard is and which replicas of a shard were not at the same place in
// its log, and if all were an error if they differ.
func (c *Cluster) compare(ctx context.Context, nodes []int) (where [][]int, apart string, _ error) {
	where = make([][]int, c.cfg.Shards)
	first := make([]replica, c.cfg.Shards)
	var faults []error
	for _, i := range nodes {
		replicas, err := replicasOn(ctx, c.members[i].disk, c.cfg.Shards)
		if err != nil {
			return nil, "", fmt.Errorf("replicas of node %d: %w", i, err)
		}
		for shard := range replicas {
			a, b := &first[shard], &replicas[shard]
			if !b.found {
				continue
			}
			where[shard] = append(where[shard], i)
			if !a.found {
				first[shard] = replicas[shard]
				continue
			}
			if a.index != b.index {
				return nil, fmt.Sprintf("shard %d is at entry %d on node %d, at %d on node %d", shard, a.index, where[shard][0], b.index, i), nil
			}
			if a.info.Digest != b.info.Digest {
				faults = append(faults, fmt.Errorf("shard %d at entry %d: nodes %d differ: %d and %d entries; see %s",
					shard, a.index, where[shard], a.info.Entries, b.info.Entries, keep(c.t, shard, i, a, b)))
			}
		}
	}
	return where, "", errors.Join(faults...)
}

// replicasOn reads all shards of a data directory.
func replicasOn(ctx context.Context, disk storage.FS, shards int) (replicas []replica, err error) {
	cfg := storage.Config{
		Dir: "/data", FS: disk, Shards: shards, Durability: storage.Volatile, DiskReserveBytes: -1,
		MemTableBytes: 2 << 20, BlockCacheBytes: 4 << 20, ReadCacheBytes: -1,
	}
	dir, err := storage.Claim(cfg)
	if err != nil {
		return nil, err
	}
	id, _, err := dir.Identity()
	if err != nil {
		dir.Release()
		return nil, err
	}
	cfg.ClusterID = id.ClusterID
	store, err := dir.Open(cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	snap, err := store.NewSnapshot()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	for i := range shards {
		id := base.ShardID(i)
		var r replica
		if r.index, r.found, err = newestEntry(snap, id); err != nil {
			return nil, fmt.Errorf("shard %d: %w", i, err)
		}
		var stream bytes.Buffer
		if r.info, err = snap.Export(ctx, id, &stream); err != nil {
			return nil, err
		}
		r.stream = stream.Bytes()
		replicas = append(replicas, r)
	}
	return replicas, nil
}

// newestEntry returns the newest entry that a shard has seen: that of its head, or of
// what it remembers of its entries.
func newestEntry(snap *storage.Snapshot, id base.ShardID) (index uint64, found bool, _ error) {
	for kv, err := range snap.Values(id, storage.KindMeta, nil, 0) {
		if err != nil {
			return 0, false, err
		}
		at := 0
		switch {
		case string(kv.Key) == "head":
			at = 1
		case kv.Key[0] == 'e':
			at = 17
		default:
			continue
		}
		if len(kv.Value) < at+8 {
			return 0, false, fmt.Errorf("record %x: %x", kv.Key, kv.Value)
		}
		index, found = max(index, binary.BigEndian.Uint64(kv.Value[at:])), true
	}
	return index, found, nil
}

// keep writes two streams to where artifacts of the test are kept.
func keep(t testing.TB, shard, other int, a, b *replica) string {
	dir := t.ArtifactDir()
	for node, r := range map[int]*replica{0: a, other: b} {
		name := filepath.Join(dir, fmt.Sprintf("shard-%d-of-node-%d", shard, node))
		if err := os.WriteFile(name, r.stream, 0o644); err != nil {
			return err.Error()
		}
	}
	return dir
}
