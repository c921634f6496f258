package storage

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/keyenc"
)

// PageRequest says what one page of a scan holds.
type PageRequest struct {
	Shard    base.ShardID
	Range    base.Range
	After    base.Key // start right after (Reverse: before) this key; zero = none
	Reverse  bool     // from the end of the range
	KeysOnly bool     // leave Item.Value nil
	MaxItems int      // 0 = no limit
	MaxBytes int      // end the page with the item that reaches it; 0 = no limit
	Now      uint64   // microseconds; items with ExpiresAt at or before it are skipped; 0 = none are
}

// Scanner reads pages of records from a snapshot, of any shards in any order.
// It is not for concurrent use. It pins data files and memtables: close it
// soon, and use a new one for the next burst of pages.
type Scanner struct {
	sn *Snapshot
	it *pebble.Iterator // nil until the first page
	// lower and upper are the bounds of the page, reused.
	lower, upper []byte
	page         pageBuilder
}

// Scan returns a Scanner over the snapshot.
func (sn *Snapshot) Scan() *Scanner { return &Scanner{sn: sn} }

// Close releases the scanner. It is idempotent.
func (sc *Scanner) Close() error {
	if sc.it == nil {
		return nil
	}
	return sc.sn.s.release(sc)
}

func (sc *Scanner) closeHandle() error { return sc.it.Close() }

// Page appends the next items of a shard to dst, in key order or its reverse,
// and reports whether there are more in the range. The items belong to the
// caller. After an error, the items appended so far are returned with it.
func (sc *Scanner) Page(dst []base.Item, req PageRequest) (items []base.Item, more bool, err error) {
	s := sc.sn.s
	if err := s.enter(); err != nil {
		return dst, false, err
	}
	defer s.leave()
	defer recovered(s.cfg.Logger, "scan", &err)
	if !sc.setBounds(req) {
		return dst, false, nil
	}
	if err := sc.seek(); err != nil {
		return dst, false, err
	}
	more, err = sc.fill(req)
	if invalid := sc.sn.valid(req.Shard); invalid != nil {
		return dst, false, invalid
	}
	return sc.page.finish(dst), more, err
}

// setBounds computes the physical bounds of a page and reports whether
// anything can lie between them.
func (sc *Scanner) setBounds(req PageRequest) bool {
	sc.lower = keyenc.AppendBound(sc.lower[:0], req.Shard, req.Range.Start)
	sc.upper = keyenc.AppendRangeEnd(sc.upper[:0], req.Shard, req.Range.End)
	if !req.After.IsZero() {
		// The smallest key after k is k with one more byte.
		after := keyenc.AppendRecordKey(nil, req.Shard, req.After)
		if req.Reverse {
			sc.upper = slices.MinFunc([][]byte{sc.upper, after}, bytes.Compare)
		} else {
			sc.lower = slices.MaxFunc([][]byte{sc.lower, append(after, 0)}, bytes.Compare)
		}
	}
	return bytes.Compare(sc.lower, sc.upper) < 0
}

// seek confines the iterator to the bounds. One iterator serves all pages:
// making one costs more than reading a hundred small items.
func (sc *Scanner) seek() error {
	if sc.it != nil {
		sc.it.SetBounds(sc.lower, sc.upper)
		return nil
	}
	it, err := sc.sn.snap.NewIter(&pebble.IterOptions{LowerBound: sc.lower, UpperBound: sc.upper})
	if err != nil {
		return sc.sn.s.ioError("scan", err)
	}
	sc.it = it
	sc.sn.s.register(sc)
	return nil
}

// fill reads one page into the builder and reports whether there is more.
func (sc *Scanner) fill(req PageRequest) (more bool, err error) {
	sc.page.reset()
	ok := false
	if req.Reverse {
		ok = sc.it.Last()
	} else {
		ok = sc.it.First()
	}
	for ok {
		more, err := sc.addItem(req)
		if more || err != nil {
			return more, err
		}
		if req.Reverse {
			ok = sc.it.Prev()
		} else {
			ok = sc.it.Next()
		}
	}
	if err := sc.it.Error(); err != nil {
		return false, sc.sn.s.ioError("scan", err)
	}
	return false, nil
}

// addItem adds the iterator's item to the page, unless it has expired or the
// page is full; then it reports that there is more.
func (sc *Scanner) addItem(req PageRequest) (full bool, err error) {
	buf, err := sc.it.ValueAndErr()
	if err != nil {
		return false, sc.sn.s.ioError("scan", err)
	}
	head, n, err := decodeHead(buf)
	if err != nil {
		return false, err
	}
	if head.ExpiresAt != 0 && head.ExpiresAt <= req.Now {
		return false, nil
	}
	p := &sc.page
	if (req.MaxItems > 0 && len(p.marks) >= req.MaxItems) || (req.MaxBytes > 0 && p.bytes >= req.MaxBytes) {
		return true, nil
	}
	value := buf[n:]
	if req.KeysOnly {
		value = nil
	}
	return false, p.add(sc.it.Key(), head, value, !req.KeysOnly)
}

// pageBuilder collects a page in buffers that are reused from page to page,
// and then copies it out with few allocations.
type pageBuilder struct {
	marks  []mark
	keys   []byte // primaries, each once while it repeats, and secondaries
	values []byte
	bytes  int // of keys and values, as the caller counts them
	// encoded is the physical form of the primary that the last mark has.
	encoded []byte
	// keyArenas are where in keys each allocation but the first begins.
	keyArenas []int
}

// mark is one item as positions in the buffers of a pageBuilder.
type mark struct {
	head               Head
	primary, secondary span
	value              span // off -1: no value
}

type span struct{ off, len int }

const (
	// retainedPageBytes bounds the buffers that are kept for the next page.
	retainedPageBytes = 2 << 20
	// arenaBytes bounds how much memory one retained key or value can pin:
	// those of a page share allocations of about that size.
	arenaBytes = 64 << 10
)

func (p *pageBuilder) reset() {
	if cap(p.values)+cap(p.keys) > retainedPageBytes {
		*p = pageBuilder{}
	}
	p.marks, p.keys, p.values, p.encoded = p.marks[:0], p.keys[:0], p.values[:0], p.encoded[:0]
	p.keyArenas, p.bytes = p.keyArenas[:0], 0
}

// add appends one item.
func (p *pageBuilder) add(phys []byte, head Head, value []byte, withValue bool) error {
	body := phys[keyenc.PrefixLen:]
	m := mark{head: head, value: span{off: -1}}
	if n := len(p.keyArenas); len(p.keys) >= (n+1)*arenaBytes {
		p.keyArenas = append(p.keyArenas, len(p.keys))
		p.encoded = p.encoded[:0] // an arena does not refer to another
	}
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
	if withValue {
		m.value = span{len(p.values), len(value)}
		p.values = append(p.values, value...)
	}
	p.bytes += m.primary.len + len(secondary) + len(value)
	p.marks = append(p.marks, m)
	return nil
}

// finish appends the items to dst.
func (p *pageBuilder) finish(dst []base.Item) []base.Item {
	if len(p.marks) == 0 {
		return dst
	}
	dst = slices.Grow(dst, len(p.marks))
	var keys string
	var values []byte
	keysStart, keysEnd, valuesEnd := 0, 0, 0 // what of p.keys and p.values they hold
	for i := range p.marks {
		m := &p.marks[i]
		if m.primary.off >= keysEnd {
			keysStart, keysEnd = keysEnd, p.nextKeyArena()
			keys = string(p.keys[keysStart:keysEnd])
		}
		item := base.Item{
			Key: base.Key{
				Primary:   m.primary.in(keys, keysStart),
				Secondary: m.secondary.in(keys, keysStart),
			},
			Version: m.head.Version,
		}
		if m.head.ExpiresAt != 0 {
			item.ExpiresAt = time.UnixMicro(int64(m.head.ExpiresAt)).UTC()
		}
		if m.value.off >= 0 {
			if m.value.off+m.value.len > valuesEnd || values == nil {
				valuesEnd = p.valuesEnd(i)
				values = clone(p.values[m.value.off:valuesEnd])
			}
			at := len(values) - (valuesEnd - m.value.off)
			item.Value = values[at : at+m.value.len : at+m.value.len]
		}
		dst = append(dst, item)
	}
	return dst
}

// in returns the part of s that the span means; s begins at start.
func (sp span) in(s string, start int) string {
	return s[sp.off-start : sp.off-start+sp.len]
}

// nextKeyArena returns where the next allocation of keys ends.
func (p *pageBuilder) nextKeyArena() int {
	if len(p.keyArenas) == 0 {
		return len(p.keys)
	}
	end := p.keyArenas[0]
	p.keyArenas = p.keyArenas[1:]
	return end
}

// valuesEnd returns where the allocation ends that begins with value i.
func (p *pageBuilder) valuesEnd(i int) int {
	start := p.marks[i].value.off
	if len(p.values)-start <= arenaBytes {
		return len(p.values)
	}
	end := start + p.marks[i].value.len
	for _, m := range p.marks[i+1:] {
		if m.value.off+m.value.len-start > arenaBytes {
			break
		}
		end = m.value.off + m.value.len
	}
	return end
}
