package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// addressJSON is the answer of GET /api/cluster/address.
type addressJSON struct {
	NodeID  string `json:"node_id"` // "" while it is not known
	Address string `json:"address"` // where other nodes reach this one
	Run     string `json:"run"`     // random at each start: a server knows itself by it
}

const (
	// seedTimeout bounds one question to a seed, seedPause is between two.
	seedTimeout = 2 * time.Second
	seedPause   = 200 * time.Millisecond
	// seedPatience is how long a seed is asked whose address is known from
	// earlier: it may have moved, or be gone for good.
	seedPatience = 5 * time.Second
	// seedReminder is how often it is said who is still waited for.
	seedReminder = 10 * time.Second
	// maxAddressAnswer is more than any answer has.
	maxAddressAnswer = 4 << 10
)

// finder finds the cluster addresses of seeds, which are named by the addresses
// of their APIs. Seeds may be this server, and need not be up yet.
type finder struct {
	seeds []string
	all   bool // every seed is needed, or one
	file  string
	log   *slog.Logger
	found map[string]string // by seed, what find has found; "" = this server
	ask   func(ctx context.Context, seed string) (addressJSON, error)
}

// newFinder returns the finder of a server. To found a cluster with others takes
// all of them; to join one takes one that is not the server itself.
func newFinder(cfg config, log *slog.Logger) *finder {
	return &finder{
		seeds: cfg.cluster.seeds.list(), all: cfg.cluster.expect > 0, log: log, ask: askSeed,
		file: filepath.Join(cfg.dataDir, "seeds.json"),
	}
}

// find asks all seeds until enough have answered: all of them, or one if that is
// enough. own is the run of this server. Addresses that were found
// at an earlier start stand in for those that do not answer: a server that has
// been in the cluster must be able to start while others are down.
func (f *finder) find(ctx context.Context, own string) (peers []string, err error) {
	if len(f.seeds) == 0 {
		return nil, nil
	}
	known := f.load()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type found struct {
		seed string
		addressJSON
	}
	answers := make(chan found, len(f.seeds))
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	for _, seed := range f.seeds {
		asking.Go(func() { answers <- found{seed, f.insist(ctx, seed)} })
	}
	fresh := map[string]string{}
	patience := time.NewTimer(seedPatience)
	defer patience.Stop()
	for !f.enough(fresh) {
		select {
		case a := <-answers:
			if a.Run == own {
				a.Address = "" // one cannot join oneself
			}
			fresh[a.seed] = a.Address
		case <-patience.C:
			if len(known) > 0 {
				f.found = merged(known, fresh)
				return f.peers(), nil
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("while looking for the seeds: %w", context.Cause(ctx))
		}
	}
	f.found = merged(known, fresh)
	return f.peers(), nil
}

// merged returns the newer of two answers for each seed.
func merged(known, fresh map[string]string) map[string]string {
	all := maps.Clone(known)
	maps.Copy(all, fresh)
	return all
}

// enough reports whether these addresses are enough to go on with. If all seeds
// are this server itself, it is the first of the cluster.
func (f *finder) enough(found map[string]string) bool {
	if len(found) == len(f.seeds) {
		return true
	}
	return !f.all && slices.ContainsFunc(slices.Collect(maps.Values(found)), func(a string) bool { return a != "" })
}

// peers returns the addresses that were found, without this server's; none if
// there are no others.
func (f *finder) peers() (peers []string) {
	for _, seed := range f.seeds {
		if a := f.found[seed]; a != "" && !slices.Contains(peers, a) {
			peers = append(peers, a)
		}
	}
	return peers
}

// insist asks a seed until it answers or ctx ends, which gives an empty answer.
func (f *finder) insist(ctx context.Context, seed string) addressJSON {
	reminded := time.Now()
	for {
		asking, cancel := context.WithTimeout(ctx, seedTimeout)
		a, err := f.ask(asking, seed)
		cancel()
		if err == nil {
			f.log.Info("found a seed", "seed", seed, "node", a.NodeID, "address", a.Address)
			return a
		}
		if ctx.Err() != nil {
			return addressJSON{}
		}
		if time.Since(reminded) > seedReminder {
			f.log.Warn("waiting for a seed", "seed", seed, "error", err)
			reminded = time.Now()
		}
		select {
		case <-time.After(seedPause):
		case <-ctx.Done():
			return addressJSON{}
		}
	}
}

// askSeed asks another server, or this one, for its cluster address.
func askSeed(ctx context.Context, seed string) (a addressJSON, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+seed+addressPattern, nil)
	if err != nil {
		return a, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAddressAnswer))
	if err != nil {
		return a, err
	}
	if res.StatusCode != http.StatusOK {
		return a, fmt.Errorf("it answers %s: %s", res.Status, body)
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return a, err
	}
	if _, _, err := net.SplitHostPort(a.Address); err != nil {
		return a, fmt.Errorf("its cluster address %q is none", a.Address)
	}
	return a, nil
}

// load returns the addresses that were found at an earlier start. They are a
// hint: without them, or if they are wrong, seeds are waited for.
func (f *finder) load() map[string]string {
	known := map[string]string{}
	text, err := os.ReadFile(f.file)
	if err == nil {
		err = json.Unmarshal(text, &known)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.log.Warn("cannot use what is known of the seeds", "file", f.file, "error", err)
	}
	if known == nil {
		known = map[string]string{}
	}
	return known
}

// keep keeps the addresses for the next start, once the server is in the cluster.
// Earlier it would have the next start go on without seeds that it needs.
func (f *finder) keep() {
	text, err := json.Marshal(f.found)
	if err == nil {
		err = os.WriteFile(f.file+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(f.file+".new", f.file)
	}
	if err != nil {
		f.log.Warn("cannot keep the addresses of the seeds", "file", f.file, "error", err)
	}
}
