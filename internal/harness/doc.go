// Package harness loads a cache with concurrent clients, records what they did
// and saw, and decides whether that can be explained: by one register for each
// key that all operations act on at one moment between their call and their
// return (linear.go), and by cheaper rules that name their reason
// (session.go). Transactions that append to lists and read them tell whether they
// are strictly serializable (lists.go). It does not know how the cache is built; a test brings a
// Client.
//
// What a checker relies on: every put has a value that no other put has, the
// keys were empty before the history began, and nobody else writes them.
package harness
