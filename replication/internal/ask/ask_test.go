package ask

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
)

var update = flag.Bool("update", false, "write the golden files of new formats")

// requests has a request of each kind, by the name of its golden file.
func requests() map[string]*Request {
	id := base.RequestID{0: 1, 15: 16}
	member := func(kind Kind) *Request {
		return &Request{Kind: kind, Shard: 7, Member: 103, Node: "node-c", ConfigChange: 41}
	}
	return map[string]*Request{
		"propose": {Kind: Propose, Shard: 5, Bytes: []byte("entry")},
		"barrier": {Kind: Barrier, Shard: base.CatalogShard},
		"get": {Kind: Get, Shard: 300, Keys: []base.Key{base.K("user/1", "name"), base.K("user/2", "")},
			Read: base.ReadOptions{Stale: true, MaxStale: time.Second}},
		"scan": {Kind: Scan, Shards: []base.ShardID{0, 300}, Range: base.PrimaryPrefix("user/"),
			Read: base.ReadOptions{KeysOnly: true, Reverse: true, Limit: 1000}},
		"outcome":  {Kind: Outcome, Shard: 2, ID: id},
		"recall":   {Kind: Recall, Shard: 3, ID: id},
		"check":    {Kind: Check, Shard: 4, Bytes: []byte("command")},
		"status":   {Kind: Status},
		"learner":  member(AddLearner),
		"promote":  member(Promote),
		"drop":     member(DropMember),
		"transfer": member(TransferLeader),
		"confirm":  {Kind: Confirm, Bytes: AppendClaims(nil, sampleClaims())},
	}
}

func sampleClaims() []Claim {
	return []Claim{{Shard: 3, Replica: 2, Term: 7}, {Shard: base.CatalogShard, Replica: 1 << 40, Term: 1, Arrive: true}}
}

func sampleConfirmed() []Confirmed { return []Confirmed{{Yes: true}, {}, {Yes: true, Index: 1 << 33}} }

func samplePage() *Page {
	return &Page{
		Marks: []Mark{{Shard: 0, Removed: 1700000000000000}, {Shard: 300, Removed: 1}},
		Items: []base.Item{
			{Key: base.K("user/1", "name"), Value: []byte("Ada"), Version: 1700000000000001, ExpiresAt: base.Version(1800000000000000).Time()},
			{Key: base.K("user/2", ""), Value: []byte{}, Version: 2},
			{Key: base.K("absent", "")},
		},
	}
}

func sampleStatus() []Replica {
	return []Replica{
		{Shard: 0, Replica: 1, Leader: 1, LeaderNode: "node-a", Term: 3, Applied: 500, Clock: 1700000000000000, ConfigChange: 41,
			Voters: []Member{{1, "node-a"}, {2, "node-b"}}, Learners: []Member{{103, "node-c"}}, Removed: []uint64{3, 4}},
		{Shard: base.CatalogShard, Replica: 2},
	}
}

func TestGolden(t *testing.T) {
	kinds := map[Kind]bool{}
	for name, q := range requests() {
		golden(t, "request_v1_"+name, q.Append(nil))
		kinds[q.Kind] = true
	}
	if len(kinds) != int(lastKind) {
		t.Errorf("%d kinds of requests have golden bytes, there are %d", len(kinds), lastKind)
	}
	golden(t, "page_v1", samplePage().Append(nil))
	golden(t, "page_v1_empty", (&Page{}).Append(nil))
	golden(t, "verdict_v1_yes", Verdict{Yes: true, Version: 1700000000000000}.Append(nil))
	golden(t, "verdict_v1_no", Verdict{}.Append(nil))
	golden(t, "status_v1", AppendStatus(nil, sampleStatus()))
	golden(t, "claims_v1", AppendClaims(nil, sampleClaims()))
	golden(t, "confirmed_v1", AppendConfirmed(nil, sampleConfirmed()))
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		if err := os.WriteFile(path, []byte(hex.EncodeToString(got)+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the bytes have changed; an encoding never does\n got %x\nwant %x", name, got, want)
	}
}

// upTo returns up to n random values.
func upTo[T any](rng *rand.Rand, n int, one func() T) (all []T) {
	for range rng.IntN(n + 1) {
		all = append(all, one())
	}
	return all
}

func randomShard(rng *rand.Rand) base.ShardID {
	if rng.IntN(8) == 0 {
		return base.CatalogShard
	}
	return base.ShardID(rng.IntN(base.MaxShards))
}

func randomRequest(rng *rand.Rand) *Request {
	chance := func() bool { return rng.IntN(2) == 0 }
	q := &Request{
		Kind: Kind(1 + rng.IntN(int(lastKind))), Shard: randomShard(rng),
		Shards: upTo(rng, 5, func() base.ShardID { return randomShard(rng) }),
		Keys:   upTo(rng, 5, func() base.Key { return testkit.Key(rng) }),
		Range:  base.Range{Start: testkit.Key(rng)},
		Read: base.ReadOptions{Stale: chance(), KeysOnly: chance(), Reverse: chance(),
			MaxStale: time.Duration(rng.Int64()), Limit: rng.IntN(1 << 30)},
		Bytes: testkit.Bytes(rng, rng.IntN(50)), Member: rng.Uint64(), Node: string(testkit.Bytes(rng, rng.IntN(maxNodeBytes))),
		ConfigChange: rng.Uint64(),
	}
	if chance() {
		q.Range = base.Primary(testkit.Key(rng).Primary)
	}
	copy(q.ID[:], testkit.Bytes(rng, len(q.ID)))
	return q
}

func randomPage(rng *rand.Rand) *Page {
	return &Page{
		Marks: upTo(rng, 5, func() Mark { return Mark{randomShard(rng), base.Version(rng.Uint64())} }),
		Items: upTo(rng, 9, func() base.Item {
			it := base.Item{Key: testkit.Key(rng), Version: base.Version(rng.Uint64N(3))}
			if it.Version != 0 {
				it.Value = append([]byte{}, testkit.Bytes(rng, rng.IntN(300))...)
			}
			if rng.IntN(2) == 0 {
				it.ExpiresAt = base.Version(1 + rng.Int64N(1<<53)).Time()
			}
			return it
		}),
	}
}

func randomStatus(rng *rand.Rand) []Replica {
	name := func() string { return string(testkit.Bytes(rng, rng.IntN(maxNodeBytes))) }
	member := func() Member { return Member{rng.Uint64(), name()} }
	return upTo(rng, 4, func() Replica {
		return Replica{
			Shard: randomShard(rng), Replica: rng.Uint64(), Leader: rng.Uint64(), LeaderNode: name(), Term: rng.Uint64(),
			Applied: rng.Uint64(), Clock: base.Version(rng.Uint64()), ConfigChange: rng.Uint64(),
			Voters: upTo(rng, 5, member), Learners: upTo(rng, 3, member), Removed: upTo(rng, 9, rng.Uint64),
		}
	})
}

func randomClaims(rng *rand.Rand) []Claim {
	return upTo(rng, 9, func() Claim {
		return Claim{Shard: randomShard(rng), Replica: rng.Uint64(), Term: rng.Uint64(), Arrive: rng.IntN(2) == 0}
	})
}

func randomConfirmed(rng *rand.Rand) []Confirmed {
	return upTo(rng, 9, func() Confirmed { return Confirmed{Yes: rng.IntN(2) == 0, Index: rng.Uint64()} })
}

// decoders has each decoder with the inverse of it.
func decoders() map[string]func([]byte) (value any, again []byte, err error) {
	return map[string]func([]byte) (any, []byte, error){
		"request": func(buf []byte) (any, []byte, error) {
			q, err := Decode(buf)
			if err != nil {
				return nil, nil, err
			}
			return q, q.Append(nil), nil
		},
		"page": func(buf []byte) (any, []byte, error) {
			p, err := DecodePage(buf)
			if err != nil {
				return nil, nil, err
			}
			return p, p.Append(nil), nil
		},
		"verdict": func(buf []byte) (any, []byte, error) {
			v, err := DecodeVerdict(buf)
			return v, v.Append(nil), err
		},
		"status": func(buf []byte) (any, []byte, error) {
			s, err := DecodeStatus(buf)
			return s, AppendStatus(nil, s), err
		},
		"claims": func(buf []byte) (any, []byte, error) {
			c, err := DecodeClaims(buf)
			return c, AppendClaims(nil, c), err
		},
		"confirmed": func(buf []byte) (any, []byte, error) {
			c, err := DecodeConfirmed(buf)
			return c, AppendConfirmed(nil, c), err
		},
	}
}

// A value comes back as it was. Cut short it never does, and never panics.
func TestRoundTrip(t *testing.T) {
	rng := testkit.Rand(t)
	for range 300 {
		v := Verdict{Yes: rng.IntN(2) == 0, Version: base.Version(rng.Uint64())}
		q, p, s := randomRequest(rng), randomPage(rng), randomStatus(rng)
		claims, confirmed := randomClaims(rng), randomConfirmed(rng)
		for name, c := range map[string]struct {
			value any
			buf   []byte
		}{
			"request": {q, q.Append(nil)}, "page": {p, p.Append(nil)}, "verdict": {v, v.Append(nil)}, "status": {s, AppendStatus(nil, s)},
			"claims": {claims, AppendClaims(nil, claims)}, "confirmed": {confirmed, AppendConfirmed(nil, confirmed)},
		} {
			decode := decoders()[name]
			got, again, err := decode(c.buf)
			if err != nil || !bytes.Equal(again, c.buf) || !sameValue(got, c.value) {
				t.Fatalf("%s %+v became %+v, %v", name, c.value, got, err)
			}
			cut := rng.IntN(len(c.buf))
			if name == "request" {
				cut = rng.IntN(len(c.buf) - len(q.Bytes)) // what is left of Bytes is Bytes
			}
			if _, _, err := decode(c.buf[:cut]); !errors.Is(err, base.ErrInvalid) && !errors.Is(err, base.ErrUnavailable) {
				t.Fatalf("%s of %d bytes cut at %d: %v", name, len(c.buf), cut, err)
			}
		}
	}
}

// sameValue compares by what is printed: nil and empty are the same, and times of
// the same moment.
func sameValue(a, b any) bool {
	return reflect.DeepEqual(a, b) || fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b)
}

func TestUnknownVersionsAreRefused(t *testing.T) {
	q := requests()["get"].Append(nil)
	q[0]++
	if _, err := Decode(q); !errors.Is(err, base.ErrInvalid) {
		t.Errorf("request: %v", err)
	}
	for name, buf := range map[string][]byte{
		"page": samplePage().Append(nil), "verdict": Verdict{}.Append(nil), "status": AppendStatus(nil, sampleStatus()),
		"confirmed": AppendConfirmed(nil, sampleConfirmed()),
	} {
		buf[0]++
		if _, _, err := decoders()[name](buf); !errors.Is(err, base.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, spoil := range []func(*Request){
		func(q *Request) { q.Kind = 0 },
		func(q *Request) { q.Kind = lastKind + 1 },
		func(q *Request) { q.Shard = base.CatalogShard + 1 },
		func(q *Request) { q.Shards = []base.ShardID{base.CatalogShard + 1} },
		func(q *Request) { q.Read.MaxStale = -1 },
		func(q *Request) { q.Read.Limit = -1 },
		func(q *Request) { q.Node = strings.Repeat("n", maxNodeBytes+1) },
	} {
		q := requests()["get"]
		spoil(q)
		if _, err := Decode(q.Append(nil)); !errors.Is(err, base.ErrInvalid) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// TestHostileCountsCostNothing promises many elements in few bytes.
func TestHostileCountsCostNothing(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
	for name, head := range map[string][]byte{
		"request": {RequestVersion, byte(Get), 0, 0}, "page": {AnswerVersion}, "status": {AnswerVersion}, "confirmed": {AnswerVersion}, "claims": {},
	} {
		buf := append(bytes.Clone(head), huge...)
		buf = append(buf, make([]byte, 100)...)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := decoders()[name](buf)
		runtime.ReadMemStats(&after)
		if err == nil || after.TotalAlloc-before.TotalAlloc > 1<<20 {
			t.Errorf("%s: %v, %d bytes allocated", name, err, after.TotalAlloc-before.TotalAlloc)
		}
	}
}

// fuzz runs a decoder on whatever comes. What it accepts has one form only.
func fuzz(f *testing.F, name string, seeds ...[]byte) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	decode := decoders()[name]
	f.Fuzz(func(t *testing.T, buf []byte) {
		value, again, err := decode(buf)
		if err != nil {
			if !errors.Is(err, base.ErrInvalid) && !errors.Is(err, base.ErrUnavailable) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		back, twice, err := decode(again)
		if err != nil || !bytes.Equal(again, twice) || !sameValue(value, back) {
			t.Errorf("%+v became %+v, %v", value, back, err)
		}
	})
}

func FuzzDecodeRequest(f *testing.F) {
	var seeds [][]byte
	for _, q := range requests() {
		seeds = append(seeds, q.Append(nil))
	}
	fuzz(f, "request", seeds...)
}

func FuzzDecodePage(f *testing.F) { fuzz(f, "page", samplePage().Append(nil), (&Page{}).Append(nil)) }

func FuzzDecodeVerdict(f *testing.F) {
	fuzz(f, "verdict", Verdict{Yes: true, Version: 9}.Append(nil), Verdict{}.Append(nil))
}

func FuzzDecodeStatus(f *testing.F) { fuzz(f, "status", AppendStatus(nil, sampleStatus())) }

func FuzzDecodeClaims(f *testing.F) { fuzz(f, "claims", AppendClaims(nil, sampleClaims()), nil) }

func FuzzDecodeConfirmed(f *testing.F) {
	fuzz(f, "confirmed", AppendConfirmed(nil, sampleConfirmed()), AppendConfirmed(nil, nil))
}
