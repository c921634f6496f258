package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// bank is the whole show.
type bank struct {
	cfg    config
	fleet  *fleet
	screen *screen
	counts counts
	door   door
	opened total // what was in the books when the tellers began
}

const (
	// settleTimeout bounds what comes after the show: the last transfers, the
	// start of a node that is down, the last sum.
	settleTimeout = 2 * time.Minute
	// lookPause is between two looks at the cluster.
	lookPause = 300 * time.Millisecond
	// openChunk is how many accounts are opened in one transaction.
	openChunk = 500
)

// show runs the bank for as long as cfg says, or until ctx ends, and says in the
// end whether it kept its promises.
func show(ctx context.Context, cfg config, stdout io.Writer) (err error) {
	dir := cfg.dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "bank-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	f := &fleet{dir: dir, shards: cfg.shards, start: startHere}
	if cfg.processes {
		f.start = startProcess
	}
	b := &bank{cfg: cfg, fleet: f, screen: newScreen(stdout)}
	defer func() { err = errors.Join(err, f.close()) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	// What has begun may end in its own time when ctx has ended.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cfg.duration+settleTimeout)
	defer cancel()
	failed := b.work(ctx, last)
	books, err := b.closeBooks(last)
	if err != nil {
		return errors.Join(failed, fmt.Errorf("read the last sum: %w", err))
	}
	return errors.Join(failed, b.screen.summary(b, books))
}

// prepare starts the nodes and opens the accounts.
func (b *bank) prepare(ctx context.Context) error {
	began := time.Now()
	b.screen.say("starting %d nodes ...", b.cfg.nodes)
	err := within(ctx, startTimeout, func(ctx context.Context) error { return b.fleet.found(ctx, b.cfg.nodes) })
	if err != nil {
		return err
	}
	b.screen.say("they found one another in %v; opening %d accounts ...", round(time.Since(began)), b.cfg.accounts)
	node, err := b.fleet.pick()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	read := func(ctx context.Context) (err error) { b.opened, err = node.sum(ctx); return err }
	if err := insist(ctx, read); err != nil {
		return err
	}
	if n := b.opened.Accounts; n != 0 && n != b.cfg.accounts {
		return fmt.Errorf("%s has %d accounts; use --accounts %d, or another --dir", b.fleet.dir, n, n)
	}
	for from := 0; b.opened.Accounts == 0 && from < b.cfg.accounts; from += openChunk {
		to := min(from+openChunk, b.cfg.accounts)
		if err := insist(ctx, func(ctx context.Context) error { return node.open(ctx, from, to) }); err != nil {
			return err
		}
	}
	if err := insist(ctx, read); err != nil {
		return err
	}
	if want := int64(b.cfg.accounts) * openingBalance; b.opened.Balance != want {
		return fmt.Errorf("%w: %d accounts have %d together, not %d", errWrong, b.cfg.accounts, b.opened.Balance, want)
	}
	return nil
}

// work lets everybody work for as long as the flags say.
func (b *bank) work(ctx, last context.Context) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, b.cfg.duration)
	defer cancel()
	watched, end := context.WithCancel(last) // until the last transfer is settled
	b.counts.start(began)
	var workers, watchers sync.WaitGroup
	var failed error
	workers.Go(func() { b.tellers(ctx, last, b.cfg.workers) })
	workers.Go(func() {
		if failed = b.misfortunes(ctx, last); failed != nil {
			cancel()
		}
	})
	watchers.Go(func() { b.audit(watched) })
	watchers.Go(func() { b.watch(watched) })
	watchers.Go(func() { b.screen.run(watched, b, began) })
	workers.Wait()
	end()
	watchers.Wait()
	return failed
}

// watch looks at the cluster until ctx ends.
func (b *bank) watch(ctx context.Context) {
	for {
		_ = b.onAny(ctx, func(ctx context.Context, node branch) error {
			s, err := node.look(ctx)
			if err == nil {
				b.counts.saw(s)
			}
			return err
		})
		if !pause(ctx, lookPause) {
			return
		}
	}
}
