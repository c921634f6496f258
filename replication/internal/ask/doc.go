// Package ask defines what the hosts of two nodes say to one another about the
// shards that only one of them has: requests, and the answers to them. It has
// the types, their binary form and nothing that acts.
//
// Every request may be delivered more than once: reads by nature, proposals
// because an entry is applied once only, changes of a group because they name
// what they lead to.
//
// The binary form is versioned; the decoders refuse what they do not know, and
// hostile bytes can neither make them panic nor allocate more than arrived.
package ask
