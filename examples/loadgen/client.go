package main

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"

	"github.com/distributedcache/cache"
)

// target is what all clients of a generator share: where they call and what they
// choose from. It does not change.
type target struct {
	store    cache.Store
	work     *workload
	shards   int
	keys     chooser // of single keys
	starts   chooser // of keys that a scan starts at
	rows     chooser // of primaries with rows
	accounts chooser
	shard    []int // of each account
	read     []cache.ReadOption
	scan     []cache.ReadOption
	stale    []cache.ReadOption
	noise    []byte // where values come from
}

func newTarget(store cache.Store, w *workload, shards int) *target {
	t := &target{
		store: store, work: w, shards: shards,
		keys: newChooser(w, w.Keys), rows: newChooser(w, w.rowPrimaries()), accounts: newChooser(w, w.Accounts),
		starts: uniform(max(w.Keys-scanSize, 0) + 1),
		stale:  []cache.ReadOption{cache.Stale(w.MaxStale)},
		scan:   []cache.ReadOption{cache.Limit(scanSize)},
	}
	if w.Consistency == stale {
		t.read = t.stale
		t.scan = append(t.scan, t.stale...)
	}
	t.noise = make([]byte, w.ValueBytes+maxNoise)
	random := rand.New(rand.NewPCG(w.Seed, 1<<34))
	for i := 0; i+8 <= len(t.noise); i += 8 {
		binary.LittleEndian.PutUint64(t.noise[i:], random.Uint64())
	}
	for i := range w.Accounts {
		t.shard = append(t.shard, shardOf(accountOf(i).Primary, shards))
	}
	return t
}

// client makes one call at a time: prepare chooses what the next will be, which
// is not part of its latency, and call makes it.
type client struct {
	*target
	random *rand.Rand

	key, other cache.Key
	value      []byte
	amount     int64
	keySet     []cache.Key
	opSet      []cache.Op
	span       cache.Range
}

// maxNoise is how many different values there are: one from each of its bytes on.
const maxNoise = 1 << 20

func newClient(t *target, seed, stream uint64) *client {
	return &client{target: t, random: rand.New(rand.NewPCG(seed, stream))}
}

// next chooses the next operation and prepares it.
func (c *client) next() operation {
	o := c.work.Mix.pick(c.random.Float64())
	c.prepare(o)
	return o
}

func (c *client) prepare(o operation) {
	switch o {
	case opGet, opStaleGet:
		c.key = keyOf(c.keys.choose(c.random))
	case opPut, opCAS:
		c.key, c.value = keyOf(c.keys.choose(c.random)), c.newValue()
	case opMultiGet, opMultiPut:
		c.manyKeys()
	case opMultiGetPrimary, opMultiPutPrimary:
		primary, first := c.rows.choose(c.random), c.random.IntN(rowsPerPrimary-batchSize+1)
		c.keySet = c.keySet[:0]
		for i := range batchSize {
			c.keySet = append(c.keySet, rowOf(primary, first+i))
		}
	case opScan:
		c.span = keysFrom(c.starts.choose(c.random))
	case opScanPrimary:
		c.span = rowsFrom(c.rows.choose(c.random), c.random.IntN(rowsPerPrimary-scanSize+1))
	case opTransfer:
		c.twoAccounts()
	}
	if o == opMultiPut || o == opMultiPutPrimary {
		c.opSet = c.opSet[:0]
		for _, key := range c.keySet {
			c.opSet = append(c.opSet, cache.PutOp(key, c.newValue()))
		}
	}
}

// newValue returns bytes that do not compress and that are not changed.
func (c *client) newValue() []byte {
	from := c.random.IntN(len(c.noise) - c.work.ValueBytes + 1)
	return c.noise[from : from+c.work.ValueBytes]
}

// chooseTries bounds how often something else is chosen because what was chosen
// does not do: with few hot keys others hardly come.
const chooseTries = 16

// manyKeys chooses batchSize different keys: when the same ones come again and
// again, the next that is not there yet.
func (c *client) manyKeys() {
	c.keySet = c.keySet[:0]
	var chosen [batchSize]int
	for n := range chosen {
		i := c.keys.choose(c.random)
		for try := 1; slices.Contains(chosen[:n], i); try++ {
			if try < chooseTries {
				i = c.keys.choose(c.random)
			} else {
				i = (i + 1) % c.work.Keys
			}
		}
		chosen[n] = i
		c.keySet = append(c.keySet, keyOf(i))
	}
}

// twoAccounts chooses two that live on different shards, if there are such.
func (c *client) twoAccounts() {
	from := c.accounts.choose(c.random)
	to := from
	for try := 0; try < chooseTries && c.shard[from] == c.shard[to]; try++ {
		to = c.accounts.choose(c.random)
	}
	for n := 1; c.shard[from] == c.shard[to] && n < c.work.Accounts; n++ {
		to = (from + n) % c.work.Accounts
	}
	if from == to { // all live on one shard
		to = (from + 1) % c.work.Accounts
	}
	c.key, c.other, c.amount = accountOf(from), accountOf(to), 1+c.random.Int64N(maxAmount)
}

// call makes the call that was prepared.
func (c *client) call(ctx context.Context, o operation) (err error) {
	switch o {
	case opGet:
		_, err = c.store.Get(ctx, c.key, c.read...)
	case opStaleGet:
		_, err = c.store.Get(ctx, c.key, c.stale...)
	case opPut:
		_, err = c.store.Put(ctx, c.key, c.value)
	case opCAS:
		var item cache.Item
		if item, err = c.store.Get(ctx, c.key); err == nil {
			_, err = c.store.Put(ctx, c.key, c.value, cache.IfVersion(item.Version))
		}
	case opMultiGet, opMultiGetPrimary:
		_, err = c.store.MultiGet(ctx, c.keySet, c.read...)
	case opMultiPut, opMultiPutPrimary:
		_, err = c.store.MultiPut(ctx, c.opSet)
	case opScan, opScanPrimary:
		for _, failed := range c.store.RangeScan(ctx, c.span, c.scan...) {
			if failed != nil {
				err = failed
			}
		}
	case opTransfer:
		err = move(ctx, c.store, c.key, c.other, c.amount)
	case opSum:
		err = checkSum(ctx, c.store, c.work.Accounts)
	}
	return err
}
