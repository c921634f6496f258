package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distributedcache/cache/cluster/internal/catalog"
	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/wire"
	"github.com/distributedcache/cache/replication"
)

// The methods of requests between nodes. Their numbers are part of the protocol.
const (
	methodShard   uint8 = 1 // of a Host, to another
	methodHello   uint8 = 2 // of a founding.Founder, to another
	methodJoin    uint8 = 3 // a joinRequest; the answer is a catalog.State
	methodCatalog uint8 = 4 // an epoch; the answer is a newer catalog.State, or nothing
	methodWho     uint8 = 5 // nothing; the answer is the id of the node's directory
	methodWake    uint8 = 6 // nothing; the node looks at the catalog, and at the cluster if it leads that

	streamShard uint8 = 1 // of a Host, to another, that is answered in pieces
)

// handler answers what other nodes ask.
type handler struct{ c *Cluster }

// Serve implements peer.Handler.
func (h handler) Serve(ctx context.Context, method uint8, request []byte) ([]byte, error) {
	c := h.c
	switch method {
	case methodHello:
		return c.founder.Answer(request)
	case methodCatalog:
		return c.answerCatalog(request)
	case methodWho:
		return []byte(c.known.Directory), nil
	}
	host := c.host.Load()
	if host == nil || !c.member.Load() {
		return nil, errNotYet
	}
	switch method {
	case methodShard:
		return host.Answer(ctx, request)
	case methodJoin:
		return c.answerJoin(ctx, request)
	case methodWake:
		c.wakeRefresh()
		c.wakeRepair()
		return nil, nil
	}
	return nil, fmt.Errorf("%w: method %d is not known to this node", base.ErrInvalid, method)
}

// Stream implements peer.Handler.
func (h handler) Stream(ctx context.Context, method uint8, request []byte, send func(piece []byte) error) error {
	host := h.c.host.Load()
	if host == nil {
		return errNotYet
	}
	if method != streamShard {
		return fmt.Errorf("%w: stream %d is not known to this node", base.ErrInvalid, method)
	}
	return host.AnswerStream(ctx, request, send)
}

var errNotYet = fmt.Errorf("%w: the node is about to start", base.ErrUnavailable)

// answerCatalog hands out the catalog as this node knows it, if it is newer than
// what the other one has.
func (c *Cluster) answerCatalog(request []byte) ([]byte, error) {
	r := wire.NewReader(request)
	epoch := base.Version(r.Uint64())
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("%w: %w", base.ErrInvalid, err)
	}
	state := c.cache.State()
	if !state.Founded() || state.Epoch() <= epoch {
		return nil, nil
	}
	return state.Encode(), nil
}

// joinRequest is a node that asks to be taken in.
type joinRequest struct {
	Cluster string // its id
	Node    founder
}

// append appends cluster, id, directory, address, zone.
func (q *joinRequest) append(buf []byte) []byte {
	for _, s := range []string{q.Cluster, q.Node.ID, q.Node.Directory, q.Node.Addr, q.Node.Zone} {
		buf = wire.AppendString(buf, s)
	}
	return buf
}

// maxNameBytes bounds each part of a joinRequest.
const maxNameBytes = 300

func decodeJoin(buf []byte) (q joinRequest, err error) {
	r := wire.NewReader(buf)
	for _, s := range []*string{&q.Cluster, &q.Node.ID, &q.Node.Directory, &q.Node.Addr, &q.Node.Zone} {
		*s = r.String(maxNameBytes)
	}
	if err := r.Close(); err != nil {
		return q, fmt.Errorf("%w: request to join: %w", base.ErrInvalid, err)
	}
	return q, nil
}

// answerJoin takes a node in.
func (c *Cluster) answerJoin(ctx context.Context, request []byte) ([]byte, error) {
	q, err := decodeJoin(request)
	if err != nil {
		return nil, err
	}
	if q.Cluster != c.known.Cluster {
		return nil, fmt.Errorf("%w: this is cluster %s, not %s", base.ErrInvalid, c.known.Cluster, q.Cluster)
	}
	state, err := c.takeIn(ctx, q.Node)
	if err != nil {
		return nil, err
	}
	return state.Encode(), nil
}

// takeIn makes a node a member, or brings the record of one up to date.
func (c *Cluster) takeIn(ctx context.Context, n founder) (*catalog.State, error) {
	return c.editor.Edit(ctx, func(s *catalog.State) ([]base.Write, error) {
		alive := false
		if old, found := s.Node(n.ID); found && old.Directory != n.Directory {
			alive = c.runs(ctx, old)
		}
		return s.Join(catalog.Joining{
			ID: n.ID, Directory: n.Directory, Addr: n.Addr, Zone: n.Zone, OldAlive: alive,
		}, c.cfg.Clock())
	})
}

// runs reports whether a node with the directory that the catalog knows answers at
// its address.
func (c *Cluster) runs(ctx context.Context, n catalog.NodeRecord) bool {
	if n.ID == c.cfg.NodeID {
		return n.Directory == c.known.Directory
	}
	ctx, cancel := context.WithTimeout(ctx, helloPatience)
	defer cancel()
	directory, err := c.pool.Call(ctx, n.Addr, methodWho, nil)
	return err == nil && string(directory) == n.Directory
}

// helloPatience is how long a node may take to say who it is.
const helloPatience = 2 * time.Second

// redirect returns where an error says that the leader is.
func redirect(err error) (node string, redirected bool) {
	var here *replication.NotLeaderError
	if errors.As(err, &here) {
		return here.Node, true
	}
	var there *base.RemoteError
	if errors.As(err, &there) && there.Kind == replication.NotLeaderDetails {
		return string(there.Details), true
	}
	return "", false
}
