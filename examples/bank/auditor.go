package main

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// auditPause is between two sums.
	auditPause = 250 * time.Millisecond
	// crowdedTimeout is how long a sum is tried while the tellers work.
	crowdedTimeout = 150 * time.Millisecond
)

// audit reads the sum of all accounts until ctx ends.
//
// A View shows one moment of all accounts, and runs again if any of them changes
// before it has seen them all. Over a thousand accounts that change all the time
// it might do so for ever. So if it does not succeed soon, the auditor shuts the
// door for a moment: no teller begins another transfer until the sum is read.
// Those that are under way, in doubt or stuck with a dead node stay so.
func (b *bank) audit(ctx context.Context) {
	for pause(ctx, auditPause) {
		read := func(ctx context.Context, node branch) error { return b.look(ctx, node) }
		err := within(ctx, crowdedTimeout, func(ctx context.Context) error { return b.onAny(ctx, read) })
		if err != nil && ctx.Err() == nil {
			b.door.shut(func() { err = b.onAny(ctx, read) })
		}
		if err != nil && ctx.Err() == nil {
			b.counts.unread()
		}
	}
}

// look reads the sum and notes whether it is right.
func (b *bank) look(ctx context.Context, node branch) error {
	got, err := node.sum(ctx)
	if err == nil {
		b.counts.summed(got, b.right(got))
	}
	return err
}

// right says whether no money came or went, and no account.
func (b *bank) right(got total) bool {
	return got.Accounts == b.opened.Accounts && got.Balance == b.opened.Balance
}

// closeBooks reads the sum when all tellers have gone, and compares what is in
// the books with what tellers were told.
func (b *bank) closeBooks(ctx context.Context) (last total, err error) {
	err = insist(ctx, func(ctx context.Context) error {
		node, err := b.fleet.pick()
		if err != nil {
			return err
		}
		last, err = node.sum(ctx)
		return err
	})
	if err != nil {
		return last, err
	}
	b.counts.summed(last, b.right(last))
	return last, nil
}

// door is what tellers pass for each transfer. Shutting it waits for those
// inside only briefly: some may be stuck until a node is back.
type door struct {
	mu     sync.Mutex // protects the fields below
	inside int
	closed chan struct{} // while it is shut; closed when it opens again
	empty  chan struct{} // what shut waits for, if it does
}

// shutPatience is how long shut waits for those inside.
const shutPatience = 100 * time.Millisecond

func (d *door) pass(do func()) {
	d.mu.Lock()
	for d.closed != nil {
		opens := d.closed
		d.mu.Unlock()
		<-opens
		d.mu.Lock()
	}
	d.inside++
	d.mu.Unlock()
	do()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside--; d.inside == 0 && d.empty != nil {
		close(d.empty)
		d.empty = nil
	}
}

func (d *door) shut(do func()) {
	d.mu.Lock()
	d.closed = make(chan struct{})
	empty := make(chan struct{})
	if d.inside == 0 {
		close(empty)
	} else {
		d.empty = empty
	}
	d.mu.Unlock()
	timer := time.NewTimer(shutPatience)
	defer timer.Stop()
	select {
	case <-empty:
	case <-timer.C:
	}
	do()
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.closed)
	d.closed, d.empty = nil, nil
}

var errWrong = errors.New("the books are wrong")
