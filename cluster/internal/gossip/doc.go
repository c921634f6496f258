// Package gossip tells a node who else is there, as far as one can tell
// without deciding anything: members and suspicions by memberlist, small hints
// (who leads a shard, load, the newest catalog epoch) and how far the clocks
// of the peers are away. It uses the one port of the node.
//
// # What is trusted
//
// Nothing here is a decision. What a node is and where replicas live is in the
// catalog; gossip only says where to look first.
//
// # Names and addresses
//
// memberlist knows a node by a name and an IP address. The name here is
// <id>-<boot epoch>@<advertised address>: each start of a node is a member of
// its own, so that no start has to argue away the death of the one before, and
// whoever knows the name knows the address as it was advertised, a DNS name
// included. The IP address is derived from the advertised one, means nothing,
// and makes memberlist resolve nothing. Of several names of one id the highest
// epoch counts.
//
// # States
//
// memberlist has no event for suspicions and tells a death from a leave to
// nobody. What it does tell is its whole state, to a peer it exchanges states
// with: so it is made to exchange states with a connection that only listens
// (see listener), a few times for each probe interval and after each event.
//
// # Connections
//
// A connection begins with a frame of internal/wire that says which of two it
// is. Packets, which memberlist takes for UDP, are frames on one connection
// per peer and direction that is kept; it is answered by empty frames, so that
// one which swallows what it is given is replaced. Streams are connections of
// their own. Everything that comes in passes a guard before memberlist sees it:
// it has to carry the label of the cluster, compression and encryption are
// refused (a peer never uses them), and numbers that memberlist allocates by
// are bounded.
//
// # The second factor
//
// memberlist can seal its messages with a keyring (memberlist.Config.Keyring).
// It would be set in memberlistConfig; the guard and the listener, which read
// memberlist's bytes, would have to open them with the same keys first.
//
// # Ends
//
// Close stops the network first, then answers the pings that memberlist waits
// for, since it would wait for up to eight probe intervals, and returns when
// all goroutines of this package have ended and those of memberlist have
// nothing left to wait for. Timers of running suspicions stay in memberlist
// until they fire; they reach nobody then.
//
// Lock order: Gossip.lifecycle, then Gossip.refreshing, then the locks of
// memberlist, then those of roster, hints, clocks and transport, of which none
// is held while another is taken or while the Network or a callback is called.
package gossip
