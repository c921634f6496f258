package command

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/distributedcache/cache/internal/base"
)

// sampleEntry has every sample command, in the order of their names.
func sampleEntry() *Entry {
	all := samples()
	e := &Entry{Session: 0x0102030405060708, Sequence: 300, Floor: 298}
	for _, name := range []string{"empty", "everything", "put"} {
		e.Commands = append(e.Commands, *all[name])
	}
	e.Commands = append(e.Commands, *step())
	return e
}

func appendEntry(buf []byte, e *Entry) []byte {
	buf = AppendEntryHead(buf, e.Session, e.Sequence, e.Floor, len(e.Commands))
	var scratch []byte
	for i := range e.Commands {
		buf, scratch = AppendEntryCommand(buf, scratch, &e.Commands[i])
	}
	return buf
}

func sampleResults() []Result {
	return []Result{
		{Version: 1700000000000000, Versions: []base.Version{1700000000000000}},
		{Status: StatusMismatch, Versions: []base.Version{0, 5, 6}, Failed: []int{0, 2}},
		{Replayed: true, Version: 9, Versions: []base.Version{9, 3}},
		{Status: StatusReused},
		{Status: StatusLocked, Holder: Holder{Txn: base.RequestID{1}, Anchor: 5, Deadline: 77}},
	}
}

func appendResults(buf []byte, results []Result) []byte {
	buf = AppendResultsHead(buf, len(results))
	for i := range results {
		buf = AppendResult(buf, &results[i])
	}
	return buf
}

func TestEntryGolden(t *testing.T) {
	golden(t, "entry_v1", appendEntry(nil, sampleEntry()))
	golden(t, "results_v1", appendResults(nil, sampleResults()))
}

func TestEntryRoundTrip(t *testing.T) {
	want := sampleEntry()
	buf := appendEntry(nil, want)
	got, err := DecodeEntry(buf)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(appendEntry(nil, got), buf) || got.Floor != want.Floor {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for cut := range buf {
		if _, err := DecodeEntry(buf[:cut]); !errors.Is(err, base.ErrCorrupt) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
}

func TestEntryOfAWiderWindowIsRefused(t *testing.T) {
	for _, e := range []Entry{
		{Sequence: Window + 1, Floor: 1},
		{Sequence: 5, Floor: 0},
		{Sequence: 5, Floor: 6},
	} {
		if _, err := DecodeEntry(appendEntry(nil, &e)); !errors.Is(err, base.ErrCorrupt) {
			t.Errorf("sequence %d, floor %d: %v", e.Sequence, e.Floor, err)
		}
	}
}

func TestResultsRoundTrip(t *testing.T) {
	want := sampleResults()
	buf := appendResults(nil, want)
	got := make([]Result, len(want))
	got[0].Failed = []int{7} // memory of an earlier use
	if err := DecodeResults(buf, pointers(got)); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		same := got[i].Status == want[i].Status && got[i].Replayed == want[i].Replayed && got[i].Version == want[i].Version &&
			got[i].Holder == want[i].Holder
		if !same || !slices.Equal(got[i].Versions, want[i].Versions) || !slices.Equal(got[i].Failed, want[i].Failed) {
			t.Errorf("result %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
	for cut := range buf {
		if err := DecodeResults(buf[:cut], pointers(got)); !errors.Is(err, base.ErrCorrupt) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
	if err := DecodeResults(buf, pointers(got[1:])); !errors.Is(err, base.ErrCorrupt) {
		t.Errorf("another count: %v", err)
	}
}

func pointers(results []Result) []*Result {
	all := make([]*Result, len(results))
	for i := range results {
		all[i] = &results[i]
	}
	return all
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(appendEntry(nil, sampleEntry()))
	f.Fuzz(func(t *testing.T, buf []byte) {
		e, err := DecodeEntry(buf)
		if err != nil {
			return
		}
		again, err := DecodeEntry(appendEntry(nil, e))
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Errorf("%+v became %+v, %v", e, again, err)
		}
	})
}

func FuzzDecodeResults(f *testing.F) {
	f.Add(appendResults(nil, sampleResults()))
	f.Fuzz(func(t *testing.T, buf []byte) {
		got := make([]Result, len(sampleResults()))
		if DecodeResults(buf, pointers(got)) != nil {
			return
		}
		if err := DecodeResults(appendResults(nil, got), pointers(make([]Result, len(got)))); err != nil {
			t.Error(err)
		}
	})
}
