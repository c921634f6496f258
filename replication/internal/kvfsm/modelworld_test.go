package kvfsm

import (
	"fmt"
	"slices"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

const (
	maxShards = 3
	maxParts  = 3
	maxTries  = 3
)

// modelKeys has the key of each shard of a model.
var modelKeys = []string{"x", "y", "z"}

// try is one attempt of a coordinator to apply a transaction, with an id of its
// own.
type try struct {
	name     string
	deadline base.Version
	parts    []part // each on another shard
	anchor   int    // index in parts
	// of is which transaction it is an attempt at: at most one of these may be
	// applied.
	of int
	// request says that all attempts at the transaction carry one request id, and
	// answer for each other.
	request bool
	// after says that it begins only once the attempt before it has to be repeated.
	// Else it begins whenever it likes, as when a caller that has heard nothing
	// asks another node.
	after bool
	// plain is a command on one shard, not a transaction.
	plain bool
}

// part is what a try does with the key of one shard.
type part struct {
	shard       int
	read, write bool
	cond        base.CondKind
}

// faultInjection is a bug that a model is to find.
type faultInjection struct {
	decideEarly  bool // before the last prepare was answered
	forgetEarly  bool // before all shards have followed
	expireLeaves bool // what the anchor holds, so that a late decision is taken
	dropKind     storage.Kind
	dropPrefix   string // which entries of that kind a shard loses that moves
}

// scenario is a small model.
type scenario struct {
	name   string
	shards int
	stamps []base.Version // that a message may carry: nobody's clock is right
	tries  []try
	bug    faultInjection
	states int // about so many, if they are many
}

type phase uint8

const (
	idle phase = iota
	lookingUp
	preparing
	deciding // the decision to apply is on its way
	refusing // the refusal is
	done
)

type answer uint8

const (
	noAnswer answer = iota
	answerApplied
	answerMismatch   // a condition did not hold
	answerNotApplied // for another reason
	answerAgain      // not applied, and tried again if there is another try
	answerUnknown
)

// Where an entry of a log is.
const (
	notSent int8 = iota
	onTheWay
	arrived
	lost
)

// world is the state of a model. It is comparable, and small enough to be hashed
// often. Messages are never lost for good unless that is said: they may arrive at
// any time, and what does not arrive in some run is lost in it.
type world struct {
	shards [maxShards]int32
	tries  [maxTries]attempt
	moved  bool
}

// attempt is how far a try has come.
type attempt struct {
	phase   phase
	answer  answer
	version base.Version // with answerApplied

	haveRead uint8 // bits by part
	seen     [maxParts]base.Version

	prepare [maxParts]int8
	status  [maxParts]command.Status
	gave    base.Version // the greatest version of those that were answered

	decision int8
	waited   bool         // for somebody who was in the way of it
	at       base.Version // the least version that it gives; 0 = it is a refusal

	mayAbort bool  // somebody knows that it will not be applied
	acks     uint8 // bits by part: has answered a commit

	// What an observer from outside knows.
	decided base.Version // when it passed the commit point
	applied [maxParts]uint8
	before  uint8 // tries whose callers had been told that they were applied when this began
}

// eventKind is what may happen next in a model.
type eventKind uint8

const (
	begin eventKind = iota
	read
	deliverPrepare
	giveUp
	deliverDecision
	loseDecision
	doubtDecision
	deliverCommit
	deliverAbort
	deliverExpire
	deliverForget
	deliverPlain
	moveShard
)

var eventNames = []string{
	"begins", "reads", "prepare arrives", "gives up", "decision arrives", "decision is lost",
	"caller gives up on the decision", "commit arrives", "abort arrives", "expire arrives", "forget arrives", "write arrives", "moves",
}

// event is something that happens.
type event struct {
	kind  eventKind
	try   int
	part  int // or the shard, for moveShard
	stamp base.Version
}

func (e event) String() string {
	return fmt.Sprintf("%c: %s (part %d, stamp %d)", 'A'+e.try, eventNames[e.kind], e.part, e.stamp)
}

// model explores a scenario.
type model struct {
	scenario
	lab *lab
}

// events appends what may happen next.
func (m *model) events(w *world, all []event) []event {
	for i := range m.tries {
		t, a := &m.tries[i], &w.tries[i]
		switch {
		case a.phase == idle:
			if m.mayBegin(w, i) {
				all = append(all, event{kind: begin, try: i})
			}
			continue
		case t.plain:
			if a.phase != done {
				all = m.stamped(all, event{kind: deliverPlain, try: i})
			}
			continue
		}
		all = m.coordinatorEvents(w, i, all)
		all = m.othersEvents(w, i, all)
	}
	if m.bug.dropPrefix != "" && !w.moved {
		for s := range m.shards {
			all = append(all, event{kind: moveShard, part: s})
		}
	}
	return all
}

func (m *model) stamped(all []event, e event) []event {
	for _, e.stamp = range m.stamps {
		all = append(all, e)
	}
	return all
}

func (m *model) mayBegin(w *world, i int) bool {
	if i == 0 || m.tries[i-1].of != m.tries[i].of {
		return true
	}
	before := w.tries[i-1]
	if m.tries[i].after {
		return before.phase == done && before.answer == answerAgain
	}
	return before.phase != idle
}

// coordinatorEvents are those that the coordinator of a try takes part in, and its
// entries that are still on their way.
func (m *model) coordinatorEvents(w *world, i int, all []event) []event {
	a := &w.tries[i]
	for p := range m.tries[i].parts {
		e := event{try: i, part: p}
		switch {
		case a.phase == lookingUp && a.haveRead&(1<<p) == 0:
			e.kind = read
			all = append(all, e)
		case a.prepare[p] == onTheWay:
			e.kind = deliverPrepare
			all = m.stamped(all, e)
		}
	}
	if a.phase == preparing {
		all = append(all, event{kind: giveUp, try: i})
	}
	waits := a.phase == deciding || a.phase == refusing
	if a.decision != onTheWay {
		return all
	}
	if waits {
		all = append(all, event{kind: loseDecision, try: i}, event{kind: doubtDecision, try: i})
	}
	return m.stamped(all, event{kind: deliverDecision, try: i})
}

// othersEvents are the steps that anybody may take, as often as they like and as
// late as they like, once somebody has learnt what allows it.
func (m *model) othersEvents(w *world, i int, all []event) []event {
	t, a := &m.tries[i], &w.tries[i]
	for p := range t.parts {
		if a.decided != 0 && p != t.anchor {
			all = append(all, event{kind: deliverCommit, try: i, part: p})
		}
		if a.mayAbort {
			all = append(all, event{kind: deliverAbort, try: i, part: p})
		}
	}
	if f := m.facts(w, t, t.anchor); !a.mayAbort || f.held[uint8(i)] != 0 || f.clock <= t.deadline {
		all = m.stamped(all, event{kind: deliverExpire, try: i}) // else it would only move the clock, for ever
	}
	if a.decided != 0 && (m.bug.forgetEarly || a.acks == m.others(t)) {
		all = append(all, event{kind: deliverForget, try: i})
	}
	return all
}

// others has the bits of all parts but the anchor's.
func (m *model) others(t *try) uint8 { return (1<<len(t.parts) - 1) &^ (1 << t.anchor) }

// facts returns what is known of the shard of a part.
func (m *model) facts(w *world, t *try, p int) *facts {
	return &m.lab.states[w.shards[t.parts[p].shard]].facts
}

// lookAt returns the version that a reader sees of the key of a shard: that in
// storage, or that of a decided transaction which the shard has yet to follow.
func (m *model) lookAt(w *world, shard int) base.Version {
	f := &m.lab.states[w.shards[shard]].facts
	if by, held := f.writes[modelKeys[shard]]; held {
		holder := &m.tries[by]
		if at := m.facts(w, holder, holder.anchor).outcomes[by]; at != 0 {
			return at
		}
	}
	return f.records[modelKeys[shard]].Version
}

// apply lets a shard take a step for a part of a try, and notes what that did.
func (m *model) apply(w *world, i, p int, s labStep) (*command.Result, error) {
	t := &m.tries[i]
	shard, key := t.parts[p].shard, modelKeys[t.parts[p].shard]
	old := w.shards[shard]
	s.id.part = uint8(p)
	next, res, err := m.lab.step(old, s)
	if err != nil {
		return nil, err
	}
	w.shards[shard] = next
	before, after := m.lab.states[old].facts.records[key], m.lab.states[next].facts.records[key]
	if before.Version != after.Version {
		by := slices.IndexFunc(m.tries, func(t try) bool { return t.name == string(after.Value) })
		if by != i {
			return nil, fmt.Errorf("a step of %s wrote %q", t.name, after.Value)
		}
		w.tries[i].applied[p]++
	}
	return res, nil
}

// holder names a try to the shards.
func (m *model) holder(i int) command.Holder {
	h := command.Holder{Deadline: m.tries[i].deadline, Anchor: base.ShardID(m.tries[i].parts[m.tries[i].anchor].shard)}
	h.Txn[0], h.Txn[1] = byte(i), 1
	return h
}

func (m *model) command(w *world, i int, kind command.StepKind, stamp base.Version) (*command.Command, stepID) {
	at := w.tries[i].at
	if kind == command.StepCommit {
		at = w.tries[i].decided
	}
	c := &command.Command{Stamp: stamp, Step: command.Step{Kind: kind, Holder: m.holder(i), At: at}}
	return c, stepID{kind: byte(kind), try: uint8(i), stamp: stamp, at: at}
}

// part adds what a try reads and writes on a shard to a command.
func (m *model) part(w *world, i, p int, c *command.Command, id *stepID) {
	t, a := &m.tries[i], &w.tries[i]
	key := base.K(modelKeys[t.parts[p].shard], "")
	if t.parts[p].read {
		c.Reads = []command.Read{{Key: key, Version: a.seen[p]}}
		id.reads[p] = a.seen[p]
	}
	if t.parts[p].write {
		c.Writes = []base.Write{{Key: key, Value: []byte(t.name), Cond: base.Cond{Kind: t.parts[p].cond}}}
	}
	if t.request && p == t.anchor {
		c.Request, c.Digest = txnID(theRequest), 1
	}
}

// logged makes an entry of a command: it is applied once, however often it arrives.
func logged(i int, sequence uint64, c *command.Command, id stepID) labStep {
	return labStep{id: id, entry: &command.Entry{
		Session: uint64(i + 1), Sequence: sequence, Floor: 1, Commands: []command.Command{*c},
	}}
}
