package ask

import (
	"fmt"
	"math"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// AnswerVersion is the version of the binary form of all answers, the first byte
// of each.
const AnswerVersion = 1

// Mark is the newest version that removed a key of a shard, as it was before the
// data that came with it was read: as long as it stays, what was absent is.
type Mark struct {
	Shard   base.ShardID
	Removed base.Version
}

// Page is the answer to Get, and each piece of the answer to Scan.
type Page struct {
	Marks []Mark
	Items []base.Item
}

// Append appends version u8 | count, marks | count, items:
//
//	mark: shard uvarint | removed u64
//	item: key | version u64 | expires u64 (microseconds, 0 = never) | value
func (p *Page) Append(buf []byte) []byte {
	buf = wire.AppendUvarint(append(buf, AnswerVersion), uint64(len(p.Marks)))
	for _, m := range p.Marks {
		buf = wire.AppendUint64(wire.AppendUvarint(buf, uint64(m.Shard)), uint64(m.Removed))
	}
	buf = wire.AppendUvarint(buf, uint64(len(p.Items)))
	for i := range p.Items {
		it := &p.Items[i]
		buf = wire.AppendUint64(appendKey(buf, it.Key), uint64(it.Version))
		expires := uint64(0)
		if !it.ExpiresAt.IsZero() {
			expires = uint64(base.VersionAt(it.ExpiresAt))
		}
		buf = wire.AppendBytes(wire.AppendUint64(buf, expires), it.Value)
	}
	return buf
}

// DecodePage is the inverse of Append. The values are copies, so that one that is
// kept does not keep the whole page.
func DecodePage(buf []byte) (*Page, error) {
	r, err := open(buf)
	if err != nil {
		return nil, err
	}
	p := &Page{}
	for range r.Count(base.MaxShards+1, 9) {
		p.Marks = append(p.Marks, Mark{Shard: readShard(r), Removed: base.Version(r.Uint64())})
	}
	n := r.Count(maxKeys, 19)
	if n > 0 {
		p.Items = make([]base.Item, 0, n)
	}
	for range n {
		it := base.Item{Key: readKey(r), Version: base.Version(r.Uint64())}
		switch expires := r.Uint64(); {
		case expires > math.MaxInt64:
			r.Fail("expiry %d", expires)
		case expires != 0:
			it.ExpiresAt = base.Version(expires).Time()
		}
		value := r.Bytes(base.HardMaxValueBytes)
		if it.Version != 0 {
			it.Value = append(make([]byte, 0, len(value)), value...)
		}
		p.Items = append(p.Items, it)
	}
	return p, closed(r, "page")
}

// Verdict is the answer to Outcome and Check: yes or no, and a version: that of
// the transaction, or the mark of the shard.
type Verdict struct {
	Yes     bool
	Version base.Version
}

// Append appends version u8 | yes u8 | version u64.
func (v Verdict) Append(buf []byte) []byte {
	yes := byte(0)
	if v.Yes {
		yes = 1
	}
	return wire.AppendUint64(append(buf, AnswerVersion, yes), uint64(v.Version))
}

// DecodeVerdict is the inverse of Append.
func DecodeVerdict(buf []byte) (v Verdict, err error) {
	r, err := open(buf)
	if err != nil {
		return v, err
	}
	switch r.Byte() {
	case 0:
	case 1:
		v.Yes = true
	default:
		r.Fail("neither yes nor no")
	}
	v.Version = base.Version(r.Uint64())
	return v, closed(r, "verdict")
}

// Member is a replica of a shard and the node that it is on.
type Member struct {
	Replica uint64
	Node    string
}

// Replica is what a node knows of one of its replicas.
type Replica struct {
	Shard      base.ShardID
	Replica    uint64
	Leader     uint64 // 0 = nobody, as far as is known
	LeaderNode string
	Term       uint64
	Applied    uint64 // index of the newest entry that was applied
	Clock      base.Version
	// What follows is known to the leader only. Removed are the ids that the group
	// has had and takes never again.
	Voters, Learners []Member
	Removed          []uint64
	ConfigChange     uint64
}

const (
	maxMembers = 64
	maxRemoved = 1 << 16 // one for each move of a replica of the shard, ever
	maxStates  = base.MaxShards + 1
)

// AppendStatus appends version u8 | count | replicas:
//
//	shard uvarint | replica, leader u64 | leader node string | term, applied,
//	clock, config change u64 | count, voters | count, learners | count, removed u64
//	member: replica u64 | node string
func AppendStatus(buf []byte, states []Replica) []byte {
	buf = wire.AppendUvarint(append(buf, AnswerVersion), uint64(len(states)))
	for i := range states {
		s := &states[i]
		buf = wire.AppendUvarint(buf, uint64(s.Shard))
		buf = wire.AppendUint64(wire.AppendUint64(buf, s.Replica), s.Leader)
		buf = wire.AppendString(buf, s.LeaderNode)
		for _, n := range []uint64{s.Term, s.Applied, uint64(s.Clock), s.ConfigChange} {
			buf = wire.AppendUint64(buf, n)
		}
		buf = appendMembers(appendMembers(buf, s.Voters), s.Learners)
		buf = wire.AppendUvarint(buf, uint64(len(s.Removed)))
		for _, id := range s.Removed {
			buf = wire.AppendUint64(buf, id)
		}
	}
	return buf
}

func appendMembers(buf []byte, members []Member) []byte {
	buf = wire.AppendUvarint(buf, uint64(len(members)))
	for _, m := range members {
		buf = wire.AppendString(wire.AppendUint64(buf, m.Replica), m.Node)
	}
	return buf
}

// DecodeStatus is the inverse of AppendStatus.
func DecodeStatus(buf []byte) ([]Replica, error) {
	r, err := open(buf)
	if err != nil {
		return nil, err
	}
	var states []Replica
	for range r.Count(maxStates, 53) {
		s := Replica{Shard: readShard(r), Replica: r.Uint64(), Leader: r.Uint64(), LeaderNode: r.String(maxNodeBytes)}
		s.Term, s.Applied, s.Clock, s.ConfigChange = r.Uint64(), r.Uint64(), base.Version(r.Uint64()), r.Uint64()
		s.Voters, s.Learners = readMembers(r), readMembers(r)
		for range r.Count(maxRemoved, 8) {
			s.Removed = append(s.Removed, r.Uint64())
		}
		states = append(states, s)
	}
	return states, closed(r, "status")
}

func readMembers(r *wire.Reader) (members []Member) {
	for range r.Count(maxMembers, 9) {
		members = append(members, Member{Replica: r.Uint64(), Node: r.String(maxNodeBytes)})
	}
	return members
}

// open begins to read an answer.
func open(buf []byte) (*wire.Reader, error) {
	r := wire.NewReader(buf)
	if v := r.Byte(); r.Err() == nil && v != AnswerVersion {
		return nil, fmt.Errorf("%w: answer of version %d, known is %d", base.ErrUnavailable, v, AnswerVersion)
	}
	return r, nil
}

func closed(r *wire.Reader, what string) error {
	if err := r.Close(); err != nil {
		return fmt.Errorf("%w: %s from another node: %w", base.ErrUnavailable, what, err)
	}
	return nil
}
