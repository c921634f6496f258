package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/testkit"
)

// txnAt makes a transaction of a history from text: "x+1" appends, "x=1,2" reads.
func txnAt(call, ret int, outcome Outcome, ops ...string) ListTxn {
	t := ListTxn{Call: time.Duration(call), Return: time.Duration(ret), Outcome: outcome}
	if outcome == Unknown {
		t.Return = Forever
	}
	for _, op := range ops {
		if key, element, found := strings.Cut(op, "+"); found {
			var n int
			_, _ = fmt.Sscan(element, &n)
			t.Ops = append(t.Ops, ListOp{Key: key, Append: n})
			continue
		}
		key, list, _ := strings.Cut(op, "=")
		read := ListOp{Key: key, Read: []int{}}
		for _, element := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
			var n int
			_, _ = fmt.Sscan(element, &n)
			read.Read = append(read.Read, n)
		}
		t.Ops = append(t.Ops, read)
	}
	return t
}

func finally(ops ...string) ListTxn {
	t := txnAt(1000, 1001, OK, ops...)
	t.Client = FinalClient
	return t
}

func TestKnownAnomalies(t *testing.T) {
	for _, c := range []struct {
		name string
		txns []ListTxn
		want string // in the error; "" = there is none
	}{
		{"nothing", nil, ""},
		{"one after the other", []ListTxn{txnAt(1, 2, OK, "x+1"), txnAt(3, 4, OK, "x=1", "y+2"), finally("x=1", "y=2")}, ""},
		{"side by side, in either order", []ListTxn{txnAt(1, 9, OK, "x+1", "y+2"), txnAt(1, 9, OK, "x=", "y="), finally("x=1", "y=2")}, ""},
		{"its own appends", []ListTxn{txnAt(1, 2, OK, "x+1", "x=1", "x+2", "x=1,2"), finally("x=1,2")}, ""},
		{"of unknown outcome and seen", []ListTxn{txnAt(1, 2, Unknown, "x+1", "y+2"), finally("x=1", "y=2")}, ""},
		{"of unknown outcome and not applied", []ListTxn{txnAt(1, 2, Unknown, "x+1", "y+2"), finally("x=", "y=")}, ""},
		{"unknown, and applied later", []ListTxn{txnAt(1, 2, Unknown, "x+1"), txnAt(3, 4, OK, "x="), finally("x=1")}, ""},

		{"write skew", []ListTxn{txnAt(1, 9, OK, "x=", "y+1"), txnAt(1, 9, OK, "y=", "x+2"), finally("x=2", "y=1")}, "no order"},
		{"a lost update", []ListTxn{txnAt(1, 9, OK, "x=", "x+1"), txnAt(1, 9, OK, "x=", "x+2"), finally("x=1,2")}, "no order"},
		{"a fractured read", []ListTxn{txnAt(1, 9, OK, "x+1", "y+2"), txnAt(1, 9, OK, "x=1", "y="), finally("x=1", "y=2")}, "no order"},
		{"information in a circle", []ListTxn{txnAt(1, 9, OK, "x+1", "y=2"), txnAt(1, 9, OK, "y+2", "x=1"), finally("x=1", "y=2")}, "no order"},
		{"a long fork", []ListTxn{
			txnAt(1, 9, OK, "x+1"), txnAt(1, 9, OK, "y+2"), txnAt(1, 9, OK, "x=1", "y="), txnAt(1, 9, OK, "x=", "y=2"), finally("x=1", "y=2"),
		}, "no order"},
		{"a stale read", []ListTxn{txnAt(1, 2, OK, "x+1"), txnAt(3, 4, OK, "x="), finally("x=1")}, "no order"},
		{"a read of the future", []ListTxn{txnAt(1, 2, OK, "x=1"), txnAt(3, 4, OK, "x+1"), finally("x=1")}, "no order"},
		{"a cut that is stale on one key", []ListTxn{txnAt(1, 2, OK, "x+1"), txnAt(3, 4, OK, "y+2"), txnAt(3, 9, OK, "x=", "y=2"), finally("x=1", "y=2")}, "no order"},
		{"a read of what was not applied", []ListTxn{txnAt(1, 2, Failed, "x+1"), txnAt(3, 4, OK, "x=1")}, "not applied"},
		{"half of a transaction", []ListTxn{txnAt(1, 9, OK, "x+1", "x+2"), txnAt(1, 9, OK, "x=1"), finally("x=1,2")}, "half"},
		{"half of one of unknown outcome", []ListTxn{txnAt(1, 2, Unknown, "x+1", "y+2"), txnAt(3, 4, OK, "x=1", "y="), finally("x=1", "y=2")}, "no order"},
		{"two orders of one list", []ListTxn{txnAt(1, 9, OK, "x+1"), txnAt(1, 9, OK, "x+2"), txnAt(1, 9, OK, "x=1,2"), txnAt(1, 9, OK, "x=2")}, "different ways"},
		{"an append that is lost", []ListTxn{txnAt(1, 2, OK, "x+1"), finally("x=")}, "lost"},
		{"an append that is made twice", []ListTxn{txnAt(1, 2, OK, "x+1"), finally("x=1,1")}, "twice"},
		{"a value from nobody", []ListTxn{finally("x=7")}, "from nobody"},
		{"its own append is missing", []ListTxn{txnAt(1, 2, OK, "x+1", "x="), finally("x=1")}, "does not see"},
	} {
		err := CheckLists(c.txns)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// serial makes a history of transactions that took effect one by one, each at a
// moment between its call and its return.
func serial(rng *rand.Rand, n int) []ListTxn {
	lists := map[string][]int{}
	var txns []ListTxn
	for i := range n {
		at := time.Duration(i * 10)
		txn := ListTxn{Client: i % 8, Call: at - time.Duration(rng.IntN(60)), Return: at + time.Duration(rng.IntN(60)), Outcome: OK}
		for range 1 + rng.IntN(4) {
			key := string(rune('a' + rng.IntN(6)))
			if rng.IntN(2) == 0 {
				element := len(txns)*10 + len(txn.Ops) + 1
				lists[key] = append(lists[key], element)
				txn.Ops = append(txn.Ops, ListOp{Key: key, Append: element})
			} else {
				txn.Ops = append(txn.Ops, ListOp{Key: key, Read: append([]int{}, lists[key]...)})
			}
		}
		if rng.IntN(20) == 0 {
			txn.Outcome, txn.Return = Unknown, Forever
		}
		txns = append(txns, txn)
	}
	end := ListTxn{Client: FinalClient, Call: time.Duration(n * 100), Return: time.Duration(n*100 + 1), Outcome: OK}
	for key, list := range lists {
		end.Ops = append(end.Ops, ListOp{Key: key, Read: list})
	}
	return append(txns, end)
}

// answeredBefore reports whether one of the elements was appended by a transaction that
// was answered before some time, so that nobody may miss it from then on.
func answeredBefore(txns []ListTxn, elements []int, at time.Duration) bool {
	for i := range txns {
		for _, op := range txns[i].Ops {
			if op.Append != 0 && txns[i].Outcome == OK && txns[i].Return < at && slices.Contains(elements, op.Append) {
				return true
			}
		}
	}
	return false
}

// Histories that some order explains pass; the same with one read that is too old
// do not.
func TestListsOfSerialHistories(t *testing.T) {
	rng := testkit.Rand(t)
	spoiled := 0
	for range 200 {
		txns := serial(rng, 100)
		if err := CheckLists(txns); err != nil {
			t.Fatal(err)
		}
		i := 20 + rng.IntN(80)
		for j := range txns[i].Ops {
			op := &txns[i].Ops[j]
			if op.Append != 0 || txns[i].Outcome != OK || !answeredBefore(txns, op.Read[len(op.Read)/2:], txns[i].Call) {
				continue
			}
			op.Read = op.Read[:len(op.Read)/2]
			spoiled++
			var fault *ListError
			if err := CheckLists(txns); !errors.As(err, &fault) {
				t.Fatalf("a stale read of %v passes: %v", &txns[i], err)
			}
			break
		}
	}
	if spoiled < 20 {
		t.Errorf("only %d histories were spoiled", spoiled)
	}
}
