// Package stream is the codec of a shard's snapshot: every entry of one shard
// in order, as a stream of checksummed blocks.
//
// A stream is a header, any number of data blocks and a trailer. The header
// names the shard, so a stream cannot be mistaken for that of another one.
// Each block carries its number and two checksums, one of its frame and one
// of its content; the trailer carries counts and a SHA-256 digest of
// everything but the time of creation. So a flipped bit, a cut, a block that
// is missing, repeated or moved, an unsorted or repeated key and bytes after
// the end are all found, and each is reported with its place.
//
// The digest depends on the contents alone: two streams of the same shard
// with the same entries have the same digest, whenever they were written.
//
// The package knows no files, no engine and no meaning of a key. It never
// allocates more than the bytes it was given, plus one mebibyte.
//
// Nothing here may be used by more than one goroutine at once.
package stream
