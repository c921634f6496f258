package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/cluster/internal/catalog"
	"github.com/distributedcache/cache/cluster/internal/peer"
	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication"
)

const (
	// minPause and maxPause bound the pause of a request between two attempts: an
	// election takes some hundred milliseconds.
	minPause = 2 * time.Millisecond
	maxPause = 100 * time.Millisecond
	// pausePart is which part of the time that a request has taken already a pause
	// takes: a shard that changes its leader makes nobody wait for much longer than
	// that takes, and one that has none is not asked often.
	pausePart = 4
	// askPatience ends a request that has no deadline.
	askPatience = 30 * time.Second
	// firstPatience is how long a node is waited for at first before the next is
	// asked, as it may have been cut off; then twice as long each time, up to
	// lastPatience, as the answer may take long. The request may be on its way more
	// than once then.
	firstPatience = 400 * time.Millisecond
	lastPatience  = 10 * time.Second
)

// router takes requests to where shards are led. It implements replication.Remote.
//
// What it knows may be wrong: who leads a shard it has from answers, redirections
// and hints; who has a replica from the catalog. It tries until it is right.
type router struct {
	c       *Cluster
	leaders [base.MaxShards + 1]atomic.Pointer[lead] // by shard; the catalog is the last
}

// lead is who led a shard when that was heard of last.
type lead struct {
	node string
	term uint64 // of a hint; 0 if somebody answered as the leader
}

// Leader implements replication.Remote.
func (r *router) Leader(shard base.ShardID) string {
	if l := r.leaders[shard].Load(); l != nil {
		return l.node
	}
	return ""
}

// learn notes who leads a shard, or that nobody is known to.
func (r *router) learn(shard base.ShardID, node string) {
	if node == "" {
		r.leaders[shard].Store(nil)
		return
	}
	if l := r.leaders[shard].Load(); l == nil || l.node != node {
		r.leaders[shard].Store(&lead{node: node})
	}
}

// hint notes who led a shard in a term, unless something newer is known.
func (r *router) hint(shard base.ShardID, node string, term uint64) {
	if int(shard) >= len(r.leaders) {
		return
	}
	if l := r.leaders[shard].Load(); l == nil || term > l.term {
		r.leaders[shard].Store(&lead{node: node, term: term})
	}
}

// AskNode implements replication.Remote.
func (r *router) AskNode(ctx context.Context, node string, request []byte) ([]byte, error) {
	if node == r.c.cfg.NodeID {
		host := r.c.host.Load()
		if host == nil {
			return nil, notApplied(errNotYet)
		}
		return host.Answer(ctx, request)
	}
	addr, err := r.address(node)
	if err != nil {
		return nil, notApplied(err)
	}
	return r.c.pool.Call(ctx, addr, methodShard, request)
}

// Stream implements replication.Remote.
func (r *router) Stream(ctx context.Context, node string, request []byte, yield func(piece []byte) error) error {
	if node == r.c.cfg.NodeID {
		host := r.c.host.Load()
		if host == nil {
			return errNotYet
		}
		return host.AnswerStream(ctx, request, yield)
	}
	addr, err := r.address(node)
	if err != nil {
		return err
	}
	return r.c.pool.Stream(ctx, addr, streamShard, request, yield)
}

// address returns where a node is reached.
func (r *router) address(node string) (string, error) {
	n, found := r.c.cache.State().Node(node)
	if !found {
		n, found = r.c.founderRecord(node)
	}
	if !found || n.State == catalog.Removed {
		return "", fmt.Errorf("%w: node %s is not in the cluster", base.ErrUnavailable, node)
	}
	return r.c.addressOf(node, n.Addr), nil
}

// Ask implements replication.Remote.
func (r *router) Ask(ctx context.Context, shard base.ShardID, request []byte) ([]byte, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askPatience)
		defer cancel()
	}
	a := asking{router: r, shard: shard, request: request, began: time.Now()}
	for {
		answer, err, over := a.attempt(ctx)
		if over {
			return answer, err
		}
		if err := a.pause(ctx); err != nil {
			return nil, a.gaveUp(ctx)
		}
	}
}

// asking is one request on its way.
type asking struct {
	*router
	shard   base.ShardID
	request []byte
	began   time.Time
	tries   int
	slow    int  // of these, how many were given up waiting for
	next    int  // of the candidates, if nobody is known to lead
	sent    bool // somebody may have acted on it
	last    error
}

// attempt asks once. It is over if the answer, or the error, is for the caller.
func (a *asking) attempt(ctx context.Context) (answer []byte, err error, over bool) {
	a.tries++
	node := a.candidate()
	if node == "" {
		a.last = fmt.Errorf("%w: no node is known to have shard %d", base.ErrUnavailable, a.shard)
		a.c.wakeRefresh()
		return nil, nil, false
	}
	once, cancel := context.WithTimeout(ctx, min(firstPatience<<min(a.slow, 10), lastPatience))
	defer cancel()
	answer, err = a.AskNode(once, node, a.request)
	if err == nil {
		a.learn(a.shard, node)
		return answer, nil, true
	}
	a.last = err
	if leader, redirected := redirect(err); redirected {
		if leader == node {
			leader = ""
		}
		a.learn(a.shard, leader)
		return nil, nil, false
	}
	if once.Err() != nil {
		a.slow++
	}
	a.sent = a.sent || mayHaveActed(err)
	if !errors.Is(err, base.ErrUnavailable) && !errors.Is(err, base.ErrIndeterminate) && !errors.Is(err, base.ErrClosed) {
		return nil, a.outcome(err), true
	}
	a.learn(a.shard, "")
	if a.tries%4 == 0 {
		a.c.wakeRefresh() // it may have moved
	}
	return nil, nil, false
}

// candidate returns the node to ask next: the leader as this node's own replica
// knows it, which hears of a new one first; in every other attempt, since the replica
// may have lost touch, the leader as others have told; or else those that have a
// replica, one after the other.
func (a *asking) candidate() string {
	if host := a.c.host.Load(); host != nil && a.tries%2 == 1 {
		if node := host.LeaderNode(a.shard); node != "" {
			return node
		}
	}
	if node := a.Leader(a.shard); node != "" {
		return node
	}
	nodes := a.c.holders(a.shard)
	if len(nodes) == 0 {
		return ""
	}
	a.next++
	return nodes[a.next%len(nodes)]
}

// mayHaveActed reports whether the node that gave this error, or none, may have
// acted on the request.
func mayHaveActed(err error) bool {
	var call *peer.CallError
	if errors.As(err, &call) {
		return call.Sent
	}
	var e *base.Error
	if errors.As(err, &e) {
		return e.Outcome != base.OutcomeNotApplied
	}
	return errors.Is(err, base.ErrIndeterminate) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// pause waits before the next attempt; not at all before the second, which knows
// better.
func (a *asking) pause(ctx context.Context) error {
	if a.tries <= 1 {
		return ctx.Err()
	}
	limit := min(max(minPause, time.Since(a.began)/pausePart), maxPause)
	timer := time.NewTimer(limit/2 + rand.N(limit/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-a.c.stopped:
		return base.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *asking) gaveUp(ctx context.Context) error {
	err := fmt.Errorf("%w: shard %d did not answer in %d attempts: %w", base.ErrUnavailable, a.shard, a.tries, a.last)
	if ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	return a.outcome(err)
}

// outcome says of an error whether anybody may have acted on the request.
func (a *asking) outcome(err error) error {
	e := &base.Error{Outcome: base.OutcomeNotApplied, Err: err}
	if a.sent {
		e.Outcome = base.OutcomeUnknown
	}
	var below *base.Error
	if errors.As(err, &below) {
		e.RetryAfter = below.RetryAfter
	}
	return e
}

func notApplied(err error) error { return &base.Error{Outcome: base.OutcomeNotApplied, Err: err} }

// holders returns the nodes that may have a replica of a shard, this one first.
func (c *Cluster) holders(shard base.ShardID) []string {
	state := c.cache.State()
	rec, found := state.Shard(shard)
	if !found {
		if shard != base.CatalogShard {
			return nil
		}
		return c.catalogFounders()
	}
	var nodes []string
	for _, r := range rec.Replicas {
		if n, found := state.Node(r.Node); found && n.Member() && !state.Lost(r) {
			nodes = append(nodes, r.Node)
		}
	}
	return nodes
}

var _ replication.Remote = (*router)(nil)
