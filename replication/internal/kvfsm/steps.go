package kvfsm

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// applyStep runs a command that is part of a transaction over several shards.
//
// The commit point is the StepDecide that finds the transaction prepared on its
// anchor. Whoever wants a transaction to end must take that away first: its own
// coordinator by never deciding, others with StepExpire, after which the clock
// of the anchor is past the deadline, so that neither a late StepPrepare nor a
// late StepDecide is taken.
func (m *Machine) applyStep(b *storage.Batch, cmd *command.Command, res *command.Result) error {
	switch cmd.Step.Kind {
	case command.StepPrepare, command.StepHold:
		return m.prepare(b, cmd, res)
	case command.StepDecide:
		return m.decide(b, cmd, res)
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
		b.Unset(m.shard, storage.KindTxn, outcomeKey(cmd.Step.Txn))
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

func (m *Machine) prepare(b *storage.Batch, cmd *command.Command, res *command.Result) error {
	if !cmd.Request.IsZero() {
		if found, err := m.Recall(b, cmd.Request, cmd.Digest, res); err != nil || found {
			return err
		}
	}
	if m.late(cmd) || m.holds.byTxn[cmd.Step.Txn] != nil {
		res.Status, res.Version = command.StatusExpired, m.Clock() // for a later deadline
		return nil
	}
	if m.locked(cmd, res) {
		return nil
	}
	if cmd.Step.Kind == command.StepPrepare {
		if err := m.Check(b, cmd, res); err != nil || res.Status != command.StatusApplied {
			return err
		}
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
	t := m.holds.byTxn[cmd.Step.Txn]
	if cmd.Step.Outcome.Status != command.StatusApplied {
		return m.refuse(b, cmd, t, res)
	}
	if t == nil {
		res.Status = command.StatusExpired
		return nil
	}
	d := Decided{At: cmd.Step.At, Shards: cmd.Step.Shards}
	b.Set(m.shard, storage.KindTxn, outcomeKey(cmd.Step.Txn), d.append(nil))
	if err := m.resolve(b, t, cmd.Step.At, res); err != nil || cmd.Request.IsZero() {
		return err
	}
	return m.Remember(b, cmd.Request, cmd.Digest, cmd.Step.At, &cmd.Step.Outcome)
}

// refuse ends a transaction that a check has failed of, and remembers that. It
// ends as well another attempt at the request: there is one outcome of it.
func (m *Machine) refuse(b *storage.Batch, cmd *command.Command, t *hold, res *command.Result) error {
	if t != nil {
		m.release(b, t)
	}
	if cmd.Request.IsZero() {
		return nil
	}
	if found, err := m.Recall(b, cmd.Request, cmd.Digest, res); err != nil || found {
		return err
	}
	if other := m.holds.requests[cmd.Request]; other != nil {
		m.release(b, other)
	}
	return m.Remember(b, cmd.Request, cmd.Digest, m.tick(cmd.Stamp), &cmd.Step.Outcome)
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
