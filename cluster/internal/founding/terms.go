package founding

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/distributedcache/cache/internal/base"
)

// The bounds. Messages carry two lists of electors at most, so they stay small.
const (
	MaxExpect    = 128 // nodes that found a cluster; more join it afterwards
	MaxPeers     = 128 // addresses in a peer list
	MaxElectors  = 256 // founders and all that their lists lead to
	maxContacts  = 512 // addresses that a node calls
	maxKnown     = 128 // addresses that a message passes on
	maxFacts     = 1024
	maxIDBytes   = 128
	maxNameBytes = 128
	maxAddrBytes = 300
	maxZoneBytes = 64
	idDigits     = 32 // 16 bytes in hexadecimal
	maxAttempt   = 1 << 40
)

// ref names a fresh node. The directory is part of the name: what was promised
// was promised by what is on that disk.
type ref struct{ node, directory string }

func (r ref) compare(o ref) int {
	return cmp.Or(strings.Compare(r.node, o.node), strings.Compare(r.directory, o.directory))
}

// Peer is a node as it describes itself.
type Peer struct {
	Node      string
	Directory string // random id of its data directory, 16 bytes in hexadecimal
	Addr      string // where others reach it, host:port
	Zone      string
}

func (p *Peer) ref() ref { return ref{p.Node, p.Directory} }

func (p *Peer) fault() string {
	for _, f := range []string{
		faultOfText("node id", p.Node, 1, maxIDBytes), faultOfHex("directory id", p.Directory),
		faultOfText("address", p.Addr, 1, maxAddrBytes), faultOfText("zone", p.Zone, 0, maxZoneBytes),
	} {
		if f != "" {
			return f
		}
	}
	return ""
}

// Terms are what founders have to agree on.
type Terms struct {
	Name        string // of the cluster; may be ""
	Expect      int    // how many found it; 0 = only joins
	Shards      int    // 0, for one that only joins, = any
	Replication int
}

func (t *Terms) fault() string {
	switch {
	case t.Expect < 0 || t.Expect > MaxExpect:
		return fmt.Sprintf("%d nodes are expected, at most %d can found a cluster", t.Expect, MaxExpect)
	case t.Shards < 0 || t.Shards > base.MaxShards || (t.Shards == 0 && t.Expect > 0):
		return fmt.Sprintf("%d shards, there must be 1 to %d", t.Shards, base.MaxShards)
	case t.Replication < 1 || t.Replication > MaxExpect:
		return fmt.Sprintf("replication factor %d", t.Replication)
	}
	return faultOfText("name of the cluster", t.Name, 0, maxNameBytes)
}

// differs returns how the terms of two fresh nodes contradict, or "".
func (t *Terms) differs(o *Terms) string {
	switch {
	case t.Name != o.Name:
		return fmt.Sprintf("it belongs to cluster %q, this node to %q", o.Name, t.Name)
	case t.Shards != o.Shards && t.Shards > 0 && o.Shards > 0:
		return fmt.Sprintf("it has %d shards, this node %d", o.Shards, t.Shards)
	case t.Replication != o.Replication:
		return fmt.Sprintf("its replication factor is %d, that of this node %d", o.Replication, t.Replication)
	case t.Expect != o.Expect && t.Expect > 0 && o.Expect > 0:
		return fmt.Sprintf("it expects %d nodes, this node %d", o.Expect, t.Expect)
	}
	return ""
}

// proposal is a set of nodes that could found a cluster. It is never changed.
type proposal struct {
	attempt   uint64
	terms     Terms
	founders  []Peer // ordered by id
	witnesses []Peer // the other electors, ordered by id and directory
	id        [sha256.Size]byte
}

// sealed fills in the id.
func (p *proposal) sealed() *proposal {
	p.id = sha256.Sum256(appendProposal(nil, p))
	return p
}

func (p *proposal) cluster() string { return hex.EncodeToString(p.id[:idDigits/2]) }

// same reports whether both are one proposal; nil is none.
func (p *proposal) same(o *proposal) bool { return p != nil && o != nil && p.id == o.id }

func (p *proposal) electors() []Peer { return slices.Concat(p.founders, p.witnesses) }

func has(peers []Peer, r ref) bool {
	return slices.ContainsFunc(peers, func(p Peer) bool { return p.ref() == r })
}

func (p *proposal) elects(r ref) bool { return has(p.founders, r) || has(p.witnesses, r) }

func (p *proposal) fault() string {
	if f := p.terms.fault(); f != "" {
		return f
	}
	if len(p.founders) != p.terms.Expect || p.attempt == 0 || p.attempt > maxAttempt {
		return "the founders are not as many as expected, or the attempt is out of range"
	}
	for i := range p.founders {
		if i > 0 && p.founders[i-1].Node >= p.founders[i].Node {
			return "founders out of order"
		}
	}
	for i := range p.witnesses {
		if i > 0 && p.witnesses[i-1].ref().compare(p.witnesses[i].ref()) >= 0 || has(p.founders, p.witnesses[i].ref()) {
			return "witnesses out of order"
		}
	}
	for _, peer := range p.electors() {
		if f := peer.fault(); f != "" {
			return f
		}
	}
	return ""
}

func (p *proposal) membership() *Membership {
	m := &Membership{Cluster: p.cluster(), Name: p.terms.Name, Shards: p.terms.Shards}
	for _, peer := range p.founders {
		m.Addresses = append(m.Addresses, peer.Addr)
	}
	return m
}

func faultOfText(what, s string, least, most int) string {
	switch {
	case len(s) < least:
		return what + " is missing"
	case len(s) > most:
		return fmt.Sprintf("%s has %d bytes, at most %d are allowed", what, len(s), most)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
		return what + " is not plain text"
	}
	return ""
}

func faultOfHex(what, s string) string {
	if len(s) != idDigits || strings.Trim(s, "0123456789abcdef") != "" {
		return fmt.Sprintf("%s is not %d lower-case hexadecimal digits", what, idDigits)
	}
	return ""
}
