package command

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

var update = flag.Bool("update", false, "rewrite the golden files; only for a new format version")

// samples has one command for each thing that a command can hold.
func samples() map[string]*Command {
	id := base.RequestID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	return map[string]*Command{
		"empty": {Stamp: 1},
		"put":   {Stamp: 1700000000000000, Writes: []base.Write{{Key: base.K("acct", "balance"), Value: []byte("100")}}},
		"everything": {
			Stamp: 1700000000000001, Request: id, Digest: 0x1122334455667788,
			Reads:  []Read{{base.K("a", ""), 7}, {base.K("b", "x"), 0}},
			Ranges: []RangeRead{{base.Primary("acct"), 99}, {base.All(), 0}},
			Sweep: Sweep{
				Expired:    []Expired{{Key: base.K("old", "\x00"), At: 5, Version: 3}},
				RequestsTo: 300,
			},
			Writes: []base.Write{
				{Key: base.K("k", "ttl"), Value: []byte{0, 1}, TTL: 1500 * time.Microsecond},
				{Kind: base.WriteDelete, Key: base.K("k", "gone"), Cond: base.Cond{Kind: base.CondPresent}},
				{Kind: base.WriteCheck, Key: base.K("k", "same"), Cond: base.Cond{Kind: base.CondVersion, Version: 42}},
				{Key: base.K("k", "new"), Cond: base.Cond{Kind: base.CondVersion}, Value: []byte{}},
			},
		},
	}
}

// step is a command for a transaction over several shards.
func step() *Command {
	return &Command{
		Stamp: 1700000000000002, Request: base.RequestID{7, 7}, Digest: 5,
		Step: Step{
			Kind: StepDecide, Holder: Holder{Txn: base.RequestID{9, 8, 7}, Anchor: 29, Deadline: 1700000005000000},
			At: 1700000000000001, Shards: []base.ShardID{3, 29, 200},
			Outcome: Result{Status: StatusMismatch, Versions: []base.Version{4, 0}, Failed: []int{1}},
		},
		Positions: []int{1},
		Writes:    []base.Write{{Key: base.K("k", ""), Value: []byte("v")}},
	}
}

func forget() *Command {
	return &Command{
		Stamp: 1700000000000003, Step: Step{Kind: StepForget}, Forget: []base.RequestID{{1}, {2, 3}},
	}
}

func remembered() *Remembered {
	return &Remembered{Sequence: 9, Digest: 8, At: 7, Result: Result{
		Status: StatusMismatch, Versions: []base.Version{0, 5, 6}, Failed: []int{0, 2},
	}}
}

func TestGolden(t *testing.T) {
	for name, cmd := range samples() {
		golden(t, "command_v1_"+name, cmd.Append(nil))
	}
	golden(t, "command_v1_decide", step().Append(nil))
	golden(t, "command_v1_forget", forget().Append(nil))
	golden(t, "remembered_v1", remembered().Append(nil))
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(goldenPath(name), []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := readHex(t, name)
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the bytes have changed; an encoding never does\n got %x\nwant %x", name, got, want)
	}
}

func goldenPath(name string) string { return filepath.Join("testdata", name+".hex") }

func readHex(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(goldenPath(name))
	if err != nil {
		t.Fatal(err)
	}
	buf, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return buf
}

// A decision about what the anchor had prepared is refused, by itself and in an entry:
// nobody makes those any more.
func TestRetiredStep(t *testing.T) {
	for name, decode := range map[string]func([]byte) error{
		"command_v1_retired": func(buf []byte) error { _, err := Decode(buf); return err },
		"entry_v1_retired":   func(buf []byte) error { _, err := DecodeEntry(buf); return err },
	} {
		if err := decode(readHex(t, name)); !errors.Is(err, base.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What applying a decision relies on is refused before it gets into a log.
func TestPositionsFitTheirWrites(t *testing.T) {
	for name, spoil := range map[string]func(c *Command){
		"no positions":            func(c *Command) { c.Positions = nil },
		"too many":                func(c *Command) { c.Positions = []int{0, 1} },
		"beyond the outcome":      func(c *Command) { c.Positions = []int{2} },
		"without a request":       func(c *Command) { c.Request = base.RequestID{} },
		"of a step that has none": func(c *Command) { c.Step.Kind = StepPrepare },
		"of a command by itself":  func(c *Command) { c.Step = Step{} },
		"none, and more writes":   func(c *Command) { c.Step.Kind, c.Positions = StepRefuse, nil },
	} {
		c := step()
		spoil(c)
		if _, err := Decode(c.Append(nil)); !errors.Is(err, base.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	all := samples()
	all["decide"], all["forget"] = step(), forget()
	for name, cmd := range all {
		got, err := Decode(cmd.Append(nil))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, cmd) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, cmd)
		}
	}
	got, err := DecodeRemembered(remembered().Append(nil))
	if err != nil || !reflect.DeepEqual(got, remembered()) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestDecodeDamaged cuts and flips every byte: the decoder must refuse, or
// find a command that has just these bytes.
func TestDecodeDamaged(t *testing.T) {
	all := samples()
	all["decide"], all["forget"] = step(), forget()
	for name, cmd := range all {
		whole := cmd.Append(nil)
		for i := range whole {
			mustRefuseOrMatch(t, name, whole[:i])
			for bit := range 8 {
				flipped := bytes.Clone(whole)
				flipped[i] ^= 1 << bit
				mustRefuseOrMatch(t, name, flipped)
			}
		}
		mustRefuseOrMatch(t, name, append(bytes.Clone(whole), 0))
	}
}

func mustRefuseOrMatch(t *testing.T, name string, buf []byte) {
	t.Helper()
	cmd, err := Decode(buf)
	switch {
	case err != nil && !errors.Is(err, base.ErrCorrupt):
		t.Errorf("%s: error without a type: %v", name, err)
	case err == nil && !bytes.Equal(cmd.Append(nil), buf):
		t.Errorf("%s: %x decodes, but not to itself", name, buf)
	}
}

func TestDecodeHostileCounts(t *testing.T) {
	for _, tail := range [][]byte{
		{0xff, 0xff, 0xff, 0xff, 0x0f},                                                // a huge count of writes
		{1, 0x00, 0xff, 0xff, 0xff, 0xff, 0x7f},                                       // a huge key
		{1, 0x00, 1, 'k', 0, 0, 0xff, 0xff, 0xff, 0x7f},                               // a huge value
		{1, 0x00, 1, 'k', 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0}, // a huge ttl
		{1, 0x30, 1, 'k', 0},                                                          // an unknown kind
		{1, 0x03, 1, 'k', 0, 0, 0},                                                    // an unknown condition
	} {
		buf := append((&Command{Stamp: 1}).Append(nil)[:10], tail...)
		if _, err := Decode(buf); !errors.Is(err, base.ErrCorrupt) {
			t.Errorf("%x: %v", tail, err)
		}
	}
	if _, err := Decode([]byte{2}); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("another version: %v", err)
	}
}

func TestDigestTellsRequestsApart(t *testing.T) {
	one := []base.Write{{Key: base.K("a", "b"), Value: []byte("v")}}
	seen := map[uint64]string{Digest(one): "the request itself"}
	for what, change := range map[string]func(*base.Write){
		"value":     func(w *base.Write) { w.Value = []byte("w") },
		"key":       func(w *base.Write) { w.Key.Secondary = "c" },
		"ttl":       func(w *base.Write) { w.TTL = time.Second },
		"condition": func(w *base.Write) { w.Cond.Kind = base.CondPresent },
		"kind":      func(w *base.Write) { w.Kind = base.WriteDelete },
	} {
		w := one[0]
		change(&w)
		if other, same := seen[Digest([]base.Write{w})]; same {
			t.Errorf("another %s has the digest of %s", what, other)
		}
	}
	if Digest(one) != Digest([]base.Write{{Key: base.K("a", "b"), Value: []byte("v")}}) {
		t.Error("equal requests differ")
	}
}

func TestRangeDigest(t *testing.T) {
	var a, b, c RangeDigest
	a.Add(base.K("p", "1"), 1)
	a.Add(base.K("p", "2"), 2)
	b.Add(base.K("p", "2"), 2)
	b.Add(base.K("p", "1"), 1)
	c.Add(base.K("p", "1"), 2)
	c.Add(base.K("p", "2"), 1)
	if a.Sum() != b.Sum() {
		t.Error("the order matters")
	}
	if a.Sum() == c.Sum() {
		t.Error("versions do not matter")
	}
}

func TestMerge(t *testing.T) {
	part := func(positions []int, versions []base.Version, failed ...int) Part {
		return Part{
			Command: Command{Writes: make([]base.Write, len(positions))}, Positions: positions,
			Result: Result{Versions: versions, Failed: failed},
		}
	}
	txn := &Txn{Parts: []Part{
		part([]int{3, 1}, []base.Version{30, 10}, 0),
		part([]int{0, 2}, []base.Version{5, 20}, 1),
	}}
	txn.Merge()
	if want := []base.Version{5, 10, 20, 30}; !reflect.DeepEqual(txn.Result.Versions, want) {
		t.Errorf("versions %v, want %v", txn.Result.Versions, want)
	}
	if want := []int{2, 3}; !reflect.DeepEqual(txn.Result.Failed, want) {
		t.Errorf("failed %v, want %v", txn.Result.Failed, want)
	}
}

func TestExpiresAt(t *testing.T) {
	for _, c := range []struct {
		ttl  time.Duration
		want uint64
	}{{0, 0}, {-1, 0}, {1, 101}, {time.Microsecond, 101}, {1001, 102}, {time.Second, 1000100}} {
		if got := ExpiresAt(100, c.ttl); got != c.want {
			t.Errorf("%v: %d, want %d", c.ttl, got, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, cmd := range samples() {
		f.Add(cmd.Append(nil))
	}
	f.Fuzz(func(t *testing.T, buf []byte) { mustRefuseOrMatch(t, "fuzz", buf) })
}

func FuzzDecodeRemembered(f *testing.F) {
	f.Add(remembered().Append(nil))
	f.Fuzz(func(t *testing.T, buf []byte) {
		m, err := DecodeRemembered(buf)
		switch {
		case err != nil && !errors.Is(err, base.ErrCorrupt):
			t.Errorf("error without a type: %v", err)
		case err == nil && !bytes.Equal(m.Append(nil), buf):
			t.Errorf("%x decodes, but not to itself", buf)
		}
	})
}

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }
