package main

import (
	"fmt"
	"time"
)

// summary prints what came out and returns what is wrong with it.
func (s *screen) summary(b *bank, books total) error {
	now := b.counts.numbers()
	settled := now.done + now.refused
	written := books.Paid - b.opened.Paid + books.Refused - b.opened.Refused
	took := time.Since(s.began)
	s.say("")
	s.say("total      %d in %d accounts, as at first: %v", books.Balance, books.Accounts, yes(b.right(books)))
	s.say("sums       %d read while money moved, %d wrong, %d not read in time", now.sums, now.wrong, now.unread)
	s.say("transfers  %d settled in %v, %d calls repeated", settled, took.Round(time.Second), now.retried)
	s.say("books      %d paid and %d refused, each transfer exactly once: %v",
		books.Paid-b.opened.Paid, books.Refused-b.opened.Refused, yes(written == settled))
	s.say("leaders    moved %d times; the longest pause was %v", now.moves, round(now.longest))
	switch {
	case now.wrong > 0:
		return fmt.Errorf("%w: %d of %d sums did not add up", errWrong, now.wrong, now.sums)
	case now.open() > 0:
		return fmt.Errorf("%d transfers are still not known to be done or not", now.open())
	case written != settled:
		return fmt.Errorf("%w: they have %d transfers, of which %d were settled", errWrong, written, settled)
	case now.sums < 2:
		return fmt.Errorf("no sum could be read while money moved, so this says nothing")
	}
	return nil
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "NO"
}
