package main

import (
	"context"
	"net/http"

	"github.com/distributedcache/cache"
)

const defaultPageItems = 100

// pageJSON is one page of a scan. An empty cursor means that it was the last.
type pageJSON struct {
	Items      []itemJSON `json:"items"`
	NextCursor string     `json:"next_cursor"`
}

// scanPrimary answers GET /api/kv/{primary}: the keys of one primary, all or
// those that ?prefix= or ?from= and ?to= select by secondary.
func (s *server) scanPrimary(w http.ResponseWriter, r *http.Request) error {
	primary, err := primaryFromPath(r.URL.EscapedPath())
	if err != nil {
		return err
	}
	q, err := parseQuery(r, append(pageParameters(), "prefix", "from", "to")...)
	if err != nil {
		return err
	}
	if q.has("prefix") && (q.has("from") || q.has("to")) {
		return invalidf("prefix excludes from and to")
	}
	rng := cache.Primary(primary).Between(q.get("from"), q.get("to"))
	if q.has("prefix") {
		rng = cache.Primary(primary).Prefix(q.get("prefix"))
	}
	return s.page(w, r, q, rng)
}

// scan answers GET /api/scan: the keys from ?start= to before ?end=, or those
// whose primary starts with ?prefix=.
func (s *server) scan(w http.ResponseWriter, r *http.Request) error {
	q, err := parseQuery(r, append(pageParameters(), "start", "end", "prefix")...)
	if err != nil {
		return err
	}
	if q.has("prefix") && (q.has("start") || q.has("end")) {
		return invalidf("prefix excludes start and end")
	}
	rng := cache.All()
	if q.has("prefix") {
		rng = cache.PrimaryPrefix(q.get("prefix"))
	}
	if rng.Start, err = q.bound("start", rng.Start); err != nil {
		return err
	}
	if rng.End, err = q.bound("end", rng.End); err != nil {
		return err
	}
	return s.page(w, r, q, rng)
}

// bound returns a bound of a range in its text form, or otherwise if it is
// absent or empty.
func (q query) bound(name string, otherwise cache.Key) (cache.Key, error) {
	if q.get(name) == "" {
		return otherwise, nil
	}
	key, err := cache.ParseKey(q.get(name))
	if err != nil {
		return key, invalidf("%s: %v", name, err)
	}
	return key, nil
}

func pageParameters() []string {
	return []string{"limit", "cursor", "reverse", "keys_only", "encoding", "consistency", "max_staleness"}
}

// pageOptions is what the query of a scan asks for.
type pageOptions struct {
	limit             int
	keysOnly, encoded bool
	read              []cache.ReadOption
}

func (q query) page() (p pageOptions, err error) {
	if p.limit, err = q.number("limit", defaultPageItems, maxPageItems); err != nil {
		return p, err
	}
	if p.keysOnly, err = q.flag("keys_only"); err != nil {
		return p, err
	}
	if p.encoded, err = q.base64(); err != nil {
		return p, err
	}
	reverse, err := q.flag("reverse")
	if err != nil {
		return p, err
	}
	if p.read, err = q.consistency(); err != nil {
		return p, err
	}
	// One more than asked for tells whether there is a next page.
	p.read = append(p.read, cache.Limit(p.limit+1))
	if reverse {
		p.read = append(p.read, cache.Reverse())
	}
	if p.keysOnly {
		p.read = append(p.read, cache.KeysOnly())
	}
	if cursor := q.get("cursor"); cursor != "" {
		p.read = append(p.read, cache.From(cursor))
	}
	return p, nil
}

// page answers with one page of rng.
func (s *server) page(w http.ResponseWriter, r *http.Request, q query, rng cache.Range) error {
	p, err := q.page()
	if err != nil {
		return err
	}
	ctx, cancel := s.bound(r)
	defer cancel()
	leave, err := s.enterHeavy(ctx)
	if err != nil {
		return err
	}
	defer leave()
	out, err := s.readPage(ctx, rng, p)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// readPage reads until the page has its items or its bytes are used up. A page
// has at least one item if there is one.
func (s *server) readPage(ctx context.Context, rng cache.Range, p pageOptions) (pageJSON, error) {
	out := pageJSON{Items: []itemJSON{}}
	var last cache.Item
	bytes := 0
	for item, err := range s.store.RangeScan(ctx, rng, p.read...) {
		if err != nil {
			return out, err
		}
		bytes += item.Key.Bytes() + len(item.Value)
		if len(out.Items) == p.limit || (bytes > maxPageBytes && len(out.Items) > 0) {
			out.NextCursor = last.Cursor()
			break
		}
		out.Items = append(out.Items, newItemJSON(item, p.encoded, p.keysOnly))
		last = item
	}
	return out, nil
}
