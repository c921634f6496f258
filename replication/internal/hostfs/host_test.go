package hostfs

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	chantransport "github.com/lni/dragonboat/v4/plugin/chan"
	"github.com/lni/dragonboat/v4/plugin/tan"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/statemachine"
	lni "github.com/lni/vfs"

	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/hostlog"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

const (
	testRoot  = "/node"
	testShard = 1
)

// letters is a state machine that counts what it is told.
type letters map[string]int

// Update implements statemachine.IStateMachine.
func (l letters) Update(e statemachine.Entry) (statemachine.Result, error) {
	l[string(e.Cmd)]++
	return statemachine.Result{}, nil
}

// Lookup implements statemachine.IStateMachine.
func (l letters) Lookup(query any) (any, error) { return l[query.(string)], nil }

// SaveSnapshot implements statemachine.IStateMachine.
func (l letters) SaveSnapshot(w io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	return json.NewEncoder(w).Encode(l)
}

// RecoverFromSnapshot implements statemachine.IStateMachine.
func (l letters) RecoverFromSnapshot(r io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	got := letters{}
	err := json.NewDecoder(r).Decode(&got)
	clear(l)
	maps.Copy(l, got)
	return err
}

// Close implements statemachine.IStateMachine.
func (l letters) Close() error { return nil }

// logElsewhere keeps the raft log on a file system of its own, so that a test
// decides what happens to NodeHost's files alone.
type logElsewhere struct{ fs lni.FS }

// Name implements config.LogDBFactory.
func (l logElsewhere) Name() string { return tan.Factory.Name() }

// Create implements config.LogDBFactory.
func (l logElsewhere) Create(
	cfg config.NodeHostConfig, cb config.LogDBCallback, _, _ []string,
) (raftio.ILogDB, error) {
	if l.fs == nil {
		l.fs = lni.NewMem()
	}
	cfg.Expert.FS = l.fs
	return tan.Factory.Create(cfg, cb, []string{"/log"}, nil)
}

// openHost starts a NodeHost without others.
func openHost(t *testing.T, fs lni.FS, root string, logdb config.LogDBFactory) *dragonboat.NodeHost {
	t.Helper()
	return openConfig(t, config.NodeHostConfig{
		NodeHostDir: root, RaftAddress: "alone", Expert: config.ExpertConfig{FS: fs, LogDBFactory: logdb},
	})
}

// openHostAt starts a NodeHost that others reach at an address.
func openHostAt(t *testing.T, address string, fs lni.FS) *dragonboat.NodeHost {
	t.Helper()
	return openConfig(t, config.NodeHostConfig{
		NodeHostDir: testRoot, RaftAddress: address, Expert: config.ExpertConfig{FS: fs, LogDBFactory: logElsewhere{}},
	})
}

func openConfig(t *testing.T, cfg config.NodeHostConfig) *dragonboat.NodeHost {
	t.Helper()
	t.Cleanup(hostlog.Attach(slog.New(slog.DiscardHandler)))
	logConfig := config.GetTinyMemLogDBConfig()
	logConfig.Shards = 1
	cfg.RTTMillisecond = 2
	cfg.Expert.LogDB = logConfig
	cfg.Expert.Engine = config.EngineConfig{ExecShards: 1, CommitShards: 1, ApplyShards: 1, SnapshotShards: 1, CloseShards: 1}
	cfg.Expert.TransportFactory = &localTransport{}
	nh, err := dragonboat.NewNodeHost(cfg)
	if err != nil || nh == nil {
		t.Fatal("NewNodeHost:", err)
	}
	return nh
}

// localTransport is dragonboat's transport over channels.
type localTransport struct {
	chantransport.ChanTransportFactory
}

// Validate implements config.TransportFactory.
func (localTransport) Validate(string) bool { return true }

// startOnly starts the first replica of the test's shard.
func startOnly(nh *dragonboat.NodeHost) error {
	return startMember(nh, 1, map[uint64]string{1: nh.RaftAddress()})
}

// startMember starts a replica; without members it joins those there are.
func startMember(nh *dragonboat.NodeHost, id uint64, members map[uint64]string) error {
	create := func(uint64, uint64) statemachine.IStateMachine { return letters{} }
	return nh.StartReplica(members, members == nil, create, config.Config{
		ReplicaID: id, ShardID: testShard, ElectionRTT: 10, HeartbeatRTT: 1, IsNonVoting: members == nil,
	})
}

func propose(t *testing.T, nh *dragonboat.NodeHost, command string) {
	t.Helper()
	session := nh.GetNoOPSession(testShard)
	testkit.Eventually(t, time.Minute, "a proposal", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := nh.SyncPropose(ctx, session, []byte(command))
		return err == nil
	})
}

func read(t *testing.T, nh *dragonboat.NodeHost, key string) (count int) {
	t.Helper()
	testkit.Eventually(t, time.Minute, "a read", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		got, err := nh.SyncRead(ctx, testShard, key)
		if err == nil {
			count = got.(int)
		}
		return err == nil
	})
	return count
}

func takeSnapshot(t *testing.T, nh *dragonboat.NodeHost) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := nh.SyncRequestSnapshot(ctx, testShard, dragonboat.SnapshotOption{OverrideCompactionOverhead: true})
	return err
}

// run opens a host whose log is on the same file system, reads what earlier
// ones have left, adds to it and closes it.
func run(t *testing.T, fs lni.FS, root string, earlier int) {
	t.Helper()
	nh := openHost(t, fs, root, tan.Factory)
	defer nh.Close()
	if err := startOnly(nh); err != nil {
		t.Fatal("StartReplica:", err)
	}
	for _, key := range []string{"before", "after"} {
		if got := read(t, nh, key); got != earlier {
			t.Errorf("%d times %q, want %d", got, key, earlier)
		}
	}
	propose(t, nh, "before")
	if err := takeSnapshot(t, nh); err != nil {
		t.Error("snapshot:", err)
	}
	propose(t, nh, "after")
}

func TestNodeHostInMemory(t *testing.T) {
	mem := vfs.NewCrashableMem()
	for i := range 3 {
		run(t, New(mem, Config{Root: testRoot, OnError: failOnError(t)}), testRoot, i)
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	nh := openHost(t, New(crashed, Config{Root: testRoot, OnError: failOnError(t)}), testRoot, logElsewhere{})
	nh.Close()
}

func failOnError(t *testing.T) func(string, error) {
	return func(op string, err error) { t.Errorf("%s: %v", op, err) }
}
