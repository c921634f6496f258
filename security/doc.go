// Package security turns what a user gives (files, functions) into credentials,
// and checks them before anything depends on them. It knows no transport and no
// store.
//
// So far it has the certificates with which nodes show one another who they
// are: TLS reads and checks them, NodeURI is the name that they carry, and
// DevCA makes some for development and tests.
//
// Invariants:
//   - What is accepted here works: the files parse, key and certificate belong
//     together, the CA signed the certificate, and it is valid now, for both
//     sides of a connection and for some host.
//   - Every error wraps base.ErrInvalid, names the file, and says what to do.
//     None quotes what is in a key file.
//   - Whatever has a private key in it is written with mode 0600.
//
// There are no goroutines and no locks.
package security
