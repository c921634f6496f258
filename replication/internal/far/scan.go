package far

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
)

const (
	// maxScanAttempts is how often a scan looks for the leaders anew before it gives
	// up: with the pauses between, longer than an election takes.
	maxScanAttempts = 200
	scanPause       = 10 * time.Millisecond
	// leaderPatience is how long a scan waits for the leaders to be known.
	leaderPatience = 30 * time.Second
	// prefetchedPages is how many pages of one node wait to be read, beside the one
	// that is read and the one that has just arrived: then the node is held back.
	prefetchedPages = 1
	// regrouped is how many items go into one page if it has to be made here.
	regrouped = 128
)

// Scan yields the items that the shards, which other nodes lead, have of a range,
// in order. Each shard is read from one snapshot of it. The nodes answer side by
// side, a bounded way ahead of the reader; their goroutines end with the
// iteration. noted gets the marks, and may be called concurrently.
func (f Client) Scan(ctx context.Context, shards []base.ShardID, r base.Range, ro base.ReadOptions, noted func(ask.Mark)) iter.Seq2[base.Item, error] {
	s := scan{Client: f, query: ask.Request{Kind: ask.Scan, Range: r, Read: ro}, noted: noted}
	return s.merged(ctx, s.byLeader(shards), 0)
}

// scan is one scan of shards that other nodes lead.
type scan struct {
	Client
	query ask.Request
	noted func(ask.Mark)
}

// byLeader groups shards by the node that is most likely to lead them.
func (s *scan) byLeader(shards []base.ShardID) map[string][]base.ShardID {
	byNode := map[string][]base.ShardID{}
	for _, id := range shards {
		node := s.remote.Leader(id)
		byNode[node] = append(byNode[node], id)
	}
	return byNode
}

// stream is what one node answers.
type stream struct {
	pages chan []base.Item
	err   error // why there are no more; set before pages is closed
}

// merged asks each node for its shards, and yields what they answer in order.
func (s *scan) merged(ctx context.Context, byNode map[string][]base.ShardID, attempt int) iter.Seq2[base.Item, error] {
	return func(yield func(base.Item, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var fetchers sync.WaitGroup
		defer fetchers.Wait()
		defer cancel()
		var sources []iter.Seq2[base.Item, error]
		for node, shards := range byNode {
			st := &stream{pages: make(chan []base.Item, prefetchedPages)}
			sources = append(sources, st.items)
			fetchers.Go(func() {
				defer close(st.pages)
				st.err = s.fetch(ctx, node, shards, attempt, func(page []base.Item) error { return st.put(ctx, page) })
			})
		}
		Merge(sources, s.query.Read.Reverse)(yield)
	}
}

func (st *stream) put(ctx context.Context, page []base.Item) error {
	select {
	case st.pages <- page:
		return nil
	case <-ctx.Done():
		return unavailable(ctx)
	}
}

func (st *stream) items(yield func(base.Item, error) bool) {
	for page := range st.pages {
		for _, it := range page {
			if !yield(it, nil) {
				return
			}
		}
	}
	if st.err != nil {
		yield(base.Item{}, st.err)
	}
}

// fetch gets what a node has of the shards. If it turns out not to lead them all,
// they are looked for anew, as long as nothing has come: what another node shows
// would not be of the same snapshot.
func (s *scan) fetch(ctx context.Context, node string, shards []base.ShardID, attempt int, emit func([]base.Item) error) error {
	for ; ; attempt++ {
		begun := false
		err := error(&ask.NotLeaderError{Shard: shards[0]})
		if node != "" {
			err = s.from(ctx, node, shards, func(page []base.Item) error {
				begun = true
				return emit(page)
			})
		}
		if err == nil || begun || ctx.Err() != nil || attempt >= maxScanAttempts || !errors.Is(err, base.ErrUnavailable) {
			return err
		}
		if err := s.findLeaders(ctx, shards); err != nil {
			return err
		}
		byNode := s.byLeader(shards)
		if len(byNode) > 1 {
			return s.fetchEach(ctx, byNode, attempt+1, emit)
		}
		for node = range byNode {
		}
	}
}

// fetchEach is fetch from several nodes.
func (s *scan) fetchEach(ctx context.Context, byNode map[string][]base.ShardID, attempt int, emit func([]base.Item) error) error {
	page := make([]base.Item, 0, regrouped)
	for it, err := range s.merged(ctx, byNode, attempt) {
		if err != nil {
			return err
		}
		if page = append(page, it); len(page) == regrouped {
			if err := emit(page); err != nil {
				return err
			}
			page = make([]base.Item, 0, regrouped)
		}
	}
	return emit(page)
}

// findLeaders makes sure who leads the shards.
func (s *scan) findLeaders(ctx context.Context, shards []base.ShardID) error {
	ctx, cancel := context.WithTimeout(ctx, leaderPatience)
	defer cancel()
	var all errgroup.Group
	all.SetLimit(maxFarReads)
	for _, id := range shards {
		all.Go(func() error { return s.Barrier(ctx, id) })
	}
	if err := all.Wait(); err != nil {
		return err
	}
	timer := time.NewTimer(scanPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return unavailable(ctx)
	}
}

// from takes the items out of the pieces of one node's answer.
func (s *scan) from(ctx context.Context, node string, shards []base.ShardID, emit func([]base.Item) error) error {
	q := s.query
	q.Shards = shards
	return s.remote.Stream(ctx, node, q.Append(nil), func(piece []byte) error {
		p, err := ask.DecodePage(piece)
		if err != nil {
			return err
		}
		for _, m := range p.Marks {
			s.noted(m)
		}
		if q.Read.KeysOnly {
			for i := range p.Items {
				p.Items[i].Value = nil
			}
		}
		if len(p.Items) == 0 {
			return nil
		}
		return emit(p.Items)
	})
}

// unavailable is the error of a read whose context has ended.
func unavailable(ctx context.Context) error {
	return fmt.Errorf("%w: %w", base.ErrUnavailable, context.Cause(ctx))
}
