package storage

import (
	"github.com/cockroachdb/pebble/v2"

	"github.com/distributedcache/cache/internal/base"
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
	// page is taken from the store's pool with the iterator.
	page *pageBuilder
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

func (sc *Scanner) closeHandle() error {
	sc.sn.s.pages.Put(sc.page)
	sc.page = nil
	return sc.it.Close()
}

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
	if sc.page == nil {
		sc.page = s.pages.Get().(*pageBuilder)
	}
	if !sc.page.setBounds(req) {
		return dst, false, nil
	}
	if err := sc.seek(); err != nil {
		return dst, false, err
	}
	sc.page.begin(dst, req)
	more, err = sc.fill(req)
	items = sc.page.finish()
	if invalid := sc.sn.valid(req.Shard); invalid != nil {
		return dst, false, invalid
	}
	return items, more, err
}

// seek confines the iterator to the bounds. One iterator serves all pages:
// making one costs more than reading a hundred small items.
func (sc *Scanner) seek() error {
	p := sc.page
	if sc.it != nil {
		sc.it.SetBounds(p.lower, p.upper)
		return nil
	}
	it, err := sc.sn.snap.NewIter(&pebble.IterOptions{LowerBound: p.lower, UpperBound: p.upper})
	if err != nil {
		return sc.sn.s.ioError("scan", err)
	}
	sc.it = it
	sc.sn.s.register(sc)
	return nil
}

// fill reads one page into the builder and reports whether there is more.
func (sc *Scanner) fill(req PageRequest) (more bool, err error) {
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
	p := sc.page
	if (req.MaxItems > 0 && len(p.marks) >= req.MaxItems) || (req.MaxBytes > 0 && p.bytes >= req.MaxBytes) {
		return true, nil
	}
	if err := p.addKey(sc.it.Key()); err != nil {
		return false, err
	}
	p.addItem(head, buf[n:], req.KeysOnly)
	return false, nil
}
