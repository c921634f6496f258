package stream

import (
	"fmt"

	"github.com/distributedcache/cache/internal/base"
)

// Error says what is wrong with a stream and where. It wraps ErrCorrupt if
// the stream is damaged, and ErrInvalid if it is sound but cannot be read, or
// if the writer was given something that cannot be written.
type Error struct {
	Part   string // "header", "block", "trailer"
	Block  int64  // the number of the block, from 0; -1 for the header
	Offset int64  // of the first byte of the part within the stream
	Reason string
	Kind   error // ErrCorrupt or ErrInvalid
}

// Error returns one line with all of it.
func (e *Error) Error() string {
	if e.Part == partBlock {
		return fmt.Sprintf("%v: shard stream: block %d at byte %d: %s", e.Kind, e.Block, e.Offset, e.Reason)
	}
	return fmt.Sprintf("%v: shard stream: %s at byte %d: %s", e.Kind, e.Part, e.Offset, e.Reason)
}

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

const (
	partHeader  = "header"
	partBlock   = "block"
	partTrailer = "trailer"
)

// place is where in the stream a decoder is.
type place struct {
	part   string
	block  int64
	offset int64
}

func (p place) corrupt(format string, args ...any) error {
	return p.fault(base.ErrCorrupt, format, args)
}

func (p place) invalid(format string, args ...any) error {
	return p.fault(base.ErrInvalid, format, args)
}

func (p place) fault(kind error, format string, args []any) error {
	block := p.block
	if p.part == partHeader {
		block = -1
	}
	return &Error{Part: p.part, Block: block, Offset: p.offset, Reason: fmt.Sprintf(format, args...), Kind: kind}
}
