package gossip

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// seen makes a sighting.
func seen(id string, epoch uint64, addr string, state State) sighting {
	a := announcement{id: id, protocolMax: 1}
	return sighting{name: name{id, epoch, addr}.String(), state: state, meta: a.append(nil)}
}

func TestRoster(t *testing.T) {
	r := roster{records: map[string]record{}}
	start := time.Unix(1000, 0)
	check := func(second int, want string, changed bool, list ...sighting) {
		t.Helper()
		if got := r.update(list, start.Add(time.Duration(second)*time.Second)); got != changed {
			t.Errorf("second %d: changed is %v", second, got)
		}
		var got []string
		for _, m := range r.members() {
			got = append(got, fmt.Sprintf("%s-%d@%s %v since %d", m.ID, m.Epoch, m.Addr, m.State, int(m.Since.Sub(start).Seconds())))
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("second %d:\n got %s\nwant %s", second, s, want)
		}
	}
	a, bad := seen("a", 1, "x", Alive), sighting{name: "nonsense"}
	check(0, "a-1@x alive since 0", true, a, bad)
	check(1, "a-1@x alive since 0", false, a)
	check(2, "a-1@x alive since 0, b-1@y alive since 2", true, a, seen("b", 1, "y", Alive))
	check(3, "a-1@x alive since 0, b-1@y suspect since 3", true, a, seen("b", 1, "y", Suspect))
	check(4, "a-1@x alive since 0, b-1@y dead since 4", true, a, seen("b", 1, "y", Dead))
	check(5, "a-1@x alive since 0, b-1@y dead since 4", true, a) // forgotten by memberlist only
	check(6, "a-1@x alive since 0, b-2@z alive since 6", true, a, seen("b", 2, "z", Alive))
	check(7, "a-1@x alive since 0, b-2@z suspect since 7", true, a, seen("b", 2, "z", Suspect), seen("b", 1, "y", Alive))
	check(8, "a-1@x alive since 0, b-2@z dead since 8", true, a)
	check(9, "a-1@x alive since 0, b-2@z left since 9", true, a, seen("b", 2, "z", Left))
	check(10, "a-1@x alive since 0, b-2@z alive since 10", true, a, seen("b", 2, "q", Dead), seen("b", 2, "z", Alive))
	if len(r.records) != 3 {
		t.Errorf("%v", r.records)
	}
	check(11, "a-1@x alive since 0, b-2@z dead since 11", true, a)
	if len(r.records) != 2 {
		t.Errorf("%v", r.records)
	}
}

func TestRosterIsBounded(t *testing.T) {
	r := roster{records: map[string]record{}}
	for i := range maxGone + 10 {
		r.update([]sighting{seen(nodeID(i), 1, "x", Dead)}, time.Unix(int64(i), 0))
	}
	r.update(nil, time.Unix(1e6, 0))
	if _, ok := r.records[name{nodeID(9), 1, "x"}.String()]; ok || len(r.records) != maxGone {
		t.Errorf("%d records", len(r.records))
	}
}

func TestLog(t *testing.T) {
	var out bytes.Buffer
	w := newLogWriter(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	for _, line := range []string{
		"2026/01/02 03:04:05 [ERR] memberlist: one\n", "2026/01/02 03:04:05 [WARN] memberlist: two\n", "2026/01/02 03:04:05 [INFO] memberlist: three\n",
		"2026/01/02 03:04:05 [DEBUG] memberlist: four\n", "five\n", "[ERR] memberlist: Failed to join " + listenerName + "\n",
	} {
		if n, err := w.Write([]byte(line)); n != len(line) || err != nil {
			t.Error(n, err)
		}
	}
	for _, want := range []string{"level=WARN msg=one source=memberlist", "level=INFO msg=two", "level=DEBUG msg=three", "level=INFO msg=five"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "four") || strings.Contains(out.String(), "join") {
		t.Errorf("too much:\n%s", out.String())
	}
	now := time.Unix(1000, 0)
	for i := range 3 * logLines {
		if _, ok := w.due(slog.LevelError, now); ok != (i < logLines) {
			t.Errorf("line %d: %v", i, ok)
		}
	}
	if unsaid, ok := w.due(slog.LevelError, now.Add(logEvery)); !ok || unsaid != 2*logLines {
		t.Error(unsaid, ok)
	}
	w.close()
	if _, ok := w.due(slog.LevelError, now.Add(time.Hour)); ok {
		t.Error("logged after the end")
	}
	for s, want := range map[State]string{Alive: "alive", Suspect: "suspect", Dead: "dead", Left: "left", 9: "unknown"} {
		if s.String() != want {
			t.Error(s)
		}
	}
}
