package inflight

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
)

const (
	// maxBytes bounds the memory that waiting transactions hold.
	maxBytes = 256 << 20
	// minRetryAfter and maxRetryAfter bound the advice to an overloaded caller.
	minRetryAfter = time.Millisecond
	maxRetryAfter = time.Second
)

// Admission bounds the transactions that wait in a log, in number and in bytes.
// Its methods may be called concurrently.
type Admission struct {
	limit   int64
	waiting atomic.Int64
	bytes   atomic.Int64
	refused atomic.Int64
	latency atomic.Int64 // of a recent transaction, in nanoseconds
	pool    sync.Pool    // of *Pending
}

// New returns an Admission that lets so many transactions wait.
func New(limit int) *Admission {
	a := &Admission{limit: int64(limit)}
	a.pool.New = func() any { return &Pending{done: make(chan error, 1)} }
	return a
}

// Enter counts a transaction in, or refuses it when too many wait.
func (a *Admission) Enter(txn *command.Txn) (*Pending, error) {
	bytes := txnBytes(txn)
	n, total := a.waiting.Add(1), a.bytes.Add(bytes)
	if n > a.limit || (total > maxBytes && total != bytes) {
		a.leave(bytes)
		return nil, a.Overloaded(fmt.Errorf("%w: %d writes of %d bytes are waiting", base.ErrOverloaded, n-1, total-bytes))
	}
	return a.pending(txn, bytes), nil
}

// Force counts in what must not be refused.
func (a *Admission) Force(txn *command.Txn) *Pending {
	bytes := txnBytes(txn)
	a.waiting.Add(1)
	a.bytes.Add(bytes)
	return a.pending(txn, bytes)
}

func (a *Admission) pending(txn *command.Txn, bytes int64) *Pending {
	p := a.pool.Get().(*Pending)
	p.Txn, p.Bytes, p.Anywhere, p.Err = txn, bytes, false, nil
	p.state.Store(stateQueued)
	return p
}

// Overloaded counts a refusal and says when to come back.
func (a *Admission) Overloaded(cause error) *base.Error {
	a.refused.Add(1)
	e := NotApplied(cause)
	e.RetryAfter = min(max(2*time.Duration(a.latency.Load()), minRetryAfter), maxRetryAfter)
	return e
}

func (a *Admission) leave(bytes int64) {
	a.waiting.Add(-1)
	a.bytes.Add(-bytes)
}

// Observe notes how long a transaction took, which the advice to overloaded
// callers goes by.
func (a *Admission) Observe(latency time.Duration) { a.latency.Store(int64(latency)) }

// InFlight returns how many wait, and how many were refused.
func (a *Admission) InFlight() (waiting, refused int64) {
	return a.waiting.Load(), a.refused.Load()
}

// txnBytes is how much memory a waiting transaction counts for.
func txnBytes(txn *command.Txn) int64 {
	const perWrite = 64 // beside key and value
	n := 0
	for i := range txn.Parts {
		cmd := &txn.Parts[i].Command
		for j := range cmd.Writes {
			n += cmd.Writes[j].Bytes() + perWrite
		}
		n += perWrite * (len(cmd.Reads) + len(cmd.Ranges) + len(cmd.Sweep.Expired))
	}
	return int64(n)
}
