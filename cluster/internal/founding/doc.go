// Package founding is how nodes with empty data directories come to be in one
// cluster: those that were told to expect n found it together, all others join
// it. However they crash, restart, come late or are cut off from one another, one
// first boot never gives two clusters.
//
// A fresh node calls the addresses it was given and those it learns of, and
// answers who calls it. A call carries what each side has promised on its disk;
// the answer of a node that belongs to a cluster ends the search. Founder does
// the calling, waiting and saving; the rules are in core, which has no clock, no
// network and no disk.
//
// # Proposals
//
// A proposal names n founders, and as witnesses every other node that one of them
// lists among its peers, or that one of these lists, and so on. Founders and
// witnesses together are its electors. It also has an attempt, which tells apart
// two tries with the same nodes. It is decided if and only if each of its electors
// has accepted it, and then its hash is the cluster's id.
//
// What a node keeps on its disk is one number, the floor, and at most one
// proposal, which it holds.
//
//  1. A node accepts a proposal that names it as an elector, agrees with its
//     settings, has an attempt of at least its floor, and has all nodes that its
//     own peer list leads to among its electors. It must hold nothing. The floor
//     becomes the attempt + 1. So it will never accept another one up to that
//     attempt.
//  2. A node may raise its floor at any time.
//  3. An elector rejects a proposal if its floor is above the attempt and it does
//     not hold that proposal, or if it is a member of another cluster. A node
//     becomes a member of a cluster only while it holds nothing else.
//  4. A node gives up what it holds only if it knows that an elector rejects it.
//  5. Everything is on the disk before anyone hears of it.
//
// A decided proposal stays decided: let the first rejection of it come from z. At
// that moment nobody can have given it up (4), so z has not accepted it, and by
// (1) it never will; so it is not decided, before or after. Hence also: to have
// heard at any time, even long ago, from each elector that it has accepted is
// enough to know, and late, lost and repeated messages do no harm.
//
// Two decided proposals with a common elector are the same one, since that node
// holds each of them for ever (4, and the above) and holds at most one.
//
// Two decided proposals have a common elector if the peer lists hang together: by
// (1) the electors of each contain whatever their lists lead to, and so do the
// lists of those. Lists hang together if following them from any two nodes leads
// to a common node in the end; equal lists do, and so does one seed that all
// list. A list that is changed between two starts counts as it was when the node
// accepted. It is required that an address leads to one node. A name that leads to
// now this, now that node will do if there are not more nodes than n.
//
// That is why a node that is listed has to be heard before anything is founded,
// even if there are n others: nobody could know whether it is not itself, with
// others that it lists, on the other side of a cut, founding a cluster. A peer
// that is never there therefore keeps the others waiting; Run says so, and for
// whom.
//
// # Convergence
//
// A free node that knows of a proposal it could accept accepts the one with the
// highest attempt, then the lowest hash. It rejects those that it could not. If
// there is none, it proposes the first n, by id, of the nodes that it can reach
// now and all of whose peers it can reach, with the lowest attempt that no elector
// has rejected. Once all nodes reach one another they propose the same nodes. Of
// the proposals that are held, the one with the lowest attempt is accepted or
// rejected by each elector that is free or holds another; so it is decided or
// given up, and there are finitely many.
//
// A data directory that is lost between accepting and the decision leaves the
// others with a promise that nobody can answer. They hold no data yet: empty
// their directories too.
//
// # Locks
//
// Founder.mu protects the core. It is a leaf: not held while calling or saving.
package founding
