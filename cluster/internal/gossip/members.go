package gossip

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// State is what gossip thinks of a member.
type State uint8

const (
	// Alive: it answers, as far as anybody has said.
	Alive State = iota
	// Suspect: it did not answer somebody's ping, directly and through
	// others, and has not objected yet. It may well be alive; it is worth
	// asking others first.
	Suspect
	// Dead: a suspicion has lasted for as long as memberlist allows a node to
	// object, or memberlist has dropped it. A node that was only cut off is
	// Alive again after.
	Dead
	// Left: it said itself that it goes.
	Left
)

// String returns the name of the state.
func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Suspect:
		return "suspect"
	case Dead:
		return "dead"
	case Left:
		return "left"
	}
	return "unknown"
}

// Member is a node as gossip knows it, this one included. Of a node that was
// started several times it is the start with the highest epoch.
type Member struct {
	ID    string
	Addr  string // as it advertises it
	Epoch uint64 // of its start
	State State
	Since time.Time // when this node saw the member in this state first, by its own clock
	Meta  Meta

	ProtocolMin, ProtocolMax uint16
}

// maxGone is how many members are remembered that memberlist has forgotten.
// They only tell since when somebody is dead, which matters for the minutes
// until the catalog decides.
const maxGone = 1024

// sighting is a member in memberlist's state.
type sighting struct {
	name  string
	state State
	meta  []byte
}

// record is what roster knows under one name.
type record struct {
	Member
	gone bool // memberlist has forgotten it
}

// roster turns what memberlist tells from time to time into members. It is not
// safe for concurrent use.
type roster struct{ records map[string]record }

// update takes in the whole state of memberlist and reports whether anything
// is different now.
func (r *roster) update(seen []sighting, now time.Time) (changed bool) {
	before := maps.Clone(r.records)
	found := make(map[string]bool, len(seen))
	for _, s := range seen {
		if m, ok := s.member(); ok {
			found[s.name] = true
			r.see(s.name, m, now)
		}
	}
	for n, rec := range r.records {
		if !found[n] {
			r.miss(n, rec, now)
		}
	}
	r.prune()
	return !maps.Equal(before, r.records)
}

// member decodes a sighting. The guards have let only sound ones in.
func (s sighting) member() (Member, bool) {
	n, ok := parseName(s.name)
	if !ok {
		return Member{}, false
	}
	a, err := decodeAnnouncement(s.meta)
	if err != nil {
		return Member{}, false
	}
	return Member{
		ID: n.id, Addr: n.addr, Epoch: n.epoch, State: s.state, Meta: a.Meta,
		ProtocolMin: a.protocolMin, ProtocolMax: a.protocolMax,
	}, true
}

func (r *roster) see(n string, m Member, now time.Time) {
	m.Since = now
	if have, ok := r.records[n]; ok && have.State == m.State {
		m.Since = have.Since
	}
	r.records[n] = record{Member: m}
}

// miss marks a member that memberlist has forgotten. It does so only with the
// dead and the left; what was in another state when it was last seen has died
// and been forgotten meanwhile.
func (r *roster) miss(n string, rec record, now time.Time) {
	rec.gone = true
	if rec.State != Dead && rec.State != Left {
		rec.State, rec.Since = Dead, now
	}
	r.records[n] = rec
}

// prune forgets those that are gone and were started again since, and the
// longest gone of too many.
func (r *roster) prune() {
	best := r.best()
	var gone []string
	for n, rec := range r.records {
		switch {
		case !rec.gone:
		case best[rec.ID] != n:
			delete(r.records, n)
		default:
			gone = append(gone, n)
		}
	}
	if len(gone) <= maxGone {
		return
	}
	slices.SortFunc(gone, func(a, b string) int { return r.records[a].Since.Compare(r.records[b].Since) })
	for _, n := range gone[:len(gone)-maxGone] {
		delete(r.records, n)
	}
}

// best returns the name that counts for each id: that of the highest epoch.
// One id twice with the same epoch is a copied data directory, and the one
// that is alive counts; who of two living ones does not matter as long as it
// does not change.
func (r *roster) best() map[string]string {
	best := map[string]string{}
	for n, rec := range r.records {
		have, ok := best[rec.ID]
		if !ok || r.compare(r.records[have], rec) < 0 {
			best[rec.ID] = n
		}
	}
	return best
}

func (r *roster) compare(a, b record) int {
	if c := cmp.Compare(a.Epoch, b.Epoch); c != 0 {
		return c
	}
	if c := cmp.Compare(b.State, a.State); c != 0 {
		return c
	}
	return strings.Compare(a.Addr, b.Addr)
}

// members returns the member of each id, ordered by id.
func (r *roster) members() []Member {
	var list []Member
	for _, n := range r.best() {
		list = append(list, r.records[n].Member)
	}
	slices.SortFunc(list, func(a, b Member) int { return strings.Compare(a.ID, b.ID) })
	return list
}
