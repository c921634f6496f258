package gossip

import (
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"
)

// RefusedError reports a node that is kept out. It wraps ErrOtherCluster,
// ErrOtherProtocol or ErrBadMember.
type RefusedError struct {
	Name string // as memberlist knows the node
	Why  error
}

// Error implements error.
func (e *RefusedError) Error() string { return fmt.Sprintf("gossip: node %q %v", e.Name, e.Why) }

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Why }

// delegate is what memberlist calls. It must neither block nor call memberlist
// back: some calls come while memberlist holds its locks.
type delegate struct{ g *Gossip }

// NodeMeta implements memberlist.Delegate.
func (d *delegate) NodeMeta(int) []byte { return d.g.announced() }

// NotifyMsg implements memberlist.Delegate.
func (d *delegate) NotifyMsg(buf []byte) {
	list, err := decodeHints(buf)
	if err != nil {
		d.g.stats.faults.Add(1)
		d.g.log.complain("gossip cannot read a message", "error", err)
		return
	}
	d.g.hints.add(list, true)
}

// GetBroadcasts implements memberlist.Delegate.
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.g.hints.messages(overhead, limit)
}

// LocalState implements memberlist.Delegate.
func (d *delegate) LocalState(bool) []byte { return d.g.hints.state() }

// MergeRemoteState implements memberlist.Delegate.
func (d *delegate) MergeRemoteState(buf []byte, _ bool) { d.NotifyMsg(buf) }

// NotifyJoin implements memberlist.EventDelegate.
func (d *delegate) NotifyJoin(*memberlist.Node) { poke(d.g.events) }

// NotifyLeave implements memberlist.EventDelegate.
func (d *delegate) NotifyLeave(*memberlist.Node) { poke(d.g.events) }

// NotifyUpdate implements memberlist.EventDelegate.
func (d *delegate) NotifyUpdate(*memberlist.Node) { poke(d.g.events) }

// NotifyAlive implements memberlist.AliveDelegate: it is asked about each
// member, however it was heard of.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	if err := d.g.admissible(n); err != nil {
		d.g.stats.refuse(err)
		return err
	}
	return nil
}

// NotifyMerge implements memberlist.MergeDelegate. It refuses whoever knows
// nobody but nodes that are refused. One such node among others is left out by
// NotifyAlive; it must not keep the others apart.
func (d *delegate) NotifyMerge(peers []*memberlist.Node) error {
	var refused error
	for _, n := range peers {
		if n.Name == d.g.name || n.State == memberlist.StateDead || n.State == memberlist.StateLeft {
			continue
		}
		err := d.g.admissible(n)
		if err == nil {
			return nil
		}
		refused = err
	}
	if refused != nil {
		d.g.stats.refuse(refused)
	}
	return refused
}

// AckPayload implements memberlist.PingDelegate.
func (d *delegate) AckPayload() []byte { return appendClock(nil, d.g.cfg.Clock()) }

// NotifyPingComplete implements memberlist.PingDelegate.
func (d *delegate) NotifyPingComplete(n *memberlist.Node, roundTrip time.Duration, payload []byte) {
	if from, ok := parseName(n.Name); ok {
		d.g.clocks.saw(from.id, roundTrip, payload)
	}
}

// admissible returns why a node is kept out, as a *RefusedError, or nil.
func (g *Gossip) admissible(n *memberlist.Node) error {
	refuse := func(why error) error { return &RefusedError{Name: n.Name, Why: why} }
	who, ok := parseName(n.Name)
	if !ok {
		return refuse(fmt.Errorf("%w: no name", ErrBadMember))
	}
	if !n.Addr.Equal(placeholder(who.addr)) || n.Port != placeholderPort {
		return refuse(fmt.Errorf("%w: address %v", ErrBadMember, n.Addr))
	}
	// One member with odd versions would end every exchange of states.
	if n.PMin > memberlistVersion || n.PMax < memberlistVersion || n.PCur != memberlistVersion || n.DMin|n.DMax|n.DCur != 0 {
		return refuse(fmt.Errorf("%w: versions of memberlist", ErrOtherProtocol))
	}
	a, err := decodeAnnouncement(n.Meta)
	switch {
	case err != nil:
		return refuse(fmt.Errorf("%w: %w", ErrBadMember, err))
	case a.cluster != clusterHash(g.cfg.ClusterID):
		return refuse(ErrOtherCluster)
	case a.id != who.id:
		return refuse(fmt.Errorf("%w: it is %q as well", ErrBadMember, a.id))
	case a.protocolMin > g.cfg.ProtocolMax || a.protocolMax < g.cfg.ProtocolMin:
		return refuse(fmt.Errorf("%w: [%d, %d]", ErrOtherProtocol, a.protocolMin, a.protocolMax))
	}
	return nil
}

// memberlistVersion is the version of memberlist's protocol that all speak.
const memberlistVersion = memberlist.ProtocolVersion2Compatible
