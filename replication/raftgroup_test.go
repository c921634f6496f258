package replication

import (
	"sync"
	"testing"

	"github.com/distributedcache/cache/internal/base"
	"github.com/distributedcache/cache/internal/testkit"
	"github.com/distributedcache/cache/replication/internal/ask"
	"github.com/distributedcache/cache/replication/internal/command"
)

// Writes of one shard that come while an entry is on its way share the next one, and do
// not wait for it for ever.
func TestEntriesAreShared(t *testing.T) {
	const writes = 30
	c := onThree(t, 4)
	ctx := testkit.Context(t)
	h := c.hostOf(3) // has no replica, so that each of its entries is a request

	var mu sync.Mutex
	var sizes []int
	held, release := make(chan struct{}), make(chan struct{})
	asking := func(q *ask.Request) {
		if q.Kind != ask.Propose || q.Shard != 1 {
			return
		}
		e, err := command.DecodeEntry(q.Bytes)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		sizes = append(sizes, len(e.Commands))
		first := len(sizes) == 1
		mu.Unlock()
		if first {
			close(held)
			<-release
		}
	}
	c.nodes[3].remote.asking.Store(&asking)
	put := func(i int) error {
		_, err := h.Write(ctx, &base.Write{Key: keyOn(h, 1, i), Value: []byte("v")}, base.RequestID{})
		return err
	}
	first := make(chan error, 1)
	go func() { first <- put(0) }()
	<-held
	rest := make(chan error, writes)
	for i := range writes {
		go func() { rest <- put(1 + i) }()
	}
	for range writes {
		if err := <-rest; err != nil {
			t.Error(err)
		}
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(sizes) > maxFlights {
		t.Errorf("entries of %v commands", sizes)
	}
}
