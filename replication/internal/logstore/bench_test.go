package logstore

import (
	"fmt"
	"sync"
	"testing"

	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

const (
	benchShards = 30
	benchBytes  = 300  // of the command of an entry
	benchKept   = 5000 // entries of a shard
)

// BenchmarkSaveRaftState saves entries on this package's store and, in the
// same run, on the one that dragonboat has built in. An operation is one call
// of one worker: for one shard, or for all that the worker has.
func BenchmarkSaveRaftState(b *testing.B) {
	for _, wide := range []bool{false, true} {
		for _, workers := range []int{1, 4} {
			for _, n := range []uint64{1, 16} {
				shards := 1
				if wide {
					shards = benchShards / workers
				}
				name := fmt.Sprintf("workers=%d/shards=%d/entries=%d", workers, shards, n)
				b.Run(name+"/store=own", func(b *testing.B) {
					s := mustOpen(b, Config{Dir: b.TempDir()})
					benchSave(b, s, workers, wide, n)
				})
				b.Run(name+"/store=builtin", func(b *testing.B) {
					db := openBuiltIn(b, b.TempDir())
					benchSave(b, db, workers, wide, n)
					must(b, db.Close())
				})
			}
		}
	}
}

func benchSave(b *testing.B, db raftio.ILogDB, workers int, wide bool, n uint64) {
	b.ReportAllocs()
	var group sync.WaitGroup
	b.ResetTimer()
	for w := range workers {
		group.Go(func() {
			bw := newBenchWorker(w, workers, n)
			for range (b.N + workers - 1 - w) / workers {
				if err := bw.call(db, wide); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

// benchWorker is one of dragonboat's workers with its shards.
type benchWorker struct {
	worker uint64
	all    []raftpb.Update
	next   int
}

func newBenchWorker(w, workers int, n uint64) *benchWorker {
	bw := &benchWorker{worker: uint64(w + 1)}
	for shard := w; shard < benchShards; shard += workers {
		list := make([]raftpb.Entry, n)
		for i := range list {
			list[i] = raftpb.Entry{Index: uint64(i + 1), Term: 1, Type: raftpb.EncodedEntry, Key: 1 << 40, Cmd: make([]byte, benchBytes)}
		}
		bw.all = append(bw.all, update(uint64(shard), raftpb.State{Term: 1, Vote: 1, Commit: 1}, list))
	}
	return bw
}

func (bw *benchWorker) call(db raftio.ILogDB, wide bool) error {
	updates := bw.all
	if !wide {
		updates = bw.all[bw.next : bw.next+1]
		bw.next = (bw.next + 1) % len(bw.all)
	}
	if err := db.SaveRaftState(updates, bw.worker); err != nil {
		return err
	}
	for i := range updates {
		u := &updates[i]
		u.State.Commit += uint64(len(u.EntriesToSave))
		for j := range u.EntriesToSave {
			u.EntriesToSave[j].Index += uint64(len(u.EntriesToSave))
		}
		if first := u.EntriesToSave[0].Index; first%benchKept == 1 && first > 2*benchKept {
			if err := db.RemoveEntriesTo(u.ShardID, u.ReplicaID, first-benchKept); err != nil {
				return err
			}
		}
	}
	return nil
}

// BenchmarkIterateEntries reads entries that a slow follower needs.
func BenchmarkIterateEntries(b *testing.B) {
	run := func(b *testing.B, db raftio.ILogDB) {
		bw := newBenchWorker(0, benchShards, 100)
		for range 50 {
			must(b, bw.call(db, true))
		}
		for _, n := range []uint64{1, 64} {
			b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
				b.ReportAllocs()
				for i := range uint64(b.N) {
					low := 1 + i*n%4000
					list, _, err := db.IterateEntries(make([]raftpb.Entry, 0, n), 0, 0, 1, low, low+n, 1<<30)
					if err != nil || uint64(len(list)) != n {
						b.Fatal(len(list), err)
					}
				}
			})
		}
	}
	b.Run("store=own", func(b *testing.B) { run(b, mustOpen(b, Config{Dir: b.TempDir()})) })
	b.Run("store=builtin", func(b *testing.B) {
		db := openBuiltIn(b, b.TempDir())
		run(b, db)
		must(b, db.Close())
	})
}
