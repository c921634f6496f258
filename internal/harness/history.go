package harness

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
)

// Kind says what an operation does.
type Kind string

// The kinds of operations.
const (
	Get    Kind = "get"
	Put    Kind = "put"
	Delete Kind = "delete"
)

// Outcome says what a client knows of an operation.
type Outcome string

// The outcomes. A call that has not returned is unknown, too.
const (
	OK      Outcome = "ok"
	Failed  Outcome = "failed" // not applied
	Unknown Outcome = "unknown"
)

// Forever is the return time of an operation that may still take effect.
const Forever = time.Duration(math.MaxInt64)

// Op is one operation of a history. The times count from the start of the
// recording on a clock that never goes back.
type Op struct {
	Client  int           `json:"client"`
	Kind    Kind          `json:"kind"`
	Keys    []base.Key    `json:"keys"`
	Input   Input         `json:"input"`
	Output  Output        `json:"output"`
	Call    time.Duration `json:"call"`
	Return  time.Duration `json:"return"`
	Outcome Outcome       `json:"outcome"`
}

// Input is what a client asked for.
type Input struct {
	Value string    `json:"value,omitempty"`
	Cond  base.Cond `json:"cond,omitzero"`
}

// Output is what a client got. Version is that of a value read or put, or the
// one that a delete removed; 0 stands for absent. If Refused, the condition
// did not hold, and Version is what was found instead.
type Output struct {
	Value   string       `json:"value,omitempty"`
	Version base.Version `json:"version,omitempty"`
	Refused bool         `json:"refused,omitempty"`
	Err     string       `json:"err,omitempty"`
}

// String describes the operation in one line.
func (o *Op) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "client %d: %s %v", o.Client, o.Kind, o.Keys)
	if o.Kind == Put {
		fmt.Fprintf(&b, " %q", o.Input.Value)
	}
	switch c := o.Input.Cond; c.Kind {
	case base.CondVersion:
		fmt.Fprintf(&b, " if version %d", c.Version)
	case base.CondPresent:
		b.WriteString(" if present")
	case base.CondNone:
	}
	switch {
	case o.Output.Refused:
		fmt.Fprintf(&b, " -> refused, is %d", o.Output.Version)
	case o.Outcome != OK:
		fmt.Fprintf(&b, " -> %s %s", o.Outcome, o.Output.Err)
	case o.Kind == Get && o.Output.Version != 0:
		fmt.Fprintf(&b, " -> %q, version %d", o.Output.Value, o.Output.Version)
	default:
		fmt.Fprintf(&b, " -> version %d", o.Output.Version)
	}
	return b.String()
}

// maxValueBytes is how much of a value a history holds.
const maxValueBytes = 64

// Fingerprint stands for a value in a history: the value itself if it is
// short, else its beginning, length and hash.
func Fingerprint(value []byte) string {
	if len(value) <= maxValueBytes {
		return string(value)
	}
	return fmt.Sprintf("%s...%d bytes, hash %016x", value[:maxValueBytes/2], len(value), xxhash.Sum64(value))
}

// History is what happened, in the order of the calls.
type History []Op

// Recorder collects a history from concurrent clients.
type Recorder struct {
	start time.Time
	limit int

	// mu guards the rest.
	mu  sync.Mutex
	ops History
}

// NewRecorder starts a recording of at most limit operations.
func NewRecorder(limit int) *Recorder { return &Recorder{start: time.Now(), limit: limit} }

// Begin records the call of an operation, right before it is made. It returns
// the id that End wants, or false if the history is full.
func (r *Recorder) Begin(op Op) (id int, ok bool) {
	op.Return, op.Outcome = Forever, Unknown
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ops) >= r.limit {
		return 0, false
	}
	op.Call = time.Since(r.start)
	r.ops = append(r.ops, op)
	return len(r.ops) - 1, true
}

// End records the return of an operation, right after it. One of unknown
// outcome may still take effect later.
func (r *Recorder) End(id int, outcome Outcome, output Output) {
	now := time.Since(r.start)
	if outcome == Unknown {
		now = Forever
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	op := &r.ops[id]
	op.Return, op.Outcome, op.Output = now, outcome, output
}

// History returns a copy of what was recorded so far.
func (r *Recorder) History() History {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(History(nil), r.ops...)
}

// Stats counts a history.
type Stats struct{ Ops, OK, Refused, Failed, Unknown int }

// String returns the counts in one line.
func (s Stats) String() string {
	return fmt.Sprintf("%d operations: %d ok, %d refused, %d failed, %d unknown", s.Ops, s.OK, s.Refused, s.Failed, s.Unknown)
}

// Stats counts the operations by outcome.
func (h History) Stats() (s Stats) {
	s.Ops = len(h)
	for i := range h {
		switch {
		case h[i].Output.Refused:
			s.Refused++
		case h[i].Outcome == OK:
			s.OK++
		case h[i].Outcome == Failed:
			s.Failed++
		default:
			s.Unknown++
		}
	}
	return s
}

// Span returns how long the history took.
func (h History) Span() (span time.Duration) {
	for i := range h {
		if h[i].Return != Forever {
			span = max(span, h[i].Return)
		}
	}
	return span
}

// byKey splits a history. An operation on several keys is under each.
func (h History) byKey() map[base.Key][]*Op {
	keys := map[base.Key][]*Op{}
	for i := range h {
		for _, key := range h[i].Keys {
			keys[key] = append(keys[key], &h[i])
		}
	}
	return keys
}

// Dump writes the history to a file, one operation in each line.
func (h History) Dump(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	for i := range h {
		if err := enc.Encode(&h[i]); err != nil {
			return err
		}
	}
	return w.Flush()
}

// Load reads what Dump wrote.
func Load(path string) (History, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var h History
	for dec := json.NewDecoder(bufio.NewReader(f)); ; {
		var op Op
		if err := dec.Decode(&op); err != nil {
			if errors.Is(err, io.EOF) {
				return h, nil
			}
			return nil, fmt.Errorf("operation %d of %s: %w", len(h), path, err)
		}
		h = append(h, op)
	}
}
