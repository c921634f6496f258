package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"sync"
	"time"
)

// fleet is the nodes of one repeat, the first one first.
type fleet struct {
	peers []peer
	held  *quotas
}

// openFleet opens the nodes of c in directories below dir. With quotas all nodes
// are processes of their own, which they hold; else it is as the topology says.
// What it returns must be closed, also when it fails.
func openFleet(ctx context.Context, c *config, dir string, held *quotas) (*fleet, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	places, err := places(c, dir)
	if err != nil {
		return &fleet{}, err
	}
	f := &fleet{peers: make([]peer, len(places)), held: held}
	errs := make([]error, len(places))
	var wg sync.WaitGroup
	for i, p := range places {
		wg.Go(func() {
			if held != nil || c.Topology == topologyProcesses && i > 0 {
				f.peers[i], errs[i] = openChild(ctx, p, held)
			} else {
				f.peers[i], errs[i] = openLocal(ctx, p, nil)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return f, fmt.Errorf("open %d nodes: %w", c.Nodes, err)
	}
	return f, nil
}

// openChild starts a process, which is held before it is told what to open.
func openChild(ctx context.Context, p place, held *quotas) (peer, error) {
	c, err := startChild(p.ID)
	if err != nil {
		return nil, err
	}
	if held != nil {
		err = held.hold(p.ID, c.pid())
	}
	if err == nil {
		err = c.open(ctx, p)
	}
	if err != nil {
		_ = c.close() // it ends itself after a failure
		return nil, err
	}
	return c, nil
}

func places(c *config, dir string) (all []place, err error) {
	var addrs []string
	if c.Topology != topologySolo {
		if addrs, err = freeAddrs(c.Nodes); err != nil {
			return nil, err
		}
	}
	for i := range c.Nodes {
		p := place{
			ID: nodeName(i), Peers: addrs, Shards: c.Shards, Replication: c.Replication,
			Durability: c.Durability, MemTable: c.MemTable, BlockCache: c.BlockCache, ReadCache: c.ReadCache,
		}
		p.Dir = filepath.Join(dir, p.ID)
		if addrs != nil {
			p.Addr = addrs[i]
		}
		all = append(all, p)
	}
	return all, nil
}

// close closes all nodes that are open.
func (f *fleet) close() error {
	errs := make([]error, len(f.peers))
	var wg sync.WaitGroup
	for i, p := range f.peers {
		if p != nil {
			wg.Go(func() { errs[i] = p.close() })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// callers returns the nodes that make calls.
func (f *fleet) callers(c *config) []peer {
	if c.Callers == callersAll {
		return f.peers
	}
	return f.peers[:1]
}

const (
	settleTimeout = 30 * time.Second
	settlePause   = 100 * time.Millisecond
)

// settle waits until every shard serves and leaders are even, and returns how
// many each node leads. That they are not before long is no failure: it is told.
func (f *fleet) settle(ctx context.Context) (leaders map[string]int, even bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	var last error
	for {
		s, err := f.peers[0].look(ctx)
		if err == nil {
			leaders = map[string]int{}
			if even = s.even(leaders); even {
				return leaders, true, nil
			}
		}
		last = err
		if !pause(ctx, settlePause) {
			break
		}
	}
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) && leaders != nil {
		return leaders, false, nil
	}
	return nil, false, errors.Join(ctx.Err(), last)
}

// even counts the leaders of each node and says whether all shards have one and
// none of the nodes has many more than its share.
func (s sight) even(leaders map[string]int) bool {
	for _, n := range s.Nodes {
		leaders[n.ID] = 0
	}
	serving := true
	for _, shard := range s.Shards {
		leaders[shard.Leader]++
		serving = serving && shard.Leader != "" && shard.State == "serving"
	}
	share := float64(len(s.Shards)) / float64(max(len(s.Nodes), 1))
	for _, n := range s.Nodes {
		if math.Abs(float64(leaders[n.ID])-share) > 1 {
			return false
		}
	}
	return serving
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i+1) }
