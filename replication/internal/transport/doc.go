// Package transport carries the messages and the snapshots of raft between
// nodes, over connections that a Network opens and accepts, and knows at which
// address each replica is to be found.
//
// A connection is of one kind and goes one way. Messages: each batch that
// dragonboat hands over is encoded into one pooled buffer and written at once,
// as one frame; a batch over the limit is split, within a message if need be.
// Snapshots: each chunk is a frame, paced by a limiter that all streams of the
// node share, and at the end of the stream both sides say so.
//
// What comes in is hostile until decoded. The decoders of raftpb are not used
// on it: a length can send them backwards into an endless loop and nested
// groups run them out of stack, neither of which can be recovered from. The
// formats here are read by wire.Reader, with a limit on every count. What a
// decoder lets through is also admissible: no local message types, no gaps
// between the entries of a message. Peers are trusted beyond that, so who may
// connect is the business of the Network.
//
// A fault closes the connection that it came over and nothing else.
//
// Lock order: no lock of this package is held while another is taken or while
// dragonboat or the Network is called.
package transport
