package logstore

import (
	"errors"
	"fmt"
	"testing"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/logger"
	_ "github.com/lni/dragonboat/v4/plugin/tee" // links the built-in store
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	lnivfs "github.com/lni/vfs"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// fastPace lets tests see compactions soon.
func fastPace() pace { return pace{every: time.Millisecond, rest: 1, deadBytes: 64 << 10} }

// memConfig is on a file system in memory. Commit indexes are written at once: the
// oracle numbers its steps by them.
func memConfig(fs vfs.FS) Config {
	return Config{Dir: "/node/log", FS: fs, MemTableBytes: 256 << 10, pace: fastPace(), commitLag: 1}
}

// mustOpen opens a store that the test closes, unless it did before.
func mustOpen(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// newBuiltIn is the constructor of the log store that dragonboat uses unless
// it is given another one. It has no public name.
//
//go:linkname newBuiltIn github.com/lni/dragonboat/v4/internal/logdb.NewDefaultLogDB
func newBuiltIn(
	cfg config.NodeHostConfig, callback config.LogDBCallback, dirs, walDirs []string,
) (raftio.ILogDB, error)

func openBuiltIn(t testing.TB, dir string) raftio.ILogDB {
	t.Helper()
	for _, name := range []string{"logdb", "pebblekv"} {
		logger.GetLogger(name).SetLevel(logger.CRITICAL)
	}
	var cfg config.NodeHostConfig
	cfg.Expert.FS = lnivfs.Default
	cfg.Expert.Engine = config.EngineConfig{ExecShards: 4, CommitShards: 4, ApplyShards: 4, SnapshotShards: 4, CloseShards: 4}
	cfg.Expert.LogDB = config.GetTinyMemLogDBConfig()
	cfg.Expert.LogDB.Shards = 1
	db, err := newBuiltIn(cfg, nil, []string{dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErr checks the sentinel of an error, and that it matches no other one.
func wantErr(t testing.TB, err, target error) {
	t.Helper()
	n := 0
	for _, sentinel := range []error{
		base.ErrCorrupt, base.ErrNoSpace, base.ErrClosed, base.ErrUnavailable, base.ErrInvalid, base.ErrInUse,
	} {
		if errors.Is(err, sentinel) {
			n++
		}
	}
	if !errors.Is(err, target) || n != 1 {
		t.Fatalf("error %v matches %d sentinels; want %v", err, n, target)
	}
}

// entries returns entries first..last of a term.
func entries(term, first, last uint64) []raftpb.Entry {
	var list []raftpb.Entry
	for i := first; i <= last; i++ {
		list = append(list, raftpb.Entry{
			Term: term, Index: i, Type: raftpb.ApplicationEntry, Key: i * 7, Cmd: fmt.Appendf(nil, "%d of %d", i, term),
		})
	}
	return list
}

func update(shard uint64, state raftpb.State, list []raftpb.Entry) raftpb.Update {
	return raftpb.Update{ShardID: shard, ReplicaID: 1, State: state, EntriesToSave: list}
}

func save(t testing.TB, db raftio.ILogDB, updates ...raftpb.Update) {
	t.Helper()
	must(t, db.SaveRaftState(updates, 1))
}
