package transport

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/distributedcache/cache/internal/testkit"
)

// An order to begin an election is repeated, nothing else is; and no more after
// close.
func TestTimeoutNowIsRepeated(t *testing.T) {
	var handled, others atomic.Int32
	r := newRepeater(func(b raftpb.MessageBatch) {
		for _, m := range b.Requests {
			if m.Type != raftpb.TimeoutNow || m.ShardID != 3 || m.Term != 9 || b.DeploymentId != 5 {
				others.Add(1)
			}
		}
		handled.Add(1)
	})
	r.seen(raftpb.MessageBatch{DeploymentId: 5, Requests: []raftpb.Message{{Type: raftpb.Heartbeat, ShardID: 3, Term: 9}}})
	if n := len(r.slots); n != 0 {
		t.Errorf("%d batches without such an order are repeated", n)
	}
	r.seen(raftpb.MessageBatch{DeploymentId: 5, Requests: []raftpb.Message{
		{Type: raftpb.Heartbeat, ShardID: 3, Term: 9}, {Type: raftpb.TimeoutNow, ShardID: 3, Term: 9},
	}})
	testkit.Eventually(t, time.Minute, "the repeats", func() bool { return len(r.slots) == 0 })
	if handled.Load() != repeats || others.Load() != 0 {
		t.Errorf("repeated %d times, want %d; %d of them are others", handled.Load(), repeats, others.Load())
	}
	r.seen(raftpb.MessageBatch{Requests: []raftpb.Message{{Type: raftpb.TimeoutNow}}})
	r.close()
	after := handled.Load()
	if len(r.slots) != 0 || after != handled.Load() {
		t.Error("repeats after close")
	}
}

// A flood of such orders is not repeated without bound.
func TestRepeatsAreBounded(t *testing.T) {
	gate := make(chan struct{})
	r := newRepeater(func(raftpb.MessageBatch) { <-gate })
	for range 2 * maxRepeated {
		r.seen(raftpb.MessageBatch{Requests: []raftpb.Message{{Type: raftpb.TimeoutNow}}})
	}
	if n := len(r.slots); n != maxRepeated {
		t.Errorf("%d are being repeated, want %d", n, maxRepeated)
	}
	close(gate)
	r.close()
}
