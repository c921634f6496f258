package main

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"

	"github.com/distributedcache/cache"
)

// place says where a node lives, whom it knows and how it is set up.
type place struct {
	ID          string   `json:"id"`
	Dir         string   `json:"dir"`
	Addr        string   `json:"addr"` // "" for a node by itself
	Peers       []string `json:"peers"`
	Shards      int      `json:"shards"`
	Replication int      `json:"replication_factor"`
	Durability  string   `json:"durability"`
	MemTable    int64    `json:"mem_table_bytes"`
	BlockCache  int64    `json:"block_cache_bytes"`
	ReadCache   int64    `json:"read_cache_bytes"`
}

// options returns the options of the node.
func (p place) options(log *slog.Logger) cache.Options {
	o := cache.Options{
		Dir: p.Dir, NodeID: p.ID, Shards: p.Shards,
		Storage: cache.StorageOptions{
			MemTableBytes: p.MemTable, BlockCacheBytes: p.BlockCache, ReadCacheBytes: p.ReadCache,
		},
		Observe: cache.ObserveOptions{Logger: log},
	}
	if p.Durability == relaxed {
		o.Storage.Durability = cache.Relaxed
	}
	if p.Addr != "" {
		o.Cluster = cache.ClusterOptions{
			Addr: p.Addr, Peers: p.Peers, Expect: len(p.Peers), ReplicationFactor: p.Replication, Insecure: true,
		}
	}
	return o
}

// freeAddrs returns loopback addresses that nobody listens on. They are below
// the ports that systems give to outgoing connections, so that none of these
// takes one before the node does.
func freeAddrs(n int) (addrs []string, err error) {
	const lowest, ports, tries = 20_000, 12_000, 1000
	var held []net.Listener // until all are found, so that they differ
	defer func() {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
	}()
	for range tries {
		if len(addrs) == n {
			return addrs, nil
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+rand.N(ports)))
		if l, err := net.Listen("tcp", addr); err == nil {
			held, addrs = append(held, l), append(addrs, addr)
		}
	}
	return nil, errors.New("found no free ports on 127.0.0.1")
}
