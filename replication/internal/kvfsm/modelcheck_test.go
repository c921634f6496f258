package kvfsm

import (
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
)

// check says what is wrong with a state of the world, whatever comes later.
func (m *model) check(w *world) error {
	for i := range m.tries {
		t, a := &m.tries[i], &w.tries[i]
		if err := m.checkApplied(w, i); err != nil {
			return err
		}
		_, remembered := m.facts(w, t, t.anchor).outcomes[uint8(i)]
		if a.decided != 0 && !t.plain && !remembered && !m.whole(t, a) {
			return fmt.Errorf("the decision about %s is lost before all shards have followed: %v", t.name, a.applied)
		}
		if err := m.checkAnswer(w, i); err != nil {
			return err
		}
		for j := range i {
			if m.tries[j].of == t.of && a.decided != 0 && w.tries[j].decided != 0 {
				return fmt.Errorf("%s and %s are both applied, and are attempts at one transaction", m.tries[j].name, t.name)
			}
		}
	}
	return m.checkOrder(w)
}

// checkApplied: nothing of a transaction is applied that is not decided, or twice.
func (m *model) checkApplied(w *world, i int) error {
	a := &w.tries[i]
	for p, n := range a.applied {
		if n > 1 || n > 0 && a.decided == 0 {
			return fmt.Errorf("part %d of %s is applied %d times, decided at %d", p, m.tries[i].name, n, a.decided)
		}
	}
	return nil
}

// whole reports whether every shard has applied its part.
func (m *model) whole(t *try, a *attempt) bool {
	for p := range t.parts {
		if t.parts[p].write && a.applied[p] != 1 {
			return false
		}
	}
	return true
}

// checkAnswer: what the caller was told is true, and stays so.
func (m *model) checkAnswer(w *world, i int) error {
	t, a := &m.tries[i], &w.tries[i]
	at := base.Version(0) // of whichever attempt was applied
	for j := range m.tries {
		if m.tries[j].of == t.of {
			at = max(at, w.tries[j].decided)
		}
	}
	wrong := false
	switch a.answer {
	case answerApplied:
		wrong = a.version != at
	case answerMismatch: // about the request, not only this attempt at it
		wrong = at != 0
	case answerNotApplied, answerAgain:
		wrong = a.decided != 0
	}
	if wrong {
		return fmt.Errorf("the caller of %s was told %d (version %d), and the transaction is applied at %d, this attempt at %d", t.name, a.answer, a.version, at, a.decided)
	}
	return nil
}

// checkOrder: those that are applied can be put in one order that explains what
// they have read and left, and in which none comes before one whose caller had
// been answered when it began.
func (m *model) checkOrder(w *world) error {
	var after [maxTries][maxTries]bool
	for i := range m.tries {
		for j := range m.tries {
			if i != j && w.tries[i].decided != 0 && w.tries[j].decided != 0 {
				after[i][j] = m.precedes(w, i, j)
			}
		}
	}
	for k := range m.tries { // Warshall
		for i := range m.tries {
			for j := range m.tries {
				after[i][j] = after[i][j] || after[i][k] && after[k][j]
			}
		}
	}
	for i := range m.tries {
		if after[i][i] {
			return fmt.Errorf("%s comes before itself: versions %d", m.tries[i].name, [...]base.Version{w.tries[0].decided, w.tries[1].decided, w.tries[2].decided})
		}
	}
	return nil
}

// precedes reports whether i must come before j: j read or overwrote what i wrote,
// or i read what j has overwritten, or i was answered before j began.
func (m *model) precedes(w *world, i, j int) bool {
	a, b := &w.tries[i], &w.tries[j]
	if b.before&(1<<i) != 0 {
		return true
	}
	for p := range m.tries[i].parts {
		for q := range m.tries[j].parts {
			x, y := &m.tries[i].parts[p], &m.tries[j].parts[q]
			if x.shard != y.shard {
				continue
			}
			if x.write && y.read && b.seen[q] >= a.decided || x.write && y.write && a.decided < b.decided ||
				x.read && y.write && a.seen[p] < b.decided {
				return true
			}
		}
	}
	return false
}

// settle lets everybody be dead and all messages lost, but for those who come
// after the deadlines: sweepers, and what they do to end transactions.
func (m *model) settle(w *world) error {
	late := m.stamps[len(m.stamps)-1]
	for range 2 * maxTries {
		for i := range m.tries {
			if w.tries[i].phase == idle || m.tries[i].plain {
				continue
			}
			if err := m.tend(w, i, late); err != nil {
				return err
			}
		}
	}
	return m.checkQuiet(w)
}

// tend is what the sweepers of all shards do about one transaction; see
// replication's Tend and unlock.
func (m *model) tend(w *world, i int, late base.Version) error {
	t, a := &m.tries[i], &w.tries[i]
	at, decided := m.facts(w, t, t.anchor).outcomes[uint8(i)]
	for p := range t.parts {
		if _, held := m.facts(w, t, p).held[uint8(i)]; !held {
			continue
		}
		e := event{kind: deliverCommit, try: i, part: p}
		if !decided {
			if err := m.othersStep(w, event{kind: deliverExpire, try: i, stamp: late}); err != nil {
				return err
			}
			if !a.mayAbort {
				return fmt.Errorf("%s can not be ended after its deadline", t.name)
			}
			e.kind = deliverAbort
		} else if a.decided != at {
			return fmt.Errorf("%s was decided at %d and is remembered at %d", t.name, a.decided, at)
		}
		if err := m.othersStep(w, e); err != nil {
			return err
		}
	}
	if !decided {
		return nil
	}
	for p := range t.parts {
		if p != t.anchor {
			if err := m.othersStep(w, event{kind: deliverCommit, try: i, part: p}); err != nil {
				return err
			}
		}
	}
	return m.othersStep(w, event{kind: deliverForget, try: i})
}

// checkQuiet: nothing is held and no record is left, and every transaction is
// applied as a whole or not at all.
func (m *model) checkQuiet(w *world) error {
	for s := range m.shards {
		if f := &m.lab.states[w.shards[s]].facts; len(f.held) > 0 || len(f.outcomes) > 0 {
			return fmt.Errorf("shard %d is left with what %v hold and the outcomes of %v", s, f.held, f.outcomes)
		}
	}
	for i := range m.tries {
		t, a := &m.tries[i], &w.tries[i]
		if a.decided != 0 && !m.whole(t, a) {
			return fmt.Errorf("%s is applied in part: %v", t.name, a.applied)
		}
		if err := m.checkOutcome(w, i); err != nil {
			return err
		}
	}
	return m.check(w)
}

// checkOutcome: who asks for the request later is told the truth.
func (m *model) checkOutcome(w *world, i int) error {
	t, a := &m.tries[i], &w.tries[i]
	if !t.request || a.phase == idle {
		return nil
	}
	r := m.facts(w, t, t.anchor).request
	applied := r != nil && r.Result.Status == command.StatusApplied
	switch {
	case a.decided != 0 && (!applied || r.Result.Version != a.decided):
		return fmt.Errorf("%s is applied at %d, and its request is remembered as %+v", t.name, a.decided, r)
	case a.answer == answerApplied && !applied, a.answer == answerMismatch && (applied || r == nil):
		return fmt.Errorf("the caller of %s was told %d, and its request is remembered as %+v", t.name, a.answer, r)
	}
	return nil
}

// after lets all that is still on its way arrive when everything is over, and
// checks that this changes nothing.
func (m *model) after(w *world) error {
	for i := range m.tries {
		a := &w.tries[i]
		if a.phase == idle || m.tries[i].plain {
			continue
		}
		late := m.stamps[len(m.stamps)-1]
		if a.phase != done { // the coordinators are dead
			a.end(answerUnknown)
		}
		for p := range m.tries[i].parts {
			if a.prepare[p] == onTheWay {
				if err := m.deliverPrepare(w, event{try: i, part: p, stamp: late}); err != nil {
					return err
				}
			}
		}
		if a.decision == onTheWay {
			if err := m.deliverDecision(w, event{try: i, stamp: late}); err != nil {
				return err
			}
		}
	}
	return m.settle(w)
}

// violation is what a model has found, and the way there.
type violation struct {
	cause error
	way   []event
}

func (v *violation) Error() string {
	s := v.cause.Error()
	for _, e := range v.way {
		s += "\n\t" + e.String()
	}
	return s
}

// explored counts what a model has seen.
type explored struct {
	worlds, events, settled, depth int
}

// explorer goes through all interleavings, depth first. It remembers states by a
// hash of 64 bits: with a million of them, the odds that any state is taken for
// another are 1 in 30 million.
type explorer struct {
	*model
	seed maphash.Seed
	seen map[uint64]struct{}
	way  []event
	explored
}

// explore returns the first violation; nil if there is none.
func (m *model) explore() (explored, error) {
	x := &explorer{model: m, seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}}
	err := x.visit(world{})
	if err != nil {
		return x.explored, &violation{err, slices.Clone(x.way)}
	}
	return x.explored, nil
}

func (x *explorer) visit(w world) error {
	h := maphash.Comparable(x.seed, w)
	if _, again := x.seen[h]; again {
		return nil
	}
	x.seen[h] = struct{}{}
	x.worlds++
	x.depth = max(x.depth, len(x.way))
	if err := x.judge(w); err != nil {
		return err
	}
	for _, e := range x.model.events(&w, nil) {
		x.explored.events++
		next := w
		x.way = append(x.way, e)
		if err := x.happen(&next, e); err != nil {
			return err
		}
		if err := x.visit(next); err != nil {
			return err
		}
		x.way = x.way[:len(x.way)-1]
	}
	return nil
}

// twice lets all entries that have arrived do so once more. If that never changes
// anything, it changes nothing in any interleaving.
func (x *explorer) twice(w world) error {
	again := w
	for i := range x.tries {
		a := &again.tries[i]
		for p := range x.tries[i].parts {
			if a.prepare[p] == arrived {
				if err := x.deliverPrepare(&again, event{try: i, part: p}); err != nil {
					return err
				}
			}
		}
		if a.decision == arrived {
			if err := x.deliverDecision(&again, event{try: i}); err != nil {
				return err
			}
		}
	}
	if again != w {
		return errors.New("an entry that gets into the log again changes the state")
	}
	return nil
}

// judge checks a state, and what it comes to if nobody does anything any more.
func (x *explorer) judge(w world) error {
	if err := x.check(&w); err != nil {
		return err
	}
	if err := x.twice(w); err != nil {
		return err
	}
	x.settled++
	quiet := w
	if err := x.settle(&quiet); err != nil {
		return fmt.Errorf("if all stop here: %w", err)
	}
	if err := x.after(&quiet); err != nil {
		return fmt.Errorf("if all stop here and messages arrive later: %w", err)
	}
	return nil
}
