package far

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
)

// Remote reaches the shards of which this node has no replica that can serve.
// Requests and answers are made and understood by Hosts; whoever implements it
// need not know what is in them. Each may be delivered more than once.
type Remote interface {
	// Ask has the node that leads the shard answer a request, by Host.Answer. It
	// finds the leader, follows redirections and tries again until ctx ends. An
	// error is a *base.Error; its Outcome is OutcomeNotApplied only if nobody can
	// have acted on the request.
	Ask(ctx context.Context, shard base.ShardID, request []byte) ([]byte, error)
	// AskNode has one node answer, once.
	AskNode(ctx context.Context, node string, request []byte) ([]byte, error)
	// Stream has a node answer by Host.AnswerStream. yield is called with each
	// piece, in order; its error ends the stream.
	Stream(ctx context.Context, node string, request []byte, yield func(piece []byte) error) error
	// Leader returns the node that is most likely to lead a shard; "" if nobody
	// is known.
	Leader(shard base.ShardID) string
}

// Client asks other nodes. The zero value is for a node that has a replica of
// everything, and whose other methods must not be called.
type Client struct{ remote Remote }

// New returns a Client that uses a Remote; nil if there is nobody to ask.
func New(remote Remote) Client { return Client{remote} }

// Any reports whether there is anybody to ask.
func (f Client) Any() bool { return f.remote != nil }

// Ask has the leader of the shard answer a request.
func (f Client) Ask(ctx context.Context, q *ask.Request) ([]byte, error) {
	return f.remote.Ask(ctx, q.Shard, q.Append(nil))
}

// Propose has the leader of a shard decide an entry and returns its results.
func (f Client) Propose(ctx context.Context, shard base.ShardID, entry []byte) ([]byte, error) {
	return f.Ask(ctx, &ask.Request{Kind: ask.Propose, Shard: shard, Bytes: entry})
}

// Barrier returns once the leader of the shard has made sure that it leads.
func (f Client) Barrier(ctx context.Context, shard base.ShardID) error {
	_, err := f.Ask(ctx, &ask.Request{Kind: ask.Barrier, Shard: shard})
	return err
}

// Confirm asks a node about claims, and returns an answer for each. A node that does
// not answer is not asked again.
func (f Client) Confirm(ctx context.Context, node string, claims []ask.Claim) ([]ask.Confirmed, error) {
	q := ask.Request{Kind: ask.Confirm, Bytes: ask.AppendClaims(nil, claims)}
	buf, err := f.remote.AskNode(ctx, node, q.Append(nil))
	if err != nil {
		return nil, err
	}
	answers, err := ask.DecodeConfirmed(buf)
	if err == nil && len(answers) != len(claims) {
		err = fmt.Errorf("%w: %d answers to %d claims", base.ErrUnavailable, len(answers), len(claims))
	}
	return answers, err
}

// Outcome asks an anchor about a transaction; nil if it was not applied, or not
// yet, or is resolved everywhere.
func (f Client) Outcome(ctx context.Context, anchor base.ShardID, txn base.RequestID) (*kvfsm.Decided, error) {
	buf, err := f.Ask(ctx, &ask.Request{Kind: ask.Outcome, Shard: anchor, ID: txn})
	if err != nil {
		return nil, err
	}
	v, err := ask.DecodeVerdict(buf)
	if err != nil || !v.Yes {
		return nil, err
	}
	return &kvfsm.Decided{Txn: txn, At: v.Version}, nil
}

// Recall asks a shard for a remembered request; nil if it has none.
func (f Client) Recall(ctx context.Context, shard base.ShardID, id base.RequestID) (*command.Remembered, error) {
	buf, err := f.Ask(ctx, &ask.Request{Kind: ask.Recall, Shard: shard, ID: id})
	if err != nil || len(buf) == 0 {
		return nil, err
	}
	return command.DecodeRemembered(buf)
}

// Check asks whether what a part has read still holds, and for the mark of its
// shard.
func (f Client) Check(ctx context.Context, part *command.Part) (ask.Verdict, error) {
	cmd := command.Command{Reads: part.Command.Reads, Ranges: part.Command.Ranges}
	buf, err := f.Ask(ctx, &ask.Request{Kind: ask.Check, Shard: part.Shard, Bytes: cmd.Append(nil)})
	if err != nil {
		return ask.Verdict{}, err
	}
	return ask.DecodeVerdict(buf)
}

// Get reads one key, and the mark of its shard.
func (f Client) Get(ctx context.Context, shard base.ShardID, key base.Key, ro base.ReadOptions) (base.Item, base.Version, error) {
	buf, err := f.Ask(ctx, &ask.Request{Kind: ask.Get, Shard: shard, Keys: []base.Key{key}, Read: ro})
	if err != nil {
		return base.Item{Key: key}, 0, err
	}
	page, err := ask.DecodePage(buf)
	if err == nil && (len(page.Items) != 1 || len(page.Marks) != 1) {
		err = fmt.Errorf("%w: answer of %d items to a question for one", base.ErrUnavailable, len(page.Items))
	}
	if err != nil {
		return base.Item{Key: key}, 0, err
	}
	return page.Items[0], page.Marks[0].Removed, nil
}

// MultiGet reads the keys at the given positions, which lie on the shards that
// shardOf says, into items, and notes the marks of these shards from before; nil marks if
// nobody wants them. Keys of one leader travel together.
func (f Client) MultiGet(ctx context.Context, keys []base.Key, at []int, items []base.Item, ro base.ReadOptions, shardOf func(base.Key) base.ShardID, marks *Marks) error {
	byNode := map[string][]int{}
	for _, i := range at {
		node := f.remote.Leader(shardOf(keys[i]))
		byNode[node] = append(byNode[node], i)
	}
	var all errgroup.Group
	for node, at := range byNode {
		all.Go(func() error {
			if node != "" && f.getFrom(ctx, node, keys, at, items, ro, marks) == nil {
				return nil
			}
			return f.getEach(ctx, keys, at, items, ro, shardOf, marks)
		})
	}
	return all.Wait()
}

// groupPatience is how long one node is waited for that was asked for several
// keys. If it is silent the keys are asked for one by one, as others may lead by
// now: longer than a busy node takes, shorter than callers wait.
const groupPatience = 3 * time.Second

// getFrom reads keys that one node leads the shards of.
func (f Client) getFrom(ctx context.Context, node string, keys []base.Key, at []int, items []base.Item, ro base.ReadOptions, marks *Marks) error {
	ctx, cancel := context.WithTimeout(ctx, groupPatience)
	defer cancel()
	q := ask.Request{Kind: ask.Get, Read: ro}
	for _, i := range at {
		q.Keys = append(q.Keys, keys[i])
	}
	buf, err := f.remote.AskNode(ctx, node, q.Append(nil))
	if err != nil {
		return err
	}
	page, err := ask.DecodePage(buf)
	if err != nil {
		return err
	}
	if len(page.Items) != len(at) {
		return fmt.Errorf("%w: answer of %d items to a question for %d", base.ErrUnavailable, len(page.Items), len(at))
	}
	for _, mark := range page.Marks {
		marks.Note(mark)
	}
	for n, i := range at {
		items[i] = page.Items[n]
	}
	return nil
}

// maxFarReads is how many keys of one call are asked for one by one at once.
const maxFarReads = 32

// getEach reads keys one by one, wherever their shards are led by now.
func (f Client) getEach(ctx context.Context, keys []base.Key, at []int, items []base.Item, ro base.ReadOptions, shardOf func(base.Key) base.ShardID, marks *Marks) error {
	var all errgroup.Group
	all.SetLimit(maxFarReads)
	for _, i := range at {
		all.Go(func() error {
			it, removed, err := f.Get(ctx, shardOf(keys[i]), keys[i], ro)
			if err == nil {
				marks.Note(ask.Mark{Shard: shardOf(keys[i]), Removed: removed})
				items[i] = it
			}
			return err
		})
	}
	return all.Wait()
}

// Status asks a node for the state of its replicas.
func (f Client) Status(ctx context.Context, node string) ([]ask.Replica, error) {
	buf, err := f.remote.AskNode(ctx, node, (&ask.Request{Kind: ask.Status}).Append(nil))
	if err != nil {
		return nil, err
	}
	return ask.DecodeStatus(buf)
}
