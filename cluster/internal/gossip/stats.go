package gossip

import "sync/atomic"

// Stats counts what a Gossip has done since Start.
type Stats struct {
	PacketsIn, PacketsOut uint64
	Dropped               uint64 // packets and batches of them that were not sent
	Faults                uint64 // connections and messages that were malformed
	Refused               uint64 // nodes, streams and packets that do not belong here
	LastRefused           error  // why; nil if there were none
}

// counters are the live values of Stats.
type counters struct {
	packetsIn, packetsOut, dropped, faults, refused atomic.Uint64

	lastRefused atomic.Pointer[error]
}

func (c *counters) refuse(err error) {
	c.refused.Add(1)
	c.lastRefused.Store(&err)
}

func (c *counters) stats() Stats {
	s := Stats{
		PacketsIn: c.packetsIn.Load(), PacketsOut: c.packetsOut.Load(), Dropped: c.dropped.Load(),
		Faults: c.faults.Load(), Refused: c.refused.Load(),
	}
	if err := c.lastRefused.Load(); err != nil {
		s.LastRefused = *err
	}
	return s
}
