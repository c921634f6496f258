package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// A caller makes the calls of one client. *client is one.
type caller interface {
	next() operation
	call(ctx context.Context, o operation) error
}

// generator runs the clients of one node.
type generator struct {
	work    *workload
	callers []caller
	rate    float64 // of this generator; 0 is a closed loop
	seed    uint64
}

// newGenerator returns the generator of a share of the whole load.
func newGenerator(t *target, s share) *generator {
	g := &generator{work: t.work, rate: t.work.Rate / float64(s.OutOf), seed: t.work.Seed + uint64(s.Part)<<16}
	for i := range t.work.Clients {
		g.callers = append(g.callers, newClient(t, t.work.Seed, uint64(s.Part)<<16+uint64(i)))
	}
	return g
}

// run makes calls from the warm-up's beginning until the end of the window, or
// until ctx ends, and returns when all calls have ended.
func (g *generator) run(ctx context.Context, measured window) tally {
	r := newRecorder(g.work, measured)
	began := measured.from.Add(-g.work.WarmUp)
	var starts *schedule
	if g.rate > 0 {
		var random *rand.Rand
		if g.work.Arrivals == arrivalsPoisson {
			random = rand.New(rand.NewPCG(g.seed, 1<<33))
		}
		starts = newSchedule(began, measured.to, g.rate, random)
	}
	pause(ctx, time.Until(began))
	var clients sync.WaitGroup
	for i, c := range g.callers {
		l := &loop{caller: c, number: i, recorder: r, timeout: g.work.Timeout}
		if starts == nil {
			clients.Go(func() { l.closed(ctx) })
		} else {
			clients.Go(func() { l.open(ctx, starts) })
		}
	}
	clients.Wait()
	return r.total()
}

// loop is one client at work.
type loop struct {
	caller
	number   int
	recorder *recorder
	timeout  time.Duration
	deadline deadline
}

// closed starts a call when the last has ended.
func (l *loop) closed(ctx context.Context) {
	defer l.deadline.end()
	for ctx.Err() == nil {
		o := l.next()
		begin := time.Now()
		if !begin.Before(l.recorder.to) {
			return
		}
		err := l.call(l.deadline.of(ctx, begin, l.timeout), o)
		l.recorder.record(l.number, event{what: o, intended: begin, latency: time.Since(begin), err: err})
		if wait := retryAfter(err); wait > 0 { // else it would do nothing but be refused
			pause(ctx, wait)
		}
	}
}

// open starts calls when the schedule says. A client that is behind does not
// wait; those that all clients are too late for are missed.
func (l *loop) open(ctx context.Context, starts *schedule) {
	defer l.deadline.end()
	for ctx.Err() == nil {
		at, ok := starts.take()
		if !ok {
			return
		}
		o := l.next()
		if wait := time.Until(at); wait > 0 && !pause(ctx, wait) {
			return
		}
		begin := time.Now()
		if !begin.Before(l.recorder.to) {
			if l.recorder.has(at) {
				l.recorder.missed(l.number)
			}
			continue
		}
		err := l.call(l.deadline.of(ctx, begin, l.timeout), o)
		l.recorder.record(l.number, event{what: o, intended: at, delay: begin.Sub(at), latency: time.Since(at), err: err})
	}
}

// deadline gives each call a context that ends after between half the timeout
// and all of it. One context serves many calls: making one for each takes as
// long as a read from memory.
type deadline struct {
	ctx    context.Context
	cancel context.CancelFunc
	until  time.Time // when the next is due
}

func (d *deadline) of(parent context.Context, now time.Time, timeout time.Duration) context.Context {
	if d.ctx == nil || !now.Before(d.until) {
		d.end()
		d.ctx, d.cancel = context.WithDeadline(parent, now.Add(timeout))
		d.until = now.Add(timeout / 2)
	}
	return d.ctx
}

func (d *deadline) end() {
	if d.cancel != nil {
		d.cancel()
	}
}
