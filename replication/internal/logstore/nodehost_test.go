package logstore

import (
	"context"
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/logger"
	channel "github.com/lni/dragonboat/v4/plugin/chan"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

// counter counts what was proposed.
type counter struct{ n uint64 }

func (c *counter) Update(statemachine.Entry) (statemachine.Result, error) {
	c.n++
	return statemachine.Result{Value: c.n}, nil
}
func (c *counter) Lookup(any) (any, error) { return c.n, nil }
func (c *counter) Close() error            { return nil }
func (c *counter) SaveSnapshot(w io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	return binary.Write(w, binary.BigEndian, c.n)
}
func (c *counter) RecoverFromSnapshot(r io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	return binary.Read(r, binary.BigEndian, &c.n)
}

// inProcess is the transport of a host that has no peers.
type inProcess struct{ channel.ChanTransportFactory }

func (*inProcess) Validate(string) bool { return true }

const hostShards = 4

func startHost(t *testing.T, dir string, s *Store) *dragonboat.NodeHost {
	t.Helper()
	for _, name := range []string{"dragonboat", "raft", "rsm", "transport", "grpc", "config", "utils", "order", "logdb", "settings", "raftpb"} {
		logger.GetLogger(name).SetLevel(logger.CRITICAL)
	}
	host, err := dragonboat.NewNodeHost(config.NodeHostConfig{
		NodeHostDir: dir, RaftAddress: "localhost:1", RTTMillisecond: 5,
		Expert: config.ExpertConfig{
			LogDBFactory: Factory(s), TransportFactory: &inProcess{},
			LogDB:  config.GetTinyMemLogDBConfig(),
			Engine: config.EngineConfig{ExecShards: 2, CommitShards: 2, ApplyShards: 2, SnapshotShards: 2, CloseShards: 2},
		},
	})
	must(t, err)
	create := func(uint64, uint64) statemachine.IStateMachine { return &counter{} }
	for shard := uint64(1); shard <= hostShards; shard++ {
		must(t, host.StartReplica(map[uint64]string{1: "localhost:1"}, false, create, config.Config{
			ShardID: shard, ReplicaID: 1, ElectionRTT: 10, HeartbeatRTT: 2, CheckQuorum: true,
			SnapshotEntries: 50, CompactionOverhead: 10,
		}))
	}
	return host
}

// TestNodeHost runs a real NodeHost on the store: it counts on through
// restarts and snapshots, and survives a disk that fails.
func TestNodeHost(t *testing.T) {
	dir, disk := t.TempDir(), vfs.NewMem()
	var counted [hostShards + 1]atomic.Uint64
	for range 3 {
		s := mustOpen(t, memConfig(disk))
		host := startHost(t, dir, s)
		proposeEach(t, host, 200, &counted)
		host.Close()
		must(t, s.Err())
	}
	if s := mustOpen(t, memConfig(disk)); s.Stats().DiskBytes == 0 {
		t.Error("the store was not used")
	} else {
		must(t, s.Close())
	}
	f := &faults{err: syscall.EIO}
	s, failed, err := failing(t, disk, f)
	must(t, err)
	host := startHost(t, dir, s)
	proposeEach(t, host, 10, &counted)
	f.at.Store(f.count.Load() + 5)
	var group sync.WaitGroup
	group.Go(func() { proposeEach(t, host, 50, nil) })
	wantErr(t, <-failed, base.ErrUnavailable)
	group.Wait()
	s.Release()
	host.Close()
}

// proposeEach proposes on all shards at once. With counted, each proposal must
// succeed and count one up from there.
func proposeEach(t *testing.T, host *dragonboat.NodeHost, n int, counted *[hostShards + 1]atomic.Uint64) {
	var group sync.WaitGroup
	for shard := uint64(1); shard <= hostShards; shard++ {
		group.Go(func() {
			for range n {
				got, err := propose(t, host, shard, counted == nil)
				if counted == nil {
					if err != nil {
						return
					}
					continue
				}
				if err != nil || got != counted[shard].Add(1) {
					t.Errorf("shard %d: counted %d, want %d, error %v", shard, got, counted[shard].Load(), err)
					return
				}
			}
		})
	}
	group.Wait()
}

func propose(t *testing.T, host *dragonboat.NodeHost, shard uint64, once bool) (n uint64, err error) {
	session, timeout := host.GetNoOPSession(shard), time.Minute
	if once {
		timeout = time.Second
	}
	for range 200 {
		ctx, cancel := context.WithTimeout(testkit.Context(t), timeout)
		result, e := host.SyncPropose(ctx, session, []byte("x"))
		cancel()
		if n, err = result.Value, e; err == nil || once || e != dragonboat.ErrShardNotReady {
			return n, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return n, err
}
