package kvfsm

import (
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// The transaction space of a shard has an entry for each transaction that is
// prepared on it, and on the anchor one for each that was applied and is not
// yet known to be resolved everywhere:
//
//	'p' transaction id -> the command that prepared it, with Step.At what it was answered
//	'o' transaction id -> version u8 | at u64 | count, shards uvarint
const (
	preparedPrefix = 'p'
	outcomePrefix  = 'o'
	outcomeVersion = 1
)

func preparedKey(id base.RequestID) []byte { return append([]byte{preparedPrefix}, id[:]...) }
func outcomeKey(id base.RequestID) []byte  { return append([]byte{outcomePrefix}, id[:]...) }

// hold is a transaction that is prepared on the shard.
type hold struct {
	command.Holder
	cmd *command.Command
}

// Held is a transaction that is prepared on a shard, and what it is about to write
// there. It does not change.
type Held struct {
	command.Holder
	Writes []base.Write
}

// WritesIn reports whether the transaction is about to write in a range.
func (h Held) WritesIn(r base.Range) bool {
	return slices.ContainsFunc(h.Writes, func(w base.Write) bool { return w.Kind != base.WriteCheck && r.Contains(w.Key) })
}

// WriteOf returns what the transaction is about to write to a key; nil if it does not.
func (h Held) WriteOf(key base.Key) *base.Write {
	for i := range h.Writes {
		if w := &h.Writes[i]; w.Key == key && w.Kind != base.WriteCheck {
			return w
		}
	}
	return nil
}

// Affects reports whether the transaction is about to write what a command has read.
func (h Held) Affects(cmd *command.Command) bool {
	return slices.ContainsFunc(cmd.Reads, func(r command.Read) bool { return h.WriteOf(r.Key) != nil }) ||
		slices.ContainsFunc(cmd.Ranges, func(r command.RangeRead) bool { return h.WritesIn(r.Range) })
}

// holds knows the prepared transactions by what they hold. Whoever holds a key
// for writing is alone on it; any number may hold it for reading.
type holds struct {
	byTxn   map[base.RequestID]*hold
	writers map[base.Key]*hold
	readers map[base.Key][]*hold
	ranges  []*hold // those that have read ranges

	// visible is what readers know. It follows the rest once the batch with the
	// changes is visible in storage: a reader that finds a key free sees what the
	// transaction that held it wrote.
	visible struct {
		sync.RWMutex
		writers map[base.Key]command.Holder
		byTxn   map[base.RequestID]*hold
		// release is closed when a transaction has let go; nil if nobody waits.
		release chan struct{}
	}
	count  atomic.Int64           // of visible.byTxn; saves readers the lock
	list   atomic.Pointer[[]Held] // of visible.byTxn; nil after a change
	staged []stagedHold
}

// stagedHold is a change that visible has not followed yet.
type stagedHold struct {
	*hold
	held bool
}

// load reads the prepared transactions. Readers see the old ones until then, and
// the new ones from then on: a key that is held in both never looks free.
func (h *holds) load(space storage.Space) error {
	h.byTxn = make(map[base.RequestID]*hold)
	h.writers = make(map[base.Key]*hold)
	h.readers = make(map[base.Key][]*hold)
	h.ranges, h.staged = nil, nil
	if err := prepared(space.Values(storage.KindTxn, []byte{preparedPrefix}, 0), h.add); err != nil {
		return err
	}
	h.visible.Lock()
	defer h.visible.Unlock()
	h.visible.writers = make(map[base.Key]command.Holder)
	h.visible.byTxn = make(map[base.RequestID]*hold)
	h.show()
	h.wake() // what was held may be no more
	return nil
}

// add makes the transaction of the command hold what it reads and writes. The
// command belongs to the holds from then on.
func (h *holds) add(cmd *command.Command) {
	t := &hold{Holder: cmd.Step.Holder, cmd: cmd}
	h.byTxn[t.Txn] = t
	for i := range cmd.Writes {
		h.writers[cmd.Writes[i].Key] = t
	}
	for i := range cmd.Reads {
		key := cmd.Reads[i].Key
		h.readers[key] = append(h.readers[key], t)
	}
	if len(cmd.Ranges) > 0 {
		h.ranges = append(h.ranges, t)
	}
	h.staged = append(h.staged, stagedHold{t, true})
}

// drop ends what the transaction holds.
func (h *holds) drop(t *hold) {
	delete(h.byTxn, t.Txn)
	for i := range t.cmd.Writes {
		delete(h.writers, t.cmd.Writes[i].Key)
	}
	for i := range t.cmd.Reads {
		key := t.cmd.Reads[i].Key
		if h.readers[key] = without(h.readers[key], t); len(h.readers[key]) == 0 {
			delete(h.readers, key)
		}
	}
	h.ranges = without(h.ranges, t)
	h.staged = append(h.staged, stagedHold{t, false})
}

func without(list []*hold, t *hold) []*hold {
	for i := range list {
		if list[i] == t {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// publish lets readers see the changes since the last call.
func (h *holds) publish() {
	if len(h.staged) == 0 {
		return
	}
	h.visible.Lock()
	defer h.visible.Unlock()
	h.show()
}

// show lets visible follow what is staged. REQUIRES: visible is locked.
func (h *holds) show() {
	released := false
	for _, s := range h.staged {
		for i := range s.cmd.Writes {
			if key := s.cmd.Writes[i].Key; s.held {
				h.visible.writers[key] = s.Holder
			} else {
				delete(h.visible.writers, key)
			}
		}
		if s.held {
			h.visible.byTxn[s.Txn] = s.hold
		} else {
			delete(h.visible.byTxn, s.Txn)
			released = true
		}
	}
	if released {
		h.wake()
	}
	clear(h.staged)
	h.staged = h.staged[:0]
	h.count.Store(int64(len(h.visible.byTxn)))
	h.list.Store(nil)
}

// wake tells those that wait for a release to look again. REQUIRES: visible is locked.
func (h *holds) wake() {
	if h.visible.release != nil {
		close(h.visible.release)
		h.visible.release = nil
	}
}

// blocks reports whether a transaction holds what the command needs, and which: the
// oldest, on every replica the same one.
func (h *holds) blocks(cmd *command.Command) (by command.Holder, blocked bool) {
	if len(h.byTxn) == 0 {
		return command.Holder{}, false
	}
	found := func(t *hold) {
		if t != nil && (!blocked || t.Before(by)) {
			by, blocked = t.Holder, true
		}
	}
	for i := range cmd.Writes {
		key := cmd.Writes[i].Key
		found(h.writers[key])
		for _, t := range h.readers[key] {
			found(t)
		}
		for _, t := range h.ranges {
			if t.readRange(key) {
				found(t)
			}
		}
	}
	for i := range cmd.Reads {
		found(h.writers[cmd.Reads[i].Key])
	}
	for i := range cmd.Ranges {
		for key, t := range h.writers {
			if cmd.Ranges[i].Range.Contains(key) {
				found(t)
			}
		}
	}
	return by, blocked
}

// readRange reports whether the key is in a range that the transaction has read.
func (t *hold) readRange(key base.Key) bool {
	for i := range t.cmd.Ranges {
		if t.cmd.Ranges[i].Range.Contains(key) {
			return true
		}
	}
	return false
}

// Publish lets readers see which keys are held, and those go on that wait for what
// was applied. It is called after the batch of the commands has become visible.
func (m *Machine) Publish() {
	m.holds.publish()
	m.arrivals.reach(m.Index())
}

// Holder returns the transaction that is about to write the key. If there is
// none, what an earlier one wrote is in storage.
func (m *Machine) Holder(key base.Key) (command.Holder, bool) {
	if m.holds.count.Load() == 0 {
		return command.Holder{}, false
	}
	v := &m.holds.visible
	v.RLock()
	defer v.RUnlock()
	t, found := v.writers[key]
	return t, found
}

// Held returns the transactions that are about to write anything. The list is shared.
func (m *Machine) Held() []Held {
	if m.holds.count.Load() == 0 {
		return nil
	}
	if list := m.holds.list.Load(); list != nil {
		return *list
	}
	v := &m.holds.visible
	v.RLock()
	defer v.RUnlock()
	list := make([]Held, 0, len(v.byTxn))
	for _, t := range v.byTxn {
		if len(t.cmd.Writes) > 0 {
			list = append(list, Held{t.Holder, t.cmd.Writes})
		}
	}
	m.holds.list.Store(&list) // the lock keeps changes away
	return list
}

// Prepared returns the transactions that the shard holds anything for.
func (m *Machine) Prepared() []command.Holder {
	if m.holds.count.Load() == 0 {
		return nil
	}
	v := &m.holds.visible
	v.RLock()
	defer v.RUnlock()
	all := make([]command.Holder, 0, len(v.byTxn))
	for _, t := range v.byTxn {
		all = append(all, t.Holder)
	}
	return all
}

// Holds reports whether the shard holds anything for the transaction.
func (m *Machine) Holds(txn base.RequestID) bool {
	v := &m.holds.visible
	v.RLock()
	defer v.RUnlock()
	_, found := v.byTxn[txn]
	return found
}

// Releasing returns nil if the shard holds nothing for the transaction, and else a
// channel that is closed when any transaction lets go.
func (m *Machine) Releasing(txn base.RequestID) <-chan struct{} {
	v := &m.holds.visible
	v.Lock()
	defer v.Unlock()
	if _, found := v.byTxn[txn]; !found {
		return nil
	}
	if v.release == nil {
		v.release = make(chan struct{})
	}
	return v.release
}

// PreparedIn reports whether a transaction is prepared on a shard in a snapshot.
func PreparedIn(sn *storage.Snapshot, shard base.ShardID, txn base.RequestID) (bool, error) {
	_, found, err := sn.Value(shard, storage.KindTxn, preparedKey(txn))
	return found, err
}

// prepared calls found with each prepared command among the entries.
func prepared(entries iter.Seq2[storage.KV, error], found func(*command.Command)) error {
	for kv, err := range entries {
		if err != nil {
			return err
		}
		if len(kv.Key) == 0 || kv.Key[0] != preparedPrefix {
			break
		}
		cmd, err := command.Decode(kv.Value)
		if err != nil {
			return fmt.Errorf("prepared transaction: %w", err)
		}
		found(cmd)
	}
	return nil
}

// Decided is a transaction that was applied, as its anchor remembers it.
type Decided struct {
	Txn    base.RequestID
	At     base.Version
	Shards []base.ShardID
}

func (d *Decided) append(buf []byte) []byte {
	buf = wire.AppendUint64(append(buf, outcomeVersion), uint64(d.At))
	buf = wire.AppendUvarint(buf, uint64(len(d.Shards)))
	for _, id := range d.Shards {
		buf = wire.AppendUvarint(buf, uint64(id))
	}
	return buf
}

func decodeDecided(id base.RequestID, buf []byte) (*Decided, error) {
	r := wire.NewReader(buf)
	if v := r.Byte(); r.Err() == nil && v != outcomeVersion {
		r.Fail("version %d, known is %d", v, outcomeVersion)
	}
	d := &Decided{Txn: id, At: base.Version(r.Uint64())}
	for range r.Count(base.MaxShards, 1) {
		d.Shards = append(d.Shards, base.ShardID(r.Uvarint()))
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("%w: outcome of a transaction: %w", base.ErrCorrupt, err)
	}
	return d, nil
}

// Outcome returns what an anchor remembers of a transaction; nil if it was not
// applied, or not yet, or is resolved everywhere.
func Outcome(space storage.Space, id base.RequestID) (*Decided, error) {
	buf, found, err := space.Value(storage.KindTxn, outcomeKey(id))
	if err != nil || !found {
		return nil, err
	}
	return decodeDecided(id, buf)
}

// OutcomeIn is Outcome in a snapshot.
func OutcomeIn(sn *storage.Snapshot, anchor base.ShardID, id base.RequestID) (*Decided, error) {
	buf, found, err := sn.Value(anchor, storage.KindTxn, outcomeKey(id))
	if err != nil || !found {
		return nil, err
	}
	return decodeDecided(id, buf)
}

// Outcomes returns at most limit of the transactions that an anchor remembers.
func Outcomes(space storage.Space, limit int) (all []*Decided, err error) {
	for kv, err := range space.Values(storage.KindTxn, []byte{outcomePrefix}, limit) {
		if err != nil {
			return nil, err
		}
		if len(kv.Key) != 17 || kv.Key[0] != outcomePrefix {
			break
		}
		d, err := decodeDecided(base.RequestID(kv.Key[1:]), kv.Value)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}
