package fsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/harness"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/fsm"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
	"github.com/distributedcache/cache/storage"
)

// The tests here put known bugs into state machines, around them and not in their
// code, and expect the checkers to find them: replicas that apply one log, in
// which some entries are there twice, as they are when a proposal is repeated
// because nobody heard what became of it.

const theShard = base.ShardID(1)

// orderedLog is the log of a shard: what raft would have decided.
type orderedLog struct {
	mu      sync.Mutex // protects entries
	entries [][]byte   // the one at i has the index i+1
}

// add returns the index of a new entry.
func (l *orderedLog) add(entry []byte) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry)
	return uint64(len(l.entries))
}

// after returns what follows an index.
func (l *orderedLog) after(index uint64) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries[index:len(l.entries):len(l.entries)]
}

// replica is a state machine that applies the log.
type replica struct {
	log     *orderedLog
	store   *storage.Store
	machine *kvfsm.Machine
	sm      statemachine.IOnDiskStateMachine

	mu      sync.Mutex // protects what is below, and is held while applying
	rng     *rand.Rand
	applied uint64
	results map[uint64][]byte
}

func newReplica(t *testing.T, log *orderedLog, rng *rand.Rand) *replica {
	t.Helper()
	r := &replica{log: log, rng: rng, results: map[uint64][]byte{}}
	var err error
	r.store, err = storage.Open(storage.Config{Dir: "/db", FS: vfs.NewMem(), Shards: 2, Durability: storage.Volatile, DiskReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.store.Close() })
	if r.machine, err = kvfsm.Open(r.store, theShard, 0); err != nil {
		t.Fatal(err)
	}
	r.sm = fsm.New(fsm.Config{
		Store: r.store, Shard: theShard, Machine: r.machine, Stopped: make(chan struct{}),
		Failed: func() bool { return false }, Fail: func(err error) { t.Errorf("the machine has failed: %v", err) },
	})
	return r
}

// catchUp applies the rest of the log, in pieces of any size.
func (r *replica) catchUp() error {
	rest := r.log.after(r.applied)
	for len(rest) > 0 {
		n := 1 + r.rng.IntN(len(rest))
		var piece []statemachine.Entry
		for i, cmd := range rest[:n] {
			piece = append(piece, statemachine.Entry{Index: r.applied + uint64(i) + 1, Cmd: bytes.Clone(cmd)})
		}
		done, err := r.sm.Update(piece)
		if err != nil {
			return err
		}
		for _, e := range done {
			r.results[e.Index] = e.Result.Data
		}
		r.applied += uint64(n)
		rest = rest[n:]
	}
	return nil
}

func (r *replica) digest(t *testing.T) [32]byte {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.catchUp(); err != nil {
		t.Fatal(err)
	}
	snap, err := r.store.NewSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	info, err := snap.Export(testkit.Context(t), theShard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return info.Digest
}

// proposer is a harness.Client of one replica. It hears nothing of some of its
// proposals and repeats them.
type proposer struct {
	*replica
	session  uint64
	sequence atomic.Uint64
	repeats  *atomic.Int64
}

func (p *proposer) Get(_ context.Context, key base.Key) ([]byte, base.Version, error) {
	p.mu.Lock()
	err := p.catchUp()
	p.mu.Unlock()
	if err != nil {
		return nil, 0, err
	}
	rec, err := p.store.Space(theShard).Get(key)
	return rec.Value, rec.Version, err
}

func (p *proposer) Put(_ context.Context, key base.Key, value []byte, cond base.Cond) (base.Version, error) {
	return p.propose(base.Write{Key: key, Value: value, Cond: cond})
}

func (p *proposer) Delete(_ context.Context, key base.Key, cond base.Cond) (base.Version, error) {
	return p.propose(base.Write{Kind: base.WriteDelete, Key: key, Cond: cond})
}

func (p *proposer) propose(w base.Write) (base.Version, error) {
	cmd := command.Command{Stamp: base.VersionAt(time.Now()), Writes: []base.Write{w}}
	sequence := p.sequence.Add(1)
	entry := command.AppendEntryHead(nil, p.session, sequence, sequence, 1)
	entry, _ = command.AppendEntryCommand(entry, nil, &cmd)
	index := p.log.add(entry)
	p.mu.Lock()
	repeat := p.rng.IntN(10) == 0
	p.mu.Unlock()
	if repeat {
		time.Sleep(100 * time.Microsecond) // others come in between
		p.repeats.Add(1)
		index = p.log.add(entry)
	}
	p.mu.Lock()
	err := p.catchUp()
	data := p.results[index]
	p.mu.Unlock()
	var res command.Result
	if err := errors.Join(err, command.DecodeResults(data, []*command.Result{&res})); err != nil {
		return 0, err
	}
	if res.Status == command.StatusMismatch {
		return 0, &base.VersionError{Key: w.Key, Want: w.Cond.Version, Have: res.Versions[0]}
	}
	return res.Versions[0], nil
}

// race lets clients of all replicas race on a few keys and returns the history.
func race(t *testing.T, rng *rand.Rand, replicas []*replica, ops int) harness.History {
	t.Helper()
	w := harness.Workload{Clients: 9, Keys: harness.Keys(12), Ops: ops, Rand: testkit.Fork(rng)}
	rec := harness.NewRecorder(w.Ops + len(w.Keys))
	repeats := new(atomic.Int64)
	connect := func(i int) harness.Client {
		return &proposer{replica: replicas[i%len(replicas)], session: rng.Uint64(), repeats: repeats}
	}
	ctx := testkit.Context(t)
	w.Run(ctx, rec, connect)
	if err := w.ReadFinally(ctx, rec, connect(0)); err != nil {
		t.Fatal(err)
	}
	h := rec.History()
	t.Logf("%v, %d proposals were repeated", h.Stats(), repeats.Load())
	if repeats.Load() < int64(ops/100) {
		t.Errorf("only %d proposals were repeated", repeats.Load())
	}
	return h
}

func newReplicas(t *testing.T, rng *rand.Rand) []*replica {
	log := &orderedLog{}
	var replicas []*replica
	for range 3 {
		replicas = append(replicas, newReplica(t, log, testkit.Fork(rng)))
	}
	return replicas
}

// differing returns how many replicas are not like the first.
func differing(t *testing.T, replicas []*replica) (n int) {
	t.Helper()
	want := replicas[0].digest(t)
	for _, r := range replicas[1:] {
		if r.digest(t) != want {
			n++
		}
	}
	return n
}

// TestRepeatedProposals: what is proposed twice is applied once, and the replicas
// are equal.
func TestRepeatedProposals(t *testing.T) {
	rng := testkit.Rand(t)
	replicas := newReplicas(t, rng)
	h := race(t, rng, replicas, 4000)
	if err := errors.Join(harness.CheckSessions(h), harness.CheckLinear(h, harness.LinearConfig{Dir: t.ArtifactDir()})); err != nil {
		t.Error(err)
	}
	if n := differing(t, replicas); n > 0 {
		t.Errorf("%d replicas are not like the first", n)
	}
}

// noDedupe is a state machine that does not know an entry again: to it each one
// comes from a session of its own.
type noDedupe struct {
	statemachine.IOnDiskStateMachine
}

func (m noDedupe) Update(entries []statemachine.Entry) ([]statemachine.Entry, error) {
	for i := range entries {
		e, err := command.DecodeEntry(entries[i].Cmd)
		if err != nil {
			return nil, err
		}
		cmd := command.AppendEntryHead(nil, entries[i].Index, e.Sequence, e.Floor, len(e.Commands))
		for j := range e.Commands {
			cmd, _ = command.AppendEntryCommand(cmd, nil, &e.Commands[j])
		}
		entries[i].Cmd = cmd
	}
	return m.IOnDiskStateMachine.Update(entries)
}

// TestNoDedupeIsFound: replicas that apply repeated proposals again agree with one
// another, and the history tells.
func TestNoDedupeIsFound(t *testing.T) {
	rng := testkit.Rand(t)
	replicas := newReplicas(t, rng)
	for _, r := range replicas {
		r.sm = noDedupe{r.sm}
	}
	h := race(t, rng, replicas, 4000)
	var fault *harness.LinearError
	if err := harness.CheckLinear(h, harness.LinearConfig{}); !errors.As(err, &fault) {
		t.Errorf("repeated proposals were applied twice, and the check of linearizability says %v", err)
	}
	if err := harness.CheckSessions(h); err == nil {
		t.Error("repeated proposals were applied twice, and no rule of sessions is broken")
	}
	if n := differing(t, replicas); n > 0 {
		t.Errorf("%d replicas are not like the first", n)
	}
}

// noIndex is a state machine that takes over what a snapshot holds, and not up to
// where in the log that is.
type noIndex struct {
	statemachine.IOnDiskStateMachine
	store *storage.Store
}

func (m noIndex) RecoverFromSnapshot(r io.Reader, _ <-chan struct{}) error {
	_, err := m.store.Import(context.Background(), theShard, r)
	return err
}

// recoverFrom replaces what a replica has by a snapshot of another one. It goes on
// behind the snapshot, or from where its machine says that it is.
func (r *replica) recoverFrom(t *testing.T, other *replica, behind bool) {
	t.Helper()
	other.mu.Lock()
	at := other.applied
	prepared, err := other.sm.PrepareSnapshot()
	other.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if err := other.sm.SaveSnapshot(prepared, &stream, nil); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.sm.RecoverFromSnapshot(&stream, nil); err != nil {
		t.Fatal(err)
	}
	if r.applied = r.machine.Index(); behind {
		r.applied = at
	}
}

// TestSnapshotWithoutIndexIsFound: a replica that lags behind gets a snapshot. If it
// takes over the index, it is equal to the others afterwards. If not, and it
// applies entries that are in the snapshot already, or goes on behind it with what
// it remembers from before, the digests tell.
func TestSnapshotWithoutIndexIsFound(t *testing.T) {
	for _, c := range []struct {
		name           string
		broken, behind bool
	}{
		{"sound", false, false},
		{"applies entries again", true, false},
		{"goes on behind the snapshot", true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := testkit.Rand(t)
			replicas := newReplicas(t, rng)
			late := replicas[2]
			if c.broken {
				late.sm = noIndex{late.sm, late.store}
			}
			race(t, rng, replicas, 1000)
			late.digest(t)
			race(t, rng, replicas[:2], 300) // which is later than what is late
			replicas[0].digest(t)
			if late.applied == replicas[0].applied {
				t.Fatal("nobody is late")
			}
			late.recoverFrom(t, replicas[0], c.behind)
			if same := late.machine.Index() == replicas[0].machine.Index(); same == c.broken {
				t.Errorf("the replica is at %d, the snapshot at %d", late.machine.Index(), replicas[0].machine.Index())
			}
			p := &proposer{replica: replicas[1], session: 1, repeats: new(atomic.Int64)}
			for i := range 20 {
				if _, err := p.Put(testkit.Context(t), harness.Keys(12)[i%12], fmt.Appendf(nil, "after %d", i), base.Cond{}); err != nil {
					t.Fatal(err)
				}
			}
			if n := differing(t, replicas); (n > 0) != c.broken {
				t.Errorf("%d replicas are not like the first", n)
			}
		})
	}
}
