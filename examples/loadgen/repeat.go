package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// errMoney is what a wrong sum of the accounts gives.
var errMoney = errors.New("the accounts do not add up; this is a bug, please report it")

// leadTime is between the order to begin and the beginning: all generators are
// ready, and are to begin together.
const leadTime = 200 * time.Millisecond

// doRuns does all repeats of c, each with fresh nodes below dir. Interrupted, it
// returns the repeats that were complete, with the error.
func doRuns(ctx context.Context, c *config, dir string, held *quotas, progress io.Writer) (runs, error) {
	all := runs{Config: *c}
	for n := range c.repeat {
		if c.repeat > 1 {
			_, _ = fmt.Fprintf(progress, "repeat %d of %d\n", n+1, c.repeat)
		}
		r, err := doRepeat(ctx, c, filepath.Join(dir, fmt.Sprintf("repeat-%d", n+1)), held)
		if err != nil {
			return all, err
		}
		all.Repeats = append(all.Repeats, r)
		if r.Transfers != nil && !r.Transfers.AddsUp {
			return all, errMoney
		}
	}
	return all, nil
}

// doRepeat opens nodes, loads them and closes them.
func doRepeat(ctx context.Context, c *config, dir string, held *quotas) (r repeat, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	began := time.Now()
	f, err := openFleet(ctx, c, dir, held)
	defer func() { err = errors.Join(err, f.close(), held.release()) }()
	if err != nil {
		return r, err
	}
	opened := time.Since(began)
	leaders, even, err := f.settle(ctx)
	if err != nil {
		return r, fmt.Errorf("wait for the shards: %w", err)
	}
	callers := f.callers(c)
	if err := onAll(callers, func(p peer, s share) error { return p.preload(ctx, order{c.Work, s}) }); err != nil {
		return r, err
	}
	if err := onAll(callers, func(p peer, s share) error { return p.prepare(ctx, order{c.Work, s}) }); err != nil {
		return r, err
	}
	idle := f.idle(ctx, c)
	sum, used, err := f.loadAll(ctx, c, callers)
	if err != nil {
		return r, err
	}
	r = summarize(sum, &c.Work)
	r.account(used)
	r.IdleCPUs = idle
	r.Leaders, r.LeadersEven, r.OpenSeconds = leaders, even, opened.Seconds()
	if c.Work.Mix.has(opTransfer, opSum) {
		err = f.audit(ctx, &r, c, sum)
	}
	return r, err
}

// onAll has all callers do their shares of something, at once.
func onAll(callers []peer, do func(p peer, s share) error) error {
	errs := make([]error, len(callers))
	var wg sync.WaitGroup
	for i, p := range callers {
		wg.Go(func() { errs[i] = do(p, share{i, len(callers)}) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// restBefore is for what the preload has left to do.
const restBefore = time.Second

// idle returns how many CPUs all processes have in use without load.
func (f *fleet) idle(ctx context.Context, c *config) float64 {
	if c.Idle == 0 {
		return 0
	}
	from := time.Now().Add(restBefore)
	return watch(ctx, f, window{from, from.Add(c.Idle)}).cpu() / c.Idle.Seconds()
}

// loadAll has all callers at work, and watches what that costs all processes.
func (f *fleet) loadAll(ctx context.Context, c *config, callers []peer) (sum tally, used cost, err error) {
	from := time.Now().Add(leadTime + c.Work.WarmUp)
	errs := make([]error, len(callers))
	tallies := make([]tally, len(callers))
	var wg sync.WaitGroup
	for i, p := range callers {
		wg.Go(func() { tallies[i], errs[i] = p.load(ctx, from) })
	}
	measured := window{from, from.Add(c.Work.Duration)}
	var profiled error
	wg.Go(func() { profiled = profile(ctx, c.profile, measured) })
	used = watch(ctx, f, measured)
	wg.Wait()
	if err := errors.Join(append(errs, profiled)...); err != nil {
		return sum, used, fmt.Errorf("load: %w", err)
	}
	sum = newTally()
	for _, t := range tallies {
		sum.add(t)
	}
	return sum, used, nil
}

// audit reads the accounts when all transfers have ended. Those without a known
// outcome may still be under way, so it looks more than once.
func (f *fleet) audit(ctx context.Context, r *repeat, c *config, sum tally) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var last error
	for {
		got, err := f.peers[0].books(ctx)
		if err == nil {
			r.Transfers = judge(got, c.Work.Accounts, sum.Confirmed, sum.Unknown)
			r.Transfers.AddsUp = r.Transfers.AddsUp && sum.of(opSum).Errors[wrongSum] == 0
			return nil
		}
		last = err
		if !pause(ctx, settlePause) {
			return fmt.Errorf("read the accounts: %w", last)
		}
	}
}

// commandRun is loadgen without the name of a command.
func commandRun(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	c, err := parseRun(args, stderr)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(c.dir, "loadgen-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r := result{Format: formatVersion, Command: append([]string{"loadgen"}, args...), Time: time.Now().UTC().Truncate(time.Second), Machine: thisMachine()}
	all, err := doRuns(ctx, &c, dir, nil, stderr)
	if len(all.Repeats) == 0 {
		return err
	}
	r.Runs = []runs{all}
	printRuns(stdout, &r, &all)
	return errors.Join(err, r.write(c.json))
}
