package harness

import (
	"math"

	"github.com/distributedcache/cache/internal/base"
)

// pending is the version of a value whose put did not say which it got. A
// later operation that names the version of the key settles it.
const pending = base.Version(math.MaxUint64)

// register is the model of one key: what it holds, and the highest version
// that any value of it has had. It is comparable.
type register struct {
	value   string
	version base.Version // 0 = absent
	floor   base.Version
}

// step applies an operation and reports whether the register may have given
// this output.
func (r register) step(op *Op) (register, bool) {
	if op.Outcome == Unknown {
		return r.perhaps(op), true
	}
	out := &op.Output
	switch {
	case out.Refused:
		r, ok := r.named(out.Version)
		return r, ok && !op.Input.Cond.Holds(out.Version)
	case op.Kind == Get:
		r, ok := r.named(out.Version)
		return r, ok && (out.Version == 0 || r.value == out.Value)
	case op.Kind == Delete:
		r, ok := r.named(out.Version)
		return register{floor: r.floor}, ok && op.Input.Cond.Holds(out.Version)
	default:
		r, ok := r.admits(op.Input.Cond)
		ok = ok && out.Version > r.floor && out.Version != pending
		return register{value: op.Input.Value, version: out.Version, floor: out.Version}, ok
	}
}

// named is the register after an operation that says that it found version v.
func (r register) named(v base.Version) (register, bool) {
	if r.version == pending && v > r.floor && v != pending {
		r.version, r.floor = v, v
	}
	return r, r.version == v
}

// admits is the register after an operation that says that its condition held.
func (r register) admits(c base.Cond) (register, bool) {
	if c.Kind == base.CondVersion {
		return r.named(c.Version)
	}
	return r, c.Holds(r.version)
}

// perhaps is the register after an operation of unknown outcome takes effect.
// That it does not is the same as that it does so after all others.
func (r register) perhaps(op *Op) register {
	if op.Kind == Get || !op.Input.Cond.Holds(r.version) {
		return r
	}
	if op.Kind == Delete {
		return register{floor: r.floor}
	}
	return register{value: op.Input.Value, version: pending, floor: r.floor}
}

// decidable returns the operations on one key that the model needs, with as
// few unknown outcomes as possible, because their number is in the exponent of
// the time to check.
func decidable(ops []*Op) []*Op {
	k := survey(ops)
	var kept []*Op
	for _, op := range ops {
		switch {
		case op.Outcome == OK || op.Output.Refused:
			kept = append(kept, op)
		case op.Outcome == Failed || op.Kind == Get:
		case op.Kind == Delete:
			kept = append(kept, op)
		default:
			if op = k.settle(op); op != nil {
				kept = append(kept, op)
			}
		}
	}
	return kept
}

// surveyed is what the operations on one key tell together.
type surveyed struct {
	puts  map[string]int          // how many puts have this value
	given map[base.Version]bool   // versions that puts got
	seen  map[string]*observation // by value
	// loose says that an operation may depend on a value without naming it, or
	// names a version that no put is known to have got.
	loose bool
}

// observation is a value as the reads of it tell.
type observation struct {
	version base.Version
	first   *Op // of the reads, the one that returned first
}

func survey(ops []*Op) *surveyed {
	k := &surveyed{puts: map[string]int{}, given: map[base.Version]bool{0: true}, seen: map[string]*observation{}}
	read := map[base.Version]bool{}
	for _, op := range ops {
		if op.Kind == Put {
			k.puts[op.Input.Value]++
			if op.Outcome == OK {
				k.given[op.Output.Version] = true
			}
		}
		if op.Kind == Get && op.Outcome == OK && op.Output.Version != 0 {
			read[op.Output.Version] = true
			if o := k.seen[op.Output.Value]; o == nil || op.Return < o.first.Return {
				k.seen[op.Output.Value] = &observation{version: op.Output.Version, first: op}
			}
		}
	}
	for _, op := range ops {
		v, names := op.namesBlindly()
		k.loose = k.loose || op.Outcome != Failed && op.Input.Cond.Kind == base.CondPresent ||
			names && !k.given[v] && !read[v]
	}
	return k
}

// namesBlindly returns the version that an operation found, or asked for,
// without its value.
func (o *Op) namesBlindly() (base.Version, bool) {
	switch {
	case o.Output.Refused, o.Kind == Delete && o.Outcome == OK:
		return o.Output.Version, true
	case o.Outcome != Failed && o.Input.Cond.Kind == base.CondVersion:
		return o.Input.Cond.Version, true
	}
	return 0, false
}

// settle decides a put of unknown outcome. If its value was read, it did take
// effect, before the first of these reads returned, and got the version that
// was read. If nothing can have noticed it, it is left out (nil): taking
// effect after all others is one of the things it may have done.
func (k *surveyed) settle(op *Op) *Op {
	if k.puts[op.Input.Value] > 1 {
		return op
	}
	o := k.seen[op.Input.Value]
	switch {
	case o != nil && o.first.Return >= op.Call && !k.given[o.version]:
		settled := *op
		settled.Outcome, settled.Output = OK, Output{Version: o.version}
		settled.Return = o.first.Return
		return &settled
	case o == nil && !k.loose:
		return nil
	default:
		return op
	}
}
