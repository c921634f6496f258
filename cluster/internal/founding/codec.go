package founding

import (
	"fmt"

	"github.com/cespare/xxhash/v2"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

const (
	messageVersion = 1
	durableVersion = 1
	sumBytes       = 8
	maxBytes       = 1 << 20 // of a message or a file; the bounds allow no more
)

// durable is what a node has promised, as it is on its disk.
type durable struct {
	floor   uint64    // no proposal with a lower attempt will be accepted
	held    *proposal // nil = none
	decided bool      // every elector has accepted held
}

// encodeDurable returns the file of a node: a version byte, whose it is, the
// promises, and the xxhash64 of all that.
func encodeDurable(self ref, d durable) []byte {
	buf := wire.AppendString([]byte{durableVersion}, self.node)
	buf = wire.AppendString(buf, self.directory)
	buf = appendDurable(buf, d)
	return wire.AppendUint64(buf, xxhash.Sum64(buf))
}

// decodeDurable is the inverse of encodeDurable.
func decodeDurable(buf []byte) (self ref, d durable, err error) {
	if len(buf) <= sumBytes || len(buf) > maxBytes {
		return self, d, corrupt("a file of %d bytes", len(buf))
	}
	body := buf[:len(buf)-sumBytes]
	if wire.NewReader(buf[len(body):]).Uint64() != xxhash.Sum64(body) {
		return self, d, corrupt("the checksum of the file does not match")
	}
	if body[0] != durableVersion {
		return self, d, invalid("a newer version of the cache wrote the promises of this node (format %d, this one knows %d); update it", body[0], durableVersion)
	}
	r := wire.NewReader(body[1:])
	self = ref{r.String(maxIDBytes), r.String(idDigits)}
	d = readDurable(r)
	if err := r.Close(); err != nil {
		return self, d, corrupt("%w", err)
	}
	return self, d, nil
}

func appendDurable(buf []byte, d durable) []byte {
	buf = wire.AppendUvarint(buf, d.floor)
	if d.held == nil {
		return append(buf, 0)
	}
	if d.decided {
		buf = append(buf, 2)
	} else {
		buf = append(buf, 1)
	}
	return appendProposal(buf, d.held)
}

func readDurable(r *wire.Reader) durable {
	d := durable{floor: number(r, maxAttempt+1)}
	switch kind := r.Byte(); kind {
	case 0:
		return d
	case 1, 2:
		d.held, d.decided = readProposal(r), kind == 2
	default:
		r.Fail("kind %d of a promise", kind)
	}
	if d.held != nil && d.floor <= d.held.attempt {
		r.Fail("the floor is not above what is held")
	}
	return d
}

func appendProposal(buf []byte, p *proposal) []byte {
	buf = wire.AppendUvarint(buf, p.attempt)
	buf = appendTerms(buf, &p.terms)
	return appendPeers(appendPeers(buf, p.founders), p.witnesses)
}

func readProposal(r *wire.Reader) *proposal {
	p := &proposal{attempt: number(r, maxAttempt), terms: readTerms(r), founders: readPeers(r, MaxExpect), witnesses: readPeers(r, MaxElectors)}
	if f := p.fault(); f != "" {
		r.Fail("%s", f)
		return nil
	}
	return p.sealed()
}

func appendTerms(buf []byte, t *Terms) []byte {
	buf = wire.AppendString(buf, t.Name)
	for _, v := range []int{t.Expect, t.Shards, t.Replication} {
		buf = wire.AppendUvarint(buf, uint64(v))
	}
	return buf
}

func readTerms(r *wire.Reader) Terms {
	return Terms{Name: r.String(maxNameBytes), Expect: int(number(r, MaxExpect)), Shards: int(number(r, base.MaxShards)), Replication: int(number(r, MaxExpect))}
}

func appendPeer(buf []byte, p *Peer) []byte {
	for _, s := range []string{p.Node, p.Directory, p.Addr, p.Zone} {
		buf = wire.AppendString(buf, s)
	}
	return buf
}

func readPeer(r *wire.Reader) Peer {
	return Peer{Node: r.String(maxIDBytes), Directory: r.String(idDigits), Addr: r.String(maxAddrBytes), Zone: r.String(maxZoneBytes)}
}

func appendPeers(buf []byte, peers []Peer) []byte {
	buf = wire.AppendUvarint(buf, uint64(len(peers)))
	for i := range peers {
		buf = appendPeer(buf, &peers[i])
	}
	return buf
}

func readPeers(r *wire.Reader, limit int) (peers []Peer) {
	for range r.Count(limit, 4) {
		peers = append(peers, readPeer(r))
	}
	return peers
}

func appendStrings(buf []byte, list []string) []byte {
	buf = wire.AppendUvarint(buf, uint64(len(list)))
	for _, s := range list {
		buf = wire.AppendString(buf, s)
	}
	return buf
}

func readStrings(r *wire.Reader, limit int) (list []string) {
	for range r.Count(limit, 1) {
		list = append(list, r.String(maxAddrBytes))
	}
	return list
}

// number reads one of at most limit.
func number(r *wire.Reader, limit uint64) uint64 {
	v := r.Uvarint()
	if v > limit {
		r.Fail("%d is over the limit", v)
		return 0
	}
	return v
}

// status is what a node is.
type status byte

const (
	statusFresh   status = 1 // belongs to no cluster
	statusJoining status = 2 // knows of a cluster and is about to join it
	statusMember  status = 3 // belongs to one
)

// message is both the request and the answer of a call: what its sender is, has
// promised and knows.
type message struct {
	to      string // the address that was called; "" in an answer
	self    Peer
	terms   Terms
	oldest  uint32 // the protocols that it speaks
	newest  uint32
	status  status
	durable durable
	cluster *Membership // of a member
	sees    []ref       // where its peer list leads
	open    []string    // addresses of the list that lead nowhere yet
	known   []string    // addresses of nodes that it has heard
}

func encodeMessage(m *message) []byte {
	buf := wire.AppendString([]byte{messageVersion}, m.to)
	buf = appendPeer(buf, &m.self)
	buf = appendTerms(buf, &m.terms)
	buf = wire.AppendUint32(wire.AppendUint32(buf, m.oldest), m.newest)
	buf = appendDurable(append(buf, byte(m.status)), m.durable)
	if m.status == statusMember {
		buf = wire.AppendString(buf, m.cluster.Cluster)
		buf = wire.AppendString(buf, m.cluster.Name)
		buf = wire.AppendUvarint(buf, uint64(m.cluster.Shards))
		buf = appendStrings(buf, m.cluster.Addresses)
	}
	buf = wire.AppendUvarint(buf, uint64(len(m.sees)))
	for _, s := range m.sees {
		buf = wire.AppendString(wire.AppendString(buf, s.node), s.directory)
	}
	return appendStrings(appendStrings(buf, m.open), m.known)
}

// decodeMessage is the inverse of encodeMessage. The error wraps base.ErrInvalid
// if the sender speaks another version.
func decodeMessage(buf []byte) (*message, error) {
	if len(buf) == 0 || len(buf) > maxBytes {
		return nil, corrupt("a message of %d bytes", len(buf))
	}
	if buf[0] != messageVersion {
		return nil, invalid("the peer speaks version %d of the founding protocol, this node %d; run one version of the cache on all nodes", buf[0], messageVersion)
	}
	r := wire.NewReader(buf[1:])
	m := &message{to: r.String(maxAddrBytes), self: readPeer(r), terms: readTerms(r), oldest: r.Uint32(), newest: r.Uint32(), status: status(r.Byte())}
	m.durable = readDurable(r)
	switch m.status {
	case statusFresh, statusJoining:
	case statusMember:
		m.cluster = &Membership{Cluster: r.String(idDigits), Name: r.String(maxNameBytes), Shards: int(number(r, base.MaxShards)), Addresses: readStrings(r, maxKnown)}
		if f := m.cluster.fault(); f != "" {
			r.Fail("%s", f)
		}
	default:
		r.Fail("status %d", m.status)
	}
	for range r.Count(MaxPeers, 2) {
		m.sees = append(m.sees, ref{r.String(maxIDBytes), r.String(idDigits)})
	}
	m.open, m.known = readStrings(r, MaxPeers), readStrings(r, maxKnown)
	if f := firstFault(m.self.fault(), m.terms.fault()); f != "" {
		r.Fail("%s", f)
	}
	if err := r.Close(); err != nil {
		return nil, corrupt("message: %w", err)
	}
	return m, nil
}

func firstFault(faults ...string) string {
	for _, f := range faults {
		if f != "" {
			return f
		}
	}
	return ""
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: founding: %w", base.ErrCorrupt, fmt.Errorf(format, args...))
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: founding: "+format, append([]any{base.ErrInvalid}, args...)...)
}
