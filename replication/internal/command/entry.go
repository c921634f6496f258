package command

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// EntryVersion is the version of the binary form of an entry, its first byte.
const EntryVersion = 1

// Window is how many entries of one session may be undecided at a time.
const Window = 64

// MaxEntryCommands bounds the commands of one entry.
const MaxEntryCommands = 4096

// Entry is what one entry of a replicated log carries: commands that one node
// proposed together, and what the shard needs to apply them once only, however
// often the entry gets into the log.
type Entry struct {
	// Session names the proposing log since it was opened. No two have the
	// same.
	Session uint64
	// Sequence numbers the entries of a session on a shard, from 1 on. An entry
	// that is proposed again keeps its number.
	Sequence uint64
	// Floor is the lowest number whose outcome the proposer still waits for, so
	// that older results can be forgotten, and older entries must not be
	// applied any more. Sequence-Floor < Window.
	Floor    uint64
	Commands []Command
}

// AppendEntryHead appends the head of an entry of n commands:
//
//	version u8 | session u64 | sequence uvarint | sequence-floor uvarint | count
//
// The commands follow, each with AppendEntryCommand.
func AppendEntryHead(buf []byte, session, sequence, floor uint64, n int) []byte {
	buf = append(buf, EntryVersion)
	buf = wire.AppendUint64(buf, session)
	buf = wire.AppendUvarint(buf, sequence)
	buf = wire.AppendUvarint(buf, sequence-floor)
	return wire.AppendUvarint(buf, uint64(n))
}

// AppendEntryCommand appends one command with its length before it. scratch is
// memory for the command, which is returned for the next.
func AppendEntryCommand(buf, scratch []byte, c *Command) (entry, reuse []byte) {
	scratch = c.Append(scratch[:0])
	return wire.AppendBytes(buf, scratch), scratch
}

// DecodeEntry reads one entry that fills buf. The values of its writes alias
// buf. The error wraps base.ErrCorrupt.
func DecodeEntry(buf []byte) (*Entry, error) {
	r := wire.NewReader(buf)
	if v := r.Byte(); r.Err() == nil && v != EntryVersion {
		return nil, fmt.Errorf("%w: log entry of version %d, known is %d", base.ErrCorrupt, v, EntryVersion)
	}
	e := &Entry{Session: r.Uint64(), Sequence: r.Uvarint()}
	behind := r.Uvarint()
	if behind >= Window || behind >= max(e.Sequence, 1) {
		r.Fail("floor %d below sequence %d", behind, e.Sequence)
	}
	e.Floor = e.Sequence - behind
	e.Commands = make([]Command, 0, r.Count(MaxEntryCommands, 12))
	for range cap(e.Commands) {
		cmd := r.Bytes(r.Len())
		if r.Err() != nil {
			break
		}
		c, err := Decode(cmd)
		if err != nil {
			return nil, err
		}
		e.Commands = append(e.Commands, *c)
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("%w: log entry: %w", base.ErrCorrupt, err)
	}
	return e, nil
}

const resultsVersion = 1

// statusReplayed marks a result that is that of an earlier request.
const statusReplayed = 0x80

// AppendResultsHead appends the head of the results of n commands: version u8 |
// count. They follow, each with AppendResult.
func AppendResultsHead(buf []byte, n int) []byte {
	return wire.AppendUvarint(append(buf, resultsVersion), uint64(n))
}

// AppendResult appends status u8 | version u64 | versions | failed, and with
// StatusLocked the holder.
func AppendResult(buf []byte, res *Result) []byte {
	status := byte(res.Status)
	if res.Replayed {
		status |= statusReplayed
	}
	buf = appendOutcome(append(buf, status), res)
	if res.Status == StatusLocked {
		buf = appendHolder(buf, res.Holder)
	}
	return buf
}

// DecodeResults reads the results of an entry into the given ones, whose memory
// it reuses. There must be as many. The error wraps base.ErrCorrupt.
func DecodeResults(buf []byte, into []*Result) error {
	r := wire.NewReader(buf)
	if v := r.Byte(); r.Err() == nil && v != resultsVersion {
		return fmt.Errorf("%w: results of version %d, known is %d", base.ErrCorrupt, v, resultsVersion)
	}
	if n := r.Uvarint(); r.Err() == nil && n != uint64(len(into)) {
		r.Fail("%d results of %d commands", n, len(into))
	}
	for _, res := range into {
		status := r.Byte()
		res.Status, res.Replayed = Status(status&^statusReplayed), status&statusReplayed != 0
		if res.Status > lastStatus {
			r.Fail("unknown status %d", status)
		}
		readOutcome(r, res)
		res.Holder = Holder{}
		if res.Status == StatusLocked {
			res.Holder = readHolder(r)
		}
	}
	if err := r.Close(); err != nil {
		return fmt.Errorf("%w: results of a log entry: %w", base.ErrCorrupt, err)
	}
	return nil
}
