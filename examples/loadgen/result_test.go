package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/result.json anew; only when the format changes")

// sample is a result with everything in it.
func sample(t testing.TB) *result {
	c, err := parseRun(strings.Fields("--topology processes --rate 100 --mix get,transfer --for 1s"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	sum := newTally()
	for i := range 200 {
		sum.of(operation(i % 2 * int(opTransfer))).Latency.record(time.Duration(i+1) * time.Millisecond)
		sum.Delay.record(time.Duration(i) * time.Microsecond)
	}
	sum.of(opTransfer).Errors["overloaded"] = 3
	sum.Late, sum.Missed, sum.Confirmed, sum.Unknown = 1, 2, 100, 1
	sum.Timeline = []int64{10, 20, 30, 0, 140}
	rep := summarize(sum, &c.Work)
	rep.account(cost{[]processUsage{{"node-1", 1.5, 1 << 27, 1 << 28, 0.5}}, 0.25})
	rep.IdleCPUs = 0.125
	rep.Leaders, rep.LeadersEven, rep.OpenSeconds = map[string]int{"node-1": 10, "node-2": 10, "node-3": 10}, true, 0.5
	rep.Transfers = judge(books{1000, 1000 * openingBalance, 100}, 1000, 100, 1)
	other := rep
	other.All.PerSecond *= 1.1
	return &result{
		Format: formatVersion, Command: []string{"loadgen"}, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Machine: machine{"linux", "amd64", 2, "go1.26"}, Runs: []runs{{Config: c, Notes: []string{"a note"}, Repeats: []repeat{rep, other}}},
	}
}

// What an earlier version wrote is read, and written again as it was.
func TestGoldenResult(t *testing.T) {
	const golden = "testdata/result.json"
	if *update {
		if err := sample(t).write(golden); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(t.TempDir(), "again.json")
	for _, r := range []func() (*result, error){
		func() (*result, error) { return sample(t), nil },
		func() (*result, error) { return readResult(golden) },
	} {
		got, err := r()
		if err == nil {
			err = got.write(again)
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(again); err != nil || !bytes.Equal(text, want) {
			t.Errorf("it is not %s: %v\n%s", golden, err, text)
		}
	}
}

func TestTableShowsEverything(t *testing.T) {
	r := sample(t)
	var out bytes.Buffer
	printRuns(&out, r, &r.Runs[0])
	for _, want := range []string{
		"3 processes, replication factor 3, calls from node-1", "open loop, 100 starts", "note: a note", "repeat 2 of 2", "over 2 repeats", "transfer failed: 3 overloaded",
		"THE RATE WAS NOT KEPT", "2 missed", "10 node-1, 10 node-2, 10 node-3", "adds up", "128 MiB", "THE MACHINE WAS BUSY", "0.125 of a CPU before", "p99.9",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestBadResults(t *testing.T) {
	good, err := json.Marshal(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"": "no result", "{": "no result", `{"format": 2}`: "format 2", `{"format": 1}`: "no runs", `{"format":1,"runs":[{}]}`: "without repeats",
		`{"format":1,"runs":[{"repeats":[{}]}]}`:                                                                  "no histogram",
		strings.Replace(string(good), `"histogram":"`, `"histogram":"!`, 1):                                       "damaged",
		strings.Replace(string(good), `"mix":"get=1,transfer=1"`, `"mix":"fly"`, 1):                               "damaged",
		strings.Replace(string(good), `"Format":1`, ``, 1)[:len(good)/2]:                                          "no result",
		strings.Replace(string(good), string(good[bytes.Index(good, []byte(`"repeats"`)):]), `"repeats":3}]}`, 1): "damaged",
	} {
		if _, err := decodeResult([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
	if _, err := readResult("testdata/none.json"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// Whatever a file says, it is refused, or can be compared and drawn.
func FuzzResult(f *testing.F) {
	r := sample(f)
	r.Runs[0].Repeats = r.Runs[0].Repeats[:1]
	rep := &r.Runs[0].Repeats[0]
	rep.Ops = rep.Ops[:1]
	good, err := json.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"format":1,"runs":[{"repeats":[{}]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := decodeResult(text)
		if err != nil {
			return
		}
		_ = compare(io.Discard, r, r)
		wellFormed(t, plot(r))
		for i := range r.Runs {
			printRuns(io.Discard, r, &r.Runs[i])
		}
		printScale(io.Discard, r)
		if _, err := json.Marshal(r); err != nil {
			t.Errorf("it cannot be written again: %v", err)
		}
	})
}

func wellFormed(t *testing.T, svg []byte) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v\n%s", err, svg)
		}
	}
}

func TestPlot(t *testing.T) {
	r := sample(t)
	text := string(plot(r))
	wellFormed(t, []byte(text))
	for _, want := range []string{"latency by percentile", "99.9", "transfer", "throughput over time", "repeat 2", "polyline"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	r.Scale = true
	r.Runs[0].Config.Nodes = 1
	for _, n := range []int{3, 10} {
		more := r.Runs[0]
		more.Config.Nodes = n
		r.Runs = append(r.Runs, more)
	}
	text = string(plot(r))
	wellFormed(t, []byte(text))
	for _, want := range []string{"linear from 1", "linear from 3", "p99.9"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Error(text)
	}
}

func TestTicks(t *testing.T) {
	for _, test := range []struct {
		axis      axis
		low, high float64
		want      int
	}{
		{axis{}, 0, 10, 6}, {axis{zero: true}, 5, 7, 5}, {axis{log: true}, 0.02, 30, 5}, {axis{log: true}, 1, 1, 2}, {axis{}, 1e17, 1e17 + 16, -1},
	} {
		s := scale{axis: test.axis, low: test.low, high: test.high}
		s.round()
		got := s.ticks()
		if test.want >= 0 && len(got) != test.want || len(got) > maxTicks {
			t.Errorf("%+v: ticks at %v", test, got)
		}
	}
}
