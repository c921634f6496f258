// Package peer carries requests between nodes: a Pool sends them, a Server has
// a Handler answer them, over connections that a Network opens and accepts.
// Under it is gRPC, for its streams, its flow control and its framing; without
// generated code, with codecs that pass bytes through.
//
// # Calls
//
// All calls of one node to another share one stream, whose messages are
// batches: whatever is queued when the sender comes round travels together,
// and nobody waits for company. Bodies over 64 KiB follow in pieces, one in
// each message at most, so that short ones get past them. Ids, timeouts,
// cancellations, pings and errors are frames of a format of our own (see
// frames.go), of which hostile bytes can make nothing worse than a closed
// stream: they neither panic nor allocate more than arrives, but for half a
// megabyte ahead.
//
// Long answers do not stand in the way of short ones. Streams of pieces have
// gRPC streams of their own and, with long answers to calls from the second on,
// a connection of their own, because what is in the buffers of a socket has to
// be waited for. Latency of a short call on two busy cores (BenchmarkBeside),
// and on a link that is narrowed to 50 MB/s:
//
//	beside                         loopback            narrow
//	                               p50      p99        p50      p99
//	nothing                        28 us    0.1 ms     28 us    0.2 ms
//	a 100 MB stream, same conn     28 us    2.2 ms     15 ms    68 ms
//	a 100 MB stream                28 us    4.8 ms     28 us    2.5 ms
//	calls of 4 MiB, same conn      0.6 ms   13 ms      18 ms    31 ms
//	calls of 4 MiB                 28 us    5.6 ms     29 us    2.6 ms
//
// Long requests have no connection of their own; at most 512 KiB of them are on
// their way in front of a short one.
//
// A call of 256 bytes costs 4 to 6 us of processor time at 64 callers and 6
// allocations, and 40 us and 24 alone, both sides together.
//
// # Errors
//
// What a handler answers as an error arrives matching the same sentinel of
// internal/base, with what *base.Error, *base.VersionError and the details of a
// base.WireDetailer carry. A *CallError says that there was no answer; Sent,
// whether the request may have been executed. A handler that panics is logged
// and looks like a node that died over the request: a *CallError with Sent, as
// nobody knows what it has done. base.ErrOverloaded means that a limit was met
// before the handler was asked.
//
// # Connections
//
// They are opened when there is a call and closed when there was none for a
// while. After a failure nothing is tried for a growing, jittered pause, in
// which calls fail at once with the last error. A peer that says nothing for
// DeadAfter, though it is pinged, is gone: gRPC's own keepalive cannot be set
// below ten seconds, so the stream of calls has its own, on whose word the
// second connection ends too. The server uses gRPC's. Before a connection
// reaches MaxConnAge the next one is opened, takes over, and the old one ends
// when nothing is under way on it. gRPC's reconnecting is not used.
//
// # Limits
//
// Everything that the other side feeds has one: bytes of a message, a batch, a
// header; requests in flight, running handlers and waiting ones; bytes of long
// requests, and of answers that wait to be sent; streams, connections,
// addresses. A handler that calls other nodes whose handlers call back can use
// up the running handlers of all, so such chains need deadlines.
//
// # What gRPC does to its host
//
// It writes errors of level ERROR to standard error unless the process has set
// grpclog. It imports golang.org/x/net/trace, which registers /debug/requests
// and /debug/events on http.DefaultServeMux, for local callers only; the build
// tag grpcnotrace leaves that out. Neither can be changed from here without
// touching what belongs to the process. It adds 6.6 MB to a stripped binary.
//
// Lock order: Pool.mu, remote.mu, Pool.startMu. link.mu, session.mu, Server.mu
// and workers.mu are leaves: none is held while another is taken.
package peer
