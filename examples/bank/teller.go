package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/distributedcache/cache"
)

// maxAmount is the most that is moved at once: accounts run dry at times, and
// then refuse.
const maxAmount = 60

// tellers moves money until ctx ends, with n goroutines on all nodes. Transfers
// that were begun are brought to an end, unless last ends before.
func (b *bank) tellers(ctx, last context.Context, n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				b.door.pass(func() { b.settle(last, b.newTransfer()) })
			}
		})
	}
	wg.Wait()
}

// newTransfer returns a transfer between two accounts, which mostly live on
// different shards, and nodes.
func (b *bank) newTransfer() transfer {
	from, to := rand.N(b.cfg.accounts), rand.N(b.cfg.accounts-1)
	if to >= from {
		to++
	}
	return transfer{ID: cache.NewRequestID(), From: from, To: to, Amount: 1 + rand.Int64N(maxAmount)}
}

// settle makes one transfer: it repeats it, on whichever nodes are there and
// always with the same id, until it is known what became of it. It does not
// matter why a call failed, or whether it had succeeded unheard.
func (b *bank) settle(ctx context.Context, t transfer) {
	b.counts.begun()
	for {
		var refused bool
		err := b.onAny(ctx, func(ctx context.Context, node branch) (err error) {
			refused, err = node.move(ctx, t)
			return err
		})
		switch {
		case err == nil:
			b.counts.settled(refused, time.Now())
			return
		case ctx.Err() != nil:
			return // stays open, which the summary tells
		}
		b.counts.retry()
		pause(ctx, retryPause)
	}
}

// onAny makes a call on some node that is up.
func (b *bank) onAny(ctx context.Context, call func(ctx context.Context, node branch) error) error {
	return within(ctx, callTimeout, func(ctx context.Context) error {
		node, err := b.fleet.pick()
		if err != nil {
			return err
		}
		return call(ctx, node)
	})
}
