package gossip

import (
	"cmp"
	"slices"
	"strconv"
	"sync"

	"github.com/hashicorp/memberlist"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
)

// LeaderHint says which node led a shard in a term of its raft group. Of two
// hints about a shard the later term is right.
type LeaderHint struct {
	Shard base.ShardID
	Node  string
	Term  uint64
}

const (
	hintsVersion = 1
	// maxHints is one for each shard, and one for the catalog, whose number
	// follows theirs.
	maxHints = base.MaxShards + 1
	// maxHintsBytes bounds what all hints take together: node ids of the
	// longest kind, each in use once, and two numbers for each hint.
	maxHintsBytes = 256 << 10
	// maxHintMessages is how many hints one packet takes. memberlist counts
	// the messages of a packet in one byte and needs some for itself.
	maxHintMessages = 100
)

// appendHints appends hints, of which there are at most maxHints. Each node is
// written once.
//
//	version  1 byte, hintsVersion
//	nodes    their number; the length and the bytes of each
//	hints    their number; shard, index of the node, and term of each
func appendHints(buf []byte, list []LeaderHint) []byte {
	index := map[string]uint64{}
	var nodes []string
	for _, h := range list {
		if _, ok := index[h.Node]; !ok {
			index[h.Node] = uint64(len(nodes))
			nodes = append(nodes, h.Node)
		}
	}
	buf = wire.AppendUvarint(append(buf, hintsVersion), uint64(len(nodes)))
	for _, n := range nodes {
		buf = wire.AppendString(buf, n)
	}
	buf = wire.AppendUvarint(buf, uint64(len(list)))
	for _, h := range list {
		buf = wire.AppendUvarint(buf, uint64(h.Shard))
		buf = wire.AppendUvarint(buf, index[h.Node])
		buf = wire.AppendUvarint(buf, h.Term)
	}
	return buf
}

// decodeHints reads what appendHints wrote. Errors wrap wire.ErrMalformed.
func decodeHints(buf []byte) ([]LeaderHint, error) {
	r := wire.NewReader(buf)
	if len(buf) > maxHintsBytes {
		r.Fail("%d bytes of hints", len(buf))
	}
	if v := r.Byte(); v != hintsVersion {
		r.Fail("hints of version %d", v)
	}
	nodes := make([]string, r.Count(maxHints, 2))
	for i := range nodes {
		if nodes[i] = r.String(MaxNodeIDBytes); nodes[i] == "" {
			r.Fail("hint without a node")
		}
	}
	list := make([]LeaderHint, r.Count(maxHints, 3))
	for i := range list {
		shard, node, term := r.Uvarint(), r.Uvarint(), r.Uvarint()
		if shard >= maxHints || node >= uint64(len(nodes)) {
			r.Fail("hint about shard %d and node %d", shard, node)
			break
		}
		list[i] = LeaderHint{Shard: base.ShardID(shard), Node: nodes[node], Term: term}
	}
	if err := r.Close(); err != nil {
		return nil, err
	}
	return list, nil
}

// hints is what the node knows about who leads: the newest of each shard, what
// is still to be spread, and what is still to be handed to the owner. All are
// bounded by the number of shards.
type hints struct {
	queue memberlist.TransmitLimitedQueue // one message for each shard at most
	wake  chan struct{}                   // something is pending

	mu struct {
		sync.Mutex
		known   map[base.ShardID]LeaderHint
		pending map[base.ShardID]bool // came from others, not handed on yet
		encoded []byte                // all that is known; nil if it changed
	}
}

// newHints returns a table without hints. nodes returns how many nodes there
// are, on which it depends how often a hint is sent.
func newHints(nodes func() int) *hints {
	h := &hints{wake: make(chan struct{}, 1)}
	h.queue.NumNodes, h.queue.RetransmitMult = nodes, 4
	h.mu.known = map[base.ShardID]LeaderHint{}
	h.mu.pending = map[base.ShardID]bool{}
	return h
}

// add takes in hints, of which the new ones are spread further, and handed to
// the owner if they came from others.
func (h *hints) add(list []LeaderHint, fromOthers bool) {
	for _, hint := range h.remember(list, fromOthers) {
		h.queue.QueueBroadcast(broadcast{hint})
	}
	if fromOthers {
		poke(h.wake)
	}
}

// remember returns which of the hints are new.
func (h *hints) remember(list []LeaderHint, fromOthers bool) (fresh []LeaderHint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, hint := range list {
		if hint.Shard >= maxHints || hint.Node == "" || len(hint.Node) > MaxNodeIDBytes {
			continue
		}
		if have, ok := h.mu.known[hint.Shard]; ok && have.Term >= hint.Term {
			continue
		}
		h.mu.known[hint.Shard] = hint
		h.mu.encoded = nil
		if fromOthers {
			h.mu.pending[hint.Shard] = true
		} else {
			delete(h.mu.pending, hint.Shard)
		}
		fresh = append(fresh, hint)
	}
	return fresh
}

// take returns what is pending, by shard.
func (h *hints) take() []LeaderHint {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []LeaderHint
	for shard := range h.mu.pending {
		list = append(list, h.mu.known[shard])
	}
	clear(h.mu.pending)
	slices.SortFunc(list, func(a, b LeaderHint) int { return cmp.Compare(a.Shard, b.Shard) })
	return list
}

// state returns all that is known, encoded. It must not be changed.
func (h *hints) state() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.encoded == nil {
		list := make([]LeaderHint, 0, len(h.mu.known))
		for _, hint := range h.mu.known {
			list = append(list, hint)
		}
		slices.SortFunc(list, func(a, b LeaderHint) int { return cmp.Compare(a.Shard, b.Shard) })
		h.mu.encoded = appendHints(nil, list)
	}
	return h.mu.encoded
}

// messages returns what to put into a packet.
func (h *hints) messages(overhead, limit int) [][]byte {
	// The shortest message has seven bytes, so this limit keeps the number
	// down as well.
	return h.queue.GetBroadcasts(overhead, min(limit, maxHintMessages*(overhead+7)))
}

// broadcast is a hint on its way. A newer one about the shard replaces it.
type broadcast struct{ hint LeaderHint }

// Name implements memberlist.NamedBroadcast.
func (b broadcast) Name() string { return strconv.Itoa(int(b.hint.Shard)) }

// Invalidates implements memberlist.Broadcast.
func (b broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(broadcast)
	return ok && o.hint.Shard == b.hint.Shard
}

// Message implements memberlist.Broadcast.
func (b broadcast) Message() []byte { return appendHints(nil, []LeaderHint{b.hint}) }

// Finished implements memberlist.Broadcast.
func (b broadcast) Finished() {}

// poke wakes whoever waits for c, or will.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
