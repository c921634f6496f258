package kvfsm

import (
	"errors"
	"flag"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/storage"
)

// The model runs the real state machines of two or three shards, and coordinators
// of two or three transactions, through every order in which their messages can
// arrive: late, twice or never, under clocks that nobody can rely on, with
// coordinators that stop at any point and with others who end their transactions
// at any time. In each state that can be reached it checks what is promised.

var everything = flag.Bool("everything", false, "explore the models that take minutes, too")

func writes(shards ...int) (parts []part) {
	for _, s := range shards {
		parts = append(parts, part{shard: s, write: true})
	}
	return parts
}

func readsAndWrites(shards ...int) []part {
	parts := writes(shards...)
	for i := range parts {
		parts[i].read = true
	}
	return parts
}

// Stamps before and after the deadlines of the tries.
const (
	inTime  = 10
	tooLate = 2000
	between = 1100 // after the first deadline, before the second
)

func scenarios() []scenario { return append(conflicts(), repetitions()...) }

// conflicts are transactions that meet.
func conflicts() []scenario {
	two := []base.Version{inTime, tooLate}
	return []scenario{
		{
			name: "two transactions over the same two shards", shards: 2, stamps: two,
			tries: []try{
				{name: "A", of: 0, deadline: deadline, parts: readsAndWrites(0, 1)},
				{name: "B", of: 1, deadline: deadline, parts: readsAndWrites(1, 0)},
			},
		},
		{
			name: "two that write what the other has read", shards: 2, stamps: two,
			tries: []try{
				{name: "A", of: 0, deadline: deadline, parts: []part{{shard: 0, read: true, write: true}, {shard: 1, read: true}}},
				{name: "B", of: 1, deadline: deadline, parts: []part{{shard: 1, read: true, write: true}, {shard: 0, read: true}}},
			},
		},
		{
			name: "three shards, and a write in between", shards: 3, stamps: two,
			tries: []try{
				{name: "A", of: 0, deadline: deadline, parts: writes(0, 1, 2), anchor: 1},
				{name: "B", of: 1, deadline: deadline, parts: writes(2), plain: true},
			},
		},
		{
			name: "a transaction, and a write that it has not seen", shards: 2, stamps: []base.Version{inTime, between, tooLate},
			tries: []try{
				{name: "A", of: 0, deadline: deadline, parts: readsAndWrites(0, 1)},
				{name: "B", of: 1, deadline: deadline, parts: readsAndWrites(1), plain: true},
			},
		},
		{
			name: "three shards, two transactions", shards: 3, stamps: two,
			tries: []try{
				{name: "A", of: 0, deadline: deadline, parts: readsAndWrites(0, 1, 2), anchor: 1},
				{name: "B", of: 1, deadline: deadline, parts: []part{{shard: 1, read: true}, {shard: 2, write: true}}},
			},
		},
		{
			name: "three transactions in a ring", shards: 3, stamps: two, states: 904_000,
			tries: []try{
				{name: "A", of: 0, deadline: deadline, parts: writes(0, 1)},
				{name: "B", of: 1, deadline: deadline, parts: writes(1, 2)},
				{name: "C", of: 2, deadline: deadline, parts: writes(2, 0)},
			},
		},
		{
			name: "three transactions over the same two shards", shards: 2, stamps: two, states: 2_800_000,
			tries: []try{
				{name: "A", of: 0, deadline: deadline, parts: readsAndWrites(0, 1)},
				{name: "B", of: 1, deadline: deadline, parts: readsAndWrites(1, 0)},
				{name: "C", of: 2, deadline: deadline, parts: []part{{shard: 0, read: true}, {shard: 1, write: true}}},
			},
		},
	}
}

// repetitions are several attempts at one transaction.
func repetitions() []scenario {
	two := []base.Version{inTime, tooLate}
	onlyIf := func(cond base.CondKind, parts []part) []part {
		parts[1].cond = cond
		return parts
	}
	return []scenario{
		{
			name: "a request that is repeated", shards: 2, stamps: two,
			tries: []try{
				{name: "A", of: 0, request: true, deadline: deadline, parts: writes(0, 1)},
				{name: "B", of: 0, request: true, deadline: deadline, parts: writes(0, 1)},
			},
		},
		{
			name: "a request whose condition holds for a while", shards: 2, stamps: two,
			tries: []try{
				{name: "A", of: 0, request: true, deadline: deadline, parts: onlyIf(base.CondPresent, writes(0, 1))},
				{name: "B", of: 0, request: true, deadline: deadline, parts: onlyIf(base.CondPresent, writes(0, 1))},
				{name: "C", of: 1, deadline: deadline, parts: writes(1), plain: true},
			},
		},
		{
			name: "a coordinator that tries again", shards: 2, stamps: []base.Version{inTime, between, tooLate},
			tries: []try{
				{name: "A", of: 0, deadline: deadline, parts: writes(0, 1)},
				{name: "B", of: 0, deadline: deadline + 500, after: true, parts: writes(0, 1)},
			},
		},
	}
}

func TestEveryInterleaving(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			if s.states > 1_000_000 && !*everything || s.states > 50_000 && testing.Short() {
				t.Skipf("some %d states take too long; -everything goes through more than a million", s.states)
			}
			m := &model{scenario: s, lab: newLab(t)}
			seen, err := m.explore()
			t.Logf("%+v; %d states of a shard, %d steps, %d moves", seen, len(m.lab.states), len(m.lab.next), m.lab.moved)
			if err != nil {
				t.Fatal(err)
			}
			if seen.worlds < 500 {
				t.Errorf("only %d states were reached", seen.worlds)
			}
		})
	}
}

// The model must find what it is there to find.
func TestModelFindsFaults(t *testing.T) {
	transfers, three, repeated := conflicts()[0], conflicts()[2], repetitions()[0]
	for _, c := range []struct {
		name string
		in   scenario
		bug  faultInjection
	}{
		{"a decision before the last prepare", transfers, faultInjection{decideEarly: true}},
		{"a decision before the last prepare, on three shards", three, faultInjection{decideEarly: true}},
		{"a record that is forgotten too early", transfers, faultInjection{forgetEarly: true}},
		{"a decision that is taken after others have ended the transaction", transfers, faultInjection{expireLeaves: true}},
		{"requests that are lost on a move", repeated, faultInjection{dropKind: storage.KindRequest, dropPrefix: "is"}},
		{"prepared transactions that are lost on a move", transfers, faultInjection{dropKind: storage.KindTxn, dropPrefix: "p"}},
		{"decisions that are lost on a move", transfers, faultInjection{dropKind: storage.KindTxn, dropPrefix: "o"}},
		{"entries that are applied again after a move", transfers, faultInjection{dropKind: storage.KindMeta, dropPrefix: "e"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.bug = c.bug
			m := &model{scenario: c.in, lab: newLab(t)}
			seen, err := m.explore()
			var found *violation
			if !errors.As(err, &found) {
				t.Fatalf("nothing is found in %+v: %v", seen, err)
			}
			t.Logf("after %+v: %v", seen, found)
		})
	}
}
