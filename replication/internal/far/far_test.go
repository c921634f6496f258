package far

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/ask"
)

func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }

// world is a Remote with shards of its own, each led by one node.
type world struct {
	mu     sync.Mutex // protects leads and guess
	leads  map[base.ShardID]string
	guess  func(base.ShardID) string // what is believed; nil = the truth
	data   map[base.ShardID][]base.Item
	piece  int // items of each
	sent   atomic.Int64
	asked  atomic.Int64
	opened func(ctx context.Context, node string) error // called with each stream
}

func (w *world) leader(id base.ShardID) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leads[id]
}

func (w *world) Leader(id base.ShardID) string {
	w.mu.Lock()
	guess := w.guess
	w.mu.Unlock()
	if guess != nil {
		return guess(id)
	}
	return w.leader(id)
}

func (w *world) Ask(ctx context.Context, id base.ShardID, _ []byte) ([]byte, error) {
	w.asked.Add(1)
	w.mu.Lock()
	w.guess = nil
	w.mu.Unlock()
	return nil, ctx.Err()
}

func (w *world) AskNode(context.Context, string, []byte) ([]byte, error) {
	return nil, base.ErrUnavailable
}

func (w *world) Stream(ctx context.Context, node string, request []byte, yield func([]byte) error) error {
	q, err := ask.Decode(request)
	if err != nil {
		return err
	}
	if w.opened != nil {
		if err := w.opened(ctx, node); err != nil {
			return err
		}
	}
	var items []base.Item
	p := ask.Page{}
	for _, id := range q.Shards {
		if w.leader(id) != node {
			return &ask.NotLeaderError{Shard: id}
		}
		p.Marks = append(p.Marks, ask.Mark{Shard: id, Removed: base.Version(id) + 1})
		items = append(items, w.data[id]...)
	}
	slices.SortFunc(items, func(a, b base.Item) int {
		if q.Read.Reverse {
			a, b = b, a
		}
		return a.Key.Compare(b.Key)
	})
	for chunk := range slices.Chunk(items, w.piece) {
		p.Items = chunk
		if err := yield(p.Append(nil)); err != nil {
			return err
		}
		w.sent.Add(1)
		p.Marks = nil
	}
	return nil
}

// newWorld has some shards on some nodes, with items that interleave.
func newWorld(shards, nodes, items int) (*world, []base.ShardID) {
	w := &world{leads: map[base.ShardID]string{}, data: map[base.ShardID][]base.Item{}, piece: 10}
	var all []base.ShardID
	for i := range shards {
		id := base.ShardID(i)
		all = append(all, id)
		w.leads[id] = fmt.Sprint("node-", i%nodes)
	}
	for i := range items {
		id := base.ShardID(i % shards)
		w.data[id] = append(w.data[id], base.Item{Key: base.K(fmt.Sprintf("%06d", i), ""), Version: 1, Value: []byte{1}})
	}
	return w, all
}

func collect(t *testing.T, items iter.Seq2[base.Item, error], reverse bool) (n int) {
	t.Helper()
	last := base.Key{}
	for it, err := range items {
		if err != nil {
			t.Fatalf("after %d items: %v", n, err)
		}
		if n > 0 && (it.Key.Compare(last) > 0) == reverse {
			t.Fatalf("%v after %v", it.Key, last)
		}
		n, last = n+1, it.Key
	}
	return n
}

func TestScanMergesWhatNodesHave(t *testing.T) {
	const items = 1000
	for _, reverse := range []bool{false, true} {
		w, all := newWorld(8, 3, items)
		var marks Marks
		got := collect(t, New(w).Scan(t.Context(), all, base.All(), base.ReadOptions{Reverse: reverse}, marks.Note), reverse)
		if got != items {
			t.Errorf("%d items of %d", got, items)
		}
		for _, id := range all {
			if m, ok := marks.First(id); !ok || m != base.Version(id)+1 {
				t.Errorf("shard %d: mark %d, %v", id, m, ok)
			}
		}
	}
}

// No stream of these begins before all have been opened.
func TestStreamsRunSideBySide(t *testing.T) {
	const nodes = 4
	w, all := newWorld(8, nodes, 400)
	var here sync.WaitGroup
	here.Add(nodes)
	w.opened = func(ctx context.Context, _ string) error {
		here.Done()
		all := make(chan struct{})
		go func() { here.Wait(); close(all) }()
		select {
		case <-all:
			return nil
		case <-time.After(20 * time.Second):
			return errors.New("the others are not opened")
		}
	}
	if got := collect(t, New(w).Scan(t.Context(), all, base.All(), base.ReadOptions{}, func(ask.Mark) {}), false); got != 400 {
		t.Errorf("%d items", got)
	}
}

// A reader that stops to read holds the nodes back, and one that goes away ends
// them.
func TestPrefetchIsBounded(t *testing.T) {
	const nodes = 3
	w, all := newWorld(3, nodes, 30_000)
	for range New(w).Scan(t.Context(), all, base.All(), base.ReadOptions{}, func(ask.Mark) {}) {
		testkit.Eventually(t, time.Minute, "pages ahead", func() bool { return w.sent.Load() >= nodes*(1+prefetchedPages) })
		time.Sleep(20 * time.Millisecond) // for what must not come
		break
	}
	if sent := w.sent.Load(); sent > nodes*(2+prefetchedPages) {
		t.Errorf("%d pages were fetched for one item", sent)
	}
	testkit.CheckNoLeaks(t)
}

// Shards that have moved are looked for, as long as nothing has come of them.
func TestScanFindsNewLeaders(t *testing.T) {
	for name, guess := range map[string]func(base.ShardID) string{
		"nobody known":  func(base.ShardID) string { return "" },
		"all wrong":     func(base.ShardID) string { return "node-1" },
		"an absent one": func(base.ShardID) string { return "node-9" },
	} {
		w, all := newWorld(6, 3, 600)
		w.guess = guess
		if got := collect(t, New(w).Scan(t.Context(), all, base.All(), base.ReadOptions{}, func(ask.Mark) {}), false); got != 600 {
			t.Errorf("%s: %d items", name, got)
		}
		if w.asked.Load() == 0 {
			t.Errorf("%s: nobody was asked", name)
		}
	}
}

// What breaks after the first item is an error, never items of another snapshot.
func TestBrokenStreamIsAnError(t *testing.T) {
	w, all := newWorld(3, 3, 3000)
	broken := errors.Join(errors.New("cut"), base.ErrUnavailable)
	once := false
	remote := breaking{w, "node-1", 5, broken, &once}
	n, failed := 0, error(nil)
	for _, err := range New(remote).Scan(t.Context(), all, base.All(), base.ReadOptions{}, func(ask.Mark) {}) {
		if err != nil {
			failed = err
			break
		}
		n++
	}
	if !errors.Is(failed, broken) || n == 0 || n > 3000 {
		t.Errorf("%d items, then %v", n, failed)
	}
}

// breaking ends the streams of one node after some pieces.
type breaking struct {
	*world
	node   string
	pieces int
	err    error
	again  *bool
}

func (b breaking) Stream(ctx context.Context, node string, request []byte, yield func([]byte) error) error {
	if node != b.node {
		return b.world.Stream(ctx, node, request, yield)
	}
	if *b.again {
		return errors.New("asked again")
	}
	*b.again = true
	n := 0
	return b.world.Stream(ctx, node, request, func(piece []byte) error {
		if n++; n > b.pieces {
			return b.err
		}
		return yield(piece)
	})
}

func TestScanEndsWithItsContext(t *testing.T) {
	w, all := newWorld(3, 3, 300)
	ctx, cancel := context.WithCancel(t.Context())
	w.opened = func(ctx context.Context, node string) error {
		if node != "node-2" {
			return nil
		}
		cancel()
		<-ctx.Done()
		return fmt.Errorf("%w: %w", base.ErrUnavailable, ctx.Err())
	}
	for _, err := range New(w).Scan(ctx, all, base.All(), base.ReadOptions{}, func(ask.Mark) {}) {
		if !errors.Is(err, base.ErrUnavailable) {
			t.Errorf("%v", err)
		}
		break
	}
}
