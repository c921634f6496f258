package storage

import (
	"sync"
	"sync/atomic"
)

// gate counts the uses of the engine that are in flight, so that Close can
// wait for them. Unlike a RWMutex it may be entered again by whoever is
// inside: once it is shut, every entry fails, nobody waits for Close.
type gate struct {
	// state is twice the number of users inside, plus one when shut.
	state   atomic.Int64
	once    sync.Once
	drained chan struct{} // closed when the gate is shut and nobody inside
}

func newGate() *gate { return &gate{drained: make(chan struct{})} }

// enter reports whether the gate is open; if so, leave must follow.
func (g *gate) enter() bool {
	if g.state.Add(2)&1 == 0 {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.state.Add(-2) == 1 {
		g.once.Do(func() { close(g.drained) })
	}
}

func (g *gate) isShut() bool { return g.state.Load()&1 == 1 }

// shut closes the gate and waits until everyone has left.
func (g *gate) shut() {
	if g.state.Or(1) == 0 {
		g.once.Do(func() { close(g.drained) })
	}
	<-g.drained
}
