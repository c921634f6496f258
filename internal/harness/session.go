package harness

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/distributedcache/cache/internal/base"
)

// SessionError is a rule that the operations on a key break.
type SessionError struct {
	Rule string
	Key  base.Key
	Op   *Op // that breaks it
	With *Op // the one that it is in conflict with; nil if there is none
}

// The rules.
const (
	// RuleMonotonic: a version that is read, found or given is not below one
	// that was known before the operation was called.
	RuleMonotonic = "versions rise"
	// RuleOrigin: a value that is read was put before, under that version, by
	// a put that was not refused.
	RuleOrigin = "values come from writes"
	// RuleOnce: one write gives one version.
	RuleOnce = "writes apply once"
	// RuleKept: in the end there is the last acknowledged write, or what came
	// after it.
	RuleKept = "acknowledged writes are kept"
)

// Error names the rule, the key and the operations.
func (e *SessionError) Error() string {
	msg := fmt.Sprintf("key %v breaks the rule %q: %v", e.Key, e.Rule, e.Op)
	if e.With != nil {
		msg += fmt.Sprintf("; but %v", e.With)
	}
	return msg
}

// maxReported bounds how many breaches CheckSessions returns, since one fault
// often breaks rules on every key.
const maxReported = 10

// CheckSessions checks the rules above and returns what breaks them, as joined
// *SessionErrors, nil if nothing does. It takes time in proportion to the
// history and finds most of what CheckLinear finds, but not all.
func CheckSessions(h History) error {
	var faults []error
	keys := h.byKey()
	for _, key := range slices.SortedFunc(maps.Keys(keys), base.Key.Compare) {
		for _, check := range []func([]*Op) *SessionError{monotonic, origin, kept} {
			if fault := check(keys[key]); fault != nil {
				fault.Key = key
				faults = append(faults, fault)
			}
		}
		if len(faults) >= maxReported {
			break
		}
	}
	return errors.Join(faults...)
}

// names reports whether the client learnt a version of an existing value.
func (o *Op) names() bool {
	return (o.Outcome == OK || o.Output.Refused) && o.Output.Version != 0
}

// gives reports whether the operation made a new version.
func (o *Op) gives() bool { return o.Kind == Put && o.Outcome == OK }

func monotonic(ops []*Op) *SessionError {
	calls := slices.DeleteFunc(slices.Clone(ops), func(op *Op) bool { return !op.names() })
	returns := slices.Clone(calls)
	slices.SortFunc(calls, func(a, b *Op) int { return cmp.Compare(a.Call, b.Call) })
	slices.SortFunc(returns, func(a, b *Op) int { return cmp.Compare(a.Return, b.Return) })
	var highest *Op
	for _, op := range calls {
		for len(returns) > 0 && returns[0].Return < op.Call {
			if highest == nil || returns[0].Output.Version > highest.Output.Version {
				highest = returns[0]
			}
			returns = returns[1:]
		}
		if highest == nil {
			continue
		}
		have, known := op.Output.Version, highest.Output.Version
		if have < known || have == known && op.gives() {
			return &SessionError{Rule: RuleMonotonic, Op: op, With: highest}
		}
	}
	return nil
}

func origin(ops []*Op) *SessionError {
	puts := map[string]*Op{}
	versions := map[string]*Op{} // what first named the version of a value
	for _, op := range ops {
		if op.Kind == Put {
			puts[op.Input.Value] = op
			if op.gives() {
				versions[op.Input.Value] = op
			}
		}
	}
	for _, op := range ops {
		if op.Kind != Get || !op.names() {
			continue
		}
		put := puts[op.Output.Value]
		if put == nil || put.Call > op.Return || put.Outcome == Failed {
			return &SessionError{Rule: RuleOrigin, Op: op, With: put}
		}
		named := versions[op.Output.Value]
		if named == nil {
			versions[op.Output.Value] = op
		} else if named.Output.Version != op.Output.Version {
			return &SessionError{Rule: RuleOnce, Op: op, With: named}
		}
	}
	return nil
}

func kept(ops []*Op) *SessionError {
	var final, last *Op
	for _, op := range ops {
		switch {
		case op.Client == FinalClient:
			final = op
		case op.gives() && (last == nil || op.Output.Version > last.Output.Version):
			last = op
		}
	}
	if final == nil || last == nil || final.Outcome != OK || final.Output.Version >= last.Output.Version {
		return nil
	}
	if final.Output.Version == 0 && slices.ContainsFunc(ops, last.mayBeDeletedBy) {
		return nil
	}
	return &SessionError{Rule: RuleKept, Op: final, With: last}
}

// mayBeDeletedBy reports whether d may have removed what o put, or something
// later.
func (o *Op) mayBeDeletedBy(d *Op) bool {
	if d.Kind != Delete || d.Outcome == Failed || d.Return < o.Call {
		return false
	}
	return d.Outcome == Unknown || d.Output.Version >= o.Output.Version
}
