//go:build !invariants && !race

package invariants

// Enabled says whether this build checks invariants.
const Enabled = false

// CloseChecker finds double closes and uses after a close of the struct it is
// embedded in. In this build it does nothing. Do not embed it last in a
// struct: a field of size zero at the end is padded.
type CloseChecker struct{}

// Close marks the owner closed and panics if it was closed before.
func (*CloseChecker) Close() {}

// AssertOpen panics if the owner was closed.
func (*CloseChecker) AssertOpen() {}

// AssertClosed panics if the owner was not closed.
func (*CloseChecker) AssertClosed() {}

// Reopen makes a closed owner usable again, for objects that live in a pool.
func (*CloseChecker) Reopen() {}

// Mangle overwrites b, which its holder has given back, so that whoever still
// reads it reads garbage.
func Mangle([]byte) {}

// Sometimes returns true in about percent of 100 calls, to take rare branches
// often in tests. In this build it is always false.
func Sometimes(int) bool { return false }

// Check panics if ok is false.
func Check(bool, string) {}

// Assertf panics with the formatted message if ok is false.
func Assertf(bool, string, ...any) {}
