package base

import (
	"fmt"
	"time"
)

// maxTTL keeps expiry times far below the range of a Version in JSON.
const maxTTL = 100 * 365 * 24 * time.Hour

// Validate returns an error that wraps ErrInvalid or ErrTooLarge if the write
// is not one that may be applied.
func (w *Write) Validate(limits Limits) error {
	if err := w.Key.Validate(); err != nil {
		return err
	}
	switch {
	case w.Kind > WriteCheck:
		return fmt.Errorf("%w: the zero Op does nothing; use PutOp, DeleteOp or CheckOp", ErrInvalid)
	case len(w.Value) > limits.MaxValueBytes:
		return fmt.Errorf("%w: value of %d bytes, at most %d are allowed", ErrTooLarge, len(w.Value), limits.MaxValueBytes)
	case w.TTL < 0 || w.TTL > maxTTL:
		return fmt.Errorf("%w: ttl of %v, it must lie between 0 and %v", ErrInvalid, w.TTL, maxTTL)
	case w.TTL != 0 && w.Kind != WritePut:
		return fmt.Errorf("%w: only a put can have a ttl", ErrInvalid)
	}
	return nil
}

// CheckBatch returns an error that wraps ErrTooLarge if a batch of that many
// operations and bytes is over the limits.
func (l Limits) CheckBatch(ops, bytes int) error {
	switch {
	case ops > l.MaxBatchOps:
		return fmt.Errorf("%w: batch of %d operations, at most %d are allowed", ErrTooLarge, ops, l.MaxBatchOps)
	case bytes > l.MaxBatchBytes:
		return fmt.Errorf("%w: batch of %d bytes, at most %d are allowed", ErrTooLarge, bytes, l.MaxBatchBytes)
	}
	return nil
}

// CheckKeys returns an error if a read of these keys is over the limits or one
// of them is not valid.
func (l Limits) CheckKeys(keys []Key) error {
	if err := l.CheckBatch(len(keys), 0); err != nil {
		return err
	}
	for _, k := range keys {
		if err := k.Validate(); err != nil {
			return err
		}
	}
	return nil
}

// CheckWrites returns an error if an atomic batch is empty, over the limits,
// has an operation that is not valid or writes a key twice: which of the two
// writes should win is for the caller to say.
func (l Limits) CheckWrites(writes []Write) error {
	if len(writes) == 0 {
		return fmt.Errorf("%w: a batch without operations", ErrInvalid)
	}
	bytes := 0
	written := make(map[Key]struct{}, min(len(writes), l.MaxBatchOps))
	for i := range writes {
		w := &writes[i]
		if err := w.Validate(l); err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
		if bytes += w.Bytes(); bytes > l.MaxBatchBytes || i >= l.MaxBatchOps {
			return l.CheckBatch(len(writes), max(bytes, 0))
		}
		if w.Kind == WriteCheck {
			continue
		}
		if _, twice := written[w.Key]; twice {
			return fmt.Errorf("operation %d: %w: the batch writes %v twice", i, ErrInvalid, w.Key)
		}
		written[w.Key] = struct{}{}
	}
	return l.CheckBatch(len(writes), bytes)
}

// DefaultLimits are the limits of a cache whose options say nothing else.
func DefaultLimits() Limits {
	return Limits{MaxValueBytes: 1 << 20, MaxBatchOps: 1000, MaxBatchBytes: 4 << 20, MaxInFlight: 16384}
}
