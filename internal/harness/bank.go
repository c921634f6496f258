package harness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/node"
	"github.com/distributedcache/cache/internal/testkit"
)

// Bank moves money between accounts on all shards of a cluster. Every transfer
// leaves a row in the same transaction, so that in the end the rows and the
// accounts tell whether each was applied once, whole, and only if it was to be.
type Bank struct {
	Cluster           *Cluster
	Accounts, Balance int // how many, and what each has at first
	Tellers, Auditors int
	Duration          time.Duration // in which transfers are begun
	AtLeast           int           // transfers that must be applied, and one sum; see Workload.AtLeast
	Timeout           time.Duration // of each call
	Rand              *rand.Rand

	mu struct {
		sync.Mutex
		transfers []*transfer
		faults    []error
		stats     BankStats
	}
}

// BankStats counts what clients of a bank have done.
type BankStats struct {
	Applied, Refused, Unknown int // transfers
	Repeats                   int // calls with the id of an earlier one
	Sums, FailedSums          int // of all accounts
}

// String lists the counts.
func (s BankStats) String() string {
	return fmt.Sprintf("%d transfers applied, %d refused, %d unknown; %d calls repeated; %d sums, %d failed",
		s.Applied, s.Refused, s.Unknown, s.Repeats, s.Sums, s.FailedSums)
}

// transfer is money on its way, and what its client knows of it.
type transfer struct {
	id               base.RequestID
	from, to, amount int
	outcome          base.Outcome
	version          base.Version
}

var errPoor = errors.New("too little on the account")

func accountsIn() base.Range {
	return base.Range{Start: base.K("account/", ""), End: base.K("account0", "")}
}

func rowsIn() base.Range {
	return base.Range{Start: base.K("transfer/", ""), End: base.K("transfer0", "")}
}

func bankAccount(i int) base.Key { return base.K(fmt.Sprintf("account/%04d", i), "balance") }

func (t *transfer) row() base.Key { return base.K("transfer/"+t.id.String(), "row") }

// declined is the row of a transfer that left the accounts as they were.
const declined = "declined"

func (t *transfer) text() string { return fmt.Sprintf("%d %d %d", t.from, t.to, t.amount) }

func putInt(key base.Key, n int) base.Write {
	return base.Write{Key: key, Value: []byte(strconv.Itoa(n))}
}

// Open fills the accounts.
func (b *Bank) Open(ctx context.Context) error {
	writes := make([]base.Write, b.Accounts)
	for i := range writes {
		writes[i] = putInt(bankAccount(i), b.Balance)
	}
	return b.Cluster.on(0, func(n *node.Node) error {
		_, err := n.MultiWrite(ctx, writes, base.TxOptions{})
		return err
	})
}

// shown reports whether enough has happened for the bank to say anything.
func (b *Bank) shown() bool {
	stats := b.Stats()
	return stats.Applied >= b.AtLeast && stats.Sums > 0
}

// Run lets the clients work. Those who repeat a transfer do so until they know
// what became of it or the context ends.
func (b *Bank) Run(ctx context.Context) {
	began := time.Now()
	more := func() bool { return ctx.Err() == nil && !enough(began, b.Duration, b.shown()) }
	var clients sync.WaitGroup
	for i := range b.Tellers {
		rng := testkit.Fork(b.Rand)
		clients.Go(func() {
			for more() {
				b.serve(ctx, rng, i)
			}
		})
	}
	for i := range b.Auditors {
		rng := testkit.Fork(b.Rand)
		clients.Go(func() {
			for more() {
				b.audit(ctx, rng, i%2 == 0)
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	clients.Wait()
}

// serve makes one transfer, and notes what is known of it.
func (b *Bank) serve(ctx context.Context, rng *rand.Rand, kind int) {
	t := &transfer{id: base.NewRequestID(), from: rng.IntN(b.Accounts), to: rng.IntN(b.Accounts), amount: 1 + rng.IntN(b.Balance/2)}
	if t.from == t.to {
		return
	}
	switch kind % 3 {
	case 0:
		b.once(ctx, rng, t)
	case 1:
		b.untilKnown(ctx, rng, t, b.byFunction)
	default:
		b.byCondition(ctx, rng, t)
	}
	b.mu.Lock()
	b.mu.transfers = append(b.mu.transfers, t)
	switch t.outcome {
	case base.OutcomeApplied:
		b.mu.stats.Applied++
	case base.OutcomeNotApplied:
		b.mu.stats.Refused++
	default:
		b.mu.stats.Unknown++
	}
	b.mu.Unlock()
	if t.outcome == base.OutcomeApplied && rng.IntN(4) == 0 {
		b.lookUp(ctx, rng, t)
	}
}

// call calls fn with some node, within the timeout.
func (b *Bank) call(ctx context.Context, rng *rand.Rand, fn func(context.Context, *node.Node) error) error {
	return b.callWithin(ctx, b.Timeout, rng, fn)
}

func (b *Bank) callWithin(ctx context.Context, patience time.Duration, rng *rand.Rand, fn func(context.Context, *node.Node) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return b.Cluster.on(rng.IntN(b.Cluster.Nodes()), func(n *node.Node) error { return fn(ctx, n) })
}

func (b *Bank) blame(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.mu.faults) < maxReported {
		b.mu.faults = append(b.mu.faults, fmt.Errorf(format, args...))
	}
}

// learn notes what the answer to a call says of a transfer, and reports whether
// that is all there is to know.
func (t *transfer) learn(version base.Version, err error) bool {
	var mismatch *base.VersionError
	var e *base.Error
	switch {
	case err == nil:
		t.outcome, t.version = base.OutcomeApplied, version
	case errors.As(err, &mismatch) && errors.As(err, &e) && e.Outcome == base.OutcomeNotApplied:
		t.outcome = base.OutcomeNotApplied
	default:
		return false
	}
	return true
}

// once makes a transfer without a request id: whatever went wrong, it is not made
// again.
func (b *Bank) once(ctx context.Context, rng *rand.Rand, t *transfer) {
	var version base.Version
	err := b.call(ctx, rng, func(ctx context.Context, n *node.Node) (err error) {
		version, err = n.Update(ctx, func(tx *node.Tx) error { return t.move(tx, false) }, base.TxOptions{})
		return err
	})
	var e *base.Error
	if !t.learn(version, err) && (errors.Is(err, errPoor) || errors.As(err, &e) && e.Outcome == base.OutcomeNotApplied) {
		t.outcome = base.OutcomeNotApplied
	}
}

// move is the function of the transaction.
func (t *transfer) move(tx *node.Tx, decline bool) error {
	from, err := readInt(tx, bankAccount(t.from))
	if err != nil {
		return err
	}
	to, err := readInt(tx, bankAccount(t.to))
	if err != nil {
		return err
	}
	row := base.Write{Key: t.row(), Value: []byte(t.text())}
	switch {
	case from < t.amount && !decline:
		return errPoor
	case from < t.amount:
		row.Value = []byte(declined)
		return tx.Write(row)
	}
	return errors.Join(tx.Write(putInt(bankAccount(t.from), from-t.amount)), tx.Write(putInt(bankAccount(t.to), to+t.amount)), tx.Write(row))
}

func readInt(tx *node.Tx, key base.Key) (int, error) {
	it, err := tx.Get(key)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(it.Value))
}

// attempt asks a node to make a transfer with its request id.
type attempt func(ctx context.Context, n *node.Node, t *transfer) (base.Version, error)

// byFunction makes a transfer as an Update that declines it itself.
func (b *Bank) byFunction(ctx context.Context, n *node.Node, t *transfer) (base.Version, error) {
	return n.Update(ctx, func(tx *node.Tx) error {
		if t.outcome != base.OutcomeUnknown {
			b.blame("transfer %v: its function ran after it was applied", t.id)
		}
		return t.move(tx, true)
	}, base.TxOptions{RequestID: t.id})
}

// byCondition makes a transfer as a batch on the versions that were read before.
func (b *Bank) byCondition(ctx context.Context, rng *rand.Rand, t *transfer) {
	var items []base.Item
	err := b.call(ctx, rng, func(ctx context.Context, n *node.Node) (err error) {
		items, err = n.MultiGet(ctx, []base.Key{bankAccount(t.from), bankAccount(t.to)}, base.ReadOptions{})
		return err
	})
	if err != nil {
		t.outcome = base.OutcomeNotApplied
		return
	}
	from, _ := strconv.Atoi(string(items[0].Value))
	to, _ := strconv.Atoi(string(items[1].Value))
	if t.amount = min(t.amount, from); t.amount == 0 {
		t.outcome = base.OutcomeNotApplied
		return
	}
	writes := []base.Write{putInt(bankAccount(t.from), from-t.amount), putInt(bankAccount(t.to), to+t.amount), {Key: t.row(), Value: []byte(t.text())}}
	writes[0].Cond = base.Cond{Kind: base.CondVersion, Version: items[0].Version}
	writes[1].Cond = base.Cond{Kind: base.CondVersion, Version: items[1].Version}
	rng.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] }) // the first tells the anchor
	b.untilKnown(ctx, rng, t, func(ctx context.Context, n *node.Node, t *transfer) (base.Version, error) {
		results, err := n.MultiWrite(ctx, writes, base.TxOptions{RequestID: t.id})
		if err != nil {
			return 0, err
		}
		return results[0].Version, nil
	})
}

// untilKnown repeats a transfer, on any node, until its outcome is known. Later
// repetitions must have the same.
func (b *Bank) untilKnown(ctx context.Context, rng *rand.Rand, t *transfer, try attempt) {
	known := false
	for n := 0; ctx.Err() == nil; n++ {
		again := *t
		var version base.Version
		err := b.call(ctx, rng, func(ctx context.Context, n *node.Node) (err error) {
			version, err = try(ctx, n, &again)
			return err
		})
		if n > 0 {
			b.mu.Lock()
			b.mu.stats.Repeats++
			b.mu.Unlock()
		}
		learnt := again.learn(version, err)
		switch {
		case learnt && known && (again.outcome != t.outcome || again.version != t.version):
			b.blame("transfer %v was %v with version %d, and then %v with version %d: %v", t.id, t.outcome, t.version, again.outcome, again.version, err)
			return
		case learnt:
			t.outcome, t.version, known = again.outcome, again.version, true
		case errors.Is(err, base.ErrNotFound):
			b.blame("transfer %v: an account is missing: %v", t.id, err)
		}
		if known && rng.IntN(4) > 0 {
			return
		}
		if err != nil {
			time.Sleep(time.Duration(1+rng.IntN(20)) * time.Millisecond)
		}
	}
}

// lookUp reads the row of an applied transfer: everybody must see it.
func (b *Bank) lookUp(ctx context.Context, rng *rand.Rand, t *transfer) {
	var it base.Item
	err := b.call(ctx, rng, func(ctx context.Context, n *node.Node) (err error) {
		it, err = n.Get(ctx, t.row(), base.ReadOptions{})
		return err
	})
	if errors.Is(err, base.ErrNotFound) || err == nil && it.Version != t.version {
		b.blame("transfer %v was applied with version %d, its row has %d: %v", t.id, t.version, it.Version, err)
	}
}

// auditPatience is how many times longer than a transfer a sum of all accounts may take.
const auditPatience = 3

// audit sums all accounts, one by one or by a scan.
func (b *Bank) audit(ctx context.Context, rng *rand.Rand, scan bool) {
	var total, found int
	var version base.Version
	err := b.callWithin(ctx, auditPatience*b.Timeout, rng, func(ctx context.Context, n *node.Node) error {
		return n.View(ctx, func(tx *node.Tx) (err error) {
			total, found, version, err = b.sum(tx, scan)
			return err
		}, base.TxOptions{})
	})
	b.mu.Lock()
	if err == nil {
		b.mu.stats.Sums++
	} else {
		b.mu.stats.FailedSums++
	}
	b.mu.Unlock()
	if err == nil && (total != b.Accounts*b.Balance || found != b.Accounts) {
		b.blame("%d accounts add up to %d, newest version %d; want %d and %d", found, total, version, b.Accounts, b.Accounts*b.Balance)
	}
}

func (b *Bank) sum(tx *node.Tx, scan bool) (total, found int, newest base.Version, err error) {
	add := func(it base.Item) error {
		n, err := strconv.Atoi(string(it.Value))
		total, found, newest = total+n, found+1, max(newest, it.Version)
		return err
	}
	if !scan {
		for i := range b.Accounts {
			it, err := tx.Get(bankAccount(i))
			if errors.Is(err, base.ErrNotFound) {
				continue
			}
			if err == nil {
				err = add(it)
			}
			if err != nil {
				return 0, 0, 0, err
			}
		}
		return total, found, newest, nil
	}
	for it, err := range tx.RangeScan(accountsIn(), base.ReadOptions{}) {
		if err == nil {
			err = add(it)
		}
		if err != nil {
			return 0, 0, 0, err
		}
	}
	return total, found, newest, nil
}

// Check compares, when the clients are done, the rows with the accounts and with
// what the clients know.
func (b *Bank) Check(ctx context.Context) error {
	var accounts, rows map[base.Key]string
	read := func(tx *node.Tx, r base.Range) (map[base.Key]string, error) {
		found := make(map[base.Key]string)
		for it, err := range tx.RangeScan(r, base.ReadOptions{}) {
			if err != nil {
				return nil, err
			}
			found[it.Key] = string(it.Value)
		}
		return found, nil
	}
	err := b.Cluster.on(0, func(n *node.Node) error {
		return n.View(ctx, func(tx *node.Tx) (err error) {
			if accounts, err = read(tx, accountsIn()); err == nil {
				rows, err = read(tx, rowsIn())
			}
			return err
		}, base.TxOptions{})
	})
	if err != nil {
		return err
	}
	b.compare(accounts, rows)
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(b.mu.faults...)
}

func (b *Bank) compare(accounts, rows map[base.Key]string) {
	want := make([]int, b.Accounts)
	for i := range want {
		want[i] = b.Balance
	}
	for _, t := range b.mu.transfers {
		row, found := rows[t.row()]
		switch {
		case found && row != declined && row != t.text():
			b.blame("transfer %v: row %q, want %q", t.id, row, t.text())
		case found && row != declined:
			want[t.from], want[t.to] = want[t.from]-t.amount, want[t.to]+t.amount
		}
		if t.outcome == base.OutcomeApplied && !found || t.outcome == base.OutcomeNotApplied && found {
			b.blame("transfer %v (%s): %v, version %d, but its row is %q", t.id, t.text(), t.outcome, t.version, row)
		}
		delete(rows, t.row())
	}
	for key := range rows {
		b.blame("nobody made %v", key)
	}
	for i := range want {
		if have := accounts[bankAccount(i)]; have != strconv.Itoa(want[i]) {
			b.blame("account %d has %s, its transfers leave %d", i, have, want[i])
		}
	}
}

// Stats returns the counts.
func (b *Bank) Stats() BankStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.stats
}
