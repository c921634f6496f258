package catalog

import "github.com/distributedcache/cache/internal/base"

// Claim changes the epoch and nothing else. Whoever has taken over the care for
// the replicas begins with it, so that what its predecessor has decided on an
// earlier State, and has not yet written, is refused. The error wraps
// base.ErrUnavailable if there is no cluster yet.
func (s *State) Claim() ([]base.Write, error) {
	if err := s.mustBeFounded(); err != nil {
		return nil, err
	}
	return s.change().done(), nil
}
