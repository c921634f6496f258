package near

import (
	"context"
	"fmt"
	"iter"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/storage"
)

const (
	// minPageItems to maxPageItems is how many items of a shard are read at
	// once: few at first, so that a short scan is cheap, then four times as
	// many each time.
	minPageItems    = 4
	firstPageItems  = 128
	maxPageItems    = 1000
	pageGrowth      = 4
	maxPageBytes    = 1 << 20
	minPageBytes    = 64 << 10
	scanBudgetBytes = 16 << 20 // over all shards of one scan
)

// checkItems is after how many items a scan looks at its context.
const checkItems = 64

// scanStored yields the items of a range that some shards have in the snapshot, in
// order, but for those that have expired.
func (v *View) scanStored(ctx context.Context, shards []base.ShardID, r base.Range, ro base.ReadOptions) iter.Seq2[base.Item, error] {
	return func(yield func(base.Item, error) bool) {
		if r.Empty() {
			return
		}
		m := merge{snap: v.snap, now: v.now, reverse: ro.Reverse, keysOnly: ro.KeysOnly}
		if err := m.start(shards, r, ro.Limit); err != nil {
			yield(base.Item{}, err)
			return
		}
		for n := 1; len(m.heap) > 0; n++ {
			if n%checkItems == 0 && ctx.Err() != nil {
				yield(base.Item{}, fmt.Errorf("%w: %w", base.ErrUnavailable, context.Cause(ctx)))
				return
			}
			c := m.heap[0]
			it := c.items[0]
			c.items = c.items[1:]
			if !yield(it, nil) {
				return
			}
			if err := m.advance(); err != nil {
				yield(base.Item{}, err)
				return
			}
		}
	}
}

// merge is a k-way merge of ordered pages, one cursor for each shard.
type merge struct {
	snap              *storage.Snapshot
	now               uint64
	reverse, keysOnly bool
	pageBytes         int
	heap              []*cursor // a min-heap by the next item
}

// cursor stands in the items of one shard.
type cursor struct {
	shard    base.ShardID
	items    []base.Item // read and not yet yielded
	page     []base.Item // the memory of items
	rest     base.Range  // not yet read
	more     bool
	pageSize int
}

// start opens a cursor on every shard, with one storage iterator for all of
// them.
func (m *merge) start(ids []base.ShardID, r base.Range, limit int) error {
	shards := len(ids)
	m.pageBytes = min(max(scanBudgetBytes/shards, minPageBytes), maxPageBytes)
	size := firstPageItems
	if limit > 0 && limit < size {
		size = limit
	}
	if shards > 1 {
		size = min(size, 2*size/shards+minPageItems)
	}
	scanner := m.snap.Scan()
	defer scanner.Close()
	cursors := make([]cursor, shards)
	m.heap = make([]*cursor, 0, shards)
	for i := range cursors {
		c := &cursors[i]
		*c = cursor{shard: ids[i], rest: r, pageSize: size}
		if err := m.fill(scanner, c); err != nil {
			return err
		}
		if len(c.items) > 0 {
			m.heap = append(m.heap, c)
		}
	}
	for i := len(m.heap)/2 - 1; i >= 0; i-- {
		m.down(i)
	}
	return nil
}

// fill reads the next page of a cursor.
func (m *merge) fill(scanner *storage.Scanner, c *cursor) (err error) {
	c.page, c.more, err = scanner.Page(c.page[:0], storage.PageRequest{
		Shard: c.shard, Range: c.rest, Reverse: m.reverse, KeysOnly: m.keysOnly,
		MaxItems: c.pageSize, MaxBytes: m.pageBytes, Now: m.now,
	})
	if err != nil {
		return err
	}
	c.items = c.page
	if n := len(c.items); n > 0 {
		c.rest = c.rest.After(c.items[n-1].Key, m.reverse)
	}
	c.pageSize = min(c.pageSize*pageGrowth, maxPageItems)
	return nil
}

// advance restores the heap after the first cursor has given an item.
func (m *merge) advance() error {
	c := m.heap[0]
	if len(c.items) == 0 && c.more {
		scanner := m.snap.Scan()
		err := m.fill(scanner, c)
		if closeErr := scanner.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	}
	if len(c.items) == 0 {
		last := len(m.heap) - 1
		m.heap[0] = m.heap[last]
		m.heap = m.heap[:last]
	}
	m.down(0)
	return nil
}

// down sinks the cursor at i to its place.
func (m *merge) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(m.heap) {
			return
		}
		if right := child + 1; right < len(m.heap) && m.before(right, child) {
			child = right
		}
		if !m.before(child, i) {
			return
		}
		m.heap[i], m.heap[child] = m.heap[child], m.heap[i]
		i = child
	}
}

func (m *merge) before(i, j int) bool {
	c := m.heap[i].items[0].Key.Compare(m.heap[j].items[0].Key)
	return (c < 0) != m.reverse
}
