package transport_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/logger"
	sm "github.com/lni/dragonboat/v4/statemachine"

	"github.com/distributedcache/cache/internal/mux"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/testkit/faultnet"
	"github.com/distributedcache/cache/replication/internal/transport"
)

func TestMain(m *testing.M) {
	for _, name := range []string{"dragonboat", "transport", "raft", "rsm", "raftpb", "logdb", "config", "grpc", "settings", "pebblekv", "order", "utils", "server"} {
		logger.GetLogger(name).SetLevel(logger.CRITICAL)
	}
	testkit.VerifyNoLeaks(m)
}

// adder is a state machine: the sum and the number of all commands, and so
// much padding that its snapshot has several chunks.
type adder struct {
	mu         sync.Mutex
	sum, count uint64
}

const padding = 5 << 20

func (a *adder) Update(e sm.Entry) (sm.Result, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sum += uint64(e.Cmd[0])
	a.count++
	return sm.Result{Value: a.sum}, nil
}

func (a *adder) Lookup(any) (any, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sum, nil
}

func (a *adder) SaveSnapshot(w io.Writer, _ sm.ISnapshotFileCollection, _ <-chan struct{}) error {
	b := binary.BigEndian.AppendUint64(nil, a.sum)
	if _, err := w.Write(binary.BigEndian.AppendUint64(b, a.count)); err != nil {
		return err
	}
	_, err := io.Copy(w, bytes.NewReader(make([]byte, padding)))
	return err
}

func (a *adder) RecoverFromSnapshot(r io.Reader, _ []sm.SnapshotFile, _ <-chan struct{}) error {
	b, err := io.ReadAll(r)
	if err != nil || len(b) != 16+padding {
		return fmt.Errorf("snapshot of %d bytes: %w", len(b), err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sum, a.count = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	return nil
}

func (a *adder) Close() error { return nil }

// member is one NodeHost of a test.
type member struct {
	id        string // NodeHostID
	replica   uint64
	dir       string
	network   transport.Network
	transport *transport.Transport
	registry  *transport.Registry
	nh        *dragonboat.NodeHost
}

const testShard = 7

func nodeID(i int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", i) }

// open starts the NodeHost, and its replica: of the founders, or joining if
// there are none.
func (m *member) open(t *testing.T, addr string, founders map[uint64]string) {
	t.Helper()
	logdb := config.GetTinyMemLogDBConfig()
	logdb.Shards = 1
	nh, err := dragonboat.NewNodeHost(config.NodeHostConfig{
		NodeHostDir: m.dir, RaftAddress: addr, NodeHostID: m.id, RTTMillisecond: 10, DeploymentID: 99,
		Expert: config.ExpertConfig{
			TransportFactory: m.transport.Factory(), NodeRegistryFactory: m.registry.Factory(), LogDB: logdb,
			Engine: config.EngineConfig{ExecShards: 1, CommitShards: 1, ApplyShards: 1, SnapshotShards: 2, CloseShards: 1},
		},
	})
	if err != nil || nh == nil {
		t.Fatal(nh, err)
	}
	m.nh = nh
	if nh.ID() != m.id {
		t.Fatalf("id %s, want %s", nh.ID(), m.id)
	}
	create := func(uint64, uint64) sm.IStateMachine { return &adder{} }
	err = nh.StartReplica(founders, founders == nil, create, config.Config{
		ReplicaID: m.replica, ShardID: testShard, ElectionRTT: 20, HeartbeatRTT: 2, CheckQuorum: true, PreVote: true,
		SnapshotEntries: 0, CompactionOverhead: 5,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (m *member) close() {
	if m.nh != nil {
		m.nh.Close()
		m.nh = nil
	}
}

// propose adds one until it succeeds, and returns the sum.
func (m *member) propose(t *testing.T) uint64 {
	t.Helper()
	var sum uint64
	testkit.Eventually(t, time.Minute, "a proposal", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		r, err := m.nh.SyncPropose(ctx, m.nh.GetNoOPSession(testShard), []byte{1})
		sum = r.Value
		return err == nil
	})
	return sum
}

// awaitSum waits until a linearizable read through m sees at least sum.
func (m *member) awaitSum(t *testing.T, sum uint64) {
	t.Helper()
	testkit.Eventually(t, time.Minute, "a read", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		v, err := m.nh.SyncRead(ctx, testShard, nil)
		return err == nil && v.(uint64) >= sum
	})
}

// founders opens a shard of as many members as there are networks.
func founders(t *testing.T, addrs []string, networks []transport.Network) []*member {
	t.Helper()
	dir := t.TempDir()
	targets := map[uint64]string{}
	var members []*member
	for i := range networks {
		m := &member{id: nodeID(i + 1), replica: uint64(i + 1), dir: filepath.Join(dir, fmt.Sprint(i)), network: networks[i]}
		m.transport = transport.New(transport.Config{Network: networks[i]})
		m.registry = transport.NewRegistry()
		for j, addr := range addrs {
			m.registry.SetAddress(nodeID(j+1), addr)
		}
		targets[m.replica] = m.id
		members = append(members, m)
	}
	for i, m := range members {
		t.Cleanup(m.close)
		m.open(t, addrs[i], targets)
	}
	return members
}

// TestCluster runs three NodeHosts over a network with faults.
func TestCluster(t *testing.T) {
	n := faultnet.New(testkit.Seed(t))
	t.Cleanup(n.Close)
	addrs := []string{"a", "b", "c"}
	var networks []transport.Network
	for _, a := range addrs {
		networks = append(networks, n.Node(a))
	}
	members := founders(t, addrs, networks)
	for _, m := range members {
		m.awaitSum(t, m.propose(t))
	}

	n.Isolate("a")
	sum := members[1].propose(t)
	members[2].awaitSum(t, sum)
	n.Heal()
	members[0].awaitSum(t, sum)

	n.SetFaults(faultnet.Faults{Drop: 0.05, Duplicate: 0.05, Reorder: 0.1, Delay: 0.1, Cut: 0.002, MaxDelay: 5 * time.Millisecond})
	for range 20 {
		for _, m := range members {
			sum = m.propose(t)
		}
	}
	n.SetFaults(faultnet.Faults{})
	for _, m := range members {
		m.awaitSum(t, sum)
	}
	for i, m := range members {
		s := m.transport.Stats()
		t.Logf("%s: %+v", addrs[i], s)
		if s.BatchesIn == 0 || s.BatchesOut == 0 || s.Faults != 0 {
			t.Errorf("%+v", s)
		}
	}
	t.Logf("%+v", n.Stats())
}

// TestClusterOverTCP moves one node to another address, and lets another one
// join by a snapshot.
func TestClusterOverTCP(t *testing.T) {
	listen := func() *mux.Mux {
		n, err := mux.Listen(mux.Config{Listen: "127.0.0.1:0", Insecure: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		return n
	}
	var networks []transport.Network
	var addrs []string
	for range 3 {
		n := listen()
		networks, addrs = append(networks, n), append(addrs, n.Addr())
	}
	members := founders(t, addrs, networks)
	sum := members[0].propose(t)
	for _, m := range members {
		m.awaitSum(t, sum)
	}

	// Node 3 goes down, and comes back with its data somewhere else.
	moved := members[2]
	moved.close()
	networks[2].(*mux.Mux).Close()
	sum = members[0].propose(t)
	network := listen()
	start := time.Now()
	moved.transport = transport.New(transport.Config{Network: network})
	moved.open(t, network.Addr(), map[uint64]string{1: nodeID(1), 2: nodeID(2), 3: nodeID(3)})
	for _, m := range members {
		m.registry.SetAddress(moved.id, network.Addr())
	}
	moved.awaitSum(t, sum)
	t.Logf("serves at its new address after %v", time.Since(start))

	// The log before a snapshot is gone, so node 4 must be sent the snapshot.
	ctx := testkit.Context(t)
	for _, m := range members {
		sum = m.propose(t)
		if _, err := m.nh.SyncRequestSnapshot(ctx, testShard, dragonboat.SnapshotOption{OverrideCompactionOverhead: true, CompactionOverhead: 1}); err != nil {
			t.Fatal(err)
		}
	}
	sum = join(t, members, listen(), sum)
	for _, m := range members {
		if got := m.propose(t); got <= sum {
			t.Errorf("sum %d after %d", got, sum)
		}
	}
	var chunks uint64
	for _, m := range members {
		chunks += m.transport.Stats().ChunksOut
	}
	if chunks < 3 {
		t.Errorf("%d chunks were sent", chunks)
	}
}

// join adds a fourth member, which is told the address of the others but not
// on which of them the replicas are.
func join(t *testing.T, members []*member, network *mux.Mux, sum uint64) uint64 {
	t.Helper()
	m := &member{id: nodeID(4), replica: 4, dir: t.TempDir(), network: network}
	m.transport = transport.New(transport.Config{Network: network, SnapshotBytesPerSecond: 50 << 20})
	m.registry = transport.NewRegistry()
	for _, other := range members {
		m.registry.SetAddress(other.id, other.nh.RaftAddress())
		other.registry.SetAddress(m.id, network.Addr())
	}
	testkit.Eventually(t, time.Minute, "a change of the members", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		err := members[0].nh.SyncRequestAddReplica(ctx, testShard, 4, m.id, 0)
		return err == nil || errors.Is(err, dragonboat.ErrRejected)
	})
	t.Cleanup(m.close)
	release := occupySnapshots(members)
	m.open(t, network.Addr(), nil)
	testkit.Eventually(t, time.Minute, "a refused snapshot", func() bool {
		n := uint64(0)
		for _, other := range members {
			n += other.transport.Stats().SnapshotsRefused
		}
		return n > 0
	})
	release() // dragonboat tries again
	m.awaitSum(t, sum)
	if s := m.transport.Stats(); s.ChunksIn < 3 || s.Faults != 0 {
		t.Errorf("%+v", s)
	}
	return sum
}

func occupySnapshots(members []*member) (release func()) {
	var releases []func()
	for _, m := range members {
		releases = append(releases, m.transport.OccupySnapshots())
	}
	return func() {
		for _, f := range releases {
			f()
		}
	}
}
