package logstore

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/testkit"
)

// oracle is what the log of one shard should hold, in the plainest way.
type oracle struct {
	saved    bool
	state    raftpb.State
	entries  []raftpb.Entry
	snapshot uint64
	removed  uint64 // entries up to here were asked to be removed
}

// last is the index of the last entry, or that before the first one to come.
func (o *oracle) last() uint64 {
	if len(o.entries) > 0 {
		return o.entries[len(o.entries)-1].Index
	}
	return max(o.snapshot, o.removed)
}

func (o *oracle) apply(u raftpb.Update) {
	if !raftpb.IsEmptyState(u.State) {
		o.saved, o.state = true, u.State
	}
	if !raftpb.IsEmptySnapshot(u.Snapshot) {
		o.snapshot, o.entries = u.Snapshot.Index, nil
	}
	if len(u.EntriesToSave) > 0 {
		kept := slices.IndexFunc(o.entries, func(e raftpb.Entry) bool { return e.Index == u.EntriesToSave[0].Index })
		if kept < 0 {
			kept = len(o.entries)
		}
		o.entries = append(slices.Clip(o.entries[:kept]), u.EntriesToSave...)
	}
}

func (o *oracle) removeTo(index uint64) {
	o.removed = max(o.removed, min(index, o.last()))
	o.entries = slices.DeleteFunc(slices.Clone(o.entries), func(e raftpb.Entry) bool { return e.Index <= index })
}

// check compares a shard of a store with the oracle. What lies before the
// snapshot or was to be removed may be there or not.
func (o *oracle) check(db raftio.ILogDB, shard uint64) error {
	rs, err := db.ReadRaftState(shard, 1, max(o.snapshot, o.removed+1))
	if !o.saved {
		if err != raftio.ErrNoSavedLog {
			return fmt.Errorf("shard %d: state %+v, error %v; none was saved", shard, rs, err)
		}
		return nil
	}
	if err != nil || rs.State != o.state {
		return fmt.Errorf("shard %d: state %+v, error %w; want %+v", shard, rs.State, err, o.state)
	}
	if n := uint64(len(o.entries)); n > 0 && rs.EntryCount > 0 && rs.FirstIndex+rs.EntryCount-1 != o.last() {
		return fmt.Errorf("shard %d: entries from %d on are %d, want up to %d", shard, rs.FirstIndex, rs.EntryCount, o.last())
	}
	low := o.last() + 1
	if len(o.entries) > 0 {
		low = o.entries[0].Index
	}
	got, _, err := db.IterateEntries(nil, 0, shard, 1, low, low+uint64(len(o.entries))+100, math.MaxUint64)
	if err != nil || len(got) != len(o.entries) || (len(got) > 0 && !reflect.DeepEqual(got, o.entries)) {
		return fmt.Errorf("shard %d: entries from %d: %v, error %w; want %v", shard, low, indexes(got), err, indexes(o.entries))
	}
	snapshot, err := db.GetSnapshot(shard, 1)
	if err != nil || snapshot.Index != o.snapshot {
		return fmt.Errorf("shard %d: snapshot at %d, error %w; want %d", shard, snapshot.Index, err, o.snapshot)
	}
	return nil
}

// indexes shows entries as term:index.
func indexes(list []raftpb.Entry) (s []string) {
	for _, e := range list {
		s = append(s, fmt.Sprintf("%d:%d", e.Term, e.Index))
	}
	return s
}

// firstCommit is behind all snapshots: raft takes none of what is not committed.
const firstCommit = 1 << 40

// stepOf returns the number of the step that a state is of.
func stepOf(s raftpb.State) uint64 { return s.Commit - min(firstCommit, s.Commit) }

// step makes up the next update of a shard, as raft could want it. Its number is in
// the commit index.
func (o *oracle) step(rng *rand.Rand, shard, number uint64) raftpb.Update {
	u := update(shard, o.state, nil)
	u.State.Commit = firstCommit + number
	switch rng.IntN(12) {
	case 0:
		u.State.Term++
		u.State.Vote = rng.Uint64N(3)
	case 1: // a new leader has another suffix
		u.State.Term++
		// What a snapshot covers was committed, and no leader has another.
		open := slices.DeleteFunc(slices.Clone(o.entries), func(e raftpb.Entry) bool { return e.Index <= o.snapshot })
		if n := len(open); n > 0 {
			first := open[rng.IntN(n)].Index
			u.EntriesToSave = entries(u.State.Term, first, first+rng.Uint64N(3))
		}
	case 2:
		u.Snapshot = snapshotAt(shard, o.last()+1+rng.Uint64N(20))
		if rng.IntN(2) == 0 {
			u.EntriesToSave = entries(max(1, u.State.Term), u.Snapshot.Index+1, u.Snapshot.Index+3)
		}
	case 3:
	default:
		u.EntriesToSave = entries(max(1, u.State.Term), o.last()+1, o.last()+1+rng.Uint64N(6))
		u.EntriesToSave[0].Cmd = testkit.Bytes(rng, 1+rng.IntN(600))
	}
	if u.State.Term == 0 {
		u.State.Term = 1
	}
	return u
}

func TestRandomOperationsMatchTheOracle(t *testing.T) {
	const shards = 5
	rng := testkit.Rand(t)
	fs := vfs.NewMem()
	cfg := memConfig(fs)
	cfg.MemTableBytes = 64 << 10
	s := mustOpen(t, cfg)
	model := make([]oracle, shards)
	for i := range uint64(4000) {
		shard := rng.Uint64N(shards)
		o := &model[shard]
		switch rng.IntN(20) {
		case 0:
			index := o.removed + rng.Uint64N(o.last()-o.removed+1)
			must(t, s.RemoveEntriesTo(shard, 1, index))
			o.removeTo(index)
		case 1:
			if rng.IntN(5) == 0 {
				must(t, s.RemoveNodeData(shard, 1))
				*o = oracle{}
			}
		case 2:
			if index := o.snapshot + rng.Uint64N(5); index > o.snapshot && index <= o.last() {
				must(t, s.SaveSnapshots([]raftpb.Update{{ShardID: shard, ReplicaID: 1, Snapshot: snapshotAt(shard, index)}}))
				o.snapshot = index
			}
		case 3:
			_, err := s.CompactEntriesTo(shard, 1, o.removed)
			must(t, err)
		case 4:
			if rng.IntN(20) == 0 {
				must(t, s.Close())
				s = mustOpen(t, cfg)
			}
		default:
			u := o.step(rng, shard, i)
			save(t, s, u)
			o.apply(u)
		}
		if err := o.check(s, shard); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	for shard := range uint64(shards) {
		must(t, model[shard].check(s, shard))
	}
}

// history is what a worker has asked for on its shards and what it was
// promised. Every step carries its number as the commit index of each shard.
type history struct {
	shards []uint64
	mu     sync.Mutex
	steps  [][]raftpb.Update
	// removed[i] is what was asked to be removed of shard i, at most.
	removed []uint64
	floor   uint64 // the last step that must be found
}

func newHistory(worker int) *history {
	h := &history{shards: []uint64{uint64(worker), uint64(worker) + 10, uint64(worker) + 20}}
	h.removed = make([]uint64, len(h.shards))
	return h
}

func (h *history) promised() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.floor
}

// work saves step after step until more says stop. acked is asked after each
// call whether that counts as a promise.
func (h *history) work(t *testing.T, s *Store, rng *rand.Rand, worker int, more, acked func() bool) {
	model := make([]oracle, len(h.shards))
	for k := uint64(1); more(); k++ {
		var updates []raftpb.Update
		durable := false
		for i, shard := range h.shards {
			u := model[i].step(rng, shard, k)
			durable = durable || len(u.EntriesToSave) > 0 || !raftpb.IsEmptySnapshot(u.Snapshot) ||
				u.State.Term != model[i].state.Term || u.State.Vote != model[i].state.Vote
			model[i].apply(u)
			updates = append(updates, u)
		}
		h.mu.Lock()
		h.steps = append(h.steps, updates)
		h.mu.Unlock()
		if err := s.SaveRaftState(updates, uint64(worker+1)); err != nil {
			t.Errorf("save: %v", err)
			return
		}
		if durable && acked() {
			h.mu.Lock()
			h.floor = k
			h.mu.Unlock()
		}
		if i := rng.IntN(len(h.shards)); rng.IntN(20) == 0 {
			h.remove(t, s, rng, i, &model[i])
		}
	}
}

func (h *history) remove(t *testing.T, s *Store, rng *rand.Rand, i int, o *oracle) {
	index := rng.Uint64N(o.last() + 1)
	h.mu.Lock()
	h.removed[i] = max(h.removed[i], index)
	h.mu.Unlock()
	if err := s.RemoveEntriesTo(h.shards[i], 1, index); err != nil {
		t.Errorf("remove: %v", err)
	}
	o.removeTo(index)
}

// check compares a store that was opened after a crash with the history: all
// shards must be at one and the same step, which is not before floor.
func (h *history) check(s *Store, floor uint64) error {
	h.mu.Lock()
	steps, removed := slices.Clip(h.steps), slices.Clone(h.removed)
	h.mu.Unlock()
	var found uint64
	for i, shard := range h.shards {
		rs, err := s.ReadRaftState(shard, 1, 0)
		if err == raftio.ErrNoSavedLog {
			err = nil
		}
		at := stepOf(rs.State)
		if err != nil || (i > 0 && at != found) {
			return fmt.Errorf("shard %d is at step %d, error %w; another one of its batch at %d", shard, at, err, found)
		}
		found = at
	}
	if found < floor || found > uint64(len(steps)) {
		return fmt.Errorf("shards %v are at step %d; %d was promised, %d tried", h.shards, found, floor, len(steps))
	}
	for i, shard := range h.shards {
		var o oracle
		for _, updates := range steps[:found] {
			o.apply(updates[i])
		}
		o.removeTo(removed[i])
		if err := o.check(s, shard); err != nil {
			return fmt.Errorf("at step %d of %d: %w", found, len(steps), err)
		}
	}
	return nil
}
