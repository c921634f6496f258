package main

import (
	"sync"
	"time"

	"github.com/distributedcache/cache"
)

// counts is what has happened so far.
type counts struct {
	mu   sync.Mutex // protects now and the fields below
	now  numbers
	last time.Time // when a transfer was settled last; zero before tellers begin
	led  map[int]string
}

// numbers are counts at one moment.
type numbers struct {
	begun, done, refused int64 // transfers
	retried              int64 // calls that repeated an earlier one
	sums, wrong, unread  int64 // sums of all accounts
	sum                  total // the latest
	longest              time.Duration
	moves                int64 // of leaders
	sight                sight
}

// open is how many transfers are under way.
func (n numbers) open() int64 { return n.begun - n.done - n.refused }

func (c *counts) numbers() numbers {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// start begins to measure pauses.
func (c *counts) start(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = at
}

func (c *counts) begun() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.begun++
}

func (c *counts) retry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.retried++
}

// settled counts a transfer whose outcome is known. A refusal that was repeated
// counts as done: the repetition is told only that it was known. The books tell
// them apart.
func (c *counts) settled(refused bool, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if refused {
		c.now.refused++
	} else {
		c.now.done++
	}
	c.now.longest = max(c.now.longest, at.Sub(c.last))
	c.last = at
}

func (c *counts) summed(got total, right bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.sums++
	c.now.sum = got
	if !right {
		c.now.wrong++
	}
}

// unread counts a sum that could not be read in time; that is no wrong sum.
func (c *counts) unread() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.unread++
}

// saw notes how the cluster looks, and which shards another node leads by now.
func (c *counts) saw(s sight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.sight = s
	if c.led == nil {
		c.led = map[int]string{}
	}
	for _, shard := range s.Shards {
		before := c.led[shard.Shard]
		if shard.Leader == "" {
			continue
		}
		if before != "" && before != shard.Leader {
			c.now.moves++
		}
		c.led[shard.Shard] = shard.Leader
	}
}

// node returns what the latest sight says about a node.
func (n numbers) node(id string) (cache.NodeInfo, bool) {
	for _, info := range n.sight.Nodes {
		if info.ID == id {
			return info, true
		}
	}
	return cache.NodeInfo{}, false
}
