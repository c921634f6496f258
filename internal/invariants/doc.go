// Package invariants has checks that are too dear for production: assertions,
// detection of use after close, and poisoning of buffers that were given back.
//
// They are compiled in with the build tag "invariants" and under the race
// detector, and cost nothing otherwise: Enabled is a constant, the functions
// are empty and the types have no size. Assertf still evaluates its arguments;
// where those are dear, guard the call with "if invariants.Enabled".
//
// A failed check panics. It is a fault of this module, never of its user: what
// a caller can cause is an error.
package invariants
