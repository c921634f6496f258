package main

import (
	"cmp"
	"maps"
	"runtime"
	"sync"
	"time"
)

// window is the time that is measured. What is started inside it is counted,
// also if it ends later; what was started before is not, also if it ends inside.
// With a closed loop these are as many.
type window struct{ from, to time.Time }

func (w window) has(t time.Time) bool { return !t.Before(w.from) && t.Before(w.to) }

// stripes is how many parts a recorder has at most, so that clients seldom wait
// for one another. Each has a histogram of some 200 KB for each operation.
const maxStripes = 8

// recorder collects what one generator has seen.
type recorder struct {
	window
	interval time.Duration
	stripes  []*stripe
}

type stripe struct {
	mu   sync.Mutex // protects tally
	part tally
}

func newRecorder(w *workload, of window) *recorder {
	r := &recorder{window: of, interval: w.interval()}
	for range min(runtime.GOMAXPROCS(0), maxStripes) {
		s := &stripe{part: newTally()}
		s.part.Timeline = make([]int64, int((w.Duration+r.interval-1)/r.interval))
		r.stripes = append(r.stripes, s)
	}
	return r
}

func (r *recorder) stripe(client int) *stripe { return r.stripes[client%len(r.stripes)] }

// event is one call: intended to start then, started late by delay, ended after
// latency, which is from the intended start.
type event struct {
	what     operation
	intended time.Time
	delay    time.Duration
	latency  time.Duration
	err      error
}

// record counts an event.
func (r *recorder) record(client int, e event) {
	s := r.stripe(client)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.what == opTransfer {
		s.part.transfer(e.err)
	}
	if !r.has(e.intended) {
		if e.intended.Before(r.from) && !e.intended.Add(e.latency).Before(r.to) {
			s.part.stick(e.err)
		}
		return
	}
	t := s.part.of(e.what)
	if e.delay > lateStart {
		s.part.Late++
	}
	s.part.Delay.record(e.delay)
	if e.err != nil {
		t.fail(e.err)
		return
	}
	t.Latency.record(e.latency)
	if i := int(e.intended.Add(e.latency).Sub(r.from) / r.interval); i < len(s.part.Timeline) {
		s.part.Timeline[i]++
	}
}

// missed counts a start that did not come about before the end.
func (r *recorder) missed(client int) {
	s := r.stripe(client)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.part.Missed++
}

// total returns what has been recorded, when all clients have ended.
func (r *recorder) total() tally {
	sum := newTally()
	for _, s := range r.stripes {
		s.mu.Lock()
		sum.add(s.part)
		s.mu.Unlock()
	}
	return sum
}

// tally is what one generator, or several together, have seen.
type tally struct {
	Ops      map[operation]*opTally `json:"ops"`
	Delay    histogram              `json:"delay"`    // from intended to real starts
	Late     int64                  `json:"late"`     // starts later than lateStart
	Missed   int64                  `json:"missed"`   // starts that did not come about
	Timeline []int64                `json:"timeline"` // calls that succeeded in each interval

	// Stuck calls began before the window and ended behind it, so that no other
	// figure has them. StuckError is what one of them came to.
	Stuck      int64  `json:"stuck"`
	StuckError string `json:"stuck_error,omitempty"`

	// Transfers of the whole run, also outside the window.
	Confirmed int64 `json:"confirmed"`
	Unknown   int64 `json:"unknown"`
}

// opTally is about one operation.
type opTally struct {
	Latency histogram        `json:"latency"` // of calls that succeeded
	Errors  map[string]int64 `json:"errors"`
	// Samples has the text of one error of each kind.
	Samples map[string]string `json:"samples,omitempty"`
}

func (t *opTally) fail(err error) {
	kind := kindOf(err)
	if t.Errors[kind]++; t.Errors[kind] == 1 {
		t.sample(kind, err.Error())
	}
}

func (t *opTally) sample(kind, text string) {
	if t.Samples == nil {
		t.Samples = map[string]string{}
	}
	t.Samples[kind] = text
}

func newTally() tally { return tally{Ops: map[operation]*opTally{}, Delay: newHistogram()} }

func (t *tally) of(o operation) *opTally {
	if t.Ops[o] == nil {
		t.Ops[o] = &opTally{Latency: newHistogram(), Errors: map[string]int64{}}
	}
	return t.Ops[o]
}

func (t *tally) stick(err error) {
	t.Stuck++
	if err != nil {
		t.StuckError = err.Error()
	}
}

func (t *tally) transfer(err error) {
	switch {
	case err == nil:
		t.Confirmed++
	case mayBeApplied(err):
		t.Unknown++
	}
}

// add adds what another has seen.
func (t *tally) add(other tally) {
	for o, theirs := range other.Ops {
		ours := t.of(o)
		ours.Latency.Merge(theirs.Latency.Histogram)
		for kind, n := range theirs.Errors {
			ours.Errors[kind] += n
		}
		for kind, text := range theirs.Samples {
			ours.sample(kind, text)
		}
	}
	t.Delay.Merge(other.Delay.Histogram)
	t.Late += other.Late
	t.Missed += other.Missed
	t.Stuck += other.Stuck
	t.StuckError = cmp.Or(t.StuckError, other.StuckError)
	t.Confirmed += other.Confirmed
	t.Unknown += other.Unknown
	for i, n := range other.Timeline {
		if i == len(t.Timeline) {
			t.Timeline = append(t.Timeline, 0)
		}
		t.Timeline[i] += n
	}
}

// all returns one tally over all operations.
func (t *tally) all() opTally {
	sum := opTally{Latency: newHistogram(), Errors: map[string]int64{}}
	for o := range maps.Keys(t.Ops) {
		sum.Latency.Merge(t.Ops[o].Latency.Histogram)
		for kind, n := range t.Ops[o].Errors {
			sum.Errors[kind] += n
		}
	}
	return sum
}
