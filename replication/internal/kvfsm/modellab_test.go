package kvfsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/storage"
)

// lab answers what a real Machine does in a state that it came to by some
// commands. Shards do not know of each other and are deterministic, so each
// answer is worked out once, however many interleavings ask for it. That is what
// makes it possible to explore all of them with the real code.
type lab struct {
	t      testing.TB
	store  *storage.Store
	shard  base.ShardID // the next one of the store that nobody has used
	states []labState
	known  map[string]int32 // states by their dump
	next   map[labKey]labNext

	results []command.Result
	resultN map[string]int32
	moved   int // states that went through Export and Import
}

// labState is a state of a shard, and one way to it.
type labState struct {
	path  []labStep
	dump  string
	facts facts
}

// labStep is what a shard is told: an entry of the log, a command of one, or that
// it loses entries of a space, which a sound one never does.
type labStep struct {
	id    stepID
	entry *command.Entry
	cmd   *command.Command
	drop  func(b *storage.Batch, shard base.ShardID, space storage.Space) error
}

// stepID tells the steps of a model apart.
type stepID struct {
	kind  byte
	try   uint8
	part  uint8 // of the try
	stamp base.Version
	at    base.Version
	reads [maxParts]base.Version
}

type labKey struct {
	state int32
	id    stepID
}

type labNext struct {
	state, result int32
}

// facts is what a state means.
type facts struct {
	clock    base.Version
	held     map[uint8]base.Version // by try; what the prepare was answered
	writes   map[string]uint8       // which of them is about to write a key
	outcomes map[uint8]base.Version // decided tries that the anchor remembers
	records  map[string]storage.Record
	request  *command.Remembered
}

const (
	labShards  = 1000
	theRequest = 200 // first byte of the one request id in a model
)

func newLab(t testing.TB) *lab {
	l := &lab{t: t, known: map[string]int32{}, next: map[labKey]labNext{}, resultN: map[string]int32{}, shard: labShards}
	t.Cleanup(func() { _ = l.store.Close() })
	m := l.fresh()
	l.intern(m, nil)
	return l
}

func openLab(t testing.TB) *storage.Store {
	store, err := storage.Open(storage.Config{
		Dir: "/db", FS: vfs.NewMem(), Shards: labShards, Durability: storage.Volatile, DiskReserveBytes: -1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// fresh returns the machine of an empty shard.
func (l *lab) fresh() *Machine {
	if l.shard == labShards {
		if l.store != nil {
			_ = l.store.Close()
		}
		l.store, l.shard = openLab(l.t), 0
	}
	m, err := Open(l.store, l.shard, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	l.shard++
	return m
}

// step returns the state after a step, and the number of the result. An error is
// one of the machine, which no sequence of steps may lead to.
func (l *lab) step(state int32, s labStep) (int32, *command.Result, error) {
	key := labKey{state, s.id}
	if n, found := l.next[key]; found {
		return n.state, &l.results[n.result], nil
	}
	path := append(slices.Clone(l.states[state].path), s)
	m := l.fresh()
	res, err := l.run(m, path)
	if err != nil {
		return 0, nil, err
	}
	n := labNext{l.intern(m, path), l.result(res)}
	if s.drop == nil {
		l.again(path, n, res)
	}
	l.next[key] = n
	return n.state, &l.results[n.result], nil
}

// again takes the same steps, but opens the machine anew before the last: that
// makes no difference.
func (l *lab) again(path []labStep, want labNext, res command.Result) {
	l.t.Helper()
	m := l.fresh()
	last := len(path) - 1
	_, err := l.run(m, path[:last])
	if err == nil {
		err = m.Load(0)
	}
	var other command.Result
	if err == nil {
		other, err = l.run(m, path[last:])
	}
	if err != nil {
		l.t.Fatal(err)
	}
	if dump := l.dump(m); dump != l.states[want.state].dump || l.result(other) != want.result {
		l.t.Fatalf("a machine that was opened anew before %+v differs:\n%+v\n%s\nwant\n%+v\n%s",
			path[last].id, other, dump, res, l.states[want.state].dump)
	}
}

// run takes steps and returns the result of the last.
func (l *lab) run(m *Machine, path []labStep) (res command.Result, err error) {
	b := l.store.NewBatch()
	defer func() {
		err = errors.Join(err, b.Apply())
		b.Release()
		m.Publish()
	}()
	for _, s := range path {
		switch {
		case s.drop != nil:
			if err = l.lose(b, m, s); err == nil {
				b = l.store.NewBatch()
			}
		case s.entry != nil:
			var buf []byte
			if buf, err = m.ApplyEntry(b, s.entry, m.Index()+1); err == nil {
				err = command.DecodeResults(buf, []*command.Result{&res})
			}
		default:
			err = m.Apply(b, s.cmd, &res)
			m.index.Add(1)
			m.saveHead(b)
		}
		if err != nil {
			return res, fmt.Errorf("%+v: %w", s.id, err)
		}
	}
	return res, nil
}

// lose lets the shard lose entries, as if a snapshot had not had them.
func (l *lab) lose(b *storage.Batch, m *Machine, s labStep) error {
	m.saveHead(b)
	err := b.Apply()
	b.Release()
	lost := l.store.NewBatch()
	err = errors.Join(err, s.drop(lost, m.Shard(), l.store.Space(m.Shard())), lost.Apply())
	lost.Release()
	return errors.Join(err, m.Load(0))
}

func (l *lab) result(res command.Result) int32 {
	key := fmt.Sprint(res)
	i, found := l.resultN[key]
	if !found {
		i = int32(len(l.results))
		l.resultN[key] = i
		res.Versions, res.Failed = slices.Clone(res.Versions), slices.Clone(res.Failed)
		l.results = append(l.results, res)
	}
	return i
}

// intern returns the number of the state that the machine is in.
func (l *lab) intern(m *Machine, path []labStep) int32 {
	dump := l.dump(m)
	i, found := l.known[dump]
	if !found {
		i = int32(len(l.states))
		l.known[dump] = i
		l.states = append(l.states, labState{path: path, dump: dump, facts: l.facts(m)})
		if i%64 == 1 {
			l.move(m, dump)
		}
	}
	return i
}

// move takes the shard to another store, as when a replica is made.
func (l *lab) move(m *Machine, want string) {
	l.moved++
	var buf bytes.Buffer
	sn, err := l.store.NewSnapshot()
	if err == nil {
		_, err = sn.Export(context.Background(), m.Shard(), &buf)
		sn.Close()
	}
	other := &lab{t: l.t, store: openLab(l.t)}
	defer other.store.Close()
	var moved *Machine
	if err == nil {
		_, err = other.store.Import(context.Background(), m.Shard(), &buf)
	}
	if err == nil {
		moved, err = Open(other.store, m.Shard(), 0)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	if dump := other.dump(moved); dump != want {
		l.t.Fatalf("a shard that was moved differs:\n%s\nwant\n%s", dump, want)
	}
}

// dump returns everything that the shard has, but for counts of what was applied:
// they only ever are compared.
func (l *lab) dump(m *Machine) string {
	var out strings.Builder
	space := l.store.Space(m.Shard())
	fmt.Fprintf(&out, "clock %d", m.Clock())
	for _, kind := range []storage.Kind{storage.KindMeta, storage.KindTxn, storage.KindRequest} {
		for kv, err := range space.Values(kind, nil, 0) {
			if err != nil {
				l.t.Fatal(err)
			}
			switch {
			case kind == storage.KindMeta && bytes.Equal(kv.Key, headKey()):
				continue
			case kind == storage.KindMeta && kv.Key[0] == sessionPrefix:
				clear(kv.Value[17:41]) // the head
			}
			fmt.Fprintf(&out, "\n%d %x=%x", kind, kv.Key, kv.Value)
		}
	}
	records := l.records(m)
	for _, key := range slices.Sorted(maps.Keys(records)) {
		fmt.Fprintf(&out, "\n%s=%+v", key, records[key])
	}
	return out.String()
}

func (l *lab) records(m *Machine) map[string]storage.Record {
	found := map[string]storage.Record{}
	for _, key := range modelKeys {
		rec, err := l.store.Space(m.Shard()).Get(base.K(key, ""))
		if err != nil {
			l.t.Fatal(err)
		}
		if rec.Exists() {
			found[key] = rec
		}
	}
	return found
}

func (l *lab) facts(m *Machine) facts {
	f := facts{
		clock: m.Clock(), held: map[uint8]base.Version{}, writes: map[string]uint8{}, outcomes: map[uint8]base.Version{},
		records: l.records(m),
	}
	for id, t := range m.holds.byTxn {
		f.held[id[0]] = t.cmd.Step.At
		for i := range t.cmd.Writes {
			f.writes[t.cmd.Writes[i].Key.Primary] = id[0]
		}
	}
	decided, err := Outcomes(l.store.Space(m.Shard()), 100)
	for _, d := range decided {
		f.outcomes[d.Txn[0]] = d.At
	}
	found := false
	if err == nil {
		f.request, found, err = Lookup(l.store.Space(m.Shard()), txnID(theRequest))
	}
	if err != nil {
		l.t.Fatal(err)
	}
	if !found {
		f.request = nil
	}
	return f
}
