package invariants_test

import (
	"testing"
	"unsafe"

	"github.com/distributedcache/cache/internal/invariants"
)

// panics reports whether f panics; only builds that check invariants may.
func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

func TestChecksPanicOnlyWhenEnabled(t *testing.T) {
	var open, closed invariants.CloseChecker
	closed.Close()
	for name, f := range map[string]func(){
		"closed twice":  func() { var c invariants.CloseChecker; c.Close(); c.Close() },
		"used closed":   closed.AssertOpen,
		"not closed":    open.AssertClosed,
		"check":         func() { invariants.Check(false, "x") },
		"assert":        func() { invariants.Assertf(false, "x=%d", 1) },
		"mangled bytes": func() { b := []byte("ab"); invariants.Mangle(b[:1]); mustEqual(string(b), "ab") },
	} {
		if got := panics(f); got != invariants.Enabled {
			t.Errorf("%s: panics %v, invariants enabled %v", name, got, invariants.Enabled)
		}
	}
}

func TestChecksThatHoldAreSilent(t *testing.T) {
	var c invariants.CloseChecker
	c.AssertOpen()
	c.Close()
	c.AssertClosed()
	c.Reopen()
	c.AssertOpen()
	invariants.Check(true, "x")
	invariants.Assertf(true, "x")
}

func TestSometimes(t *testing.T) {
	hits := 0
	for range 10_000 {
		if invariants.Sometimes(50) {
			hits++
		}
		if invariants.Sometimes(0) {
			t.Fatal("0 % happened")
		}
	}
	if invariants.Enabled != (hits > 4_000 && hits < 6_000) {
		t.Fatalf("%d of 10,000 calls, invariants enabled %v", hits, invariants.Enabled)
	}
}

func TestFreeWhenDisabled(t *testing.T) {
	if invariants.Enabled {
		t.Skip("this build checks invariants")
	}
	if size := unsafe.Sizeof(invariants.CloseChecker{}); size != 0 {
		t.Errorf("CloseChecker takes %d bytes", size)
	}
	n := 1000
	if allocs := testing.AllocsPerRun(100, func() { n++; invariants.Assertf(n > 0, "n=%d", n) }); allocs != 0 {
		t.Errorf("Assertf allocates %v times", allocs)
	}
}

func mustEqual(a, b string) {
	if a != b {
		panic("differs")
	}
}
