package cluster

import (
	"maps"
	"sync"
	"time"
)

// silences knows how long nodes have been silent. Every node keeps watch by what
// gossip tells, so that one that has come to lead the catalog does not begin from
// nothing.
//
// Only silence that was watched counts: if this process was stopped for an hour,
// nobody has been silent for that hour. A node that is heard for a moment now and
// then does not begin anew each time; it has to be heard for a while.
type silences struct {
	mu sync.Mutex // protects of
	of map[string]silence
}

// silence is that of one node.
type silence struct {
	total time.Duration // since it began
	heard time.Duration // since the node was heard again; 0 while it is silent
	last  time.Time     // when it was looked at last
}

const (
	// steadyPatience is for how long a node has to be heard until its silence is
	// forgotten.
	steadyPatience = 10 * time.Second
	// maxLook bounds what one look adds to a silence. A round with nodes that do not
	// answer takes less.
	maxLook = 15 * time.Second
)

// note takes in who of the nodes is silent now, and forgets all others.
func (s *silences) note(nodes []string, silent func(node string) bool, now time.Time, steady time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[string]silence{}
	}
	keep := map[string]bool{}
	for _, node := range nodes {
		keep[node] = true
		q, known := s.of[node]
		passed := min(max(now.Sub(q.last), 0), maxLook)
		q.last = now
		switch {
		case !known && !silent(node):
			continue
		case !known:
		case silent(node):
			q.total, q.heard = q.total+passed, 0
		default:
			q.heard += max(passed, 1)
			if q.heard >= steady {
				delete(s.of, node)
				continue
			}
		}
		s.of[node] = q
	}
	maps.DeleteFunc(s.of, func(node string, _ silence) bool { return !keep[node] })
}

// longer reports whether a node is silent, and has been for so long.
func (s *silences) longer(node string, than time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, known := s.of[node]
	return known && q.heard == 0 && q.total >= than
}

// doubtful reports whether a node that was silent for so long has come back, but
// not for good yet: what it has is not replaced any more, and it gets nothing. Else
// one that comes and goes would have everything moved each time.
func (s *silences) doubtful(node string, than time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, known := s.of[node]
	return known && q.heard > 0 && q.total >= than
}
