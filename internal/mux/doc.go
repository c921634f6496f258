// Package mux is the one port of a node: it accepts connections that say in
// their first bytes what they are for, and hands them to whoever serves that;
// and it opens such connections to other nodes.
//
// A connection begins, inside TLS if there is TLS, with a hello of the side
// that dialled and an answer of the side that accepted, five bytes each. Dial
// returns after the answer, so it fails with a reason that can be told apart
// (see the errors of this package) where otherwise the first use of the
// connection would fail with none: the peer refused our certificate, does not
// serve the kind, has another version, or one side has TLS and the other not.
//
// Invariants:
//   - With TLS no byte of a hello is looked at before both sides have shown a
//     certificate that the other has verified. It is TLS 1.3 only, whatever
//     the given tls.Config says, and nothing is resumed.
//   - Without TLS no address is listened at or dialled that is not loopback.
//   - What strangers can take is bounded: connections in all, connections that
//     have not finished their greeting, the time that may take, and lines in
//     the log. Neither a slow handshake nor a silent connection holds up
//     others.
//   - Connections that were dialled belong to the caller; those that were
//     accepted belong to the Mux, which closes them and waits for their
//     handlers in stop and in Close.
//
// Lock order: Mux.mu is a leaf; nothing that may block is called under it.
package mux
