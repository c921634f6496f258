package transport

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/internal/wire"
)

// frames encodes a batch and returns the payloads of its frames.
func frames(t testing.TB, limit int, batch raftpb.MessageBatch) (payloads [][]byte, dropped int) {
	t.Helper()
	w := batchWriter{limit: limit, send: func(frame []byte) error {
		if len(frame) > limit {
			t.Fatalf("frame of %d bytes, limit %d", len(frame), limit)
		}
		kind, payload, err := wire.NewFrameReader(bytes.NewReader(frame), limit).Next()
		if err != nil || kind != frameBatch {
			t.Fatal(kind, err)
		}
		payloads = append(payloads, bytes.Clone(payload))
		return nil
	}}
	_, dropped, err := w.write(nil, batch)
	if err != nil {
		t.Fatal(err)
	}
	return payloads, dropped
}

// decodeAll decodes the frames of one batch into one.
func decodeAll(t testing.TB, payloads [][]byte) (all raftpb.MessageBatch) {
	t.Helper()
	for _, p := range payloads {
		b, err := decodeBatch(p)
		if err != nil {
			t.Fatal(err)
		}
		b.Requests = append(all.Requests, b.Requests...)
		all = b
	}
	return all
}

var sendable = []raftpb.MessageType{
	raftpb.NoOP, raftpb.Propose, raftpb.Replicate, raftpb.ReplicateResp, raftpb.RequestVote, raftpb.RequestVoteResp,
	raftpb.RequestPreVote, raftpb.RequestPreVoteResp, raftpb.Heartbeat, raftpb.HeartbeatResp, raftpb.ReadIndex,
	raftpb.ReadIndexResp, raftpb.Quiesce, raftpb.SnapshotReceived, raftpb.LeaderTransfer, raftpb.TimeoutNow, raftpb.RateLimit,
}

func randomNumber(r *rand.Rand) uint64 { return r.Uint64() >> r.IntN(64) }

// randomMessage returns a message that a replica could send.
func randomMessage(r *rand.Rand) raftpb.Message {
	m := raftpb.Message{
		Type: sendable[r.IntN(len(sendable))], To: 1 + r.Uint64N(9), From: r.Uint64N(9), ShardID: randomNumber(r), Term: math.MaxUint32 + r.Uint64N(9),
		LogTerm: r.Uint64N(9), LogIndex: randomNumber(r) >> 1, Commit: randomNumber(r), Hint: randomNumber(r), HintHigh: randomNumber(r), Reject: r.IntN(2) == 0,
	}
	if m.Type != raftpb.Replicate && m.Type != raftpb.Propose {
		return m
	}
	term := m.LogTerm
	for i := range r.IntN(20) {
		term += r.Uint64N(2)
		e := raftpb.Entry{
			Type: raftpb.EntryType(r.IntN(4)), Term: term, Index: m.LogIndex + uint64(i) + 1,
			Key: randomNumber(r), ClientID: randomNumber(r), SeriesID: randomNumber(r), RespondedTo: randomNumber(r),
		}
		if n := r.IntN(300); n > 0 {
			e.Cmd = testkit.Bytes(r, n)
		}
		m.Entries = append(m.Entries, e)
	}
	return m
}

func randomBatch(r *rand.Rand, messages int) raftpb.MessageBatch {
	b := raftpb.MessageBatch{BinVer: r.Uint32(), DeploymentId: randomNumber(r), SourceAddress: "00000000-0000-4000-8000-000000000001"}
	for range messages {
		b.Requests = append(b.Requests, randomMessage(r))
	}
	return b
}

// TestBatchComesBack compares with the codec of raftpb, which keeps all
// fields: what it keeps, this one does.
func TestBatchComesBack(t *testing.T) {
	r := testkit.Rand(t)
	for range 300 {
		want := randomBatch(r, 1+r.IntN(20))
		payloads, dropped := frames(t, 1<<20, want)
		if dropped != 0 || len(payloads) != 1 {
			t.Fatalf("%d frames, %d dropped", len(payloads), dropped)
		}
		var reference raftpb.MessageBatch
		raftpb.MustUnmarshal(&reference, must(want.Marshal()))
		got := decodeAll(t, payloads)
		if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(got, reference) {
			t.Fatalf("%+v\nwant %+v", got, want)
		}
		for i := range payloads[0] { // a reused buffer
			payloads[0][i] = 0xaa
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatal("the batch aliases its buffer")
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestFieldsAreKnown fails when raftpb gets a field that the formats lack.
func TestFieldsAreKnown(t *testing.T) {
	for _, c := range []struct {
		v    any
		want int
	}{
		{raftpb.MessageBatch{}, 4}, {raftpb.Message{}, 13}, {raftpb.Entry{}, 8},
		{raftpb.Chunk{}, 20}, {raftpb.Membership{}, 5}, {raftpb.SnapshotFile{}, 4},
	} {
		if n := reflect.TypeOf(c.v).NumField(); n != c.want {
			t.Errorf("%T has %d fields, the format knows %d", c.v, n, c.want)
		}
	}
	if n := len(raftpb.MessageType_name); n != 29 {
		t.Errorf("there are %d types of messages: which of them go over the network?", n)
	}
}

// TestSplit: batches and messages over the limit go in several frames, which
// together say the same.
func TestSplit(t *testing.T) {
	r := testkit.Rand(t)
	for range 100 {
		limit := 2000 + r.IntN(4000)
		want := randomBatch(r, 1+r.IntN(50))
		payloads, dropped := frames(t, limit, want)
		if dropped != 0 {
			t.Fatalf("%d dropped", dropped)
		}
		got := decodeAll(t, payloads)
		var merged []raftpb.Message
		for _, m := range got.Requests {
			if n := len(merged); n > 0 && len(m.Entries) > 0 && continues(&merged[n-1], &m) {
				merged[n-1].Entries = append(merged[n-1].Entries, m.Entries...)
				continue
			}
			merged = append(merged, m)
		}
		if !reflect.DeepEqual(merged, want.Requests) {
			t.Fatalf("limit %d, %d frames: %d messages, want %d", limit, len(payloads), len(merged), len(want.Requests))
		}
		if got.DeploymentId != want.DeploymentId || got.SourceAddress != want.SourceAddress || got.BinVer != want.BinVer {
			t.Fatalf("%+v", got)
		}
	}
}

// continues reports whether b is the rest of a.
func continues(a, b *raftpb.Message) bool {
	last := a.Entries[max(0, len(a.Entries)-1):]
	c := *a
	if a.Type == raftpb.Replicate && len(last) > 0 {
		c.LogIndex, c.LogTerm = last[0].Index, last[0].Term
	}
	c.Entries = b.Entries
	return len(last) > 0 && reflect.DeepEqual(&c, b)
}

func TestSplitLimits(t *testing.T) {
	heartbeats := raftpb.MessageBatch{Requests: make([]raftpb.Message, 2*maxMessages+1)}
	for i := range heartbeats.Requests {
		heartbeats.Requests[i] = raftpb.Message{Type: raftpb.Heartbeat, To: 1, ShardID: uint64(i)}
	}
	if p, dropped := frames(t, 16<<20, heartbeats); len(p) != 3 || dropped != 0 || len(decodeAll(t, p).Requests) != len(heartbeats.Requests) {
		t.Errorf("%d frames, %d dropped", len(p), dropped)
	}
	long := raftpb.Message{Type: raftpb.Replicate, To: 1, Term: 1, Entries: make([]raftpb.Entry, maxEntries+1)}
	for i := range long.Entries {
		long.Entries[i] = raftpb.Entry{Index: uint64(i) + 1, Term: 1}
	}
	if p, _ := frames(t, 16<<20, raftpb.MessageBatch{Requests: []raftpb.Message{long}}); len(p) != 2 {
		t.Errorf("%d frames", len(p))
	} else if got := decodeAll(t, p).Requests; len(got) != 2 || len(got[0].Entries) != maxEntries || got[1].LogIndex != maxEntries || got[1].LogTerm != 1 {
		t.Errorf("%d messages", len(got))
	}
	small := raftpb.Message{Type: raftpb.Heartbeat, To: 2}
	large := raftpb.Message{Type: raftpb.Propose, To: 1, Entries: []raftpb.Entry{{Cmd: make([]byte, 4096)}}}
	local := raftpb.Message{Type: raftpb.InstallSnapshot, To: 1}
	p, dropped := frames(t, 4096, raftpb.MessageBatch{Requests: []raftpb.Message{small, large, local, {Type: raftpb.Heartbeat, To: 2, Term: 7}}})
	if got := decodeAll(t, p).Requests; dropped != 2 || len(got) != 2 || got[1].To != 2 {
		t.Errorf("%d dropped, %d messages", dropped, len(got))
	}
	if p, dropped := frames(t, 4096, raftpb.MessageBatch{Requests: []raftpb.Message{large}}); len(p) != 0 || dropped != 1 {
		t.Errorf("%d frames, %d dropped", len(p), dropped)
	}
	w := batchWriter{limit: 4096}
	if _, _, err := w.write(nil, raftpb.MessageBatch{SourceAddress: strings.Repeat("x", maxAddressBytes+1)}); err == nil {
		t.Error("a source address over the limit is sent")
	}
}

func TestInadmissible(t *testing.T) {
	entries := []raftpb.Entry{{Index: 6, Term: 3}, {Index: 7, Term: 4}}
	good := raftpb.Message{Type: raftpb.Replicate, To: 1, From: 2, Term: 5, LogTerm: 3, LogIndex: 5, Entries: entries}
	if why := inadmissible(&good); why != "" {
		t.Fatal(why)
	}
	for name, change := range map[string]func(m *raftpb.Message){
		"local":         func(m *raftpb.Message) { m.Type = raftpb.LocalTick },
		"snapshot":      func(m *raftpb.Message) { m.Type = raftpb.InstallSnapshot },
		"unreachable":   func(m *raftpb.Message) { m.Type = raftpb.Unreachable },
		"unknown type":  func(m *raftpb.Message) { m.Type = 99 },
		"for nobody":    func(m *raftpb.Message) { m.To = 0 },
		"with entries":  func(m *raftpb.Message) { m.Type = raftpb.Heartbeat },
		"gap":           func(m *raftpb.Message) { m.Entries[1].Index = 8 },
		"wraps":         func(m *raftpb.Message) { m.LogIndex, m.Entries[0].Index = math.MaxUint64, 0 },
		"entry type":    func(m *raftpb.Message) { m.Entries[0].Type = 4 },
		"older term":    func(m *raftpb.Message) { m.Entries[1].Term = 2 },
		"before log":    func(m *raftpb.Message) { m.LogTerm = 4 },
		"of the future": func(m *raftpb.Message) { m.Entries[1].Term = 6 },
	} {
		m := good
		m.Entries = append([]raftpb.Entry(nil), entries...)
		change(&m)
		if inadmissible(&m) == "" {
			t.Errorf("%s is let through", name)
		}
	}
}

func randomChunk(r *rand.Rand) raftpb.Chunk {
	c := raftpb.Chunk{BinVer: r.Uint32(), Filepath: "/some/where/snapshot.gbsnap", Witness: r.IntN(2) == 0}
	for _, v := range chunkNumbers(&c) {
		*v = randomNumber(r)
	}
	if n := r.IntN(1000); n > 0 {
		c.Data = testkit.Bytes(r, n)
	}
	members := func() map[uint64]string {
		set := map[uint64]string{}
		for range 1 + r.IntN(5) {
			set[1+randomNumber(r)>>1] = "00000000-0000-4000-8000-000000000001"
		}
		return set
	}
	c.Membership = raftpb.Membership{ConfigChangeId: randomNumber(r), Addresses: members(), NonVotings: members(), Removed: map[uint64]bool{5: true, 9: true}}
	if c.HasFileInfo = r.IntN(2) == 0; c.HasFileInfo {
		c.FileInfo = raftpb.SnapshotFile{Filepath: "/a/b", FileSize: randomNumber(r), FileId: randomNumber(r), Metadata: []byte("meta")}
	}
	return c
}

func TestChunkComesBack(t *testing.T) {
	r := testkit.Rand(t)
	for range 500 {
		want := randomChunk(r)
		payload := appendChunk(nil, &want)
		got, err := decodeChunk(payload)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v\n%+v\nwant %+v", err, got, want)
		}
		var reference raftpb.Chunk
		raftpb.MustUnmarshal(&reference, must(want.Marshal()))
		if reference.Data, reference.FileInfo.Metadata = clone(reference.Data), clone(reference.FileInfo.Metadata); !reflect.DeepEqual(got, reference) {
			t.Fatalf("%+v\nraftpb %+v", got, reference)
		}
		for i := range payload {
			payload[i] = 0xaa
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatal("the chunk aliases its buffer")
		}
	}
	for _, p := range []string{"", ".", "..", "/", "a/.."} {
		c := raftpb.Chunk{Filepath: p}
		if _, err := decodeChunk(appendChunk(nil, &c)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("path %q: %v", p, err)
		}
	}
}

// TestGolden: nodes of different versions understand one another.
func TestGolden(t *testing.T) {
	batch := raftpb.MessageBatch{BinVer: 210, DeploymentId: 99, SourceAddress: "00000000-0000-4000-8000-000000000001", Requests: []raftpb.Message{
		{Type: raftpb.Heartbeat, To: 1, From: 2, ShardID: 300, Term: 4, Commit: 500, Hint: 6, HintHigh: 7},
		{Type: raftpb.ReplicateResp, To: 1, From: 2, ShardID: 3, Term: 4, LogIndex: 5, Reject: true},
		{Type: raftpb.Replicate, To: 1, From: 2, ShardID: 3, Term: 4, LogTerm: 3, LogIndex: 5, Commit: 5, Entries: []raftpb.Entry{
			{Index: 6, Term: 3, Key: math.MaxUint64, ClientID: 8, SeriesID: 9, RespondedTo: 10, Cmd: []byte("command")},
			{Type: raftpb.ConfigChangeEntry, Index: 7, Term: 4},
		}},
	}}
	chunk := raftpb.Chunk{
		BinVer: 210, DeploymentId: 99, ShardID: 1, ReplicaID: 2, From: 3, Index: 400, Term: 5, OnDiskIndex: 6, ChunkId: 7, ChunkCount: math.MaxUint64,
		ChunkSize: 9, FileChunkId: 10, FileChunkCount: 11, FileSize: 12, Filepath: "x.gbsnap", Data: []byte("data"), HasFileInfo: true, Witness: true,
		Membership: raftpb.Membership{ConfigChangeId: 13, Addresses: map[uint64]string{1: "a", 2: "b"}, NonVotings: map[uint64]string{3: "c"},
			Witnesses: map[uint64]string{4: "d"}, Removed: map[uint64]bool{5: true}},
		FileInfo: raftpb.SnapshotFile{Filepath: "y", FileSize: 14, FileId: 15, Metadata: []byte("m")},
	}
	payloads, _ := frames(t, 1<<20, batch)
	for name, got := range map[string][]byte{"batch_v1.hex": payloads[0], "chunk_v1.hex": appendChunk(nil, &chunk)} {
		file := filepath.Join("testdata", name)
		want, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is missing: %x", file, got)
			continue
		}
		if err != nil || strings.TrimSpace(string(want)) != hex.EncodeToString(got) {
			t.Errorf("%s: %v: %x", name, err, got)
		}
	}
}

// FuzzBatch decodes any bytes as a batch. What is accepted is admissible, no
// larger than the limits, and the same when it is written again.
func FuzzBatch(f *testing.F) {
	r := testkit.NewRand(1)
	for i := range 6 {
		payloads, _ := frames(f, 1<<20, randomBatch(r, i))
		for _, p := range payloads {
			f.Add(p)
			f.Add(p[:len(p)/2])
		}
	}
	f.Add([]byte{batchFormat, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Add(append([]byte{batchFormat, 0, 0, 0, 0, 0, 0, 1, byte(raftpb.Replicate), flagEntries, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, 1, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, payload []byte) {
		batch, err := decodeBatch(payload)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) || batch.Requests != nil {
				t.Fatal(err)
			}
			return
		}
		entries := 0
		for i := range batch.Requests {
			entries += len(batch.Requests[i].Entries)
			if why := inadmissible(&batch.Requests[i]); why != "" {
				t.Fatal(why)
			}
		}
		if len(batch.Requests) > maxMessages || entries > maxEntries {
			t.Fatalf("%d messages, %d entries", len(batch.Requests), entries)
		}
		if len(batch.Requests) == 0 {
			return
		}
		again, _ := frames(t, len(payload)+1<<16, batch)
		if len(again) != 1 || !bytes.Equal(again[0], payload) {
			t.Fatalf("read %x, wrote %x", payload, again)
		}
	})
}

// FuzzChunk decodes any bytes as a chunk.
func FuzzChunk(f *testing.F) {
	r := testkit.NewRand(2)
	for range 4 {
		c := randomChunk(r)
		p := appendChunk(nil, &c)
		f.Add(p)
		f.Add(p[:len(p)/2])
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := decodeChunk(payload)
		if err != nil {
			if !errors.Is(err, wire.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if again := appendChunk(nil, &c); !bytes.Equal(again, payload) {
			t.Fatalf("read %x, wrote %x", payload, again)
		}
	})
}

// BenchmarkCodec encodes and decodes batches, as it is done here and as raftpb
// does it.
func BenchmarkCodec(b *testing.B) {
	heartbeats, entries := raftpb.MessageBatch{}, raftpb.MessageBatch{}
	for i := range uint64(64) {
		m := raftpb.Message{Type: raftpb.Heartbeat, To: 2, From: 1, ShardID: i, Term: 4, Commit: 1 << 20}
		heartbeats.Requests = append(heartbeats.Requests, m)
		m.Type, m.LogIndex = raftpb.Replicate, 1<<20
		m.Entries = []raftpb.Entry{{Index: 1<<20 + 1, Term: 4, Key: 1 << 60, ClientID: 1 << 50, Cmd: make([]byte, 256)}}
		entries.Requests = append(entries.Requests, m)
	}
	for _, c := range []struct {
		name  string
		batch raftpb.MessageBatch
	}{{"heartbeats=64", heartbeats}, {"entries=64x256B", entries}} {
		b.Run(c.name+"/here", func(b *testing.B) {
			var buf []byte
			w := batchWriter{limit: 1 << 20, send: func(frame []byte) error {
				_, err := decodeBatch(frame[wire.FrameHeaderBytes:])
				return err
			}}
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if buf, _, err = w.write(buf[:0], c.batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(buf)), "bytes")
		})
		b.Run(c.name+"/raftpb", func(b *testing.B) {
			buf := make([]byte, c.batch.SizeUpperLimit())
			b.ReportAllocs()
			for b.Loop() {
				frame := raftpb.MustMarshalTo(&c.batch, buf)
				var got raftpb.MessageBatch
				raftpb.MustUnmarshal(&got, frame)
			}
			b.ReportMetric(float64(c.batch.Size()), "bytes")
		})
	}
}

// TestRepeatedHeartbeatsAreSentOnce keeps the newest of those that say the same,
// and every one that confirms a read.
func TestRepeatedHeartbeatsAreSentOnce(t *testing.T) {
	beat := func(kind raftpb.MessageType, shard, commit, hint uint64) raftpb.Message {
		return raftpb.Message{Type: kind, To: 2, From: 1, ShardID: shard, Term: 3, Commit: commit, Hint: hint}
	}
	p, dropped := frames(t, 1<<20, raftpb.MessageBatch{Requests: []raftpb.Message{
		beat(raftpb.Heartbeat, 1, 5, 0), beat(raftpb.Heartbeat, 1, 6, 77), beat(raftpb.Heartbeat, 2, 5, 0),
		beat(raftpb.HeartbeatResp, 1, 0, 0), beat(raftpb.Heartbeat, 1, 9, 0), beat(raftpb.HeartbeatResp, 1, 0, 0),
		beat(raftpb.Heartbeat, 1, 6, 78), beat(raftpb.ReplicateResp, 1, 4, 0), beat(raftpb.ReplicateResp, 1, 4, 0),
	}})
	want := []raftpb.Message{
		beat(raftpb.Heartbeat, 1, 6, 77), beat(raftpb.Heartbeat, 2, 5, 0), beat(raftpb.Heartbeat, 1, 9, 0),
		beat(raftpb.HeartbeatResp, 1, 0, 0), beat(raftpb.Heartbeat, 1, 6, 78),
		beat(raftpb.ReplicateResp, 1, 4, 0), beat(raftpb.ReplicateResp, 1, 4, 0),
	}
	if got := decodeAll(t, p).Requests; dropped != 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("%d dropped; sent %v", dropped, got)
	}
}
