package storage

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/keyenc"
)

// pageBuilder collects the items of one page with few allocations: values are
// copied once, into arenas, and the strings of all keys are made at the end.
type pageBuilder struct {
	items []base.Item // the caller's, with those of this page at the end
	marks []keyMark   // of the items of this page
	keys  []byte      // primaries, each once while it repeats, and secondaries
	bytes int         // of keys and values, as the caller counts them
	// encoded is the physical form of the primary that the last mark has.
	encoded []byte
	// keyArenas are where in keys each string but the first begins.
	keyArenas []int
	// arena takes the next value if it has room. inArena are the items with
	// values in it.
	arena   []byte
	inArena []int32
	// expected is how many more items the caller wants, average what a value
	// took lately; both size the next arena.
	expected, average int
	// lower and upper are the physical bounds of the page.
	lower, upper []byte
}

// keyMark is where in pageBuilder.keys a key lies.
type keyMark struct {
	primary, secondary span
}

type span struct{ off, len int }

const (
	// retainedPageBytes bounds the buffers that are kept for the next page.
	retainedPageBytes = 2 << 20
	// arenaBytes bounds how much memory one retained key or value can pin:
	// those of a page share allocations of about that size.
	arenaBytes = 64 << 10
	// trimBytes is how much of an arena may stay unused.
	trimBytes = 1 << 10
	// defaultPageItems sizes arenas for callers who set no MaxItems.
	defaultPageItems = 100
)

// setBounds computes the physical bounds of a page and reports whether
// anything can lie between them.
func (p *pageBuilder) setBounds(req PageRequest) bool {
	p.lower = keyenc.AppendBound(p.lower[:0], req.Shard, req.Range.Start)
	p.upper = keyenc.AppendRangeEnd(p.upper[:0], req.Shard, req.Range.End)
	if !req.After.IsZero() {
		// The smallest key after k is k with one more byte.
		after := keyenc.AppendRecordKey(nil, req.Shard, req.After)
		if req.Reverse {
			p.upper = slices.MinFunc([][]byte{p.upper, after}, bytes.Compare)
		} else {
			p.lower = slices.MaxFunc([][]byte{p.lower, append(after, 0)}, bytes.Compare)
		}
	}
	return bytes.Compare(p.lower, p.upper) < 0
}

// begin starts a page that is appended to dst.
func (p *pageBuilder) begin(dst []base.Item, req PageRequest) {
	p.items, p.bytes = dst, 0
	p.marks, p.keys, p.encoded, p.keyArenas = p.marks[:0], p.keys[:0], p.encoded[:0], p.keyArenas[:0]
	p.expected = req.MaxItems
	if p.expected <= 0 {
		p.expected = defaultPageItems
	}
	if req.MaxItems > 0 && cap(dst)-len(dst) == 0 {
		p.items = slices.Grow(dst, min(req.MaxItems, defaultPageItems))
	}
}

// addKey decodes the key of the next item.
func (p *pageBuilder) addKey(phys []byte) error {
	body := phys[keyenc.PrefixLen:]
	if n := len(p.keyArenas); len(p.keys) >= (n+1)*arenaBytes {
		p.keyArenas = append(p.keyArenas, len(p.keys))
		p.encoded = p.encoded[:0] // a string does not refer to another
	}
	var m keyMark
	// An encoded primary ends with its terminator, so a prefix is equality.
	if len(p.encoded) > 0 && bytes.HasPrefix(body, p.encoded) {
		m.primary = p.marks[len(p.marks)-1].primary
	} else {
		n := keyenc.EncodedPrimaryLen(body)
		if n <= 2 {
			return fmt.Errorf("%w: key of a record without a primary", base.ErrCorrupt)
		}
		p.encoded = append(p.encoded[:0], body[:n]...)
		m.primary.off = len(p.keys)
		p.keys = keyenc.AppendPrimary(p.keys, p.encoded)
		m.primary.len = len(p.keys) - m.primary.off
	}
	secondary := body[len(p.encoded):]
	m.secondary = span{len(p.keys), len(secondary)}
	p.keys = append(p.keys, secondary...)
	p.bytes += m.primary.len + len(secondary)
	p.marks = append(p.marks, m)
	return nil
}

// addItem appends the item whose key was added last.
func (p *pageBuilder) addItem(head Head, value []byte, keyOnly bool) {
	item := base.Item{Version: head.Version}
	if head.ExpiresAt != 0 {
		item.ExpiresAt = time.UnixMicro(int64(head.ExpiresAt)).UTC()
	}
	if !keyOnly {
		item.Value = p.copyValue(value)
		p.bytes += len(value)
	}
	p.items = append(p.items, item)
}

// copyValue copies a value into an arena. Its capacity ends where it ends, so
// that appending to it does not reach the next one.
func (p *pageBuilder) copyValue(value []byte) []byte {
	if len(value) > cap(p.arena)-len(p.arena) || p.arena == nil {
		p.trimArena()
		p.average = (3*p.average + len(value)) / 4
		left := max(p.expected-len(p.marks)+1, 1)
		size := min(left*max(p.average+p.average/16, len(value)), arenaBytes)
		p.arena = make([]byte, 0, max(size, len(value)))
	}
	start := len(p.arena)
	p.arena = append(p.arena, value...)
	p.inArena = append(p.inArena, int32(len(p.items)))
	return p.arena[start:len(p.arena):len(p.arena)]
}

// trimArena ends an arena. If much of it is unused, its values move to an
// allocation of their size.
func (p *pageBuilder) trimArena() {
	if unused := cap(p.arena) - len(p.arena); unused > trimBytes && unused > cap(p.arena)/8 {
		exact := clone(p.arena)
		at := 0
		for _, i := range p.inArena {
			n := len(p.items[i].Value)
			p.items[i].Value = exact[at : at+n : at+n]
			at += n
		}
	}
	p.arena, p.inArena = nil, p.inArena[:0]
}

// finish makes the strings of the keys and returns all items. The builder
// keeps nothing of them.
func (p *pageBuilder) finish() []base.Item {
	p.trimArena()
	items := p.items
	p.items = nil
	added := items[len(items)-len(p.marks):]
	arenas := p.keyArenas
	var keys string
	start, end := 0, 0 // what of p.keys is in keys
	for i := range p.marks {
		m := &p.marks[i]
		if m.primary.off >= end {
			start, end = end, len(p.keys)
			if len(arenas) > 0 {
				end, arenas = arenas[0], arenas[1:]
			}
			keys = string(p.keys[start:end])
		}
		added[i].Key = base.Key{Primary: m.primary.in(keys, start), Secondary: m.secondary.in(keys, start)}
	}
	if cap(p.keys) > retainedPageBytes {
		p.keys = nil
	}
	return items
}

// in returns the part of s that the span means; s begins at start.
func (sp span) in(s string, start int) string {
	return s[sp.off-start : sp.off-start+sp.len]
}
