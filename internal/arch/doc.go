// Package arch holds the rules of this module's construction as tests: which
// package may import which, who owns each third-party engine, what a library
// must never do to the process it lives in, that every exported symbol is
// documented, and how large functions, files and packages may grow.
//
// A package or a third-party module that is not in its tables fails the test,
// so adding one is a decision that shows in a review. Sizes over the limits
// are listed in testdata/ratchet.txt; the entries may only shrink.
package arch
