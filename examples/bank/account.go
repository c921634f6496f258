package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/distributedcache/cache"
)

// openingBalance is what each account has at first.
const openingBalance = 100

// account is the value of one account.
type account struct {
	Balance int64 `json:"balance"`
	// Paid counts the transfers that went out of this account, Refused those
	// for which it had too little. They change in the transaction of the
	// transfer, so in the end they tell how often each was applied.
	Paid    int64 `json:"paid"`
	Refused int64 `json:"refused"`
}

// accountKey spreads accounts over all shards: the first part of a key decides
// where it lives.
func accountKey(i int) cache.Key { return cache.K(fmt.Sprintf("account/%06d", i), "") }

// transfer is money to be moved. Whoever repeats it does so with the same id.
type transfer struct {
	ID     cache.RequestID `json:"id"`
	From   int             `json:"from"`
	To     int             `json:"to"`
	Amount int64           `json:"amount"`
}

// move makes a transfer. Without an error it is in the books, now or since an
// earlier call with the same id; refused says that this call found too little
// money and wrote that down instead.
func move(ctx context.Context, store cache.Store, t transfer) (refused bool, err error) {
	_, err = store.Update(ctx, func(tx *cache.Tx) error {
		refused = false // of an earlier run
		items, err := tx.MultiGet([]cache.Key{accountKey(t.From), accountKey(t.To)})
		if err != nil {
			return err
		}
		from, err := decodeAccount(items[0])
		if err != nil {
			return err
		}
		to, err := decodeAccount(items[1])
		if err != nil {
			return err
		}
		// A refusal is written too, under the same id: else a repetition could
		// not tell "refused" from "paid already, and now there is too little".
		if from.Balance < t.Amount {
			refused = true
			from.Refused++
			return put(tx, t.From, from)
		}
		from.Balance -= t.Amount
		from.Paid++
		to.Balance += t.Amount
		return errors.Join(put(tx, t.From, from), put(tx, t.To, to))
	}, cache.WithRequestID(t.ID))
	return refused, err
}

func put(tx *cache.Tx, i int, a account) error { return tx.Put(accountKey(i), a.encode()) }

func (a account) encode() []byte {
	text, err := json.Marshal(a)
	if err != nil {
		panic(err) // a struct of numbers
	}
	return text
}

func decodeAccount(item cache.Item) (a account, err error) {
	if err = json.Unmarshal(item.Value, &a); err != nil {
		err = fmt.Errorf("%v has the value %q: %w", item.Key, item.Value, err)
	}
	return a, err
}

// total is the sum over all accounts.
type total struct {
	Accounts int   `json:"accounts"`
	Balance  int64 `json:"balance"`
	Paid     int64 `json:"paid"`
	Refused  int64 `json:"refused"`
}

// sum adds up all accounts as they were at one moment.
func sum(ctx context.Context, store cache.Store) (all total, err error) {
	err = store.View(ctx, func(tx *cache.Tx) error {
		all = total{} // of an earlier run
		for item, err := range tx.RangeScan(cache.PrimaryPrefix("account/")) {
			if err != nil {
				return err
			}
			a, err := decodeAccount(item)
			if err != nil {
				return err
			}
			all.Accounts++
			all.Balance += a.Balance
			all.Paid += a.Paid
			all.Refused += a.Refused
		}
		return nil
	})
	return all, err
}

// openAccounts opens accounts from..to-1, all or none, unless they are open.
func openAccounts(ctx context.Context, store cache.Store, from, to int) error {
	var ops []cache.Op
	for i := from; i < to; i++ {
		ops = append(ops, cache.PutOp(accountKey(i), account{Balance: openingBalance}.encode(), cache.IfAbsent()))
	}
	_, err := store.MultiPut(ctx, ops)
	if errors.Is(err, cache.ErrVersionMismatch) {
		return nil // an earlier call did it, though it was not heard
	}
	return err
}
