package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
)

const (
	// activeLists is how many lists are in use at a time. They are on all shards.
	activeLists = 24
	// listElements is about how long a list gets before another takes its place, so
	// that they stay short however long the history is.
	listElements = 20
)

// ListLoad has clients append to lists and read them, in transactions, and records
// what they see.
type ListLoad struct {
	Cluster  *Cluster
	Clients  int
	Duration time.Duration
	AtLeast  int // transactions that must succeed; see Workload.AtLeast
	Timeout  time.Duration
	Rand     *rand.Rand
	// Torn has clients read the lists one by one instead of in one View, which is
	// wrong.
	Torn bool

	began    time.Time
	appends  atomic.Int64
	succeed  atomic.Int64
	mu       sync.Mutex // protects recorded
	recorded []ListTxn
}

func listKey(name string) base.Key { return base.K("list/"+name, "all") }

// Run lets the clients work.
func (l *ListLoad) Run(ctx context.Context) {
	l.began = time.Now()
	more := func() bool {
		return ctx.Err() == nil && !enough(l.began, l.Duration, int(l.succeed.Load()) >= l.AtLeast)
	}
	var clients sync.WaitGroup
	for i := range l.Clients {
		rng := testkit.Fork(l.Rand)
		clients.Go(func() {
			for more() {
				l.one(ctx, rng, i)
			}
		})
	}
	clients.Wait()
}

// names returns the lists that have been in use.
func (l *ListLoad) names() (all []string) {
	for i := range activeLists * (1 + int(l.appends.Load())/(activeLists*listElements)) {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

// draw returns what a transaction is to do.
func (l *ListLoad) draw(rng *rand.Rand, readOnly bool) (ops []ListOp) {
	names := l.names()
	names = names[len(names)-activeLists:]
	for range 1 + rng.IntN(4) {
		op := ListOp{Key: names[rng.IntN(len(names))]}
		if !readOnly && rng.IntN(2) == 0 {
			op.Append = int(l.appends.Add(1))
		}
		ops = append(ops, op)
	}
	return ops
}

// one makes one transaction.
func (l *ListLoad) one(ctx context.Context, rng *rand.Rand, client int) {
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	readOnly := rng.IntN(3) == 0
	t := ListTxn{Client: client, Ops: l.draw(rng, readOnly), Call: time.Since(l.began)}
	err := l.Cluster.on(rng.IntN(l.Cluster.Nodes()), func(n *node.Node) error {
		switch {
		case readOnly && l.Torn:
			return l.tear(ctx, n, t.Ops)
		case readOnly:
			return n.View(ctx, func(tx *node.Tx) error { return runLists(tx, t.Ops) }, base.TxOptions{})
		default:
			_, err := n.Update(ctx, func(tx *node.Tx) error { return runLists(tx, t.Ops) }, base.TxOptions{})
			return err
		}
	})
	t.Return, t.Outcome = time.Since(l.began), OK
	var e *base.Error
	switch {
	case err == nil:
		l.succeed.Add(1)
	case readOnly || errors.As(err, &e) && e.Outcome == base.OutcomeNotApplied:
		t.Outcome = Failed
	default:
		t.Outcome, t.Return = Unknown, Forever
	}
	l.record(t)
}

func (l *ListLoad) record(t ListTxn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recorded = append(l.recorded, t)
}

// runLists is the function of the transaction. It may run again, and then forgets
// what it had read.
func runLists(tx *node.Tx, ops []ListOp) error {
	for i := range ops {
		key := listKey(ops[i].Key)
		it, err := tx.Get(key)
		if err != nil && !errors.Is(err, base.ErrNotFound) {
			return err
		}
		if ops[i].Append == 0 {
			if ops[i].Read, err = parseList(it.Value); err != nil {
				return err
			}
			continue
		}
		if err := tx.Write(base.Write{Key: key, Value: fmt.Appendf(slices.Clone(it.Value), "%d,", ops[i].Append)}); err != nil {
			return err
		}
	}
	return nil
}

func parseList(text []byte) ([]int, error) {
	list := []int{}
	for field := range strings.SplitSeq(strings.TrimSuffix(string(text), ","), ",") {
		if field == "" {
			continue
		}
		n, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, nil
}

// tear reads the lists one by one.
func (l *ListLoad) tear(ctx context.Context, n *node.Node, ops []ListOp) error {
	for i := range ops {
		it, err := n.Get(ctx, listKey(ops[i].Key), base.ReadOptions{})
		if err != nil && !errors.Is(err, base.ErrNotFound) {
			return err
		}
		if ops[i].Read, err = parseList(it.Value); err != nil {
			return err
		}
	}
	return nil
}

// Finish reads all lists, after the last other transaction, and returns what was
// recorded.
func (l *ListLoad) Finish(ctx context.Context) ([]ListTxn, error) {
	for names := range slices.Chunk(l.names(), 100) {
		t := ListTxn{Client: FinalClient, Outcome: OK, Call: time.Since(l.began)}
		for _, name := range names {
			t.Ops = append(t.Ops, ListOp{Key: name})
		}
		err := l.Cluster.on(0, func(n *node.Node) error {
			return n.View(ctx, func(tx *node.Tx) error { return runLists(tx, t.Ops) }, base.TxOptions{})
		})
		if err != nil {
			return nil, fmt.Errorf("final read: %w", err)
		}
		t.Return = time.Since(l.began)
		l.record(t)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recorded, nil
}

// listStats counts a history.
func listStats(txns []ListTxn) (s Stats) {
	s.Ops = len(txns)
	for i := range txns {
		switch txns[i].Outcome {
		case OK:
			s.OK++
		case Failed:
			s.Failed++
		default:
			s.Unknown++
		}
	}
	return s
}
