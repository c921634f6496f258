package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// fleet is all nodes of the bank, those that are down included.
type fleet struct {
	dir    string
	shards int
	start  func(ctx context.Context, p place) (branch, error)

	mu      sync.Mutex // protects members and what they hold
	members []*member
}

// member is one node.
type member struct {
	place  place
	state  string // "starting", "up", "killed", "stopped"
	branch branch // nil unless it is up
}

const (
	starting = "starting"
	up       = "up"
	killed   = "killed"
	stopped  = "stopped"
)

// found starts n nodes that make a cluster together. They are all told the same:
// each other's addresses, and how many they are. In a directory that has been used
// they are those that were there, however many, and none of this matters.
func (f *fleet) found(ctx context.Context, n int) error {
	for ; ; n++ {
		if _, err := os.Stat(f.addrFile(nodeID(n + 1))); err != nil {
			break
		}
	}
	for range n {
		if _, err := f.enlist(); err != nil {
			return err
		}
	}
	addrs := f.addrs()
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i, m := range f.members {
		m.place.peers, m.place.expect = addrs, n
		wg.Go(func() { errs[i] = f.launch(ctx, m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// add starts one more node, which joins those that are there.
func (f *fleet) add(ctx context.Context) (*member, error) {
	peers := f.addrs()
	m, err := f.enlist()
	if err != nil {
		return nil, err
	}
	m.place.peers = peers
	return m, f.launch(ctx, m)
}

// enlist adds a node that is not started yet.
func (f *fleet) enlist() (*member, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := nodeID(len(f.members) + 1)
	addr, err := f.addr(id)
	if err != nil {
		return nil, err
	}
	m := &member{state: starting, place: place{id: id, dir: filepath.Join(f.dir, id), addr: addr, shards: f.shards}}
	f.members = append(f.members, m)
	return m, nil
}

func nodeID(n int) string { return fmt.Sprintf("node-%d", n) }

func (f *fleet) addrFile(id string) string { return filepath.Join(f.dir, id+".addr") }

// addr returns the address of a node, which stays the same for ever, as that of a
// server would.
func (f *fleet) addr(id string) (string, error) {
	if text, err := os.ReadFile(f.addrFile(id)); err == nil {
		return string(text), nil
	}
	addr, err := freeAddr()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return "", err
	}
	return addr, os.WriteFile(f.addrFile(id), []byte(addr), 0o600)
}

// launch starts a node, for the first time or again.
func (f *fleet) launch(ctx context.Context, m *member) error {
	f.set(m, starting, nil)
	b, err := f.start(ctx, m.place)
	if err != nil {
		f.set(m, stopped, nil)
		return fmt.Errorf("start %s: %w", m.place.id, err)
	}
	f.set(m, up, b)
	return nil
}

// kill ends a node as hard as can be. Nobody is told before it is dead.
func (f *fleet) kill(m *member) {
	f.mu.Lock()
	b := m.branch
	f.mu.Unlock()
	b.kill()
	f.set(m, killed, nil)
}

// close stops all nodes that are up.
func (f *fleet) close() error {
	f.mu.Lock()
	members := f.members
	f.mu.Unlock()
	var wg sync.WaitGroup
	errs := make([]error, len(members))
	for i, m := range members {
		f.mu.Lock()
		b := m.branch
		f.mu.Unlock()
		if b != nil {
			wg.Go(func() { errs[i] = b.close(); f.set(m, stopped, nil) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (f *fleet) set(m *member, state string, b branch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.state, m.branch = state, b
}

// up returns the nodes that are up.
func (f *fleet) up() (ups []*member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if m.state == up {
			ups = append(ups, m)
		}
	}
	return ups
}

// pick returns a node that is up, any of them.
func (f *fleet) pick() (branch, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range rand.Perm(len(f.members)) {
		if b := f.members[i].branch; b != nil {
			return b, nil
		}
	}
	return nil, errNoBranch
}

// memberState is a node as the table shows it.
type memberState struct{ id, state string }

func (f *fleet) states() (states []memberState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		states = append(states, memberState{m.place.id, m.state})
	}
	return states
}

func (f *fleet) addrs() (addrs []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		addrs = append(addrs, m.place.addr)
	}
	return addrs
}

// startTimeout is many times what a start takes on a slow machine.
const startTimeout = 2 * time.Minute

// freeAddr returns a loopback address that nobody listens on. It is below the
// ports that systems give to outgoing connections, so that none of these takes
// it while the node is down.
func freeAddr() (string, error) {
	const lowest, ports, tries = 20_000, 12_000, 100
	for range tries {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+rand.N(ports)))
		l, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, l.Close()
		}
	}
	return "", errors.New("found no free port on 127.0.0.1")
}
