package kvfsm

import (
	"fmt"
	"sync/atomic"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// Machine holds the part of a shard's state that is not in storage.
type Machine struct {
	shard    base.ShardID
	store    *storage.Store
	requests requestLog
	sessions sessions
	holds    holds
	arrivals arrivals

	clock   atomic.Uint64 // newest version given out
	removed atomic.Uint64 // clock after the newest removal of a key
	applied atomic.Uint64 // commands applied or refused
	index   atomic.Uint64 // of the newest applied entry of a replicated log
}

// Open returns the machine of a shard as its storage has it. The clock starts
// at no less than floor: what the log in front of the machine knows to have
// been given out.
func Open(store *storage.Store, shard base.ShardID, floor base.Version) (*Machine, error) {
	m := &Machine{shard: shard, store: store, sessions: sessions{}}
	return m, m.Load(floor)
}

// Load makes the machine what storage has of it, after something else than the
// machine has written there.
func (m *Machine) Load(floor base.Version) error {
	space := m.store.Space(m.shard)
	head, err := loadHead(space)
	if err != nil {
		return err
	}
	newest, err := m.sessions.load(space)
	if err != nil {
		return err
	}
	if newest.index > head.index {
		head = newest
	}
	m.applied.Store(head.applied)
	m.index.Store(head.index)
	m.clock.Store(uint64(max(head.clock, floor)))
	m.noteRemoval(m.Clock()) // not known; too high only makes a reader wait
	if err := m.requests.open(space); err != nil {
		return err
	}
	if err := m.holds.load(space); err != nil {
		return err
	}
	m.arrivals.reach(m.Index())
	return nil
}

// Shard returns which shard this is.
func (m *Machine) Shard() base.ShardID { return m.shard }

// Clock returns the newest version that the shard has given out.
func (m *Machine) Clock() base.Version { return base.Version(m.clock.Load()) }

// Removed returns a mark that changes with each command that removes a key. It is
// the clock that the shard had then, the same on all replicas, or a later one on
// those that were opened since.
func (m *Machine) Removed() base.Version { return base.Version(m.removed.Load()) }

func (m *Machine) noteRemoval(version base.Version) { m.removed.Store(uint64(version)) }

// Applied returns how many commands the shard has seen.
func (m *Machine) Applied() uint64 { return m.applied.Load() }

// Index returns the index of the newest applied entry of a replicated log.
func (m *Machine) Index() uint64 { return m.index.Load() }

// Requests returns how many requests the shard remembers.
func (m *Machine) Requests() int { return int(m.requests.count.Load()) }

// Next returns the version that a command with this stamp would get now.
func (m *Machine) Next(stamp base.Version) base.Version {
	return max(m.Clock()+1, stamp)
}

// Apply runs one command: checks it and, if it passes, writes it into b. The
// outcome is in res. An error is a failure of storage, never of the command.
func (m *Machine) Apply(b *storage.Batch, cmd *command.Command, res *command.Result) error {
	res.Reset()
	if cmd.Step.Kind != command.StepNone {
		return m.applyStep(b, cmd, res)
	}
	version := m.Next(cmd.Stamp)
	if !cmd.Request.IsZero() {
		found, err := m.Recall(b, cmd.Request, cmd.Digest, res)
		if err != nil || found {
			return err
		}
	}
	if m.locked(cmd, res) {
		return nil
	}
	if err := m.Check(b, cmd, res); err != nil {
		return err
	}
	if res.Status == command.StatusApplied {
		if err := m.Write(b, cmd, version, res); err != nil {
			return err
		}
	}
	if !cmd.Request.IsZero() && res.Status != command.StatusConflict {
		return m.Remember(b, cmd.Request, cmd.Digest, version, res)
	}
	return nil
}

// Check decides whether the command may be applied and sets res.Status. It
// changes nothing.
func (m *Machine) Check(b *storage.Batch, cmd *command.Command, res *command.Result) error {
	m.applied.Add(1)
	for _, read := range cmd.Reads {
		have, err := m.version(b, read.Key, m.now(cmd))
		if err != nil {
			return err
		}
		if have != read.Version {
			res.Status = command.StatusConflict
			return nil
		}
	}
	for _, read := range cmd.Ranges {
		same, err := m.unchanged(read, m.now(cmd))
		if err != nil {
			return err
		}
		if !same {
			res.Status = command.StatusConflict
			return nil
		}
	}
	return m.checkConditions(b, cmd, res)
}

// checkConditions evaluates all conditions against the state before the
// command, so that the answer names every one that failed.
func (m *Machine) checkConditions(b *storage.Batch, cmd *command.Command, res *command.Result) error {
	for i := range cmd.Writes {
		w := &cmd.Writes[i]
		found := base.Version(0)
		if w.Cond.Kind != base.CondNone || w.Kind != base.WritePut {
			var err error
			if found, err = m.version(b, w.Key, m.now(cmd)); err != nil {
				return err
			}
		}
		res.Versions = append(res.Versions, found)
		if !w.Cond.Holds(found) {
			res.Failed = append(res.Failed, i)
		}
	}
	if len(res.Failed) > 0 {
		res.Status = command.StatusMismatch
	}
	return nil
}

// now is the time by which a command judges what has expired: as readers do, never
// behind the clock of the shard.
func (m *Machine) now(cmd *command.Command) base.Version { return max(cmd.Stamp, m.Clock()) }

// version returns the version of a key at a time, 0 if it is absent or has
// expired.
func (m *Machine) version(b *storage.Batch, key base.Key, now base.Version) (base.Version, error) {
	head, err := b.Head(m.shard, key)
	if err != nil || (head.ExpiresAt != 0 && head.ExpiresAt <= uint64(now)) {
		return 0, err
	}
	return head.Version, nil
}

// Write puts the writes of a command that passed Check into b, under the given
// version, which becomes the clock of the shard.
func (m *Machine) Write(b *storage.Batch, cmd *command.Command, version base.Version, res *command.Result) error {
	if version <= m.Clock() {
		return fmt.Errorf("%w: shard %d: version %d is not after its clock %d", base.ErrCorrupt, m.shard, version, m.Clock())
	}
	m.clock.Store(uint64(version))
	res.Version = version
	for i := range cmd.Writes {
		w := &cmd.Writes[i]
		switch w.Kind {
		case base.WritePut:
			b.Put(m.shard, w.Key, storage.Record{
				Version:   version,
				ExpiresAt: command.ExpiresAt(version, w.TTL),
				Value:     w.Value,
			})
			res.Versions[i] = version
		case base.WriteDelete:
			if res.Versions[i] != 0 {
				b.Delete(m.shard, w.Key)
				m.noteRemoval(version)
			}
		case base.WriteCheck:
		}
	}
	return m.sweep(b, cmd, version)
}

// sweep removes what the proposer found to have run out, if it still has.
func (m *Machine) sweep(b *storage.Batch, cmd *command.Command, version base.Version) error {
	for _, e := range cmd.Sweep.Expired {
		if e.At > uint64(m.now(cmd)) {
			continue
		}
		b.DropExpiry(m.shard, storage.Expired{Key: e.Key, At: e.At, Version: e.Version})
		head, err := b.Head(m.shard, e.Key)
		if err != nil {
			return err
		}
		if head.Version == e.Version && head.ExpiresAt == e.At {
			b.Delete(m.shard, e.Key)
			m.noteRemoval(version)
		}
	}
	if to := cmd.Sweep.RequestsTo; to > 0 {
		return m.requests.forget(b, m.shard, to)
	}
	return nil
}

// ApplyEntry runs the commands of an entry, unless it has been applied before,
// and returns their results: AppendResultsHead, then AppendResult for each. They
// are nil if the entry is too old to be applied, which nobody waits for. What
// the machine remembers of the entry and its index goes into b as well.
func (m *Machine) ApplyEntry(b *storage.Batch, e *command.Entry, index uint64) ([]byte, error) {
	if index <= m.Index() {
		return nil, fmt.Errorf("%w: shard %d: entry %d comes after %d", base.ErrCorrupt, m.shard, index, m.Index())
	}
	results, over := m.sessions.recall(e)
	if over {
		m.index.Store(index)
		m.saveHead(b)
		return results, nil
	}
	results = command.AppendResultsHead(make([]byte, 0, 8+24*len(e.Commands)), len(e.Commands))
	var res command.Result
	for i := range e.Commands {
		if err := m.Apply(b, &e.Commands[i], &res); err != nil {
			return nil, err
		}
		results = command.AppendResult(results, &res)
	}
	m.index.Store(index)
	m.sessions.remember(b, m.shard, e, m.head(), results)
	return results, nil
}

const headVersion = 1

// head is how far the machine has come. Every entry saves it, so that what a shard
// holds does not depend on which entries were applied in one batch: with what is
// remembered of the entry, which costs nothing more, or else as a record of its own.
type head struct {
	index   uint64
	applied uint64
	clock   base.Version
}

func (m *Machine) head() head {
	return head{index: m.Index(), applied: m.Applied(), clock: m.Clock()}
}

// saveHead writes the machine's own record in the meta space of its shard.
func (m *Machine) saveHead(b *storage.Batch) {
	b.Set(m.shard, storage.KindMeta, headKey(), m.head().append([]byte{headVersion}))
}

func headKey() []byte { return []byte("head") }

// append appends index u64 | applied u64 | clock u64.
func (h head) append(buf []byte) []byte {
	buf = wire.AppendUint64(buf, h.index)
	buf = wire.AppendUint64(buf, h.applied)
	return wire.AppendUint64(buf, uint64(h.clock))
}

func readHead(r *wire.Reader) head {
	return head{index: r.Uint64(), applied: r.Uint64(), clock: base.Version(r.Uint64())}
}

func loadHead(space storage.Space) (h head, err error) {
	buf, found, err := space.Value(storage.KindMeta, headKey())
	if err != nil || !found {
		return head{}, err
	}
	r := wire.NewReader(buf)
	if v := r.Byte(); v != headVersion {
		r.Fail("version %d, known is %d", v, headVersion)
	}
	h = readHead(r)
	if err := r.Close(); err != nil {
		return head{}, fmt.Errorf("%w: head of a shard: %w", base.ErrCorrupt, err)
	}
	return h, nil
}

// adoptedKey marks a shard that has data from before its log began.
func adoptedKey() []byte { return []byte("adopted") }

// SaveAdopted writes into b that the shard has data that no log has.
func (m *Machine) SaveAdopted(b *storage.Batch) {
	m.saveHead(b)
	b.Set(m.shard, storage.KindMeta, adoptedKey(), []byte{headVersion})
}

// Adopted reports whether a shard has data from before its log began.
func Adopted(space storage.Space) (bool, error) {
	_, found, err := space.Value(storage.KindMeta, adoptedKey())
	return found, err
}
