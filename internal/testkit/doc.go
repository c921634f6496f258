// Package testkit has what the tests of this module share: random sources
// whose seed is printed and can be given back, waiting for conditions instead
// of sleeping, a clock that tests move by hand, leak checks, and a plain
// in-memory model of the store that serves as the oracle of random tests.
//
// Only tests and the test harness import it; internal/arch enforces that. It
// imports nothing of this module but internal/base, so that every package can
// use it. A test of base itself must be an external one (package base_test).
package testkit
