package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/distributedcache/cache"
)

// openingBalance is what each account has at first. Balances may go below 0, so
// that each transfer writes both accounts.
const openingBalance = 1000

// maxAmount is the most that one transfer moves.
const maxAmount = 100

// account is the value of an account. Sent counts the transfers that went out
// of it, in the transaction that moves the money.
type account struct{ balance, sent int64 }

func (a account) encode() []byte { return fmt.Appendf(nil, "%d %d", a.balance, a.sent) }

func decodeAccount(item cache.Item) (a account, err error) {
	if _, err := fmt.Sscanf(string(item.Value), "%d %d", &a.balance, &a.sent); err != nil {
		return a, fmt.Errorf("%v has the value %q: %w", item.Key, item.Value, err)
	}
	return a, nil
}

// move transfers amount.
func move(ctx context.Context, store cache.Store, from, to cache.Key, amount int64) error {
	_, err := store.Update(ctx, func(tx *cache.Tx) error {
		items, err := tx.MultiGet([]cache.Key{from, to})
		if err != nil {
			return err
		}
		sender, err := decodeAccount(items[0])
		if err != nil {
			return err
		}
		receiver, err := decodeAccount(items[1])
		if err != nil {
			return err
		}
		sender.balance -= amount
		sender.sent++
		receiver.balance += amount
		if err := tx.Put(from, sender.encode()); err != nil {
			return err
		}
		return tx.Put(to, receiver.encode())
	})
	return err
}

// books is what all accounts have together.
type books struct {
	Accounts int   `json:"accounts"`
	Balance  int64 `json:"balance"`
	Sent     int64 `json:"sent"`
}

// readBooks adds up all accounts as they were at one moment.
func readBooks(ctx context.Context, store cache.Store) (sum books, err error) {
	err = store.View(ctx, func(tx *cache.Tx) error {
		sum = books{} // of an earlier run
		for item, err := range tx.RangeScan(cache.PrimaryPrefix(accountPrefix)) {
			if err != nil {
				return err
			}
			a, err := decodeAccount(item)
			if err != nil {
				return err
			}
			sum.Accounts++
			sum.Balance += a.balance
			sum.Sent += a.sent
		}
		return nil
	})
	return sum, err
}

var errWrongSum = errors.New("money has come or gone")

// checkSum adds up all accounts, and fails if money has come or gone.
func checkSum(ctx context.Context, store cache.Store, accounts int) error {
	sum, err := readBooks(ctx, store)
	if err == nil && (sum.Accounts != accounts || sum.Balance != int64(accounts)*openingBalance) {
		err = fmt.Errorf("%w: %d accounts have %d together; want %d with %d", errWrongSum, sum.Accounts, sum.Balance, accounts, int64(accounts)*openingBalance)
	}
	return err
}

// audit is what became of the money of one repeat.
type audit struct {
	Books books `json:"books"`
	// Confirmed transfers were answered as applied, Unknown ones may have been.
	Confirmed int64 `json:"confirmed"`
	Unknown   int64 `json:"unknown"`
	AddsUp    bool  `json:"adds_up"`
}

// judge says whether no money came or went, and each transfer that was confirmed
// is in the books once, and no other that was known to have failed.
func judge(b books, accounts int, confirmed, unknown int64) *audit {
	right := b.Accounts == accounts && b.Balance == int64(accounts)*openingBalance &&
		b.Sent >= confirmed && b.Sent <= confirmed+unknown
	return &audit{Books: b, Confirmed: confirmed, Unknown: unknown, AddsUp: right}
}
