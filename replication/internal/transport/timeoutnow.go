package transport

import (
	"context"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"
)

// A leader that hands over tells its heir to begin an election at once (TimeoutNow,
// section 3.10 of Ongaro's thesis). dragonboat ignores that while the heir has
// committed what it has not applied yet, which under load is often so for some
// milliseconds; the leader then refuses proposals until an election timeout has
// passed. So the message is handed on again a few times. Once the heir has begun an
// election, its term is later, and the repeats are void.
type repeater struct {
	handle func(raftpb.MessageBatch)
	slots  chan struct{} // bounds what is being repeated
	end    func()        // closes ended, also if it is called again
	ended  <-chan struct{}
	tasks  sync.WaitGroup
}

const (
	// maxRepeated is how many batches may be repeated at once; what is over it is
	// handed on once, as all is.
	maxRepeated = 256
	// firstRepeat is when a message is repeated first. Each pause is twice the one
	// before, and all together are a fraction of the least election timeout: later, the
	// leader has given up and leads on.
	firstRepeat = time.Millisecond
	repeats     = 6
)

func newRepeater(handle func(raftpb.MessageBatch)) *repeater {
	ctx, cancel := context.WithCancel(context.Background())
	return &repeater{handle: handle, slots: make(chan struct{}, maxRepeated), end: cancel, ended: ctx.Done()}
}

// seen repeats what must be repeated of a batch that was handed on.
func (r *repeater) seen(b raftpb.MessageBatch) {
	var again []raftpb.Message
	for _, m := range b.Requests {
		if m.Type == raftpb.TimeoutNow {
			again = append(again, m)
		}
	}
	if len(again) == 0 {
		return
	}
	select {
	case r.slots <- struct{}{}:
	default:
		return
	}
	b.Requests = again
	r.tasks.Go(func() {
		defer func() { <-r.slots }()
		r.repeat(b)
	})
}

func (r *repeater) repeat(b raftpb.MessageBatch) {
	pause := firstRepeat
	for range repeats {
		select {
		case <-r.ended:
			return
		case <-time.After(pause):
		}
		pause *= 2
		r.handle(raftpb.MessageBatch{
			Requests:     append([]raftpb.Message(nil), b.Requests...), // the receiver may keep it
			DeploymentId: b.DeploymentId, SourceAddress: b.SourceAddress, BinVer: b.BinVer,
		})
	}
}

// close ends all repeats. Nothing may be seen any more.
func (r *repeater) close() {
	r.end()
	r.tasks.Wait()
}
