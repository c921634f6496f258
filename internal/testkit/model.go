package testkit

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// Model is the oracle: what the store should contain, kept in a plain map with
// the plainest code that is right. It knows no shards, no batching and no
// clock; the test tells it the time and the version that the store assigned.
// It is not safe for concurrent use.
type Model struct {
	items map[base.Key]base.Item // expired ones stay until they are overwritten
}

// Commit is the moment of one command.
type Commit struct {
	// Stamp is the proposer's clock: a TTL counts from it.
	Stamp time.Time
	// Now is when conditions judge whether a key has expired; the zero Time
	// means Stamp.
	Now time.Time
	// Version is what the store assigned to the command.
	Version base.Version
}

// SoloCommit returns the commit of a command that got this version without a
// cluster, where the version is the stamp.
func SoloCommit(version base.Version) Commit {
	return Commit{Stamp: version.Time(), Version: version}
}

func (c Commit) now() time.Time {
	if c.Now.IsZero() {
		return c.Stamp
	}
	return c.Now
}

// NewModel returns an empty model.
func NewModel() *Model { return &Model{items: map[base.Key]base.Item{}} }

// Clone returns an independent copy, for instance to roll back to.
func (m *Model) Clone() *Model { return &Model{items: maps.Clone(m.items)} }

// Get returns the item of key at now; its Version is 0 if there is none.
func (m *Model) Get(now time.Time, key base.Key) base.Item {
	item, ok := m.items[key]
	if !ok || expired(item, now) {
		return base.Item{Key: key}
	}
	return cloneItem(item)
}

// MultiGet returns the items of keys at now, in their order.
func (m *Model) MultiGet(now time.Time, keys []base.Key) []base.Item {
	items := make([]base.Item, len(keys))
	for i, key := range keys {
		items[i] = m.Get(now, key)
	}
	return items
}

// Scan returns the items of r at now as a scan with these options yields them.
// A cursor that does not decode gives no items.
func (m *Model) Scan(now time.Time, r base.Range, ro base.ReadOptions) []base.Item {
	after := ro.After
	if ro.Cursor != "" {
		key, err := base.DecodeCursor(ro.Cursor)
		if err != nil {
			return nil
		}
		after = key
	}
	var found []base.Item
	for key, item := range m.items {
		if expired(item, now) || !r.Contains(key) {
			continue
		}
		if c := key.Compare(after); !after.IsZero() && (c == 0 || (c < 0) != ro.Reverse) {
			continue
		}
		item = cloneItem(item)
		if ro.KeysOnly {
			item.Value = nil
		}
		found = append(found, item)
	}
	slices.SortFunc(found, func(a, b base.Item) int {
		if ro.Reverse {
			a, b = b, a
		}
		return a.Key.Compare(b.Key)
	})
	if ro.Limit > 0 && len(found) > ro.Limit {
		found = found[:ro.Limit]
	}
	return found
}

// Apply applies writes as one command, all or none, and reports whether it
// did. All conditions are judged by the state before the command, so a batch
// that writes a key twice has no meaning; the store refuses it. The results
// are those of the operations: the new version of a put, the removed one of a
// delete, the found one of a check. If the command is refused, Err is a
// *base.VersionError for each operation whose condition failed and nil for the
// others, which have failed with them.
func (m *Model) Apply(c Commit, writes ...base.Write) ([]base.Result, bool) {
	results := make([]base.Result, len(writes))
	refused := make([]base.Result, len(writes))
	applied := true
	for i := range writes {
		w := &writes[i]
		have := m.Get(c.now(), w.Key).Version
		results[i] = base.Result{Key: w.Key, Version: have}
		refused[i] = base.Result{Key: w.Key}
		if !w.Cond.Holds(have) {
			refused[i].Err = &base.VersionError{Key: w.Key, Want: w.Cond.Want(), Have: have}
			applied = false
		}
	}
	if !applied {
		return refused, false
	}
	for i := range writes {
		if writes[i].Kind == base.WritePut {
			results[i].Version = c.Version
		}
		m.write(c, &writes[i])
	}
	return results, true
}

// ApplyEach applies each write by itself, as Independent asks for. at returns
// the commit of the i-th write.
func (m *Model) ApplyEach(at func(i int) Commit, writes ...base.Write) []base.Result {
	results := make([]base.Result, len(writes))
	for i := range writes {
		one, _ := m.Apply(at(i), writes[i])
		results[i] = one[0]
	}
	return results
}

func (m *Model) write(c Commit, w *base.Write) {
	switch w.Kind {
	case base.WritePut:
		item := base.Item{Key: w.Key, Value: bytes.Clone(w.Value), Version: c.Version}
		if w.TTL > 0 {
			// The store keeps microseconds.
			item.ExpiresAt = time.UnixMicro(c.Stamp.Add(w.TTL).UnixMicro()).UTC()
		}
		m.items[w.Key] = item
	case base.WriteDelete:
		delete(m.items, w.Key)
	case base.WriteCheck:
	}
}

// Len returns how many items there are at now.
func (m *Model) Len(now time.Time) int { return len(m.Scan(now, base.All(), base.ReadOptions{})) }

// Keys returns every key that was ever written and not deleted since, expired
// ones included, in order. Random tests draw from it.
func (m *Model) Keys() []base.Key {
	return slices.SortedFunc(maps.Keys(m.items), base.Key.Compare)
}

// DiffItems returns "" if got equals want in order, keys, values, versions and
// expiry, and else a line that names the first difference. An empty value
// equals a nil one.
func DiffItems(got, want []base.Item) string {
	for i := range min(len(got), len(want)) {
		if d := DiffItem(got[i], want[i]); d != "" {
			return fmt.Sprintf("item %d: %s", i, d)
		}
	}
	if len(got) != len(want) {
		return fmt.Sprintf("%d items, want %d", len(got), len(want))
	}
	return ""
}

// DiffItem is DiffItems for one item.
func DiffItem(got, want base.Item) string {
	switch {
	case got.Key != want.Key:
		return fmt.Sprintf("key %s, want %s", got.Key, want.Key)
	case got.Version != want.Version:
		return fmt.Sprintf("%s: version %d, want %d", got.Key, got.Version, want.Version)
	case !bytes.Equal(got.Value, want.Value):
		return fmt.Sprintf("%s@%d: value %s, want %s", got.Key, got.Version, brief(got.Value), brief(want.Value))
	case !got.ExpiresAt.Equal(want.ExpiresAt):
		return fmt.Sprintf("%s@%d: expires %v, want %v", got.Key, got.Version, got.ExpiresAt, want.ExpiresAt)
	}
	return ""
}

func expired(item base.Item, now time.Time) bool {
	return !item.ExpiresAt.IsZero() && !item.ExpiresAt.After(now)
}

func cloneItem(item base.Item) base.Item {
	item.Value = bytes.Clone(item.Value)
	return item
}

func brief(b []byte) string {
	const shown = 24
	if len(b) <= shown {
		return fmt.Sprintf("%q", b)
	}
	return fmt.Sprintf("%q... (%d bytes)", b[:shown], len(b))
}
