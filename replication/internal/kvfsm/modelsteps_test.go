package kvfsm

import (
	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// happen changes the world by an event. What the coordinator does here is what
// replication's coordination does.
func (m *model) happen(w *world, e event) error {
	a := &w.tries[e.try]
	switch e.kind {
	case begin:
		m.begin(w, e.try)
	case read:
		a.seen[e.part] = m.lookAt(w, m.tries[e.try].parts[e.part].shard)
		a.haveRead |= 1 << e.part
		m.sendPrepares(w, e.try)
	case deliverPrepare:
		return m.deliverPrepare(w, e)
	case giveUp: // or dies, if nothing of the abort arrives anywhere
		a.end(answerNotApplied)
		a.mayAbort, a.status, a.gave = true, [maxParts]command.Status{}, 0
	case deliverDecision:
		return m.deliverDecision(w, e)
	case loseDecision: // and knows that
		a.decision, a.mayAbort = lost, true
		a.end(answerNotApplied)
	case doubtDecision: // or dies; the answer may be lost as well as the decision
		m.doubt(a)
	case deliverPlain:
		return m.deliverPlain(w, e)
	case moveShard:
		return m.moveShard(w, e.part)
	default:
		return m.othersStep(w, e)
	}
	return nil
}

func (a *attempt) end(with answer) { a.phase, a.answer = done, with }

// doubt ends what the caller knows of a decision whose fate is not known. A
// refusal that may not have been recorded has applied nothing all the same.
func (m *model) doubt(a *attempt) {
	if a.phase == refusing {
		a.mayAbort = true
		a.end(answerNotApplied)
		return
	}
	a.end(answerUnknown)
}

func (m *model) begin(w *world, i int) {
	a := &w.tries[i]
	for j := range m.tries {
		if w.tries[j].answer == answerApplied {
			a.before |= 1 << j
		}
	}
	a.phase = lookingUp
	m.sendPrepares(w, i)
}

// sendPrepares begins the first phase once everything is read.
func (m *model) sendPrepares(w *world, i int) {
	t, a := &m.tries[i], &w.tries[i]
	for p := range t.parts {
		if t.parts[p].read && a.haveRead&(1<<p) == 0 {
			return
		}
		a.haveRead |= 1 << p // a part that reads nothing has read
	}
	if a.phase = preparing; t.plain {
		return
	}
	for p := range t.parts {
		if p != t.anchor {
			a.prepare[p] = onTheWay
		}
	}
	if m.bug.decideEarly {
		m.conclude(w, i)
	}
}

func (m *model) deliverPrepare(w *world, e event) error {
	a := &w.tries[e.try]
	c, id := m.command(w, e.try, command.StepPrepare, e.stamp)
	c.Step.At, id.at = 0, 0
	m.part(w, e.try, e.part, c, &id)
	res, err := m.apply(w, e.try, e.part, logged(e.try, 1, c, id))
	if err != nil || a.prepare[e.part] == arrived {
		return err
	}
	a.prepare[e.part] = arrived
	if a.phase != preparing {
		return nil
	}
	a.status[e.part], a.gave = res.Status, max(a.gave, res.Version)
	m.conclude(w, e.try)
	return nil
}

// answerReplayed ends a try whose request was decided before.
func (m *model) answerReplayed(a *attempt, res *command.Result) {
	a.mayAbort, a.status, a.gave = true, [maxParts]command.Status{}, 0
	if a.version = res.Version; res.Status == command.StatusApplied {
		a.end(answerApplied)
	} else {
		a.end(answerMismatch)
	}
}

// conclude goes on to the second phase if all shards but the anchor have answered.
func (m *model) conclude(w *world, i int) {
	t, a := &m.tries[i], &w.tries[i]
	worst, waiting := command.StatusApplied, 0
	for p := range t.parts {
		if p == t.anchor {
			continue
		}
		if a.prepare[p] != arrived {
			waiting++
			continue
		}
		switch a.status[p] {
		case command.StatusLocked, command.StatusExpired:
			worst = max(worst, command.StatusLocked)
		default:
			worst = max(worst, a.status[p])
		}
	}
	if waiting > 1 || waiting == 1 && !m.bug.decideEarly {
		return
	}
	if worst == command.StatusApplied {
		a.phase, a.decision, a.at = deciding, onTheWay, max(a.gave, 1)
	} else {
		m.failed(w, i, worst)
	}
	a.status, a.gave = [maxParts]command.Status{}, 0
}

// failed goes on after a shard, or the anchor, has refused.
func (m *model) failed(w *world, i int, status command.Status) {
	a := &w.tries[i]
	if status == command.StatusMismatch && m.tries[i].request {
		a.phase, a.decision, a.at = refusing, onTheWay, 0
		return
	}
	a.mayAbort = true
	a.end(answerAgain)
}

// decision makes the entry with which the anchor decides, or refuses.
func (m *model) decision(w *world, i int, stamp base.Version) labStep {
	t, a := &m.tries[i], &w.tries[i]
	kind, sequence := command.StepDecide, uint64(2)
	switch {
	case a.at == 0:
		kind, sequence = command.StepRefuse, 3
	case a.waited:
		sequence = 4
	}
	c, id := m.command(w, i, kind, stamp)
	m.part(w, i, t.anchor, c, &id)
	for p := range t.parts {
		c.Step.Shards = append(c.Step.Shards, base.ShardID(t.parts[p].shard))
	}
	if t.request {
		if len(c.Writes) > 0 {
			c.Positions = []int{0}
		}
		c.Step.Outcome.Versions = []base.Version{base.PendingVersion, base.PendingVersion}
		if a.at == 0 {
			c.Step.Outcome = command.Result{Status: command.StatusMismatch, Versions: []base.Version{0, 0}, Failed: []int{1}}
		}
	}
	return logged(i, sequence, c, id)
}

func (m *model) deliverDecision(w *world, e event) error {
	t, a := &m.tries[e.try], &w.tries[e.try]
	res, err := m.apply(w, e.try, t.anchor, m.decision(w, e.try, e.stamp))
	if err != nil || a.decision == arrived {
		return err
	}
	a.decision = arrived
	if a.at != 0 && res.Status == command.StatusApplied && !res.Replayed {
		a.decided = res.Version
	}
	switch {
	case a.phase == done:
	case res.Replayed || res.Status == command.StatusReused:
		m.answerReplayed(a, res)
	case a.phase == refusing:
		a.mayAbort = true
		a.end(answerMismatch)
	case res.Status == command.StatusApplied:
		a.version = res.Version
		a.end(answerApplied)
	case res.Status == command.StatusLocked && !a.waited: // with what it holds
		a.waited, a.decision = true, onTheWay
	default:
		m.failed(w, e.try, res.Status)
	}
	return nil
}

func (m *model) deliverPlain(w *world, e event) error {
	a := &w.tries[e.try]
	c := &command.Command{Stamp: e.stamp}
	id := stepID{kind: 'w', try: uint8(e.try), stamp: e.stamp}
	m.part(w, e.try, 0, c, &id)
	res, err := m.apply(w, e.try, 0, labStep{id: id, cmd: c})
	if err != nil || res.Status == command.StatusLocked { // it comes again
		return err
	}
	if res.Status != command.StatusApplied {
		a.end(answerAgain)
		return nil
	}
	a.decided, a.version = res.Version, res.Version
	a.end(answerApplied)
	return nil
}

// othersStep is what coordinators do after their callers were answered, and those
// who meet held keys, and the sweepers.
func (m *model) othersStep(w *world, e event) error {
	t, a := &m.tries[e.try], &w.tries[e.try]
	kinds := map[eventKind]command.StepKind{
		deliverCommit: command.StepCommit, deliverAbort: command.StepAbort, deliverExpire: command.StepExpire, deliverForget: command.StepForget,
	}
	p := e.part
	if e.kind == deliverExpire || e.kind == deliverForget {
		p = t.anchor
	}
	c, id := m.command(w, e.try, kinds[e.kind], e.stamp)
	if e.kind == deliverForget {
		c.Forget = []base.RequestID{c.Step.Txn}
	}
	shard := t.parts[p].shard
	before := w.shards[shard]
	res, err := m.apply(w, e.try, p, labStep{id: id, cmd: c})
	if err != nil {
		return err
	}
	switch {
	case e.kind == deliverCommit:
		a.acks |= 1 << p
	case e.kind == deliverExpire && res.Status == command.StatusExpired:
		a.mayAbort = true
		if m.bug.expireLeaves {
			w.shards[shard] = before
		}
	}
	return nil
}

// moveShard lets a shard move and lose something on the way.
func (m *model) moveShard(w *world, shard int) error {
	w.moved = true
	s := labStep{id: stepID{kind: 'm'}, drop: func(b *storage.Batch, id base.ShardID, space storage.Space) error {
		prefix := m.bug.dropPrefix
		for kv, err := range space.Values(m.bug.dropKind, []byte(prefix[:1]), 0) {
			if err != nil {
				return err
			}
			for i := range prefix {
				if len(kv.Key) > 0 && kv.Key[0] == prefix[i] {
					b.Unset(id, m.bug.dropKind, kv.Key)
				}
			}
		}
		return nil
	}}
	next, _, err := m.lab.step(w.shards[shard], s)
	w.shards[shard] = next
	return err
}
