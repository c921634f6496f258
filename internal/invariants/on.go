//go:build invariants || race

package invariants

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
)

// Enabled says whether this build checks invariants.
const Enabled = true

// CloseChecker finds double closes and uses after a close of the struct it is
// embedded in. The zero value is open. It is safe for concurrent use.
type CloseChecker struct {
	closed atomic.Bool
}

// Close marks the owner closed and panics if it was closed before.
func (c *CloseChecker) Close() {
	if c.closed.Swap(true) {
		panic("invariant violated: closed twice")
	}
}

// AssertOpen panics if the owner was closed.
func (c *CloseChecker) AssertOpen() {
	if c.closed.Load() {
		panic("invariant violated: used after close")
	}
}

// AssertClosed panics if the owner was not closed.
func (c *CloseChecker) AssertClosed() {
	if !c.closed.Load() {
		panic("invariant violated: not closed")
	}
}

// Reopen makes a closed owner usable again, for objects that live in a pool.
func (c *CloseChecker) Reopen() { c.closed.Store(false) }

// Mangle overwrites b, which its holder has given back, so that whoever still
// reads it reads garbage.
func Mangle(b []byte) {
	for i := range b {
		b[i] = 0xCC
	}
}

// Sometimes returns true in about percent of 100 calls, to take rare branches
// often in tests.
func Sometimes(percent int) bool { return rand.IntN(100) < percent }

// Check panics if ok is false.
func Check(ok bool, what string) {
	if !ok {
		panic("invariant violated: " + what)
	}
}

// Assertf panics with the formatted message if ok is false.
func Assertf(ok bool, format string, args ...any) {
	if !ok {
		panic("invariant violated: " + fmt.Sprintf(format, args...))
	}
}
