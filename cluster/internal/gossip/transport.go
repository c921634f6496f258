package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/distributedcache/cache/internal/wire"
)

const (
	// maxPeers is how many nodes packets are sent to at a time.
	maxPeers = 1024
	// maxIncoming is how many connections of peers are open at a time: one
	// for packets of each, and some streams.
	maxIncoming = 2 * maxPeers
	// maxPings is how many pings memberlist may be waiting for when it is
	// closed: its own, which is one at a time, and those it sends for others
	// within a probe timeout.
	maxPings = 256
	// dialTimeout and writeTimeout are longer than a probe: a slow peer is
	// for memberlist to judge.
	dialTimeout  = 2 * time.Second
	writeTimeout = 2 * time.Second
	// helloTimeout is how long a peer may take to say what it wants.
	helloTimeout = 5 * time.Second
)

// errClosed is returned for everything after shutdown.
var errClosed = fmt.Errorf("gossip: %w", net.ErrClosed)

// address is the address of a node as it advertises it.
type address string

// Network implements net.Addr.
func (a address) Network() string { return "gossip" }

// String implements net.Addr.
func (a address) String() string { return string(a) }

// transport implements memberlist.NodeAwareTransport over a Network.
type transport struct {
	network   Network
	advertise string
	label     string
	log       *logWriter
	stats     *counters

	packets chan *memberlist.Packet
	streams chan net.Conn
	ctx     context.Context // ends at shutdown; memberlist has none to dial with
	cancel  context.CancelFunc
	stop    func()         // of Network.Serve
	wg      sync.WaitGroup // of the peers' goroutines

	incoming  atomic.Int64
	listening atomic.Pointer[listener] // where the next exchange with listenerName goes

	mu struct {
		sync.Mutex
		closed   bool
		peers    map[string]*peer
		dialed   map[*stream]struct{}
		pings    [maxPings]uint32 // numbers of the latest pings, 0 is none
		nextPing int
	}
}

// newTransport returns a transport that serves the network. shutdown must be
// called.
func newTransport(cfg *Config, log *logWriter, stats *counters) (*transport, error) {
	t := &transport{
		network: cfg.Network, advertise: cfg.Advertise, label: cfg.ClusterID, log: log, stats: stats,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.mu.peers = map[string]*peer{}
	t.mu.dialed = map[*stream]struct{}{}
	stop, err := cfg.Network.Serve(Kind, t.handle)
	if err != nil {
		t.cancel()
		return nil, fmt.Errorf("gossip: %w", err)
	}
	t.stop = stop
	return t, nil
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return placeholder(t.advertise), placeholderPort, nil
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// WriteToAddress implements memberlist.NodeAwareTransport. It never waits: what
// does not fit into the queue of the peer is lost, as with UDP.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	addr, ok := destination(a)
	if !ok {
		return time.Time{}, fmt.Errorf("%w: no address in %q", ErrBadMember, a.Name)
	}
	frame := wire.BeginFrame(make([]byte, 0, wire.FrameHeaderBytes+len(b)))
	frame = append(frame, b...)
	if len(frame) > maxFrameBytes {
		return time.Time{}, &wire.FrameSizeError{Bytes: uint64(len(frame)), Limit: maxFrameBytes}
	}
	finish(frame, framePacket)
	number, ping := pingSequence(b, t.label)

	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		return time.Time{}, errClosed
	}
	if ping {
		t.mu.pings[t.mu.nextPing] = number
		t.mu.nextPing = (t.mu.nextPing + 1) % maxPings
	}
	p := t.peerLocked(addr)
	if p == nil {
		t.stats.dropped.Add(1)
		return time.Now(), nil
	}
	select {
	case p.queue <- frame:
		t.stats.packetsOut.Add(1)
	default:
		t.stats.dropped.Add(1)
	}
	return time.Now(), nil
}

// peerLocked returns the sender for an address, nil if there are too many.
func (t *transport) peerLocked(addr string) *peer {
	p := t.mu.peers[addr]
	if p == nil && len(t.mu.peers) < maxPeers {
		p = &peer{t: t, addr: addr, queue: make(chan []byte, queuedPackets)}
		t.mu.peers[addr] = p
		t.wg.Go(p.run)
	}
	return p
}

// dropPeer forgets a sender unless something came into its queue.
func (t *transport) dropPeer(p *peer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(p.queue) > 0 && !t.mu.closed {
		return false
	}
	delete(t.mu.peers, p.addr)
	return true
}

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if a.Name == listenerName {
		if l := t.listening.Load(); l != nil {
			return l, nil
		}
	}
	addr, ok := destination(a)
	if !ok {
		return nil, fmt.Errorf("%w: no address in %q", ErrBadMember, a.Name)
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := t.network.Dial(ctx, addr, Kind)
	if err != nil {
		return nil, err
	}
	s := &stream{Conn: conn, label: t.label, answer: true, closed: make(chan struct{})}
	s.release = func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.mu.dialed, s)
	}
	if !t.keep(s) {
		return nil, errors.Join(errClosed, conn.Close())
	}
	_ = conn.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := conn.Write(hello{kind: frameHelloStream}.frame()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// keep remembers an open stream so that shutdown can close it.
func (t *transport) keep(s *stream) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		return false
	}
	t.mu.dialed[s] = struct{}{}
	return true
}

// Shutdown implements memberlist.Transport. The transport is shut down before
// memberlist is: see shutdown.
func (t *transport) Shutdown() error { return nil }

// shutdown closes all connections and returns when nothing uses the network
// any more. memberlist has to be running. Then it lets memberlist have the
// answers that it waits for.
func (t *transport) shutdown() {
	t.mu.Lock()
	if t.mu.closed {
		t.mu.Unlock()
		return
	}
	t.mu.closed = true
	pings := t.mu.pings
	open := make([]*stream, 0, len(t.mu.dialed))
	for s := range t.mu.dialed {
		open = append(open, s)
	}
	t.mu.Unlock()

	t.cancel()
	for _, s := range open {
		_ = s.Conn.Close() // memberlist closes s itself
	}
	t.stop()
	t.wg.Wait()
	t.answerPings(pings)
}

// answerPings ends all waiting for answers. memberlist has no other way to be
// woken, and new pings fail at once.
func (t *transport) answerPings(pings [maxPings]uint32) {
	timer := time.NewTimer(time.Second) // memberlist's reader is there, unless it has never started
	defer timer.Stop()
	for _, number := range pings {
		if number == 0 {
			continue
		}
		select {
		case t.packets <- &memberlist.Packet{Buf: ack(number, t.label), From: address(t.advertise), Timestamp: time.Now()}:
		case <-timer.C:
			return
		}
	}
}
