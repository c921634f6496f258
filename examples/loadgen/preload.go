package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/distributedcache/cache"
)

const (
	// preloadOps and preloadBytes bound a batch, preloaders how many are under way.
	preloadOps   = 500
	preloadBytes = 1 << 20
	preloaders   = 4
	// preloadTries is how often a batch is tried, with a pause between: elections
	// and full queues pass.
	preloadTries   = 100
	preloadTimeout = 10 * time.Second
)

// share is one of several equal parts: part of out of.
type share struct {
	Part  int `json:"part"`
	OutOf int `json:"out_of"`
}

// of returns the bounds of the share of n things.
func (s share) of(n int) (from, to int) {
	return n * s.Part / s.OutOf, n * (s.Part + 1) / s.OutOf
}

// preload writes this share of what the workload needs to be there.
func (t *target) preload(ctx context.Context, s share) error {
	c := newClient(t, t.work.Seed, 1<<32+uint64(s.Part)) // no client's stream
	sets := []dataSet{
		{t.work.Keys, func(i int) cache.Op { return cache.PutOp(keyOf(i), c.newValue()) }},
	}
	if t.work.Mix.has(opMultiGetPrimary, opMultiPutPrimary, opScanPrimary) {
		sets = append(sets, dataSet{t.work.rowPrimaries() * rowsPerPrimary, func(i int) cache.Op {
			return cache.PutOp(rowOf(i/rowsPerPrimary, i%rowsPerPrimary), c.newValue())
		}})
	}
	if t.work.Mix.has(opTransfer, opSum) {
		sets = append(sets, dataSet{t.work.Accounts, func(i int) cache.Op {
			return cache.PutOp(accountOf(i), account{balance: openingBalance}.encode())
		}})
	}
	for _, set := range sets {
		if err := t.load(ctx, set, s); err != nil {
			return fmt.Errorf("preload: %w", err)
		}
	}
	return nil
}

// dataSet is n things that are written one each. op is called by one goroutine.
type dataSet struct {
	n  int
	op func(i int) cache.Op
}

func (t *target) load(ctx context.Context, set dataSet, s share) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	batches := make(chan []cache.Op)
	var wg sync.WaitGroup
	for range preloaders {
		wg.Go(func() {
			for ops := range batches {
				if err := t.put(ctx, ops); err != nil {
					cancel(err)
				}
			}
		})
	}
	size := min(max(preloadBytes/max(t.work.ValueBytes, 1), 1), preloadOps)
	for from, to := s.of(set.n); from < to && ctx.Err() == nil; {
		var ops []cache.Op
		for ; len(ops) < size && from < to; from++ {
			ops = append(ops, set.op(from))
		}
		batches <- ops
	}
	close(batches)
	wg.Wait()
	return context.Cause(ctx)
}

// put writes ops, which may be written twice, trying again while that can help.
func (t *target) put(ctx context.Context, ops []cache.Op) (err error) {
	for range preloadTries {
		if err = t.putOnce(ctx, ops); err == nil || ctx.Err() != nil {
			return err
		}
		pause(ctx, max(retryAfter(err), 4*minRetryPause))
	}
	return fmt.Errorf("tried %d times: %w", preloadTries, err)
}

func (t *target) putOnce(ctx context.Context, ops []cache.Op) error {
	ctx, cancel := context.WithTimeout(ctx, preloadTimeout)
	defer cancel()
	results, err := t.store.MultiPut(ctx, ops, cache.Independent())
	for _, r := range results {
		if err == nil {
			err = r.Err
		}
	}
	return err
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
