package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// operation is one kind of thing that clients do.
type operation int

const (
	opGet             operation = iota // read one key
	opStaleGet                         // read one key from the node's own copy, however --consistency is
	opPut                              // write one key
	opCAS                              // read a key, and write it if it still has that version
	opMultiGet                         // read batchSize keys of as many primaries
	opMultiGetPrimary                  // the same inside one primary
	opMultiPut                         // write batchSize keys of as many primaries, all or none
	opMultiPutPrimary                  // the same inside one primary
	opScan                             // read scanSize keys in order, across primaries
	opScanPrimary                      // the same inside one primary
	opTransfer                         // read two accounts on different shards and write both
	opSum                              // add up all accounts as they are at one moment
	operations                         // how many there are
)

const (
	batchSize = 50
	scanSize  = 100
)

// names returns the names of all operations, in order.
func names() [operations]string {
	return [operations]string{
		"get", "stale-get", "put", "cas", "multiget", "multiget-primary", "multiput", "multiput-primary",
		"scan", "scan-primary", "transfer", "sum",
	}
}

// String returns the name that flags and results have.
func (o operation) String() string { return names()[o] }

// MarshalText implements encoding.TextMarshaler.
func (o operation) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *operation) UnmarshalText(text []byte) error {
	all := names()
	i := slices.Index(all[:], string(text))
	if i < 0 {
		return fmt.Errorf("there is no operation %q; there are %s", text, strings.Join(all[:], ", "))
	}
	*o = operation(i)
	return nil
}

// mix says how often each operation is done: weights, which need not add up to
// any particular sum.
type mix [operations]float64

// Set implements flag.Value. It reads "get=80,put=20"; a name without a number
// weighs 1.
func (m *mix) Set(text string) error {
	var set mix
	seen := map[operation]bool{}
	for part := range strings.SplitSeq(text, ",") {
		name, number, given := strings.Cut(strings.TrimSpace(part), "=")
		var o operation
		if err := o.UnmarshalText([]byte(name)); err != nil {
			return err
		}
		if seen[o] {
			return fmt.Errorf("%s is there twice", o)
		}
		seen[o] = true
		set[o] = 1
		if given {
			weight, err := strconv.ParseFloat(number, 64)
			if err != nil || math.IsNaN(weight) || math.IsInf(weight, 0) || weight < 0 {
				return fmt.Errorf("%s weighs %q; want a number that is not negative", o, number)
			}
			set[o] = weight
		}
	}
	if set.sum() <= 0 {
		return errors.New("the weights add up to 0; nothing would be done")
	}
	*m = set
	return nil
}

// String returns what Set reads.
func (m *mix) String() string {
	var parts []string
	for o, weight := range m {
		if weight > 0 {
			parts = append(parts, fmt.Sprintf("%s=%g", operation(o), weight))
		}
	}
	return strings.Join(parts, ",")
}

// MarshalJSON implements json.Marshaler.
func (m mix) MarshalJSON() ([]byte, error) { return json.Marshal(m.String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (m *mix) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	return m.Set(s)
}

func (m *mix) sum() (sum float64) {
	for _, weight := range m {
		sum += weight
	}
	return sum
}

// has reports whether any of the operations is done.
func (m *mix) has(some ...operation) bool {
	return slices.ContainsFunc(some, func(o operation) bool { return m[o] > 0 })
}

// pick returns the operation for x, which is uniform in [0, 1).
func (m *mix) pick(x float64) operation {
	x *= m.sum()
	last := operation(0)
	for o, weight := range m {
		if weight == 0 {
			continue
		}
		last = operation(o)
		if x -= weight; x < 0 {
			break
		}
	}
	return last // also if rounding left a rest
}
