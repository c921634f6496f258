package testkit

import (
	"context"
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// seedFlag repeats a random test: go test ./pkg -run TestX -seed=N with the
// number that the failed run logged.
var seedFlag = flag.Uint64("seed", 0, "seed of random tests; 0 takes a new one each time")

// Seed returns the seed of this test, that of the -seed flag or a new one, and
// logs it as "seed=N".
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := *seedFlag
	for seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed=%d", seed)
	return seed
}

// Rand returns a random source for one test. Its seed is logged; the -seed
// flag gives it back. The source is not safe for concurrent use: a test with
// several goroutines derives one for each with Fork.
func Rand(t testing.TB) *rand.Rand {
	t.Helper()
	return NewRand(Seed(t))
}

// NewRand returns the source that Rand returns for seed.
func NewRand(seed uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, 0x9E3779B97F4A7C15))
}

// Fork returns a new source that depends on the state of r only.
func Fork(r *rand.Rand) *rand.Rand {
	return rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
}

// Eventually waits until cond holds and fails the test if that takes longer
// than timeout; what says in the failure what was awaited. Make timeout many
// times what a slow machine needs: it is only waited for in full when the test
// fails.
func Eventually(t testing.TB, timeout time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for pause := time.Millisecond; !cond(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", timeout, what)
		}
		time.Sleep(pause)
	}
}

// contextTimeout is far above what any single test takes on a loaded machine
// and below the ten minutes after which go test kills the whole package, so
// that a hung operation fails its own test with its own message.
const contextTimeout = 4 * time.Minute

// Context returns a context with a generous deadline. It outlives the test
// function, so cleanups registered after it may still use it.
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), contextTimeout)
	t.Cleanup(cancel)
	return ctx
}

// VerifyNoLeaks is the TestMain of every package that starts goroutines: it
// runs the tests and fails if a goroutine outlives them.
//
//	func TestMain(m *testing.M) { testkit.VerifyNoLeaks(m) }
func VerifyNoLeaks(m *testing.M) {
	goleak.VerifyTestMain(m, leakOptions()...)
}

// CheckNoLeaks fails the test if, after its cleanups registered later than
// this call, goroutines run that did not run at the call. Unlike VerifyNoLeaks
// it tells which test leaks; it is of no use in parallel tests.
func CheckNoLeaks(t testing.TB) {
	t.Helper()
	options := append(leakOptions(), goleak.IgnoreCurrent())
	t.Cleanup(func() { goleak.VerifyNone(t, options...) })
}

// leakOptions lists the goroutines that may outlive a test. Each has a reason.
func leakOptions() []goleak.Option {
	return nil
}
