package catalog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/distributedcache/cache/internal/base"
)

// KV is the catalog shard.
type KV interface {
	// ReadCatalog returns all items, as they are at some moment after the call.
	ReadCatalog(ctx context.Context) ([]base.Item, error)
	// WriteCatalog applies the writes, all or none, if every condition holds;
	// else the error wraps base.ErrVersionMismatch.
	WriteCatalog(ctx context.Context, writes []base.Write) ([]base.Result, error)
}

// The pause after another editor came between starts at the first and doubles up
// to the last, each time a random part of it.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = 500 * time.Millisecond
	// maxEdits bounds the tries. Somebody else succeeds with each that fails, so
	// only a fault elsewhere can use them up.
	maxEdits = 100
)

// Editor changes the catalog.
type Editor struct {
	KV    KV
	Cache *Cache // hears of each State that is read or made; nil = nobody does
}

// Edit runs fn on the present State and applies the writes it returns, again
// and again until no other change comes between. It returns the State that has
// the change; with no writes, the State that needs none. fn returns the
// writes of one transition, and none for what is done already: after an unknown
// outcome Edit reads and runs it again.
//
// The error is that of fn or of the KV. It wraps base.ErrConflict if others came
// between too often and base.ErrUnavailable if ctx ended; in both cases nothing was
// applied. It wraps base.ErrIndeterminate if a write was sent and nobody could
// be asked what became of it.
func (e *Editor) Edit(ctx context.Context, fn func(*State) ([]base.Write, error)) (*State, error) {
	var unknown error // the outcome of the last write is not known
	for try := range maxEdits {
		if try > 0 {
			if err := pause(ctx, try); err != nil {
				return nil, indeterminate(unknown, err)
			}
		}
		s, err := e.read(ctx)
		if err != nil {
			return nil, indeterminate(unknown, err)
		}
		writes, err := fn(s)
		if err != nil || len(writes) == 0 {
			return s, err
		}
		if _, err := s.foresee(writes); err != nil {
			return nil, err
		}
		next, err := e.write(ctx, s, writes)
		switch {
		case err == nil:
			return next, nil
		case errors.Is(err, base.ErrIndeterminate):
			unknown = err // and stays so, until a read that succeeds has shown the outcome
		case errors.Is(err, base.ErrVersionMismatch):
		default:
			return nil, indeterminate(unknown, err)
		}
	}
	return nil, indeterminate(unknown, fmt.Errorf("%w: the catalog was changed by others %d times in a row", base.ErrConflict, maxEdits))
}

// indeterminate returns err, unless the outcome of a write before it is unknown.
func indeterminate(unknown, err error) error {
	if unknown == nil {
		return err
	}
	return fmt.Errorf("%w; asking again: %v", unknown, err)
}

func (e *Editor) read(ctx context.Context) (*State, error) {
	items, err := e.KV.ReadCatalog(ctx)
	if err != nil {
		return nil, err
	}
	s, err := Build(items)
	if err != nil {
		return nil, err
	}
	e.tell(s)
	return s, nil
}

func (e *Editor) write(ctx context.Context, s *State, writes []base.Write) (*State, error) {
	results, err := e.KV.WriteCatalog(ctx, writes)
	for i := range results {
		if err == nil {
			err = results[i].Err
		}
	}
	if err != nil {
		return nil, err
	}
	if len(results) != len(writes) {
		return nil, fmt.Errorf("%w: %d results for %d writes of the catalog", base.ErrIndeterminate, len(results), len(writes))
	}
	next, err := s.after(writes, results)
	if err != nil {
		return nil, err
	}
	e.tell(next)
	return next, nil
}

func (e *Editor) tell(s *State) {
	if e.Cache != nil {
		e.Cache.Update(s)
	}
}

// pause waits before the next try.
func pause(ctx context.Context, try int) error {
	most := min(firstPause<<min(try-1, 10), lastPause)
	timer := time.NewTimer(rand.N(most) + time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: changing the catalog: %w", base.ErrUnavailable, context.Cause(ctx))
	}
}
