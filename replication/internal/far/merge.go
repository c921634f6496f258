package far

import (
	"iter"

	"github.com/distributedcache/cache/internal/base"
)

// Merge merges ordered sequences whose keys differ into one. The first
// error ends it.
func Merge(sources []iter.Seq2[base.Item, error], reverse bool) iter.Seq2[base.Item, error] {
	if len(sources) == 1 {
		return sources[0]
	}
	return func(yield func(base.Item, error) bool) {
		heads := make([]*head, 0, len(sources))
		for _, s := range sources {
			next, stop := iter.Pull2(s)
			defer stop()
			h := &head{next: next}
			if h.advance() {
				heads = append(heads, h)
			}
		}
		for len(heads) > 0 {
			first := 0
			for i, h := range heads {
				if h.err != nil {
					yield(base.Item{}, h.err)
					return
				}
				if c := h.item.Key.Compare(heads[first].item.Key); c != 0 && (c < 0) != reverse {
					first = i
				}
			}
			if !yield(heads[first].item, nil) {
				return
			}
			if !heads[first].advance() {
				heads = append(heads[:first], heads[first+1:]...)
			}
		}
	}
}

// head is the next item of one sequence, or its error.
type head struct {
	next func() (base.Item, error, bool)
	item base.Item
	err  error
}

// advance reports whether there is an item or an error.
func (h *head) advance() (ok bool) {
	h.item, h.err, ok = h.next()
	return ok
}
