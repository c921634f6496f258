package cluster

import (
	"testing"
)

// A node without peers founds a cluster by itself and serves at once.
func TestAlone(t *testing.T) {
	h := newHarness(t)
	h.grow(1, 4)
	w := h.write(2)
	h.settled(4, 1, 1)
	if failed, err := w.check(h.nodes[0]); failed > 0 {
		t.Errorf("%d writes failed: %v", failed, err)
	}
}
