package cache

import (
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// maxTTL is the longest TTL. It is far beyond any use and keeps every expiry
// time within what time.Time can encode.
const maxTTL = 100 * 365 * 24 * time.Hour

// The four option interfaces are sealed: only this package makes options, and
// each fits only the calls where it means something. A TTL on a Get does not
// compile. Where several options of one kind are given the last one wins,
// unless they contradict each other, which gives ErrInvalid and does nothing.

// ReadOption changes one read: [Linearizable], [Stale], [Limit], [KeysOnly],
// [Reverse], [From] and [After].
type ReadOption interface{ readOption() }

// WriteOption changes one write: [IfVersion], [IfAbsent], [IfPresent], [TTL]
// and [WithRequestID].
type WriteOption interface{ writeOption() }

// TxOption changes one batch or transaction: [Independent], [MaxAttempts] and
// [WithRequestID].
type TxOption interface{ txOption() }

// WriteTxOption is both a [WriteOption] and a [TxOption].
type WriteTxOption interface {
	WriteOption
	TxOption
}

type (
	ifVersionOption   Version
	ifPresentOption   struct{}
	ttlOption         time.Duration
	requestIDOption   RequestID
	independentOption struct{}
	attemptsOption    int

	linearizableOption struct{}
	staleOption        time.Duration
	limitOption        int
	keysOnlyOption     struct{}
	reverseOption      struct{}
	fromOption         string
	afterOption        Key
)

func (ifVersionOption) writeOption()   {}
func (ifPresentOption) writeOption()   {}
func (ttlOption) writeOption()         {}
func (requestIDOption) writeOption()   {}
func (requestIDOption) txOption()      {}
func (independentOption) txOption()    {}
func (attemptsOption) txOption()       {}
func (linearizableOption) readOption() {}
func (staleOption) readOption()        {}
func (limitOption) readOption()        {}
func (keysOnlyOption) readOption()     {}
func (reverseOption) readOption()      {}
func (fromOption) readOption()         {}
func (afterOption) readOption()        {}

// IfVersion applies the write only if the key has exactly version v; 0 means
// that the key must not exist. Otherwise the write fails with
// [ErrVersionMismatch].
func IfVersion(v Version) WriteOption { return ifVersionOption(v) }

// IfAbsent applies the write only if the key does not exist. It is
// IfVersion(0).
func IfAbsent() WriteOption { return ifVersionOption(0) }

// IfPresent applies the write only if the key exists, with whatever version.
func IfPresent() WriteOption { return ifPresentOption{} }

// TTL lets the value expire d after the write: from then on the key is absent.
// d must be positive and at most 100 years, and is rounded up to microseconds.
// It fits puts only. A later put without a TTL makes the key permanent again.
func TTL(d time.Duration) WriteOption { return ttlOption(d) }

// WithRequestID makes the write exactly-once: however often it is repeated
// with the same id, it is applied at most once and every repetition returns
// the first outcome, for as long as [RequestOptions] says. The same id with
// another payload gives [ErrRequestReused]. id must not be zero. In a batch it
// belongs to the batch as a whole, not to one of its operations.
func WithRequestID(id RequestID) WriteTxOption { return requestIDOption(id) }

// Independent lets each operation of a [Cache.MultiPut] stand alone: those
// whose conditions hold are applied, and the others report their error in
// their Result. Without it all are applied or none.
func Independent() TxOption { return independentOption{} }

// MaxAttempts bounds how often a transaction is tried before it gives up with
// [ErrConflict]. 0 means the default.
func MaxAttempts(n int) TxOption { return attemptsOption(n) }

// Linearizable reads the newest acknowledged value. It is the default.
func Linearizable() ReadOption { return linearizableOption{} }

// Stale allows the read to be served from this node's own replica if it is at
// most max behind. max must not be negative. In solo every read is current.
func Stale(max time.Duration) ReadOption { return staleOption(max) }

// Limit ends a scan after n items. n must not be negative; 0 means no limit.
func Limit(n int) ReadOption { return limitOption(n) }

// KeysOnly leaves Item.Value nil, which saves copying it. Versions and expiry
// times are still there.
func KeysOnly() ReadOption { return keysOnlyOption{} }

// Reverse scans from the end of the range to its start.
func Reverse() ReadOption { return reverseOption{} }

// From resumes a scan right behind the item whose Cursor() this is, in the
// direction of the scan. The empty string starts at the beginning, so a loop
// over pages can begin with it. A cursor that is damaged or was not made by
// Item.Cursor gives [ErrInvalid].
func From(cursor string) ReadOption { return fromOption(cursor) }

// After resumes a scan right behind key, in the direction of the scan; key
// itself need not exist. The zero key starts at the beginning.
func After(key Key) ReadOption { return afterOption(key) }

// errUnknownOption refuses nil and types that embed one of ours. It does not
// name the type: that would move the options of every call to the heap.
func errUnknownOption() error {
	return invalidf("an option is nil or was not made by this package")
}

// resolveRead returns what opts ask for. Switching over types instead of
// calling a method keeps opts on the caller's stack.
func resolveRead(opts []ReadOption) (ro base.ReadOptions, err error) {
	var linearizable bool
	for _, o := range opts {
		switch o := o.(type) {
		case linearizableOption:
			linearizable = true
		case staleOption:
			if o < 0 {
				return ro, invalidf("Stale(%v): a staleness cannot be negative", time.Duration(o))
			}
			ro.Stale, ro.MaxStale = true, time.Duration(o)
		case limitOption:
			if o < 0 {
				return ro, invalidf("Limit(%d): a limit cannot be negative; 0 is none", int(o))
			}
			ro.Limit = int(o)
		case keysOnlyOption:
			ro.KeysOnly = true
		case reverseOption:
			ro.Reverse = true
		case fromOption:
			ro.Cursor = string(o)
		case afterOption:
			ro.After = Key(o)
		default:
			return ro, errUnknownOption()
		}
	}
	switch {
	case linearizable && ro.Stale:
		return ro, invalidf("Linearizable and Stale contradict each other")
	case ro.Cursor != "" && !ro.After.IsZero():
		return ro, invalidf("From and After contradict each other")
	}
	return ro, nil
}

// resolveGet is resolveRead for reads of named keys, where the options of
// scans mean nothing.
func resolveGet(opts []ReadOption) (base.ReadOptions, error) {
	ro, err := resolveRead(opts)
	if err == nil && (ro.Limit != 0 || ro.Reverse || ro.Cursor != "" || !ro.After.IsZero()) {
		err = invalidf("Limit, Reverse, From and After are for scans")
	}
	return ro, err
}

// resolveWrite fills w.Cond and w.TTL from opts and returns the request id.
func resolveWrite(w *base.Write, opts []WriteOption) (id RequestID, err error) {
	for _, o := range opts {
		switch o := o.(type) {
		case ifVersionOption:
			err = addVersion(&w.Cond, Version(o))
		case ifPresentOption:
			err = addPresent(&w.Cond)
		case ttlOption:
			w.TTL, err = checkTTL(w.Kind, time.Duration(o))
		case requestIDOption:
			err = addRequestID(&id, RequestID(o))
		default:
			err = errUnknownOption()
		}
		if err != nil {
			return id, err
		}
	}
	return id, nil
}

// resolveTx returns what opts ask for.
func resolveTx(opts []TxOption) (to base.TxOptions, err error) {
	for _, o := range opts {
		switch o := o.(type) {
		case independentOption:
			to.Independent = true
		case attemptsOption:
			if o < 0 {
				return to, invalidf("MaxAttempts(%d): a number of attempts cannot be negative; 0 is the default", int(o))
			}
			to.MaxAttempts = int(o)
		case requestIDOption:
			if err := addRequestID(&to.RequestID, RequestID(o)); err != nil {
				return to, err
			}
		default:
			return to, errUnknownOption()
		}
	}
	return to, nil
}

func addVersion(c *base.Cond, v Version) error {
	switch {
	case c.Kind == base.CondVersion && c.Version != v:
		return invalidf("the key cannot have both version %d and version %d (0 is absent)", c.Version, v)
	case c.Kind == base.CondPresent && v == 0:
		return invalidf("IfPresent and IfAbsent contradict each other")
	}
	*c = base.Cond{Kind: base.CondVersion, Version: v}
	return nil
}

func addPresent(c *base.Cond) error {
	switch {
	case c.Kind == base.CondVersion && c.Version == 0:
		return invalidf("IfAbsent and IfPresent contradict each other")
	case c.Kind == base.CondNone:
		*c = base.Cond{Kind: base.CondPresent}
	}
	return nil // IfVersion(v) implies it
}

// checkTTL rounds d up to microseconds, the resolution of expiry times, so
// that a tiny TTL is not taken for none.
func checkTTL(kind base.WriteKind, d time.Duration) (time.Duration, error) {
	switch {
	case kind != base.WritePut:
		return 0, invalidf("TTL(%v): only a put can have a TTL", d)
	case d <= 0:
		return 0, invalidf("TTL(%v): a TTL must be positive", d)
	case d > maxTTL:
		return 0, invalidf("TTL(%v): a TTL is at most 100 years; leave it out for a value that stays", d)
	}
	return (d + time.Microsecond - 1).Truncate(time.Microsecond), nil
}

func addRequestID(have *RequestID, id RequestID) error {
	switch {
	case id.IsZero():
		return invalidf("the request id is zero; make one with NewRequestID")
	case !have.IsZero() && *have != id:
		return invalidf("two different request ids for one request")
	}
	*have = id
	return nil
}
