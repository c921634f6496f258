package main

import (
	"context"
	"errors"
	"time"

	"github.com/distributedcache/cache"
)

// A branch is a running node of the bank, in this process or in another.
type branch interface {
	open(ctx context.Context, from, to int) error
	move(ctx context.Context, t transfer) (refused bool, err error)
	sum(ctx context.Context) (total, error)
	look(ctx context.Context) (sight, error)
	// kill ends the node as hard as can be, close ends it in order.
	kill()
	close() error
}

// sight is what a node says about the cluster.
type sight struct {
	Nodes  []cache.NodeInfo  `json:"nodes"`
	Shards []cache.ShardInfo `json:"shards"`
}

// place says where a node lives and whom it knows.
type place struct {
	id, dir, addr string
	peers         []string
	expect        int // how many nodes found the cluster; 0 = it is there
	shards        int
}

// options returns the options of the node. They are small, as several nodes
// share one machine; else this is all there is to being one of a cluster.
func (p place) options() cache.Options {
	return cache.Options{
		Dir:    p.dir,
		NodeID: p.id,
		Shards: p.shards,
		Storage: cache.StorageOptions{
			MemTableBytes: 8 << 20, BlockCacheBytes: 8 << 20, ReadCacheBytes: 8 << 20,
		},
		Cluster: cache.ClusterOptions{Addr: p.addr, Peers: p.peers, Expect: p.expect, Insecure: true},
	}
}

// startHere opens a node in this process.
func startHere(ctx context.Context, p place) (branch, error) {
	c, err := cache.OpenContext(ctx, p.options())
	if err != nil {
		return nil, err
	}
	return local{c}, nil
}

// local is a branch in this process.
type local struct{ cache *cache.Cache }

func (l local) open(ctx context.Context, from, to int) error {
	return openAccounts(ctx, l.cache, from, to)
}

func (l local) move(ctx context.Context, t transfer) (bool, error) { return move(ctx, l.cache, t) }

func (l local) sum(ctx context.Context) (total, error) { return sum(ctx, l.cache) }

func (l local) look(ctx context.Context) (s sight, err error) {
	if s.Nodes, err = l.cache.Admin().Nodes(ctx); err != nil {
		return s, err
	}
	s.Shards, err = l.cache.Admin().Shards(ctx)
	return s, err
}

// kill closes the node without a word to its users: calls under way fail. What
// it has not synced is safe all the same; --processes shows that.
func (l local) kill() { _ = l.cache.Close() }

func (l local) close() error { return l.cache.Close() }

// callTimeout bounds each call. A call that ends with it is repeated elsewhere.
const callTimeout = 2 * time.Second

// errNoBranch is the failure of a call while no node is there to take it.
var errNoBranch = errors.New("no node is up")

// insist repeats do until it succeeds or ctx ends, and returns the last error.
func insist(ctx context.Context, do func(ctx context.Context) error) error {
	for {
		err := within(ctx, callTimeout, do)
		if err == nil || ctx.Err() != nil {
			return err
		}
		pause(ctx, retryPause)
	}
}

// retryPause is short for people and long for a cluster that has just lost a
// leader.
const retryPause = 20 * time.Millisecond

func within(ctx context.Context, limit time.Duration, do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return do(ctx)
}

// pause waits; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
