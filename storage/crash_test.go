package storage

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/invariants"
	"github.com/distributedcache/cache/internal/testkit"
)

// crashPoints is how many power losses one history goes through. All copies
// of the disk are held in memory until it ends.
func crashPoints() int {
	if testing.Short() || invariants.Enabled {
		return 100
	}
	return 350
}

// crashRounds is how many histories each durability goes through; the
// environment variable STORAGE_CRASH_ROUNDS sets another number.
func crashRounds(t *testing.T) int {
	if s := os.Getenv("STORAGE_CRASH_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if testing.Short() || invariants.Enabled {
		return 1
	}
	return 3
}

// crashLog is a history of batches. Batch n can be derived from the seed and
// n alone, so the state after any number of batches can be computed.
type crashLog struct {
	seed uint64
	// keep says that nothing is deleted, which would give the engine reason
	// to compact by itself.
	keep bool
}

type crashOp struct {
	shard  base.ShardID
	key    base.Key
	rec    Record
	delete bool
}

// ops returns what batch n does: up to ten writes on any shards.
func (l crashLog) ops(n int) (ops []crashOp) {
	r := rand.New(rand.NewPCG(l.seed, uint64(n)))
	for i := range 1 + r.IntN(10) {
		op := crashOp{shard: base.ShardID(r.IntN(4)), key: testKey(r.IntN(60)), delete: r.IntN(5) == 0 && !l.keep}
		op.rec = Record{Version: base.Version(n*100 + i + 1), Value: testkit.Bytes(r, r.IntN(3000))}
		if r.IntN(4) == 0 {
			op.rec.ExpiresAt = 1 + r.Uint64N(50)
		}
		ops = append(ops, op)
	}
	return ops
}

func (l crashLog) write(s *Store, n int) error {
	return write(s, func(b *Batch) {
		for _, op := range l.ops(n) {
			if op.delete {
				b.Delete(op.shard, op.key)
			} else {
				b.Put(op.shard, op.key, op.rec)
			}
		}
		b.Set(0, KindMeta, []byte("applied"), binary.BigEndian.AppendUint64(nil, uint64(n+1)))
	})
}

// applied returns how many batches a store has.
func (l crashLog) applied(s *Store) (int, error) {
	v, found, err := s.Space(0).Value(KindMeta, []byte("applied"))
	if err != nil || !found {
		return 0, err
	}
	return int(binary.BigEndian.Uint64(v)), nil
}

// crashModel is the state after the batches so far, advanced one by one.
type crashModel struct {
	log    crashLog
	n      int
	shards [4]map[base.Key]Record
}

func (m *crashModel) advance(to int) {
	for ; m.n < to; m.n++ {
		for _, op := range m.log.ops(m.n) {
			if m.shards[op.shard] == nil {
				m.shards[op.shard] = map[base.Key]Record{}
			}
			if op.delete {
				delete(m.shards[op.shard], op.key)
			} else {
				m.shards[op.shard][op.key] = op.rec
			}
		}
	}
}

// compare returns how a store differs from the model.
func (m *crashModel) compare(s *Store) error {
	sn, err := s.NewSnapshot()
	if err != nil {
		return err
	}
	defer func() { _ = sn.Close() }()
	sc := sn.Scan()
	defer func() { _ = sc.Close() }()
	for shard, want := range m.shards {
		items, _, err := sc.Page(nil, PageRequest{Shard: base.ShardID(shard)})
		if err != nil {
			return err
		}
		if len(items) != len(want) {
			return fmt.Errorf("shard %d has %d items after %d batches, want %d", shard, len(items), m.n, len(want))
		}
		for _, it := range items {
			if rec := want[it.Key]; rec.Version != it.Version || string(rec.Value) != string(it.Value) {
				return fmt.Errorf("shard %d, %v: version %d after %d batches, want %d", shard, it.Key, it.Version, m.n, rec.Version)
			}
		}
	}
	return nil
}

// crashPoint is one power loss: a copy of the disk, and which batches had
// been promised and begun by then.
type crashPoint struct {
	fs              *vfs.MemFS
	percent         int
	promised, begun int
}

// TestPowerLoss writes, and takes copies of the disk at random moments with
// none, half or all of what was not synced. Each must open, hold every batch
// that was promised to be durable, and exactly the batches up to some one.
func TestPowerLoss(t *testing.T) {
	for _, durability := range []Durability{Synced, Relaxed, Volatile} {
		t.Run(durability.String(), func(t *testing.T) {
			r := testkit.Rand(t)
			losses, batches, lost := 0, 0, 0
			for range crashRounds(t) {
				log := crashLog{seed: r.Uint64()}
				points := crashRun(t, log, durability)
				model := &crashModel{log: log}
				for i, p := range points {
					lost += p.begun - checkCrashPoint(t, model, p, durability)
					points[i].fs = nil
				}
				losses += len(points)
				batches += points[len(points)-1].begun
			}
			t.Logf("%d power losses over %d batches, %d unpromised batches lost", losses, batches, lost)
			if durability != Synced && lost == 0 {
				t.Error("nothing was ever lost: the test tests nothing")
			}
		})
	}
}

// crashRun writes batches and takes crash points; a second goroutine takes
// them too, in the middle of writes. Their promises never go back.
func crashRun(t *testing.T, log crashLog, durability Durability) []crashPoint {
	mem := vfs.NewCrashableMem()
	cfg := memConfig(mem)
	cfg.Durability = durability
	s := mustOpen(t, cfg)
	var promised, begun atomic.Int64
	found := make([]crashPoint, 0, crashPoints())
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		r := testkit.NewRand(log.seed)
		for len(found) < cap(found) {
			p := crashPoint{percent: 50 * r.IntN(3), promised: int(promised.Load())}
			p.fs = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: p.percent, RNG: r})
			p.begun = int(begun.Load())
			found = append(found, p)
			// Go on when the writer has.
			for begun.Load() < int64(p.begun)+1+r.Int64N(3) {
				select {
				case <-stop:
					return
				default:
				}
			}
		}
	}()
	defer close(stop)
	r := testkit.NewRand(log.seed + 1)
	for n := 0; ; n++ {
		select {
		case <-stopped:
			return found
		default:
		}
		begun.Store(int64(n + 1))
		if err := log.write(s, n); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case durability == Synced:
			promised.Store(int64(n + 1))
		case r.IntN(10) == 0:
			if err = s.Sync(); err == nil {
				promised.Store(int64(n + 1))
			}
		}
		switch r.IntN(60) {
		case 0:
			err = s.Flush(t.Context())
		case 1:
			err = s.Compact(t.Context(), nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// checkCrashPoint opens a copy and compares it with the model, which it
// advances or makes anew. It returns how many batches the copy has.
func checkCrashPoint(t *testing.T, model *crashModel, p crashPoint, durability Durability) int {
	t.Helper()
	cfg := memConfig(p.fs)
	cfg.Durability = durability
	s, err := Open(cfg)
	if err != nil {
		t.Fatalf("%d %% of unsynced data kept, %d batches promised: %v", p.percent, p.promised, err)
	}
	defer mustClose(t, s)
	got, err := model.log.applied(s)
	if err != nil || got < p.promised || got > p.begun {
		t.Fatalf("%d %% of unsynced data kept: %d batches, %v; %d were promised and %d begun", p.percent, got, err, p.promised, p.begun)
	}
	if got < model.n {
		*model = crashModel{log: model.log}
	}
	model.advance(got)
	if err := model.compare(s); err != nil {
		t.Fatalf("%d %% of unsynced data kept: %v", p.percent, err)
	}
	return got
}

// TestRecoveryIsRepeatable: a store that crashes again and again while it
// opens and goes on loses nothing that was promised.
func TestRecoveryIsRepeatable(t *testing.T) {
	r := testkit.Rand(t)
	log := crashLog{seed: r.Uint64()}
	mem := vfs.NewCrashableMem()
	model := &crashModel{log: log}
	for round := range 40 {
		s, err := Open(memConfig(mem))
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		n, err := log.applied(s)
		if err != nil || n < model.n {
			t.Fatalf("round %d: %d batches, %v; %d were promised", round, n, err, model.n)
		}
		model.advance(n)
		if err := model.compare(s); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for range r.IntN(20) {
			if err := log.write(s, n); err != nil {
				t.Fatal(err)
			}
			n++
		}
		model.advance(n)
		crashed := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * r.IntN(3), RNG: r})
		mustClose(t, s)
		mem = crashed
	}
}
