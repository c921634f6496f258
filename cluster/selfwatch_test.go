package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/distributedcache/cache/cluster/internal/gossip"
)

func TestClockOff(t *testing.T) {
	const ms = time.Millisecond
	now := time.Unix(1_700_000_000, 0)
	at := func(offset, uncertainty time.Duration) gossip.Offset {
		return gossip.Offset{Offset: offset, Uncertainty: uncertainty, At: now.Add(-time.Second)}
	}
	old := at(2*time.Second, ms)
	old.At = now.Add(-time.Hour)
	future := at(2*time.Second, ms)
	future.At = now.Add(time.Hour)
	aged := at(600*ms, ms)
	aged.At = now.Add(-5 * time.Minute)
	for _, test := range []struct {
		name  string
		peers []gossip.Offset
		off   bool
		ahead time.Duration
	}{
		{"alone", nil, false, 0},
		{"one peer that is far: either may be wrong", []gossip.Offset{at(5*time.Second, ms)}, false, 0},
		{"two peers that agree with us", []gossip.Offset{at(3*ms, ms), at(-5*ms, ms)}, false, 0},
		{"one of two peers is wrong", []gossip.Offset{at(3*ms, ms), at(-5*time.Second, ms)}, false, 0},
		{"we are behind", []gossip.Offset{at(900*ms, ms), at(910*ms, ms)}, true, 910 * ms},
		{"we are ahead", []gossip.Offset{at(-900*ms, ms), at(-890*ms, ms), at(-880*ms, ms)}, true, -890 * ms},
		{"at the limit", []gossip.Offset{at(500*ms, 0), at(500*ms, 0)}, false, 0},
		{"not for certain", []gossip.Offset{at(900*ms, 450*ms), at(910*ms, 450*ms)}, false, 0},
		{"not for certain any more", []gossip.Offset{aged, aged, aged}, false, 0},
		{"they do not agree", []gossip.Offset{at(1*time.Second, ms), at(10*time.Second, ms), at(100*time.Second, ms)}, false, 0},
		{"on both sides", []gossip.Offset{at(2*time.Second, ms), at(-2*time.Second, ms)}, false, 0},
		{"three of five", []gossip.Offset{at(2*time.Second, ms), at(2*time.Second, ms), at(2*time.Second, ms), at(0, ms)}, true, 2 * time.Second},
		{"half", []gossip.Offset{at(2*time.Second, ms), at(2*time.Second, ms), at(0, ms)}, false, 0},
		{"measured too long ago", []gossip.Offset{old, old}, false, 0},
		{"measured before our clock was set back", []gossip.Offset{future, future}, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			offsets := map[string]gossip.Offset{}
			for i, o := range test.peers {
				offsets[fmt.Sprint(i)] = o
			}
			ahead, off := clockOff(offsets, now, 500*ms)
			if off != test.off || ahead != test.ahead {
				t.Errorf("off %v by %v, want %v by %v", off, ahead, test.off, test.ahead)
			}
		})
	}
}
