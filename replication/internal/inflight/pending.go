package inflight

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
)

// Pending is one transaction on its way.
type Pending struct {
	Txn   *command.Txn
	Bytes int64 // what it counts for
	// Anywhere says that a log of many nodes need not lead the shard to decide it.
	Anywhere bool
	// Err is for the log: why this one of several was not applied.
	Err error

	state atomic.Int32
	done  chan error // has room for the one answer
}

// The states of a pending transaction. Only a queued one can be abandoned.
const (
	stateQueued int32 = iota
	stateTaken
	stateAbandoned
)

// Take claims the transaction for the log, which answers it then. It is false if
// the caller has given it up, and it is counted out then.
func (a *Admission) Take(p *Pending) bool {
	if p.state.CompareAndSwap(stateQueued, stateTaken) {
		return true
	}
	a.leave(p.Bytes)
	return false
}

// Answer counts the transaction out and tells its caller the outcome. It must not
// be used afterwards.
func (a *Admission) Answer(p *Pending, err error) {
	a.leave(p.Bytes)
	p.done <- err
}

// Withdraw counts out a transaction that was entered, but that no log has seen.
func (a *Admission) Withdraw(p *Pending) { a.leave(p.Bytes) }

// Await returns the answer; the transaction must not be used afterwards. If the
// context ends before, what it waited for last is named.
func (a *Admission) Await(ctx context.Context, p *Pending, last string) error {
	select {
	case err := <-p.done:
		p.Txn = nil
		a.pool.Put(p)
		return err
	case <-ctx.Done(): // p is not reused: whoever took it may still hold it
	}
	cause := context.Cause(ctx)
	if p.state.CompareAndSwap(stateQueued, stateAbandoned) {
		return NotApplied(fmt.Errorf("%w: gave up waiting for the writes ahead: %w", base.ErrUnavailable, cause))
	}
	return Indeterminate(fmt.Errorf("gave up waiting for %s: %w", last, cause))
}

// NotApplied is the error of a transaction that had no effect.
func NotApplied(cause error) *base.Error {
	return &base.Error{Outcome: base.OutcomeNotApplied, Err: cause}
}

// Indeterminate is the error of a transaction that may have been applied.
func Indeterminate(cause error) *base.Error {
	return &base.Error{Outcome: base.OutcomeUnknown, Err: fmt.Errorf("%w: %w", base.ErrIndeterminate, cause)}
}
