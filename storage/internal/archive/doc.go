// Package archive is the directory that holds a backup: one file for each
// shard, one for the node's own entries, and a manifest that names them all.
//
// The manifest is written last, so a directory without one is a backup that
// was never finished. It carries a checksum of itself, and size, SHA-256 and
// number of entries of every file; so any change of any byte, a file that is
// missing and a file too many are found, and each is reported by name. The
// checksums are not keyed: they find damage and careless edits, not a forger
// who computes them anew.
//
// A manifest names files only in the one way in which the writer names them,
// and all access goes through os.Root, so nothing outside of the directory
// can be read or written, whatever a manifest says and whatever links the
// directory has.
//
// The package does not know what is in the files.
package archive
