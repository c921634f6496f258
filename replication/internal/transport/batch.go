package transport

import (
	"encoding/binary"
	"fmt"

	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/wire"
)

// The payload of a batch:
//
//	format, binary version, deployment, source address, number of messages
//
// and of each message:
//
//	type, flags, To, From, ShardID, Term, LogTerm, LogIndex, Commit, Hint,
//	HintHigh, number of entries if there are any
//
// and of each entry:
//
//	type, Term, Index, Key, ClientID, SeriesID, RespondedTo, Cmd
//
// Format, types and flags take a byte, the numbers of messages and of entries
// four so that they can be filled in later, everything else is variable.
// Message.Snapshot is not in it: only InstallSnapshot has one, which dragonboat
// makes itself from the chunks of a snapshot.
const batchFormat = 1

const (
	flagReject  = 1 << 0
	flagEntries = 1 << 1
)

// Limits on one frame; the writer begins another one. A decoded message takes
// some 400 bytes and an entry 80, so a frame costs at most some 16 MiB more
// than its bytes.
const (
	maxMessages = 1 << 12
	maxEntries  = 1 << 17
)

// The room that a message without its entries and an entry without its command
// take at most, and the least that they take.
const (
	messageRoom     = 2 + 9*binary.MaxVarintLen64 + 4
	entryRoom       = 1 + 7*binary.MaxVarintLen64
	minMessageBytes = 2 + 9
	minEntryBytes   = 1 + 7
)

// batchWriter encodes batches into frames of at most limit bytes.
type batchWriter struct {
	limit int
	send  func(frame []byte) error

	batch    raftpb.MessageBatch // whose Requests are not looked at
	buf      []byte
	countAt  int // where the number of messages goes
	messages int
	entries  int

	beats map[beat]struct{} // of the batch, see repeated
	skip  []bool
}

// write encodes batch into buf and sends it. It returns the buffer, which may
// have grown, and the number of messages that do not fit into any frame.
func (w *batchWriter) write(buf []byte, batch raftpb.MessageBatch) (kept []byte, dropped int, err error) {
	if len(batch.SourceAddress) > maxAddressBytes {
		return buf, 0, fmt.Errorf("source address of %d bytes, at most %d are sent", len(batch.SourceAddress), maxAddressBytes)
	}
	requests := batch.Requests
	batch.Requests = nil
	w.batch, w.buf = batch, buf
	defer func() { w.buf = nil }()
	w.begin()
	skip := w.repeated(requests)
	for i := range requests {
		if skip[i] {
			continue
		}
		fits, err := w.message(&requests[i])
		if err != nil {
			return w.buf, dropped, err
		}
		if !fits {
			dropped++
		}
	}
	if w.messages == 0 {
		return w.buf, dropped, nil
	}
	return w.buf, dropped, w.flush()
}

// beat is what makes a heartbeat, or the answer to one, say the same as another.
type beat struct {
	kind                                 raftpb.MessageType
	to, from, shard, term, hint, hintTop uint64
}

// repeated tells which messages are heartbeats, or answers to some, that a later
// one of the batch makes superfluous. Many wait for a peer that has not read for
// a while. Each answer would make a leader send all that the peer lacks, again
// and again, which takes gigabytes if the peer lacks much.
func (w *batchWriter) repeated(requests []raftpb.Message) []bool {
	w.skip = append(w.skip[:0], make([]bool, len(requests))...)
	clear(w.beats)
	for i := len(requests) - 1; i >= 0; i-- {
		m := &requests[i]
		if m.Type != raftpb.Heartbeat && m.Type != raftpb.HeartbeatResp {
			continue
		}
		if w.beats == nil {
			w.beats = make(map[beat]struct{})
		}
		b := beat{m.Type, m.To, m.From, m.ShardID, m.Term, m.Hint, m.HintHigh}
		_, w.skip[i] = w.beats[b]
		w.beats[b] = struct{}{}
	}
	return w.skip
}

// begin starts a frame.
func (w *batchWriter) begin() {
	w.messages, w.entries = 0, 0
	b := append(wire.BeginFrame(w.buf[:0]), batchFormat)
	b = wire.AppendUvarint(b, uint64(w.batch.BinVer))
	b = wire.AppendUvarint(b, w.batch.DeploymentId)
	b = wire.AppendString(b, w.batch.SourceAddress)
	w.countAt = len(b)
	w.buf = wire.AppendUint32(b, 0)
}

// flush sends the frame.
func (w *batchWriter) flush() error {
	binary.BigEndian.PutUint32(w.buf[w.countAt:], uint32(w.messages))
	if err := wire.FinishFrame(w.buf, frameBatch); err != nil {
		return err
	}
	return w.send(w.buf)
}

// message appends m, sending full frames on the way. It reports false if m
// has an entry that does not fit into any frame.
func (w *batchWriter) message(m *raftpb.Message) (fits bool, err error) {
	if !overTheNetwork(m.Type) {
		return false, nil
	}
	if w.messages > 0 && !w.room(m.Entries) {
		if err := w.next(); err != nil {
			return false, err
		}
	}
	head, rest := *m, m.Entries
	for {
		if !w.room(rest[:min(1, len(rest))]) {
			if w.messages == 0 {
				return false, nil
			}
			if err := w.next(); err != nil {
				return false, err
			}
			continue
		}
		n := w.part(&head, rest)
		if n == len(rest) {
			return true, nil
		}
		if head.Type == raftpb.Replicate { // the rest follows the last one
			head.LogIndex, head.LogTerm = rest[n-1].Index, rest[n-1].Term
		}
		rest = rest[n:]
	}
}

// next sends the frame and starts another one.
func (w *batchWriter) next() error {
	if err := w.flush(); err != nil {
		return err
	}
	w.begin()
	return nil
}

// room reports whether a message with these entries surely fits.
func (w *batchWriter) room(entries []raftpb.Entry) bool {
	n := len(w.buf) + messageRoom
	for i := range entries {
		n += entryRoom + len(entries[i].Cmd)
	}
	return n <= w.limit && w.messages < maxMessages && w.entries+len(entries) <= maxEntries
}

// part appends a message with as many of the entries as fit and returns their
// number.
func (w *batchWriter) part(m *raftpb.Message, entries []raftpb.Entry) (n int) {
	w.messages++
	w.buf = appendMessageHead(w.buf, m, len(entries) > 0)
	if len(entries) == 0 {
		return 0
	}
	at := len(w.buf)
	b := wire.AppendUint32(w.buf, 0)
	for n < len(entries) && w.entries < maxEntries && len(b)+entryRoom+len(entries[n].Cmd) <= w.limit {
		b = appendEntry(b, &entries[n])
		w.entries++
		n++
	}
	binary.BigEndian.PutUint32(b[at:], uint32(n))
	w.buf = b
	return n
}

func appendMessageHead(b []byte, m *raftpb.Message, entries bool) []byte {
	var flags byte
	if m.Reject {
		flags |= flagReject
	}
	if entries {
		flags |= flagEntries
	}
	b = append(b, byte(m.Type), flags)
	for _, v := range [...]uint64{m.To, m.From, m.ShardID, m.Term, m.LogTerm, m.LogIndex, m.Commit, m.Hint, m.HintHigh} {
		b = wire.AppendUvarint(b, v)
	}
	return b
}

func appendEntry(b []byte, e *raftpb.Entry) []byte {
	b = append(b, byte(e.Type))
	for _, v := range [...]uint64{e.Term, e.Index, e.Key, e.ClientID, e.SeriesID, e.RespondedTo} {
		b = wire.AppendUvarint(b, v)
	}
	return wire.AppendBytes(b, e.Cmd)
}

// decodeBatch decodes a payload. The batch does not alias it. An error wraps
// wire.ErrMalformed.
func decodeBatch(payload []byte) (raftpb.MessageBatch, error) {
	r := wire.NewReader(payload)
	if format := r.Byte(); format != batchFormat {
		r.Fail("batch format %d, only %d can be read", format, batchFormat)
	}
	var batch raftpb.MessageBatch
	batch.BinVer = decodeUint32(r)
	batch.DeploymentId = r.Uvarint()
	batch.SourceAddress = r.String(maxAddressBytes)
	n := decodeCount(r, maxMessages, minMessageBytes)
	if r.Err() != nil {
		return raftpb.MessageBatch{}, r.Err()
	}
	batch.Requests = make([]raftpb.Message, n)
	budget := maxEntries
	for i := range batch.Requests {
		budget -= decodeMessage(r, &batch.Requests[i], budget)
		if r.Err() != nil {
			return raftpb.MessageBatch{}, r.Err()
		}
	}
	if err := r.Close(); err != nil {
		return raftpb.MessageBatch{}, err
	}
	return batch, nil
}

// decodeCount reads a count of four bytes of things of at least minBytes.
func decodeCount(r *wire.Reader, limit, minBytes int) int {
	n := uint64(r.Uint32())
	if n > uint64(limit) || n > uint64(r.Len()/minBytes) {
		r.Fail("count %d is over the limit", n)
		return 0
	}
	return int(n)
}

func decodeUint32(r *wire.Reader) uint32 {
	v := r.Uvarint()
	if v > 1<<32-1 {
		r.Fail("number %d is over the limit", v)
	}
	return uint32(v)
}

// decodeMessage decodes one message with at most limit entries, whose number
// it returns.
func decodeMessage(r *wire.Reader, m *raftpb.Message, limit int) int {
	m.Type = raftpb.MessageType(r.Byte())
	flags := r.Byte()
	if flags&^(flagReject|flagEntries) != 0 {
		r.Fail("message flags %#x", flags)
	}
	m.Reject = flags&flagReject != 0
	for _, v := range [...]*uint64{&m.To, &m.From, &m.ShardID, &m.Term, &m.LogTerm, &m.LogIndex, &m.Commit, &m.Hint, &m.HintHigh} {
		*v = r.Uvarint()
	}
	if flags&flagEntries != 0 {
		decodeEntries(r, m, limit)
	}
	if r.Err() == nil {
		if why := inadmissible(m); why != "" {
			r.Fail("%s from replica %d of shard %d: %s", m.Type, m.From, m.ShardID, why)
		}
	}
	return len(m.Entries)
}

// decodeEntries decodes the entries of m. Their commands share one allocation:
// they come and go together.
func decodeEntries(r *wire.Reader, m *raftpb.Message, limit int) {
	n := decodeCount(r, limit, minEntryBytes)
	if n == 0 {
		r.Fail("no entries where there should be some")
		return
	}
	m.Entries = make([]raftpb.Entry, n)
	total := 0
	for i := range m.Entries {
		e := &m.Entries[i]
		e.Type = raftpb.EntryType(r.Byte())
		for _, v := range [...]*uint64{&e.Term, &e.Index, &e.Key, &e.ClientID, &e.SeriesID, &e.RespondedTo} {
			*v = r.Uvarint()
		}
		e.Cmd = r.Bytes(wire.MaxFrameBytes)
		total += len(e.Cmd)
	}
	if r.Err() != nil {
		m.Entries = nil
		return
	}
	commands := make([]byte, 0, total)
	for i := range m.Entries {
		e := &m.Entries[i]
		if len(e.Cmd) == 0 {
			e.Cmd = nil
			continue
		}
		start := len(commands)
		commands = append(commands, e.Cmd...)
		e.Cmd = commands[start:len(commands):len(commands)]
	}
}

// overTheNetwork reports whether replicas send one another messages of this
// type. The others are local: dragonboat panics when one comes in, or worse,
// believes it.
func overTheNetwork(t raftpb.MessageType) bool {
	switch t {
	case raftpb.NoOP, raftpb.Propose, raftpb.Replicate, raftpb.ReplicateResp,
		raftpb.RequestVote, raftpb.RequestVoteResp, raftpb.RequestPreVote, raftpb.RequestPreVoteResp,
		raftpb.Heartbeat, raftpb.HeartbeatResp, raftpb.ReadIndex, raftpb.ReadIndexResp,
		raftpb.Quiesce, raftpb.SnapshotReceived, raftpb.LeaderTransfer, raftpb.TimeoutNow, raftpb.RateLimit:
		return true
	}
	return false
}

// inadmissible returns why no correct replica sends m, or "".
func inadmissible(m *raftpb.Message) string {
	switch {
	case !overTheNetwork(m.Type):
		return "not sent between replicas"
	case m.To == 0:
		return "for no replica"
	case len(m.Entries) > 0 && m.Type != raftpb.Replicate && m.Type != raftpb.Propose:
		return "has entries"
	}
	term := m.LogTerm
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Type > raftpb.MetadataEntry {
			return fmt.Sprintf("entry of type %d", e.Type)
		}
		if m.Type != raftpb.Replicate {
			continue
		}
		if e.Index != m.LogIndex+uint64(i)+1 || e.Index == 0 {
			return fmt.Sprintf("entry %d comes %d after %d", e.Index, i+1, m.LogIndex)
		}
		if e.Term < term || e.Term > m.Term {
			return fmt.Sprintf("entry of term %d after %d in term %d", e.Term, term, m.Term)
		}
		term = e.Term
	}
	return ""
}
