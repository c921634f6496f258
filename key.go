package cache

import "github.com/distributedcache/cache/internal/base"

// Limits of a key, in bytes. A primary has at least one byte, a secondary may
// be empty.
const (
	MaxPrimaryBytes   = base.MaxPrimaryBytes
	MaxSecondaryBytes = base.MaxSecondaryBytes
)

// Key names one value: Key{Primary, Secondary}. Primary places it: all keys of
// one primary live on one shard and are ordered by Secondary inside it. Both
// may hold any bytes; Primary has 1 to 1024 of them, Secondary 0 to 3072. Keys
// are compared bytewise, first by Primary, then by Secondary. Key is
// comparable and may serve as a map key.
//
// Its methods:
//
//	String() string         // "primary:secondary", escaped; ParseKey reads it
//	Compare(other Key) int  // -1, 0, +1
//	IsZero() bool           // the zero key names nothing
//	Bytes() int             // length of both levels together
//	Validate() error        // ErrInvalid or ErrTooLarge if it can name no value
type Key = base.Key

// K is shorthand for Key{Primary: primary, Secondary: secondary}.
func K(primary, secondary string) Key { return base.K(primary, secondary) }

// ParseKey is the inverse of Key.String: ParseKey(k.String()) == k for every
// key, whatever bytes it has. The first unescaped colon ends the primary. A
// string without a colon or with a broken escape gives [ErrInvalid].
func ParseKey(s string) (Key, error) { return base.ParseKey(s) }

// Version is the commit timestamp of a write in microseconds since the Unix
// epoch. Versions of one shard rise strictly and never repeat: not after a
// delete, an expiry or a restore. 0 stands for an absent key. A Version fits
// the integers of a JSON number. Its method Time returns the commit time in
// UTC, the zero Time for version 0.
type Version = base.Version

// AnyVersion stands in [VersionError].Want for "any, but present": what
// [IfPresent] asks for.
const AnyVersion = base.AnyVersion

// PendingVersion is the version of an item that a transaction itself has put
// and that gets its real version when the transaction is applied.
const PendingVersion = base.PendingVersion

// Item is one key with its value:
//
//	type Item struct {
//		Key       Key
//		Value     []byte    // belongs to the caller
//		Version   Version   // 0 if the key has no value
//		ExpiresAt time.Time // zero if the item does not expire
//	}
//
// Exists reports whether the item was found; [Cache.MultiGet] returns items
// that do not exist for missing keys. Cursor returns an opaque, URL-safe
// string from which [From] resumes a scan right after this item, in either
// direction.
type Item = base.Item

// Range is the half-open interval [Start, End) of keys. The zero Start is
// before every key, the zero End after every key. Make one with [All],
// [Primary] or [PrimaryPrefix] and narrow it:
//
//	Primary("account/4711").Prefix("tx/")            // secondaries that start with "tx/"
//	Primary("account/4711").Between("2024", "2025")  // secondaries in ["2024", "2025")
//
// Prefix and Between narrow ranges made by Primary; an empty second argument
// of Between means the end of the primary. Further methods are
// Contains(Key) bool, Empty() bool, SinglePrimary() (string, bool) and
// Validate() error.
type Range = base.Range

// All returns the range of every key.
func All() Range { return base.All() }

// Primary returns the range of all keys whose primary is p. A scan of it
// touches one shard.
func Primary(p string) Range { return base.Primary(p) }

// PrimaryPrefix returns the range of all keys whose primary starts with p. A
// scan of it touches every shard.
func PrimaryPrefix(p string) Range { return base.PrimaryPrefix(p) }

// RequestID names one request of a caller. A write that carries one, see
// [WithRequestID], is applied at most once, however often it is repeated. The
// zero id means none. String returns 32 hexadecimal digits, which
// [ParseRequestID] reads and which is also the text form of the id in JSON.
type RequestID = base.RequestID

// NewRequestID returns a random id.
func NewRequestID() RequestID { return base.NewRequestID() }

// ParseRequestID is the inverse of RequestID.String. Anything else than 32
// hexadecimal digits gives [ErrInvalid].
func ParseRequestID(s string) (RequestID, error) { return base.ParseRequestID(s) }
