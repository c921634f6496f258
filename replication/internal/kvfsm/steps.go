package kvfsm

import (
	"fmt"
	"slices"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// applyStep runs a command that is part of a transaction over several shards.
//
// The commit point is the StepDecide that the anchor takes, while all other shards
// hold their parts. Whoever wants a transaction to end must make that impossible
// first: its own coordinator by never deciding, others with StepExpire, after which
// the clock of the anchor is past the deadline, so that a late StepDecide is refused.
func (m *Machine) applyStep(b *storage.Batch, cmd *command.Command, res *command.Result) error {
	switch cmd.Step.Kind {
	case command.StepPrepare, command.StepHold:
		return m.prepare(b, cmd, res)
	case command.StepDecide:
		return m.decide(b, cmd, res)
	case command.StepRefuse:
		return m.refuse(b, cmd, res)
	case command.StepCommit:
		if t := m.holds.byTxn[cmd.Step.Txn]; t != nil {
			return m.resolve(b, t, cmd.Step.At, res)
		}
	case command.StepAbort:
		if t := m.holds.byTxn[cmd.Step.Txn]; t != nil {
			m.release(b, t)
		}
	case command.StepExpire:
		return m.expire(b, cmd, res)
	case command.StepForget:
		for _, txn := range cmd.Forget {
			b.Unset(m.shard, storage.KindTxn, outcomeKey(txn))
		}
	default:
		return fmt.Errorf("%w: unknown step %d", base.ErrCorrupt, cmd.Step.Kind)
	}
	return nil
}

// late reports whether the deadline has passed for the shard. From then on it
// always has.
func (m *Machine) late(cmd *command.Command) bool {
	return max(m.Clock(), cmd.Stamp) > cmd.Step.Deadline
}

// tick gives out a version without a write.
func (m *Machine) tick(stamp base.Version) base.Version {
	version := m.Next(stamp)
	m.clock.Store(uint64(version))
	return version
}

// takes reports whether the shard takes part in a transaction: nothing stands in the
// way, and the checks have passed. Else the result says what it is.
func (m *Machine) takes(b *storage.Batch, cmd *command.Command, res *command.Result) (bool, error) {
	if !cmd.Request.IsZero() {
		if found, err := m.Recall(b, cmd.Request, cmd.Digest, res); err != nil || found {
			return false, err
		}
	}
	if m.late(cmd) || m.holds.byTxn[cmd.Step.Txn] != nil {
		res.Status, res.Version = command.StatusExpired, m.Clock() // for a later deadline
		return false, nil
	}
	if m.locked(cmd, res) {
		return false, nil
	}
	if cmd.Step.Kind == command.StepHold {
		return true, nil
	}
	err := m.Check(b, cmd, res)
	return res.Status == command.StatusApplied, err
}

func (m *Machine) prepare(b *storage.Batch, cmd *command.Command, res *command.Result) error {
	if takes, err := m.takes(b, cmd, res); err != nil || !takes {
		return err
	}
	res.Version = m.tick(cmd.Stamp)
	held := *cmd
	held.Step.At = res.Version
	buf := held.Append(nil)
	own, err := command.Decode(buf) // the caller's memory is not ours to keep
	if err != nil {
		return err
	}
	b.Set(m.shard, storage.KindTxn, preparedKey(cmd.Step.Txn), buf)
	m.holds.add(own)
	return nil
}

// locked sets the result of a command that a transaction stands in the way of.
func (m *Machine) locked(cmd *command.Command, res *command.Result) bool {
	by, blocked := m.holds.blocks(cmd)
	if blocked {
		res.Status, res.Holder = command.StatusLocked, by
	}
	return blocked
}

func (m *Machine) decide(b *storage.Batch, cmd *command.Command, res *command.Result) error {
	if takes, err := m.takes(b, cmd, res); err != nil || !takes {
		return err
	}
	version := max(m.Next(cmd.Stamp), cmd.Step.At)
	if err := m.Write(b, cmd, version, res); err != nil {
		return err
	}
	d := Decided{At: version, Shards: cmd.Step.Shards}
	b.Set(m.shard, storage.KindTxn, outcomeKey(cmd.Step.Txn), d.append(nil))
	if cmd.Request.IsZero() {
		return nil
	}
	return m.Remember(b, cmd.Request, cmd.Digest, version, outcomeOf(cmd, res))
}

// refuse ends a transaction of which a condition did not hold, and remembers that: any
// other attempt at the request ends so from then on.
func (m *Machine) refuse(b *storage.Batch, cmd *command.Command, res *command.Result) error {
	if !cmd.Request.IsZero() {
		if found, err := m.Recall(b, cmd.Request, cmd.Digest, res); err != nil || found {
			return err
		}
	}
	if err := m.checkConditions(b, cmd, res); err != nil {
		return err
	}
	res.Status = command.StatusMismatch
	if cmd.Request.IsZero() {
		return nil
	}
	return m.Remember(b, cmd.Request, cmd.Digest, m.tick(cmd.Stamp), outcomeOf(cmd, res))
}

// outcomeOf returns what a request is to be answered: what the coordinator knows, and
// what became of the anchor's part.
func outcomeOf(cmd *command.Command, part *command.Result) *command.Result {
	known := &cmd.Step.Outcome
	whole := &command.Result{Status: part.Status, Version: part.Version, Versions: slices.Clone(known.Versions), Failed: slices.Clone(known.Failed)}
	for i, v := range whole.Versions {
		if v == base.PendingVersion {
			whole.Versions[i] = part.Version
		}
	}
	for i, at := range cmd.Positions {
		whole.Versions[at] = part.Versions[i]
	}
	for _, i := range part.Failed {
		whole.Failed = append(whole.Failed, cmd.Positions[i])
	}
	slices.Sort(whole.Failed)
	return whole
}

func (m *Machine) expire(b *storage.Batch, cmd *command.Command, res *command.Result) error {
	buf, found, err := b.Value(m.shard, storage.KindTxn, outcomeKey(cmd.Step.Txn))
	if err != nil {
		return err
	}
	if found {
		d, err := decodeDecided(cmd.Step.Txn, buf)
		if err != nil {
			return err
		}
		res.Version = d.At
		return nil
	}
	if !m.late(cmd) {
		res.Status = command.StatusPending
		return nil
	}
	m.tick(cmd.Stamp)
	if t := m.holds.byTxn[cmd.Step.Txn]; t != nil {
		m.release(b, t)
	}
	res.Status = command.StatusExpired
	return nil
}

// release ends the hold of a transaction.
func (m *Machine) release(b *storage.Batch, t *hold) {
	b.Unset(m.shard, storage.KindTxn, preparedKey(t.Txn))
	m.holds.drop(t)
}

// resolve applies what the shard holds of a transaction. Its version is at least
// the one that the prepare was answered, so it is newer than what the held keys
// have; other keys of the shard may have newer ones.
func (m *Machine) resolve(b *storage.Batch, t *hold, at base.Version, res *command.Result) error {
	if at < t.cmd.Step.At {
		return fmt.Errorf("%w: shard %d: transaction decided at %d, prepared at %d", base.ErrCorrupt, m.shard, at, t.cmd.Step.At)
	}
	m.clock.Store(uint64(max(m.Clock(), at)))
	res.Version = at
	for i := range t.cmd.Writes {
		w := &t.cmd.Writes[i]
		switch w.Kind {
		case base.WritePut:
			b.Put(m.shard, w.Key, storage.Record{
				Version: at, ExpiresAt: command.ExpiresAt(at, w.TTL), Value: w.Value,
			})
		case base.WriteDelete:
			head, err := b.Head(m.shard, w.Key)
			if err != nil {
				return err
			}
			if head.Version != 0 {
				b.Delete(m.shard, w.Key)
				// The clock need not have moved, but no two removals have one mark.
				m.noteRemoval(m.tick(0))
			}
		case base.WriteCheck:
		}
	}
	m.release(b, t)
	return nil
}
