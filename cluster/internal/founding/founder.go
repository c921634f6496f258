package founding

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

const (
	defaultInterval    = 100 * time.Millisecond
	defaultCallTimeout = 2 * time.Second
	complainEvery      = 5 * time.Second // how often a waiting node says for whom
)

// Config is what a Founder needs. Self, Terms and the functions must be given.
type Config struct {
	Self  Peer
	Terms Terms // Expect 0 = found nothing, join what there is
	// OldestProtocol and NewestProtocol are what this version speaks with other
	// nodes; ranges that do not meet are refused.
	OldestProtocol, NewestProtocol uint32
	// Peers are the addresses of other nodes; this node's own may be among
	// them. Each must lead to one node.
	Peers []string
	// Saved is what Save was given last, nil in a new data directory.
	Saved []byte
	// Save makes the bytes durable in place of the last ones. If it fails, Run
	// does.
	Save func(data []byte) error
	// Call has the node at the address answer: its Founder.Answer. It is used by
	// many goroutines at once.
	Call func(ctx context.Context, addr string, request []byte) ([]byte, error)

	Logger      *slog.Logger  // nil = silent
	Interval    time.Duration // between two calls of an address; 0 = 100 ms
	CallTimeout time.Duration // 0 = 2 s
}

// Set is what founders agree on. All of them get the same.
type Set struct {
	Cluster  string // the id of the cluster, 16 bytes in hexadecimal
	Terms    Terms
	Founders []Peer // ordered by id
}

// Result is how Run ended: exactly one of the two is set.
type Result struct {
	Founded *Set        // this node founds that cluster together with the others
	Member  *Membership // somebody is in that cluster; join it
}

// Founder finds the cluster of a node, or founds it with others. Its methods are
// safe for concurrent use, but Run runs once at a time.
type Founder struct {
	cfg  Config
	news chan struct{} // a request told something

	mu   sync.Mutex
	core *core
}

// New returns the Founder of a node. The error wraps base.ErrInvalid if the
// configuration is not valid or contradicts what the node has promised, and
// base.ErrCorrupt if Saved is damaged.
func New(cfg Config) (*Founder, error) {
	if f := firstFault(cfg.Self.fault(), cfg.Terms.fault()); f != "" {
		return nil, invalid("%s", f)
	}
	switch {
	case len(cfg.Peers) > MaxPeers:
		return nil, invalid("%d peers, at most %d are allowed", len(cfg.Peers), MaxPeers)
	case cfg.NewestProtocol < cfg.OldestProtocol:
		return nil, invalid("protocols %d to %d", cfg.OldestProtocol, cfg.NewestProtocol)
	}
	for _, addr := range cfg.Peers {
		if f := faultOfText("address of a peer", addr, 1, maxAddrBytes); f != "" {
			return nil, invalid("%s", f)
		}
	}
	d, err := restore(&cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Interval <= 0 {
		cfg.Interval = defaultInterval
	}
	if cfg.CallTimeout <= 0 {
		cfg.CallTimeout = defaultCallTimeout
	}
	return &Founder{
		cfg:  cfg,
		news: make(chan struct{}, 1),
		core: newCore(cfg.Self, cfg.Terms, cfg.OldestProtocol, cfg.NewestProtocol, slices.Clone(cfg.Peers), d),
	}, nil
}

// restore returns what the node had promised.
func restore(cfg *Config) (durable, error) {
	if cfg.Saved == nil {
		return durable{}, nil
	}
	self, d, err := decodeDurable(cfg.Saved)
	switch {
	case err != nil:
		return d, err
	case self != cfg.Self.ref():
		return d, invalid("the promises in this data directory are those of node %q with directory %s", self.node, self.directory)
	case d.held != nil && (d.held.terms.Name != cfg.Terms.Name || d.held.terms.Shards != cfg.Terms.Shards):
		return d, invalid("the node has agreed to found cluster %q with %d shards; start it with these settings or with an empty data directory", d.held.terms.Name, d.held.terms.Shards)
	}
	return d, nil
}

// SetMember has the node answer as a member of the cluster from now on, for good.
// It must be called only when the data directory says so durably, and not while
// Run runs.
func (f *Founder) SetMember(m Membership) error {
	m.Addresses = slices.Clone(m.Addresses[:min(len(m.Addresses), maxKnown)])
	if fault := m.fault(); fault != "" {
		return invalid("%s", fault)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if held := f.core.durable.held; held != nil && held.cluster() != m.Cluster {
		return invalid("the node has agreed to found cluster %s and cannot become a member of %s", held.cluster(), m.Cluster)
	}
	f.core.member = &m
	return nil
}

// Answer answers the call of another node. It may be used before, while and
// after Run runs, and returns at once. The error wraps base.ErrCorrupt, or
// base.ErrInvalid if the caller speaks another version of the protocol; it
// belongs to the caller.
func (f *Founder) Answer(request []byte) ([]byte, error) {
	m, err := decodeMessage(request)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	before := f.core.facts[m.self.ref()]
	answer := encodeMessage(f.core.handle(m))
	f.mu.Unlock()
	if before == nil || !before.same(m) {
		select {
		case f.news <- struct{}{}:
		default: // one piece of news is enough
		}
	}
	return answer, nil
}

// same reports whether both messages of one node tell the same.
func (m *message) same(o *message) bool {
	return m.durable.floor == o.durable.floor && m.durable.decided == o.durable.decided && m.status == o.status &&
		(m.durable.held == nil) == (o.durable.held == nil) && (m.durable.held == nil || m.durable.held.same(o.durable.held)) &&
		slices.Equal(m.sees, o.sees) && slices.Equal(m.open, o.open)
}

// Run calls the peers until the node founds a cluster or has found one. What it
// returned once it returns again when the node starts anew with the same Saved:
// Founded always, Member as long as somebody answers. The error wraps
//   - base.ErrUnavailable if ctx ended, and says for whom the node waits,
//   - base.ErrInvalid if a listed peer is in a cluster with another name or shard
//     count or with protocols that this node does not speak, if all listed peers
//     are so, or if the peers are members of two clusters,
//   - that of Save.
func (f *Founder) Run(ctx context.Context) (Result, error) {
	f.mu.Lock()
	f.core.fatal = nil // what was wrong at the last run may be right by now
	f.mu.Unlock()
	r := &run{Founder: f, answers: make(chan answer), calling: map[string]bool{}, told: map[string]int{}, logged: map[string]string{}}
	calls, stop := context.WithCancel(ctx)
	result, err := r.loop(ctx, calls)
	r.drain(stop)
	return result, err
}

// run is one run of a Founder. Only its goroutine uses it.
type run struct {
	*Founder
	answers chan answer
	calling map[string]bool   // addresses with a call on its way
	told    map[string]int    // generation that an address has been told
	logged  map[string]string // the problem of an address that was logged last
	gen     int               // rises when there is something to tell at once
	ready   bool              // all of the peer list has been heard
}

type answer struct {
	addr string
	msg  *message
	err  error
}

func (r *run) loop(ctx, calls context.Context) (Result, error) {
	tick := time.NewTimer(0)
	defer tick.Stop()
	complain := time.NewTicker(complainEvery)
	defer complain.Stop()
	for {
		if out, err := r.advance(); err != nil || out != (outcome{}) {
			return out.result(), err
		}
		r.call(calls, false)
		select {
		case <-ctx.Done():
			return Result{}, fmt.Errorf("%w: founding: %s: %w", base.ErrUnavailable, r.waiting(), context.Cause(ctx))
		case <-tick.C:
			r.call(calls, true)
			tick.Reset(r.cfg.Interval/2 + rand.N(r.cfg.Interval))
		case a := <-r.answers:
			r.take(a)
		case <-r.news:
		case <-complain.C:
			r.cfg.Logger.Info("founding: waiting", "for", r.waiting())
		}
	}
}

func (o outcome) result() Result {
	switch {
	case o.founded != nil:
		return Result{Founded: &Set{Cluster: o.founded.cluster(), Terms: o.founded.terms, Founders: slices.Clone(o.founded.founders)}}
	case o.join != nil:
		m := *o.join
		m.Addresses = slices.Clone(m.Addresses)
		return Result{Member: &m}
	}
	return Result{}
}

// advance makes the promises that are due and looks whether the search has
// ended.
func (r *run) advance() (outcome, error) {
	for {
		r.mu.Lock()
		next, changed := r.core.step()
		if !changed {
			out, err := r.core.outcome()
			_, open := r.core.sees()
			r.mu.Unlock()
			if ready := len(open) == 0; ready != r.ready {
				r.ready = ready
				r.gen++
			}
			return out, err
		}
		r.mu.Unlock()
		// Meanwhile the core may learn something. It makes no promise less true.
		if err := r.cfg.Save(encodeDurable(r.cfg.Self.ref(), next)); err != nil {
			return outcome{}, fmt.Errorf("keeping the promises of the founding: %w", err)
		}
		r.mu.Lock()
		r.core.commit(next)
		r.mu.Unlock()
		r.gen++
		r.logPromise(next)
	}
}

func (r *run) logPromise(d durable) {
	switch {
	case d.held == nil:
		r.cfg.Logger.Debug("founding: free", "floor", d.floor)
	case d.decided:
		r.cfg.Logger.Info("founding: decided", "cluster", d.held.cluster(), "founders", len(d.held.founders))
	default:
		r.cfg.Logger.Debug("founding: accepted", "cluster", d.held.cluster(), "attempt", d.held.attempt)
	}
}

// call calls the addresses that have no call on their way: all of them, or those
// that have not been told the newest.
func (r *run) call(ctx context.Context, all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, addr := range r.core.targets() {
		told, known := r.told[addr]
		if r.calling[addr] || (!all && known && told == r.gen) {
			continue
		}
		request := encodeMessage(r.core.message(addr))
		r.calling[addr], r.told[addr] = true, r.gen
		go func() { r.answers <- r.ask(ctx, addr, request) }()
	}
}

func (r *run) ask(ctx context.Context, addr string, request []byte) answer {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.CallTimeout)
	defer cancel()
	buf, err := r.cfg.Call(ctx, addr, request)
	if err != nil {
		return answer{addr: addr, err: err}
	}
	m, err := decodeMessage(buf)
	return answer{addr: addr, msg: m, err: err}
}

// take takes in the end of a call.
func (r *run) take(a answer) {
	delete(r.calling, a.addr)
	r.mu.Lock()
	if a.err != nil {
		r.core.miss(a.addr, a.err)
	} else {
		r.core.hear(a.addr, a.msg)
	}
	problem, known := "", false
	if x := r.core.contacts[a.addr]; x != nil {
		problem, known = x.problem, true
	}
	r.mu.Unlock()
	if !known {
		delete(r.told, a.addr)
	}
	switch {
	case problem == "":
		delete(r.logged, a.addr)
	case problem != r.logged[a.addr]:
		r.logged[a.addr] = problem
		r.cfg.Logger.Warn("founding: a peer cannot be in one cluster with this node", "address", a.addr, "why", problem)
	}
}

func (r *run) waiting() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.core.waiting()
}

// drain ends the calls. Those on their way tell others what this node has just
// promised; they get an interval to arrive.
func (r *run) drain(stop context.CancelFunc) {
	defer stop()
	timer := time.AfterFunc(r.cfg.Interval, stop)
	defer timer.Stop()
	for len(r.calling) > 0 {
		a := <-r.answers
		delete(r.calling, a.addr)
	}
}
