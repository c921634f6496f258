package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/distributedcache/cache"
)

// A peer is a node that a generator can run in: in this process or in another.
type peer interface {
	// preload writes a share of what has to be there; prepare gets ready for a
	// share of the load, which may take a while; load makes its calls, measured
	// from a time on, which is to be the same for all.
	preload(ctx context.Context, o order) error
	prepare(ctx context.Context, o order) error
	load(ctx context.Context, from time.Time) (tally, error)
	books(ctx context.Context) (books, error)
	look(ctx context.Context) (sight, error)
	// pid is of the process that the node is in.
	pid() int
	close() error
}

// order says which part of what is a peer's.
type order struct {
	Work  workload `json:"workload"`
	Share share    `json:"share"`
}

// sight is what a node says about the cluster.
type sight struct {
	Nodes  []cache.NodeInfo  `json:"nodes"`
	Shards []cache.ShardInfo `json:"shards"`
}

// local is a peer in this process.
type local struct {
	cache  *cache.Cache
	shards int
	ready  *generator // what prepare has made
}

// openLocal opens a node in this process. A nil log is silent.
func openLocal(ctx context.Context, p place, log *slog.Logger) (peer, error) {
	c, err := cache.OpenContext(ctx, p.options(log))
	if err != nil {
		return nil, err
	}
	return &local{cache: c, shards: p.Shards}, nil
}

func (l *local) preload(ctx context.Context, o order) error {
	return newTarget(l.cache, &o.Work, l.shards).preload(ctx, o.Share)
}

func (l *local) prepare(_ context.Context, o order) error {
	l.ready = newGenerator(newTarget(l.cache, &o.Work, l.shards), o.Share)
	return nil
}

func (l *local) load(ctx context.Context, from time.Time) (tally, error) {
	if l.ready == nil {
		return tally{}, errors.New("there is no load prepared")
	}
	from = time.Now().Add(time.Until(from)) // with a monotonic clock, if it came from another process
	return l.ready.run(ctx, window{from, from.Add(l.ready.work.Duration)}), ctx.Err()
}

func (l *local) books(ctx context.Context) (books, error) { return readBooks(ctx, l.cache) }

func (l *local) look(ctx context.Context) (s sight, err error) {
	if s.Nodes, err = l.cache.Admin().Nodes(ctx); err != nil {
		return s, err
	}
	s.Shards, err = l.cache.Admin().Shards(ctx)
	return s, err
}

func (l *local) pid() int { return os.Getpid() }

func (l *local) close() error { return l.cache.Close() }
