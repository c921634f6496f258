package kvfsm

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// maxSessions is how many sessions a shard remembers. A node has one at a time,
// and a new one each time it starts. If there are more, the one that was not
// heard of for longest goes. None of its entries can still be on the way then:
// that takes seconds, not hundreds of starts.
const maxSessions = 256

// sessionPrefix begins the keys of remembered entries in the meta space:
//
//	'e' session u64 | slot u8 -> version u8 | sequence u64 | floor u64 | head | results
//
// The head is how far the shard had come with the entry. The slot of an entry is its
// sequence number modulo command.Window, so a session overwrites its own oldest entry
// and never takes more room.
const (
	sessionPrefix   = 'e'
	slotVersion     = 2
	slotWithoutHead = 1 // has only the index of the head, which then was a record of its own
)

// sessions has the results of the newest entries of each session.
type sessions map[uint64]*session

type session struct {
	floor uint64 // entries below are decided for good
	index uint64 // of the newest of its entries in the log
	slots [command.Window]slot
}

type slot struct {
	sequence uint64 // 0 = empty
	results  []byte
}

func slotKey(session uint64, at int) []byte {
	return append(wire.AppendUint64([]byte{sessionPrefix}, session), byte(at))
}

// load reads what the shard remembers, and returns how far it had come with the newest
// entry of that.
func (s sessions) load(space storage.Space) (newest head, err error) {
	clear(s)
	for kv, err := range space.Values(storage.KindMeta, []byte{sessionPrefix}, 0) {
		if err != nil {
			return head{}, err
		}
		if len(kv.Key) == 0 || kv.Key[0] != sessionPrefix {
			break
		}
		h, err := s.loadSlot(kv.Key[1:], kv.Value)
		if err != nil {
			return head{}, err
		}
		if h.index > newest.index {
			newest = h
		}
	}
	return newest, nil
}

func (s sessions) loadSlot(key, value []byte) (head, error) {
	k, v := wire.NewReader(key), wire.NewReader(value)
	id, at := k.Uint64(), k.Byte()
	version := v.Byte()
	sequence, floor := v.Uint64(), v.Uint64()
	var h head
	switch version {
	case slotWithoutHead:
		h.index = v.Uint64() // no later than in the record of the head
	case slotVersion:
		h = readHead(v)
	default:
		v.Fail("version %d, known is %d", version, slotVersion)
	}
	if sequence == 0 || sequence%command.Window != uint64(at) {
		v.Fail("entry %d in slot %d", sequence, at)
	}
	results := v.Rest()
	if k.Close() != nil || v.Err() != nil {
		return head{}, fmt.Errorf("%w: remembered entry of a session", base.ErrCorrupt)
	}
	sess := s.get(id)
	sess.floor, sess.index = max(sess.floor, floor), max(sess.index, h.index)
	sess.slots[at] = slot{sequence, append([]byte(nil), results...)}
	return h, nil
}

func (s sessions) get(id uint64) *session {
	sess := s[id]
	if sess == nil {
		sess = new(session)
		s[id] = sess
	}
	return sess
}

// recall reports whether the entry must not be applied, since it was before or
// since nobody waits for it any more; results is nil in the second case.
func (s sessions) recall(e *command.Entry) (results []byte, over bool) {
	sess := s[e.Session]
	if sess == nil {
		return nil, false
	}
	switch sl := &sess.slots[e.Sequence%command.Window]; {
	case sl.sequence == e.Sequence:
		return sl.results, true
	case e.Sequence < sess.floor || e.Sequence < sl.sequence:
		return nil, true
	}
	return nil, false
}

// remember keeps the results of an entry that has been applied, with which the shard
// has come as far as h.
func (s sessions) remember(b *storage.Batch, shard base.ShardID, e *command.Entry, h head, results []byte) {
	if s[e.Session] == nil && len(s) >= maxSessions {
		s.forgetOldest(b, shard)
	}
	sess := s.get(e.Session)
	sess.floor, sess.index = max(sess.floor, e.Floor), h.index
	at := int(e.Sequence % command.Window)
	sess.slots[at] = slot{e.Sequence, results}
	value := make([]byte, 0, 41+len(results))
	value = wire.AppendUint64(append(value, slotVersion), e.Sequence)
	value = wire.AppendUint64(value, e.Floor)
	value = h.append(value)
	b.Set(shard, storage.KindMeta, slotKey(e.Session, at), append(value, results...))
}

func (s sessions) forgetOldest(b *storage.Batch, shard base.ShardID) {
	oldest, found := uint64(0), false
	for id, sess := range s { // the indexes differ, so the order does not matter
		if !found || sess.index < s[oldest].index {
			oldest, found = id, true
		}
	}
	for at := range s[oldest].slots {
		if s[oldest].slots[at].sequence != 0 {
			b.Unset(shard, storage.KindMeta, slotKey(oldest, at))
		}
	}
	delete(s, oldest)
}
