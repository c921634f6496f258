package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/command"
)

// faultTxn is a transaction in a cell, and what its caller was told.
type faultTxn struct {
	id      base.RequestID // zero: none
	keys    []base.Key     // the first is on the anchor
	value   string
	refused bool // a condition on one key does not hold
	refuser int  // the index of that
	gaveUp  bool // its caller, when the fault came
	update  bool // by a function that reads all keys

	outcome base.Outcome
	version base.Version
	err     error
	done    chan struct{}
	cancel  context.CancelFunc
}

// newTxn draws a transaction with keys that nobody else has.
func (b *faultBench) newTxn(at stopPoint, n int) *faultTxn {
	h := b.hostOf(coordinatorNode)
	x := &faultTxn{value: fmt.Sprintf("cell %d, transaction %d", b.count, n), done: make(chan struct{})}
	x.refused = at.refused
	shards := []base.ShardID{anchorShard, participantShard}
	if b.rng.IntN(2) == 0 {
		shards = append(shards, participantShard+1)
	}
	for _, shard := range shards {
		x.keys = append(x.keys, keyOn(h, shard, 1000*b.count+n))
	}
	// A refusal is recorded only of a request. An Update does not choose its anchor.
	if at.refused && at.name == "refuse" || b.rng.IntN(2) == 0 {
		x.id = base.NewRequestID()
		x.id[0], x.id[1], x.id[2], x.id[3] = 0, 0, 0, 0 // what is left of it tells the anchor of an Update
		x.id[4], x.id[5], x.id[6], x.id[7] = 0, 0, 0, byte(testShards)*byte(b.rng.IntN(8))
	}
	if at.kind != command.StepAbort { // else the participants hold their keys
		x.refuser = len(x.keys) - 1
	}
	x.update = !at.refused && !x.id.IsZero() && b.rng.IntN(2) == 0
	x.gaveUp = b.rng.IntN(4) == 0
	return x
}

// writes returns what the transaction writes.
func (x *faultTxn) writes() []base.Write {
	writes := make([]base.Write, len(x.keys))
	for i, key := range x.keys {
		writes[i] = base.Write{Key: key, Value: []byte(x.value)}
	}
	if x.refused {
		writes[x.refuser].Cond = base.Cond{Kind: base.CondPresent}
	}
	return writes
}

func (x *faultTxn) call(ctx context.Context, h *Host) (base.Version, error) {
	if !x.update {
		results, err := h.MultiWrite(ctx, x.writes(), x.id)
		if err != nil {
			return 0, err
		}
		return results[0].Version, nil
	}
	return h.Update(ctx, base.DefaultLimits(), base.TxOptions{RequestID: x.id}, func(tx *Tx) error {
		for _, w := range x.writes() {
			if it, err := tx.Get(w.Key); !errors.Is(err, base.ErrNotFound) {
				return fmt.Errorf("%v is there: %q, %w", w.Key, it.Value, err)
			}
			if err := tx.Write(w); err != nil {
				return err
			}
		}
		return nil
	})
}

// run makes the call and notes what comes of it.
func (x *faultTxn) run(ctx context.Context, h *Host) {
	ctx, x.cancel = context.WithCancel(ctx)
	go func() {
		defer close(x.done)
		x.version, x.err = x.call(ctx, h)
		x.outcome = outcomeOf(x.err)
	}()
}

// cell lets transactions come to a step, and a fault come then.
func (b *faultBench) cell(at stopPoint, fault faultKind, who victim) {
	b.t.Helper()
	b.count++
	name := fmt.Sprintf("cell %d: %s, %s %s", b.count, at.name, who, fault)
	started := time.Now()
	defer func() { b.t.Logf("%s: %v", name, time.Since(started)) }()
	b.place()
	h := b.arm(at)
	defer h.free() // or else no node could be closed after a failure
	txns := make([]*faultTxn, faultTxns)
	for i := range txns {
		txns[i] = b.newTxn(at, i)
	}
	for _, x := range txns {
		x.run(b.ctx, b.hostOf(coordinatorNode))
	}
	testkit.Eventually(b.t, time.Minute, name+": the step", h.reached(b.sharing))
	down := map[victim]int{theCoordinator: coordinatorNode, theParticipant: int(participantShard), theAnchor: int(anchorShard)}[who]
	b.strike(name, h, txns, fault, down)
	b.steps += h.count()
	for _, x := range txns {
		<-x.done
		x.cancel()
	}
	b.clock.Advance(2 * txnPatience)
	b.quiet(name, 0, 1, 2)
	for _, x := range txns {
		b.judge(name, x, fault == killed && who == theCoordinator)
	}
}

// strike lets a fault come and go.
func (b *faultBench) strike(name string, h *hold, txns []*faultTxn, fault faultKind, down int) {
	b.t.Helper()
	for _, x := range txns {
		if x.gaveUp {
			x.cancel()
		}
	}
	switch fault {
	case killed:
		b.crash(down)
		if down != coordinatorNode {
			b.replaced(down)
		} else {
			for _, x := range txns {
				x.cancel() // what it is told reaches nobody
			}
		}
		h.free()
		b.restart(down)
	case paused:
		_, end := b.begin(down, true)
		b.clock.Advance(2 * txnPatience)
		if down == coordinatorNode {
			b.quiet(name+" while it is paused", 0, 1, 2)
		} else if b.replaced(down); b.rng.IntN(2) == 0 {
			b.quiet(name+" while it is paused", others(down)...)
		}
		h.free()
		end()
	case cutOff:
		o, end := b.begin(down, false)
		if down != coordinatorNode {
			b.replaced(down)
			h.free()
		} else {
			asks := h.asks() // else all that was asked has been answered
			h.free()
			if asks {
				select {
				case <-o.refused:
				case <-b.ctx.Done():
				}
			}
		}
		end()
	}
}

// judge compares what the caller of a transaction was told with what is there.
func (b *faultBench) judge(name string, x *faultTxn, dead bool) {
	b.t.Helper()
	b.txns++
	if dead {
		x.outcome = base.OutcomeUnknown
	}
	b.told[x.outcome]++
	applied, version := b.applied(name, x)
	if applied && x.outcome == base.OutcomeUnknown {
		b.unknownApplied++
	}
	switch {
	case x.refused && applied,
		x.outcome == base.OutcomeApplied && (!applied || x.version != version),
		x.outcome == base.OutcomeNotApplied && applied:
		b.t.Errorf("%s: %s: its caller was told %v, version %d, %v; applied is %v, version %d", name, x.value, x.outcome, x.version, x.err, applied, version)
	}
	if !x.id.IsZero() {
		b.repeat(name, x, applied, version)
	}
}

// applied reads the keys of a transaction on any node, and then in all replicas.
func (b *faultBench) applied(name string, x *faultTxn) (applied bool, version base.Version) {
	b.t.Helper()
	i := b.rng.IntN(len(b.nodes))
	items, err := b.hostOf(i).MultiGet(b.ctx, x.keys, base.ReadOptions{})
	if err != nil {
		b.t.Fatalf("%s: %v", name, err)
	}
	applied, version = items[0].Exists(), items[0].Version
	for _, it := range items {
		if it.Version != version || applied && string(it.Value) != x.value {
			b.t.Errorf("%s: %s is applied in part: %v", name, x.value, items)
		}
	}
	for i := range coordinatorNode {
		for _, key := range x.keys {
			shard := b.hostOf(i).shardOf(key)
			testkit.Eventually(b.t, time.Minute, fmt.Sprintf("%s: node %d to have version %d of %v", name, i, version, key), func() bool {
				rec, err := b.nodes[i].store.Space(shard).Get(key)
				return err == nil && rec.Version == version
			})
		}
	}
	return applied, version
}

// repeat asks for the outcome of a request, and makes it again.
func (b *faultBench) repeat(name string, x *faultTxn, applied bool, version base.Version) {
	b.t.Helper()
	h := b.hostOf(b.rng.IntN(len(b.nodes)))
	outcome, at, err := h.Outcome(b.ctx, x.id)
	if err != nil || applied != (outcome == base.OutcomeApplied) || applied && at != version {
		b.t.Errorf("%s: %s: outcome %v, version %d, %v; applied is %v, version %d", name, x.value, outcome, at, err, applied, version)
	}
	if outcome == base.OutcomeUnknown && x.outcome == base.OutcomeApplied {
		b.t.Errorf("%s: %s is forgotten", name, x.value)
	}
	for range 2 { // the second time it has been applied for sure
		again, err := x.call(b.ctx, h)
		switch {
		case x.refused != errors.Is(err, base.ErrVersionMismatch):
			b.t.Errorf("%s: %s, repeated: %v", name, x.value, err)
		case !x.refused && (err != nil || applied && again != version):
			b.t.Errorf("%s: %s, repeated: version %d, %v; want %d", name, x.value, again, err, version)
		}
		applied, version = true, again
	}
}
