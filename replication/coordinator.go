package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/replication/internal/command"
	"github.com/distributedcache/cache/replication/internal/inflight"
	"github.com/distributedcache/cache/replication/internal/kvfsm"
)

const (
	// txnPatience is how long a transaction may hold keys before others may end
	// it.
	txnPatience = 5 * time.Second
	// maxResolving is how many transactions may be resolved after their callers
	// were answered; those of more wait.
	maxResolving = 256
	// tendPatience bounds one look at the transactions of a shard. What they wait for
	// may be a shard that has lost its majority; the others must not wait for that.
	tendPatience = time.Second
	// releasePatience is how long a transaction that is in the way may take before
	// its anchor is asked about it: longer than most take.
	releasePatience = 30 * time.Millisecond
	// maxTended is how many transactions one look cares for at a time.
	maxTended = 16
)

// coordination is one attempt to apply a transaction on several shards, by two
// phases: every shard but the anchor checks its part and holds the keys, then the
// anchor checks its own and, with that, decides. The decision is the commit point;
// the caller is answered after it, and the other shards follow. See kvfsm for what
// keeps others from contradicting it.
type coordination struct {
	log    *raftlog
	txn    *command.Txn
	kind   command.StepKind // what the shards are asked for; StepPrepare: and the anchor to decide
	holder command.Holder
	parts  []stance // of the parts of txn
}

// stance is where a shard stands with its part.
type stance uint8

const (
	open    stance = iota // to be asked: it was not yet, or another transaction was in the way
	refused               // holds nothing, and need not be asked again
	held                  // holds the part, or nobody knows; the anchor has decided
)

// blockage is why an attempt could not go on: a transaction that holds a key of
// a shard, or nobody in particular.
type blockage struct {
	shard base.ShardID
	by    command.Holder
	known bool
}

// coordinate implements Propose for several shards.
func (l *raftlog) coordinate(ctx context.Context, txn *command.Txn) error {
	return l.gather(ctx, txn, command.StepPrepare, func(c *coordination) error { return c.conclude(ctx) })
}

// Hold keeps everything as it is that a transaction has read, until release is called
// or a while has passed. An error says that nothing is held.
func (l *raftlog) Hold(ctx context.Context, txn *command.Txn) (release func(), _ error) {
	err := l.gather(ctx, txn, command.StepHold, func(c *coordination) error {
		release = func() { c.abortLater(ctx) }
		return nil
	})
	return release, err
}

// gather has all shards of a transaction hold its keys, and then calls then. It tries
// until there is no blockage.
func (l *raftlog) gather(ctx context.Context, txn *command.Txn, kind command.StepKind, then func(*coordination) error) error {
	patience, deadline := txnPatience, base.Version(0)
	if kind == command.StepHold {
		patience /= 2 // older than those that began just now: it has run in vain before
	}
	for attempt := 1; ; attempt++ {
		deadline = l.deadline(txn, patience, deadline)
		c := &coordination{log: l, txn: txn, kind: kind, parts: make([]stance, len(txn.Parts)), holder: command.Holder{
			Txn:      base.NewRequestID(),
			Anchor:   txn.Parts[txn.Anchor].Shard,
			Deadline: deadline,
		}}
		blocked, err := c.run(ctx, then)
		if blocked == nil {
			return err
		}
		if err := l.giveWay(ctx, *blocked, attempt); err != nil {
			return err
		}
	}
}

// deadline returns when others may end an attempt that begins now. A transaction
// keeps that of its attempt before, and with it its age, while half of its time is
// left. The shards judge deadlines by their own clocks, which are ahead of this
// node's if another node wrote to them whose clock is: as far as this node has seen.
// A shard that is further ahead refuses the prepare and says where its clock is.
func (l *raftlog) deadline(txn *command.Txn, patience time.Duration, before base.Version) base.Version {
	now := base.VersionAt(l.clock())
	for i := range txn.Parts {
		now = max(now, l.group(txn.Parts[i].Shard).clock())
	}
	if before >= now+base.Version((patience/2).Microseconds()) {
		return before
	}
	return now + base.Version(patience.Microseconds())
}

// giveWay does what can be done about a blockage: it waits for the transaction to
// let go, helps one that has been decided to its end, or ends one that is past its
// deadline.
func (l *raftlog) giveWay(ctx context.Context, blocked blockage, attempt int) error {
	if blocked.known {
		if l.released(ctx, blocked) {
			return nil
		}
		pending, err := l.unlock(ctx, blocked.shard, blocked.by)
		if err != nil { // of another transaction: whether that was applied is not said
			return inflight.NotApplied(fmt.Errorf("%w: a transaction is in the way: %v", base.ErrUnavailable, err))
		}
		if !pending {
			return nil
		}
	}
	return backoff(ctx, attempt)
}

// released waits for a moment for a transaction to let go, which this node's replica
// shows. It is false if it does not, or if the replica does not know of the
// transaction: it may lag, or there is none.
func (l *raftlog) released(ctx context.Context, blocked blockage) bool {
	r := l.group(blocked.shard).replica.Load()
	if r == nil {
		return false
	}
	timer := time.NewTimer(releasePatience)
	defer timer.Stop()
	for seen := false; ; seen = true {
		release := r.machine.Releasing(blocked.by.Txn)
		if release == nil {
			return seen
		}
		select {
		case <-release:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// run makes one attempt. It has come to an end unless there is a blockage; then no
// shard holds anything of it any more.
func (c *coordination) run(ctx context.Context, then func(*coordination) error) (*blockage, error) {
	for attempt := 1; ; attempt++ {
		err := c.ask(ctx)
		if anchor := &c.txn.Parts[c.txn.Anchor].Result; c.over(anchor) { // whatever the others say
			c.abortLater(ctx)
			c.txn.Result = *anchor
			return nil, nil
		}
		if err != nil {
			if notApplied(err) {
				c.abortLater(ctx)
			}
			return nil, err // if it is unknown, those who meet the keys find out
		}
		switch blocked, mayWait := c.blocked(); {
		case blocked == nil:
			return nil, then(c)
		case !mayWait:
			c.abort(ctx)
			return blocked, nil
		default:
			if err := c.log.giveWay(ctx, *blocked, attempt); err != nil {
				c.abortLater(ctx)
				return nil, err
			}
		}
	}
}

// blocked returns what is in the way, nil if nothing is. A transaction waits for
// younger ones while it holds keys, and lets go of them for an older one (wait-die:
// Rosenkrantz, Stearns and Lewis, 1978). So nobody waits in a circle, and the oldest
// always gets on.
func (c *coordination) blocked() (by *blockage, mayWait bool) {
	mayWait = true
	for i := range c.txn.Parts {
		part := &c.txn.Parts[i]
		switch part.Result.Status {
		case command.StatusExpired:
			return &blockage{}, false
		case command.StatusConflict: // whatever the others say
			return nil, false
		case command.StatusLocked:
			found := &blockage{part.Shard, part.Result.Holder, true}
			if by == nil || found.by.Before(by.by) {
				by = found
			}
			mayWait = mayWait && c.holder.Before(found.by)
		}
	}
	return by, mayWait
}

// ask asks the shards that are open, and then, unless one has refused, the anchor to
// decide.
func (c *coordination) ask(ctx context.Context) error {
	if c.kind == command.StepHold {
		return c.prepare(ctx, len(c.parts))
	}
	anchor := &c.txn.Parts[c.txn.Anchor].Result
	anchor.Reset()
	if err := c.prepare(ctx, c.txn.Anchor); err != nil {
		return err
	}
	least := base.Version(0)
	for i := range c.txn.Parts {
		if i != c.txn.Anchor && c.parts[i] != held {
			return nil
		}
		least = max(least, c.txn.Parts[i].Result.Version)
	}
	return c.propose(ctx, c.txn.Anchor, command.Step{
		Kind: command.StepDecide, Holder: c.holder, At: least, Shards: c.shards(), Outcome: c.known(true),
	})
}

// known returns what the anchor has to remember of a request, but for what it knows
// itself: its own writes, and the version of what is put, if that is applied.
func (c *coordination) known(applied bool) (res command.Result) {
	if c.txn.Request.IsZero() {
		return res
	}
	res.Versions = make([]base.Version, c.txn.Writes())
	for i := range c.txn.Parts {
		part := &c.txn.Parts[i]
		if i == c.txn.Anchor {
			continue
		}
		for j, v := range part.Result.Versions {
			if applied && part.Command.Writes[j].Kind == base.WritePut {
				v = base.PendingVersion
			}
			res.Versions[part.Positions[j]] = v
		}
		for _, j := range part.Result.Failed {
			res.Failed = append(res.Failed, part.Positions[j])
		}
	}
	slices.Sort(res.Failed)
	return res
}

// conclude ends an attempt that nothing is in the way of: it is decided, or one of the
// checks has failed.
func (c *coordination) conclude(ctx context.Context) error {
	res := &c.txn.Result
	res.Reset()
	for i := range c.txn.Parts {
		if part := &c.txn.Parts[i]; part.Result.Status != command.StatusLocked {
			res.Status = max(res.Status, part.Result.Status)
		}
	}
	switch res.Status {
	case command.StatusApplied:
		c.follow(ctx)
	case command.StatusConflict: // what is read next must not meet what is held now
		c.abort(ctx)
	default:
		return c.refuse(ctx)
	}
	return nil
}

// follow lets the other shards follow the decision.
func (c *coordination) follow(ctx context.Context) {
	version := c.txn.Parts[c.txn.Anchor].Result.Version
	for i := range c.txn.Parts {
		part := &c.txn.Parts[i]
		for j := range part.Result.Versions {
			if part.Command.Writes[j].Kind == base.WritePut {
				part.Result.Versions[j] = version
			}
		}
	}
	c.txn.Merge()
	c.txn.Result.Version = version
	d := &kvfsm.Decided{Txn: c.holder.Txn, At: version, Shards: c.shards()} // the caller may reuse txn soon
	c.log.background(ctx, func(ctx context.Context) { c.log.finish(ctx, d, c.holder.Anchor) })
}

// refuse ends a transaction of which a condition did not hold. The anchor tells which of
// its own did not, if it has not, and remembers that for a request that may be repeated.
func (c *coordination) refuse(ctx context.Context) error {
	anchor, request := &c.txn.Parts[c.txn.Anchor].Result, !c.txn.Request.IsZero()
	var err error
	if request || anchor.Status != command.StatusMismatch {
		known := c.known(false)
		known.Status = command.StatusMismatch
		err = c.propose(ctx, c.txn.Anchor, command.Step{Kind: command.StepRefuse, Holder: c.holder, Outcome: known})
	}
	c.abortLater(ctx)
	switch {
	case err != nil && request: // whatever the anchor knows, this applied nothing
		return inflight.NotApplied(fmt.Errorf("%w: the refusal could not be recorded: %v", base.ErrUnavailable, err))
	case c.over(anchor): // another attempt at the request came first
		c.txn.Result = *anchor
	default:
		c.txn.Merge()
	}
	return nil
}

// notApplied reports whether an error says that what was proposed is in no log.
func notApplied(err error) bool {
	var e *base.Error
	return errors.As(err, &e) && e.Outcome == base.OutcomeNotApplied
}

// over reports whether the anchor says that the request was decided before.
func (c *coordination) over(anchor *command.Result) bool {
	return anchor.Replayed || anchor.Status == command.StatusReused
}

// prepare asks the open shards but one to check their parts and hold the keys. After an
// error the transaction will never be decided.
func (c *coordination) prepare(ctx context.Context, but int) error {
	var all errgroup.Group
	for i := range c.txn.Parts {
		if i != but && c.parts[i] == open {
			all.Go(func() error { return c.propose(ctx, i, command.Step{Kind: c.kind, Holder: c.holder}) })
		}
	}
	err := all.Wait()
	if err != nil && !notApplied(err) {
		// The part may be held, but that is undone or runs out.
		err = inflight.NotApplied(fmt.Errorf("%w: not all shards answered: %v", base.ErrUnavailable, err))
	}
	return err
}

// propose has a shard take a step with its part.
func (c *coordination) propose(ctx context.Context, i int, step command.Step) error {
	part := &c.txn.Parts[i]
	part.Result.Reset()
	cmd := part.Command
	cmd.Step = step
	one := &command.Txn{Parts: []command.Part{{Shard: part.Shard, Command: cmd}}}
	if i == c.txn.Anchor && !c.txn.Request.IsZero() {
		one.Request, one.Digest = c.txn.Request, c.txn.Digest
		one.Parts[0].Command.Positions = part.Positions
	}
	err := c.log.proposeOne(ctx, one, true)
	if err != nil {
		if !notApplied(err) {
			c.parts[i] = held
		}
		return err
	}
	part.Result = one.Result
	switch {
	case part.Result.Status == command.StatusLocked:
	case part.Result.Status == command.StatusApplied && !part.Result.Replayed:
		c.parts[i] = held
	default:
		c.parts[i] = refused
	}
	return nil
}

// abort lets the shards drop what they hold, and returns when they have: what is
// tried next would meet it.
func (c *coordination) abort(ctx context.Context) {
	select {
	case <-c.abortLater(ctx):
	case <-ctx.Done():
	}
}

// abortLater is abort that does not wait. done is closed when the shards have
// dropped what they held, or will not be asked.
func (c *coordination) abortLater(ctx context.Context) (done <-chan struct{}) {
	over := make(chan struct{})
	var shards []base.ShardID // the caller may reuse txn soon
	for i, s := range c.parts {
		if s == held {
			shards = append(shards, c.txn.Parts[i].Shard)
		}
	}
	drop := func(ctx context.Context) {
		defer close(over)
		var all errgroup.Group
		for _, id := range shards {
			all.Go(func() error {
				_, err := c.log.step(ctx, id, command.Step{Kind: command.StepAbort, Holder: c.holder})
				return err
			})
		}
		_ = all.Wait() // what is still held then runs out
	}
	if len(shards) == 0 || !c.log.background(ctx, drop) {
		close(over)
	}
	return over
}

func (c *coordination) shards() []base.ShardID {
	ids := make([]base.ShardID, len(c.txn.Parts))
	for i := range c.txn.Parts {
		ids[i] = c.txn.Parts[i].Shard
	}
	return ids
}

// step proposes a step of a transaction that needs no more than its name.
func (l *raftlog) step(ctx context.Context, shard base.ShardID, s command.Step) (*command.Result, error) {
	one := &command.Txn{Parts: []command.Part{{Shard: shard, Command: command.Command{Step: s}}}}
	err := l.proposeOne(ctx, one, true)
	return &one.Result, err
}

// background runs fn after the caller was answered. If too many do so already, it
// runs before, but not for longer than the caller has time: Tend does what is left.
// It is false if fn is not run, since the log is being closed.
func (l *raftlog) background(ctx context.Context, fn func(context.Context)) bool {
	select {
	case l.resolving <- struct{}{}:
		if !l.followUps.Spawn(func() { fn(context.Background()); <-l.resolving }) {
			<-l.resolving
			return false
		}
	default:
		fn(ctx)
	}
	return true
}

// finish lets all shards apply a transaction that was decided, and then the
// anchor forget it. What does not succeed is tried again by Tend.
func (l *raftlog) finish(ctx context.Context, d *kvfsm.Decided, anchor base.ShardID) {
	var all errgroup.Group
	holder := command.Holder{Txn: d.Txn, Anchor: anchor}
	for _, id := range d.Shards {
		if id != anchor {
			all.Go(func() error {
				_, err := l.step(ctx, id, command.Step{Kind: command.StepCommit, Holder: holder, At: d.At})
				return err
			})
		}
	}
	if all.Wait() == nil {
		l.forgetLater(anchor, d.Txn)
	}
}

// unlock asks the anchor of a transaction what became of it, and lets the shard
// that it holds a key of follow. It is pending if it may still be decided.
func (l *raftlog) unlock(ctx context.Context, shard base.ShardID, by command.Holder) (pending bool, err error) {
	d, err := l.outcome(ctx, by)
	if err != nil {
		return false, err
	}
	if d != nil {
		_, err = l.step(ctx, shard, command.Step{Kind: command.StepCommit, Holder: by, At: d.At})
		return false, err
	}
	if base.VersionAt(l.clock()) <= by.Deadline {
		return true, nil
	}
	res, err := l.step(ctx, by.Anchor, command.Step{Kind: command.StepExpire, Holder: by})
	if err != nil {
		return false, err
	}
	next := command.Step{Kind: command.StepCommit, Holder: by, At: res.Version}
	switch res.Status {
	case command.StatusPending:
		return true, nil
	case command.StatusExpired:
		next.Kind = command.StepAbort
	}
	_, err = l.step(ctx, shard, next)
	return false, err
}

// outcome asks the anchor of a transaction whether it was applied; nil if not, or
// not yet, or if that was forgotten because all shards have followed.
func (l *raftlog) outcome(ctx context.Context, by command.Holder) (*kvfsm.Decided, error) {
	g := l.group(by.Anchor)
	for {
		r := l.here(g)
		if r == nil && l.far.Any() {
			return l.far.Outcome(ctx, by.Anchor, by.Txn)
		}
		if err := g.pass(ctx); err != nil {
			return nil, err
		}
		d, err := kvfsm.Outcome(g.space, by.Txn)
		if g.replica.Load() == r {
			return d, err
		}
	}
}

// Tend implements log: it ends the transactions whose coordinator has not.
func (l *raftlog) Tend(ctx context.Context, shard base.ShardID) error {
	r := l.group(shard).replica.Load()
	if r == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tendPatience)
	defer cancel()
	now := l.clock()
	var all errgroup.Group
	all.SetLimit(maxTended)
	for _, by := range r.machine.Prepared() {
		if base.VersionAt(now) > by.Deadline {
			all.Go(func() error {
				_, err := l.unlock(ctx, shard, by)
				return err
			})
		}
	}
	decided, err := kvfsm.Outcomes(l.store.Space(shard), maxResolving)
	for _, d := range decided {
		if now.Sub(d.At.Time()) > txnPatience { // else its coordinator is at it
			all.Go(func() error {
				l.finish(ctx, d, shard)
				return nil
			})
		}
	}
	return errors.Join(err, all.Wait())
}
